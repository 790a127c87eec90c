//! The Python module `fastseg._rust`.
use pyo3::prelude::*;

/// The compiled engine of fastseg.
#[pymodule]
mod _rust {}
