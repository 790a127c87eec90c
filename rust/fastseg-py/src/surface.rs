//! Surfaces and boundaries.

use fastseg_core::boundary::{self, BoundaryError};
use fastseg_core::surface::{self, Distances, Elements, Label, LabelOutside, Maps, SurfaceError};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::distance::{cancelled, filled, grid};
use crate::door;
use crate::labels::{Labels, with_labels, with_two_labels};

/// The distances between two surfaces and the weights of their elements: from the target to the
/// prediction, then back.
type Between<'py> = (
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<f64>>,
);

/// A label out of range, as Python sees it: `fastseg.metrics` names the argument.
fn label_error(outside: LabelOutside) -> PyErr {
    PyValueError::new_err(("label out of range", outside.in_target, outside.label))
}

/// For each of `labels`, the distances between its two surfaces.
#[pyfunction]
#[pyo3(signature = (pred, target, shape, spacing, *, labels, count, ignored, cells, weights))]
#[allow(clippy::too_many_arguments)] // keywords, spelt out in the stub
pub fn surface_distances<'py>(
    py: Python<'py>,
    pred: Labels<'py>,
    target: Labels<'py>,
    shape: [usize; 3],
    spacing: [f64; 3],
    labels: Vec<usize>,
    count: usize,
    ignored: Option<i64>,
    cells: bool,
    weights: PyReadonlyArray1<'py, f64>,
) -> PyResult<Vec<Between<'py>>> {
    let weights: &[f64; 256] = weights
        .as_slice()?
        .try_into()
        .map_err(|_| PyValueError::new_err("weights must be 256 numbers"))?;
    if labels.iter().any(|&label| label >= count) {
        return Err(PyValueError::new_err(format!("labels {labels:?} are not below {count}")));
    }
    let elements = if cells { Elements::Cells } else { Elements::Pixels };
    let found = with_two_labels!(&pred, &target, pred, target => {
        let grid = grid(shape, spacing, pred.len())?;
        same_length(pred, target)?;
        let maps = Maps { pred, target, grid };
        door::through(py, None, |control| {
            surface::surface_distances(maps, &labels, count, ignored, elements, weights, control)
        })?
        .map_err(|error| match error {
            SurfaceError::Label(outside) => label_error(outside),
            SurfaceError::Cancelled => cancelled(()),
        })
    })?;
    let arrays = |side: Distances| {
        (PyArray1::from_vec(py, side.distances), PyArray1::from_vec(py, side.weights))
    };
    let pairs = found.into_iter().map(|[forth, back]| {
        let ((a, b), (c, d)) = (arrays(forth), arrays(back));
        (a, b, c, d)
    });
    Ok(pairs.collect())
}

/// One for each pixel that has another label within `depth` pixels, in a square.
#[pyfunction]
pub fn near_boundary<'py>(
    py: Python<'py>,
    labels: Labels<'py>,
    width: usize,
    depth: usize,
    edge: bool,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    with_labels!(&labels, labels => {
        let map = map(labels, width, depth, edge)?;
        filled(py, labels.len(), |out| {
            door::through(py, None, |control| boundary::near_boundary(map, out, control))?
                .map_err(cancelled)
        })
    })
}

/// For each label, the boundary pixels of both maps, of the prediction and of the target.
#[pyfunction]
#[pyo3(signature = (pred, target, width, depth, *, count, ignored))]
pub fn boundary_counts<'py>(
    py: Python<'py>,
    pred: Labels<'py>,
    target: Labels<'py>,
    width: usize,
    depth: usize,
    count: usize,
    ignored: Option<i64>,
) -> PyResult<Bound<'py, PyArray2<i64>>> {
    let counts = with_two_labels!(&pred, &target, pred, target => {
        same_length(pred, target)?;
        let (pred, target) = (map(pred, width, depth, true)?, map(target, width, depth, true)?);
        door::through(py, None, |control| {
            boundary::boundary_counts(pred, target, count, ignored, control)
        })?
        .map_err(|error| match error {
            BoundaryError::Label(outside) => label_error(outside),
            BoundaryError::Cancelled => cancelled(()),
        })
    })?;
    let out = PyArray2::<i64>::zeros(py, [count, 3], false);
    out.readwrite().as_slice_mut()?.copy_from_slice(counts.as_flattened());
    Ok(out)
}

fn map<L: Label>(
    labels: &[L],
    width: usize,
    depth: usize,
    edge: bool,
) -> PyResult<boundary::Map<'_, L>> {
    if width == 0 || !labels.len().is_multiple_of(width) || depth > i32::MAX as usize / 4 {
        let message = format!("{} labels in rows of {width}, depth {depth}", labels.len());
        return Err(PyValueError::new_err(message));
    }
    Ok(boundary::Map { labels, width, depth, edge })
}

fn same_length<L>(pred: &[L], target: &[L]) -> PyResult<()> {
    if pred.len() == target.len() {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("maps of {} and {} pixels", pred.len(), target.len())))
}
