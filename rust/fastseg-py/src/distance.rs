//! Distances to the nearest feature.

use fastseg_core::distance::{self, Grid};
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::door;

/// A grid of three axes with a spacing; `fastseg.metrics` has checked before and says it better.
pub fn grid(shape: [usize; 3], spacing: [f64; 3], len: usize) -> PyResult<Grid> {
    let places = shape.iter().try_fold(1usize, |places, &n| places.checked_mul(n));
    if places != Some(len) || len == 0 || shape.iter().any(|&n| n > i32::MAX as usize) {
        return Err(PyValueError::new_err(format!("{len} values for a grid of shape {shape:?}")));
    }
    if !spacing.iter().all(|&s| s > 0.0 && s.is_finite()) {
        return Err(PyValueError::new_err(format!("spacing must be positive, got {spacing:?}")));
    }
    Ok(Grid { shape, spacing })
}

/// What is left of a computation that was stopped: the door has raised what stopped it.
pub fn cancelled<E>(_: E) -> PyErr {
    PyRuntimeError::new_err("cancelled")
}

/// A new array that `fill` writes.
pub fn filled<'py, T: Element>(
    py: Python<'py>,
    len: usize,
    fill: impl FnOnce(&mut [T]) -> PyResult<()>,
) -> PyResult<Bound<'py, PyArray1<T>>> {
    let out = PyArray1::<T>::zeros(py, len, false);
    let mut guard = out.readwrite();
    fill(guard.as_slice_mut()?)?;
    drop(guard);
    Ok(out)
}

/// The distance of each place to the nearest one where `mask` is zero.
#[pyfunction]
pub fn distance_transform<'py>(
    py: Python<'py>,
    mask: PyReadonlyArray1<'_, u8>,
    shape: [usize; 3],
    spacing: [f64; 3],
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let mask = mask.as_slice()?;
    let grid = grid(shape, spacing, mask.len())?;
    filled(py, mask.len(), |out| {
        door::through(py, None, |control| distance::transform(mask, &grid, out, control))?
            .map_err(cancelled)
    })
}

/// The squared distances, as 32-bit integers if they fit, of a grid of integral spacing.
#[pyfunction]
pub fn squared_distance_transform<'py>(
    py: Python<'py>,
    mask: PyReadonlyArray1<'_, u8>,
    shape: [usize; 3],
    spacing: [f64; 3],
) -> PyResult<Bound<'py, PyAny>> {
    let mask = mask.as_slice()?;
    let grid = grid(shape, spacing, mask.len())?;
    if spacing.iter().any(|spacing| spacing.fract() != 0.0) {
        return Err(PyValueError::new_err(format!("spacing must be integral, got {spacing:?}")));
    }
    let Some(scales) = grid.integer_scales() else {
        let out = filled::<i64>(py, mask.len(), |out| {
            door::through(py, None, |control| distance::wide_squares(mask, &grid, out, control))?
                .map_err(cancelled)
        })?;
        return Ok(out.into_any());
    };
    let out = filled::<i32>(py, mask.len(), |out| {
        door::through(py, None, |control| distance::squares(mask, &grid, scales, out, control))?
            .map_err(cancelled)
    })?;
    Ok(out.into_any())
}

/// The coordinates of a nearest place where `mask` is zero, one array after the other.
#[pyfunction]
pub fn nearest_features<'py>(
    py: Python<'py>,
    mask: PyReadonlyArray1<'_, u8>,
    shape: [usize; 3],
    spacing: [f64; 3],
) -> PyResult<Bound<'py, PyArray1<i32>>> {
    let mask = mask.as_slice()?;
    let grid = grid(shape, spacing, mask.len())?;
    filled(py, 3 * mask.len(), |out| {
        door::through(py, None, |control| distance::nearest_features(mask, &grid, out, control))?
            .map_err(cancelled)
    })
}
