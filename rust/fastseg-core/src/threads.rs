//! The one pool of threads that everything here shares.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The pool, and the process that started it.
struct Shared {
    pool: Arc<ThreadPool>,
    process: u32,
}

static SHARED: RwLock<Option<Shared>> = RwLock::new(None);

/// The most threads that [`set_num_threads`] takes.
pub const MAX_THREADS: usize = 1024;

/// Why there is no pool of as many threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThreadsError {
    /// The number is not in `1..=MAX_THREADS`.
    OutOfRange {
        /// The number.
        threads: usize,
    },
    /// The operating system refuses to start them.
    NotStarted {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
}

impl fmt::Display for ThreadsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { threads } => {
                write!(f, "threads must be in 1..{MAX_THREADS}, got {threads}")
            }
            Self::NotStarted { threads, reason } => write!(
                f,
                "the system does not start {threads} threads ({reason}): ask for fewer, or raise \
                 the limits on threads and memory of this process"
            ),
        }
    }
}

impl std::error::Error for ThreadsError {}

/// The pool, started on first use, of fewer threads where the system does not start as many.
pub fn pool() -> Result<Arc<ThreadPool>, ThreadsError> {
    // After a fork the child has none of its parent's threads: it starts its own.
    let wanted = {
        let shared = SHARED.read().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some(shared) if shared.is_ours() => return Ok(shared.pool.clone()),
            Some(shared) => shared.pool.current_num_threads(),
            None => default_threads(),
        }
    };
    let started = start_up_to(wanted)?;
    let mut shared = SHARED.write().unwrap_or_else(PoisonError::into_inner);
    // Meanwhile another thread may have started one, of a size that somebody chose.
    match &*shared {
        Some(shared) if shared.is_ours() => Ok(shared.pool.clone()),
        _ => Ok(replace(&mut shared, started)),
    }
}

/// How many threads the pool has, or will have once it is started.
pub fn num_threads() -> usize {
    let shared = SHARED.read().unwrap_or_else(PoisonError::into_inner);
    shared.as_ref().map_or_else(default_threads, |shared| shared.pool.current_num_threads())
}

/// Replaces the pool by one of `threads` threads; work under way finishes on the old one.
///
/// After an error the pool is what it was.
pub fn set_num_threads(threads: usize) -> Result<(), ThreadsError> {
    if !(1..=MAX_THREADS).contains(&threads) {
        return Err(ThreadsError::OutOfRange { threads });
    }
    let pool = start(threads)?;
    replace(&mut SHARED.write().unwrap_or_else(PoisonError::into_inner), pool);
    Ok(())
}

impl Shared {
    fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }
}

fn replace(shared: &mut Option<Shared>, pool: ThreadPool) -> Arc<ThreadPool> {
    let pool = Arc::new(pool);
    let old = shared.replace(Shared { pool: pool.clone(), process: std::process::id() });
    if let Some(old) = old.filter(|old| !old.is_ours()) {
        // Dropping the parent's pool would wait for threads that do not exist here.
        std::mem::forget(old.pool);
    }
    pool
}

fn start(threads: usize) -> Result<ThreadPool, ThreadsError> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("fastseg-{i}"))
        .build()
        .map_err(|error| ThreadsError::NotStarted { threads, reason: error.to_string() })
}

/// A pool of `threads` threads, or of the half, and so on.
fn start_up_to(mut threads: usize) -> Result<ThreadPool, ThreadsError> {
    loop {
        match start(threads) {
            Err(_) if threads > 1 => threads /= 2,
            result => return result,
        }
        // The threads that did start are ending; until then they hold what the next ones need.
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn default_threads() -> usize {
    std::env::var("FASTSEG_NUM_THREADS")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|threads| (1..=MAX_THREADS).contains(threads))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}
