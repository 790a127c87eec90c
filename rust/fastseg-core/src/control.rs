//! How a long computation is watched and stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Shared between the computation and whoever waits for it.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

/// How far the computation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Iterations finished.
    pub steps: usize,
    /// Whether all is finished, successfully or not.
    pub done: bool,
}

/// The computation was asked to stop before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

impl Control {
    /// Asks the computation to stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// An error once [`Self::cancel`] was called; long loops ask every few thousand points.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Cancelled) } else { Ok(()) }
    }

    /// Counts one finished iteration.
    pub fn step(&self) {
        self.lock().steps += 1;
        self.changed.notify_all();
    }

    /// Says that all is finished.
    pub fn finish(&self) {
        self.lock().done = true;
        self.changed.notify_all();
    }

    /// Waits until the state is another than `seen`, at most `timeout`, and returns it.
    pub fn wait(&self, seen: State, timeout: Duration) -> State {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, timeout, |state| *state == seen);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
