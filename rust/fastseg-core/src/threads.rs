//! The one pool of threads that everything here shares.

use std::sync::{Arc, PoisonError, RwLock};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The pool, how many threads were asked for, and the process that started it.
struct Shared {
    pool: Arc<ThreadPool>,
    threads: usize,
    process: u32,
}

static SHARED: RwLock<Option<Shared>> = RwLock::new(None);

/// The most threads that [`set_num_threads`] takes.
pub const MAX_THREADS: usize = 1024;

/// The pool, started on first use.
///
/// # Panics
/// When the operating system refuses to start a thread.
pub fn pool() -> Arc<ThreadPool> {
    // After a fork the child has none of its parent's threads: it starts its own.
    let process = std::process::id();
    let threads = {
        let shared = SHARED.read().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some(s) if s.process == process => return s.pool.clone(),
            Some(s) => s.threads,
            None => default_threads(),
        }
    };
    start(threads)
}

/// How many threads the pool has.
pub fn num_threads() -> usize {
    let shared = SHARED.read().unwrap_or_else(PoisonError::into_inner);
    shared.as_ref().map_or_else(default_threads, |s| s.threads)
}

/// Replaces the pool by one of `threads` threads; work under way finishes on the old one.
///
/// # Panics
/// When `threads` is not in `1..=MAX_THREADS`.
pub fn set_num_threads(threads: usize) {
    assert!((1..=MAX_THREADS).contains(&threads), "threads must be in 1..={MAX_THREADS}");
    start(threads);
}

fn start(threads: usize) -> Arc<ThreadPool> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("fastseg-{i}"))
        .build()
        .unwrap_or_else(|error| panic!("cannot start {threads} threads: {error}"));
    let pool = Arc::new(pool);
    let shared = Shared { pool: pool.clone(), threads, process: std::process::id() };
    let old = SHARED.write().unwrap_or_else(PoisonError::into_inner).replace(shared);
    if let Some(old) = old.filter(|old| old.process != std::process::id()) {
        // Dropping the parent's pool would wait for threads that do not exist here.
        std::mem::forget(old.pool);
    }
    pool
}

fn default_threads() -> usize {
    std::env::var("FASTSEG_NUM_THREADS")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|threads| (1..=MAX_THREADS).contains(threads))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}
