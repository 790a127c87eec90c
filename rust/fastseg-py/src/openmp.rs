//! The threads of OpenMP, on which PyTorch computes, sent to sleep while ours work.
//!
//! After PyTorch's own operators libgomp's threads wait for more in a loop that takes a core each,
//! for up to fifteen milliseconds. What of ours comes next would share the cores with them. A region
//! of OpenMP, whose other members wait for a condition, stops that, and costs microseconds.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

type Member = unsafe extern "C" fn(*mut c_void);

/// What libgomp has in this process, if PyTorch brought it.
#[derive(Clone, Copy)]
struct OpenMp {
    /// `GOMP_parallel(member, data, threads, flags)`: `member` on every thread of a new team.
    parallel: unsafe extern "C" fn(Member, *mut c_void, c_uint, c_uint),
    in_parallel: unsafe extern "C" fn() -> c_int,
    max_threads: unsafe extern "C" fn() -> c_int,
    thread_num: unsafe extern "C" fn() -> c_int,
    /// A forked child must not wait for its parent's threads.
    process: u32,
}

#[cfg(target_os = "linux")]
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a C string; a look-up changes nothing.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

#[cfg(not(target_os = "linux"))]
fn symbol(_name: &CStr) -> Option<*mut c_void> {
    None
}

impl OpenMp {
    fn find() -> Option<Self> {
        // SAFETY: these are the signatures that OpenMP, and GCC's interface to it, give the names.
        unsafe {
            Some(Self {
                parallel: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(Member, *mut c_void, c_uint, c_uint),
                >(symbol(c"GOMP_parallel")?),
                in_parallel: number(symbol(c"omp_in_parallel")?),
                max_threads: number(symbol(c"omp_get_max_threads")?),
                thread_num: number(symbol(c"omp_get_thread_num")?),
                process: std::process::id(),
            })
        }
    }

    /// OpenMP, where a team of several threads can be started from here.
    fn with_threads() -> Option<&'static Self> {
        static FOUND: OnceLock<Option<OpenMp>> = OnceLock::new();
        let openmp = FOUND.get_or_init(Self::find).as_ref()?;
        // SAFETY: functions without arguments that only report.
        let team = unsafe { (openmp.in_parallel)() == 0 && (openmp.max_threads)() > 1 };
        (team && openmp.process == std::process::id()).then_some(openmp)
    }
}

/// # Safety
/// `symbol` must be a function that takes nothing and returns an `int`.
unsafe fn number(symbol: *mut c_void) -> unsafe extern "C" fn() -> c_int {
    // SAFETY: as the caller says.
    unsafe { std::mem::transmute(symbol) }
}

/// A team whose first thread, the caller's, works.
struct Team<'a> {
    openmp: &'a OpenMp,
    /// Touched by the first thread only.
    work: Cell<Option<&'a mut dyn FnMut()>>,
    /// Touched by the first thread only.
    panic: Cell<Option<Box<dyn Any + Send>>>,
    done: Mutex<bool>,
    changed: Condvar,
}

/// Does `work` on this thread, with OpenMP's others asleep where there are any.
pub fn asleep<T>(work: impl FnOnce() -> T) -> T {
    let Some(openmp) = OpenMp::with_threads() else { return work() };
    let (mut work, mut result) = (Some(work), None);
    let mut once = || result = work.take().map(|work| work());
    let mut team = Team {
        openmp,
        work: Cell::new(Some(&mut once)),
        panic: Cell::new(None),
        done: Mutex::new(false),
        changed: Condvar::new(),
    };
    // SAFETY: `member` gets the team that it expects, which outlives the region: the call returns
    // when every member has. Zero threads means as many as OpenMP has.
    unsafe { (openmp.parallel)(member, (&raw mut team).cast(), 0, 0) };
    if let Some(panic) = team.panic.take() {
        resume_unwind(panic);
    }
    drop(team);
    match result {
        Some(result) => result,
        None => unreachable!("the first thread of a team is the one that started it"),
    }
}

unsafe extern "C" fn member(team: *mut c_void) {
    // SAFETY: `asleep` passes its team, of which every thread has shared access; the cells are left
    // to one of them.
    let team = unsafe { &*team.cast::<Team>() };
    // SAFETY: a function without arguments that only reports.
    let first = unsafe { (team.openmp.thread_num)() == 0 };
    let mut done = team.done.lock().unwrap_or_else(PoisonError::into_inner);
    if first {
        drop(done);
        if let Some(work) = team.work.take() {
            // A panic must not cross the region.
            team.panic.set(catch_unwind(AssertUnwindSafe(work)).err());
        }
        *team.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        team.changed.notify_all();
    } else {
        while !*done {
            done = team.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
