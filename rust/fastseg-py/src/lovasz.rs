//! Slopes of the Lovász extension, whose memory is a torch tensor's.

use fastseg_core::lovasz::{self, LovaszError};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::{door, openmp};

fn lovasz_error(error: LovaszError) -> PyErr {
    match error {
        LovaszError::Size => PyValueError::new_err(error.to_string()),
        LovaszError::Cancelled => PyRuntimeError::new_err(error.to_string()),
    }
}

/// By how much the Jaccard loss grows with each pixel of rows of `row` errors, which fall.
#[pyfunction]
pub fn jaccard_slopes(
    py: Python<'_>,
    errors: PyReadonlyArray1<'_, f32>,
    truth: PyReadonlyArray1<'_, bool>,
    row: usize,
    mut slopes: PyReadwriteArray1<'_, f32>,
) -> PyResult<()> {
    let (errors, truth, slopes) = (errors.as_slice()?, truth.as_slice()?, slopes.as_slice_mut()?);
    let work = |control: &_| lovasz::jaccard_slopes(errors, truth, row, slopes, control);
    openmp::asleep(|| door::through(py, None, work))?.map_err(lovasz_error)
}
