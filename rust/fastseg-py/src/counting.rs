//! Confusion matrices.

use fastseg_core::counting::{Confusion, CountError, Labels, Which};
use numpy::{PyArray2, PyArrayMethods, PyReadonlyArrayDyn};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::door;

/// A label map of any integer type, in one piece.
#[derive(FromPyObject)]
pub enum LabelMap<'py> {
    /// 8-bit.
    U8(PyReadonlyArrayDyn<'py, u8>),
    /// 64-bit, signed.
    I64(PyReadonlyArrayDyn<'py, i64>),
    /// 32-bit, signed.
    I32(PyReadonlyArrayDyn<'py, i32>),
    /// 16-bit.
    U16(PyReadonlyArrayDyn<'py, u16>),
    /// 16-bit, signed.
    I16(PyReadonlyArrayDyn<'py, i16>),
    /// 8-bit, signed.
    I8(PyReadonlyArrayDyn<'py, i8>),
    /// 32-bit.
    U32(PyReadonlyArrayDyn<'py, u32>),
    /// 64-bit.
    U64(PyReadonlyArrayDyn<'py, u64>),
}

impl LabelMap<'_> {
    /// Its values in the order of memory.
    pub fn labels(&self) -> PyResult<Labels<'_>> {
        Ok(match self {
            Self::U8(x) => Labels::from(x.as_slice()?),
            Self::U16(x) => Labels::from(x.as_slice()?),
            Self::U32(x) => Labels::from(x.as_slice()?),
            Self::U64(x) => Labels::from(x.as_slice()?),
            Self::I8(x) => Labels::from(x.as_slice()?),
            Self::I16(x) => Labels::from(x.as_slice()?),
            Self::I32(x) => Labels::from(x.as_slice()?),
            Self::I64(x) => Labels::from(x.as_slice()?),
        })
    }
}

/// A label that is no class, as `fastseg.metrics` takes it to say where it is.
pub fn count_error(error: CountError) -> PyErr {
    match error {
        CountError::Label { which, index, value } => {
            let name = if which == Which::Pred { "pred" } else { "target" };
            PyValueError::new_err(("label", name, index, value))
        }
        CountError::Cancelled => PyRuntimeError::new_err("cancelled"),
        CountError::Size => PyValueError::new_err(error.to_string()),
    }
}

/// Counts pairs of labels: rows are the target, columns the prediction, the last one void.
#[pyfunction]
#[pyo3(signature = (pred, target, *, classes, ignore, strict, void))]
pub fn confusion_matrix<'py>(
    py: Python<'py>,
    pred: LabelMap<'py>,
    target: LabelMap<'py>,
    classes: usize,
    ignore: Option<i64>,
    strict: bool,
    void: bool,
) -> PyResult<Bound<'py, PyArray2<i64>>> {
    if !(1..=MAX_CLASSES).contains(&classes) {
        return Err(PyValueError::new_err(format!("{classes} classes, not 1..{MAX_CLASSES}")));
    }
    let confusion = Confusion { classes, ignore, strict, void };
    let (pred, target) = (pred.labels()?, target.labels()?);
    let out = PyArray2::<i64>::zeros(py, [classes, confusion.columns()], false);
    let mut guard = out.readwrite();
    let counts = guard.as_slice_mut()?;
    door::through(py, None, |control| confusion.count(pred, target, counts, control))?
        .map_err(count_error)?;
    drop(guard);
    Ok(out)
}

/// The most classes that a confusion matrix can have.
pub const MAX_CLASSES: usize = 16384;
