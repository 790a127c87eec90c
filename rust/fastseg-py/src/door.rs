//! The single door from Python into long computations.
//!
//! The work runs on the shared pool with the GIL released; the calling thread waits, hands on
//! progress, and stops the work when a signal arrives or the progress callback raises.

use std::time::Duration;

use fastseg_core::control::{Control, State};
use fastseg_core::threads::{self, ThreadsError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

pyo3::import_exception!(fastseg.errors, BackendError);

/// How often signals are looked at.
const TICK: Duration = Duration::from_millis(50);

/// A problem with the pool, as Python sees it.
pub fn threads_error(error: ThreadsError) -> PyErr {
    match error {
        ThreadsError::OutOfRange { .. } => PyValueError::new_err(error.to_string()),
        ThreadsError::NotStarted { .. } => BackendError::new_err(error.to_string()),
    }
}

/// Runs `work`, calling `progress(done, total)` after each of its steps.
pub fn through<T: Send>(
    py: Python<'_>,
    progress: Option<(&Py<PyAny>, usize)>,
    work: impl FnOnce(&Control) -> T + Send,
) -> PyResult<T> {
    let pool = py.detach(threads::pool).map_err(threads_error)?;
    let control = Control::default();
    let mut result = None;
    let mut error = None;
    py.detach(|| {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| {
                let _finish = Finish(&control);
                result = Some(work(&control));
            });
            let mut seen = State::default();
            while !seen.done {
                let now = control.wait(seen, TICK);
                if error.is_none() {
                    let told = Python::attach(|py| tell(py, progress, seen.steps..now.steps));
                    if let Err(raised) = told {
                        control.cancel();
                        error = Some(raised);
                    }
                }
                seen = now;
            }
        });
    });
    match (error, result) {
        (None, Some(result)) => Ok(result),
        (Some(error), _) => Err(error),
        (None, None) => unreachable!("a panic in the work is passed on by the scope"),
    }
}

/// Says that all is finished even when the work panics, or the caller would wait for ever.
struct Finish<'a>(&'a Control);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}

fn tell(
    py: Python<'_>,
    progress: Option<(&Py<PyAny>, usize)>,
    steps: std::ops::Range<usize>,
) -> PyResult<()> {
    py.check_signals()?;
    if let Some((callback, total)) = progress {
        for step in steps {
            callback.call1(py, (step + 1, total))?;
        }
    }
    Ok(())
}
