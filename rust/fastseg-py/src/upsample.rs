//! Labels of enlarged logits.

use fastseg_core::upsample::{self, Label, Logits, Target, UpsampleError, Values};
use numpy::{
    Element, IntoPyArray, PyArray2, PyArray4, PyArrayMethods, PyReadonlyArray3, PyReadonlyArray4,
    PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::door;

/// Logits (B, K, h, w) at any strides; 16-bit floats come as their bits.
#[derive(FromPyObject)]
pub enum Scores<'py> {
    /// 32-bit.
    F32(PyReadonlyArray4<'py, f32>),
    /// 64-bit.
    F64(PyReadonlyArray4<'py, f64>),
    /// 16-bit.
    Bits(PyReadonlyArray4<'py, u16>),
}

impl Scores<'_> {
    fn logits(&self, brain: bool) -> PyResult<Logits<'_>> {
        match self {
            Self::F32(x) => view(x, Values::F32),
            Self::F64(x) => view(x, Values::F64),
            Self::Bits(x) if brain => view(x, Values::Bf16),
            Self::Bits(x) => view(x, Values::F16),
        }
    }
}

/// The values between an array's first and last, and where its axes lead among them.
fn view<'a, T: Element>(
    array: &'a PyReadonlyArray4<'_, T>,
    values: impl Fn(&'a [T]) -> Values<'a>,
) -> PyResult<Logits<'a>> {
    let size = size_of::<T>() as isize;
    let (mut shape, mut strides) = ([0; 4], [0; 4]);
    shape.copy_from_slice(array.shape());
    let (mut before, mut behind) = (0usize, 1usize);
    for (axis, &stride) in array.strides().iter().enumerate() {
        let steps = shape[axis].saturating_sub(1);
        if steps == 0 {
            continue;
        }
        if stride % size != 0 {
            return Err(PyValueError::new_err("logits are not aligned"));
        }
        strides[axis] = stride / size;
        let reach = steps * strides[axis].unsigned_abs();
        if stride < 0 { before += reach } else { behind += reach }
    }
    let inside = if shape.contains(&0) {
        &[]
    } else {
        let first = array.as_array().as_ptr();
        if !first.is_aligned() {
            return Err(PyValueError::new_err("logits are not aligned"));
        }
        // SAFETY: the array's own strides lead from its first value to all of these, so they lie
        // inside of its memory, which lives and is not written to as long as `array`.
        unsafe { std::slice::from_raw_parts(first.sub(before), before + behind) }
    };
    Logits::new(values(inside), before, shape, strides)
        .map_err(|_| PyValueError::new_err("strides lead outside of the logits"))
}

fn upsample_error(error: UpsampleError) -> PyErr {
    match error {
        UpsampleError::Size => PyValueError::new_err("the output has another size"),
        UpsampleError::Empty => PyValueError::new_err("there are no logits"),
        UpsampleError::Count => PyValueError::new_err("k is not in 1..K"),
        UpsampleError::Label { position, value } => {
            PyValueError::new_err(("target", position, value))
        }
        UpsampleError::Cancelled => PyRuntimeError::new_err("cancelled"),
    }
}

/// Zeros for an array of a shape.
fn zeros<T: Copy + Default>(shape: &[usize]) -> PyResult<Vec<T>> {
    let len = shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        // A vector that cannot be had would end the process: ask first.
        .filter(|&len| Vec::<T>::new().try_reserve_exact(len).is_ok())
        .ok_or_else(|| PyMemoryError::new_err(format!("no memory for a result {shape:?}")))?;
    // Zeroed pages come from the system as the threads write to them.
    Ok(vec![T::default(); len])
}

/// The likeliest class of every pixel of enlarged logits, as (B, H, W) of the smallest unsigned
/// integer type.
#[pyfunction]
#[pyo3(signature = (logits, *, height, width, align_corners, brain))]
pub fn upsample_argmax<'py>(
    py: Python<'py>,
    logits: Scores<'py>,
    height: usize,
    width: usize,
    align_corners: bool,
    brain: bool,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let logits = logits.logits(brain)?;
    let size = (height, width);
    match logits.shape()[1] {
        0..=0x100 => labels::<u8>(py, &logits, size, align_corners),
        0x101..=0x1_0000 => labels::<u16>(py, &logits, size, align_corners),
        _ => labels::<u32>(py, &logits, size, align_corners),
    }
}

fn labels<'py, T: Label + Element + Default>(
    py: Python<'py>,
    logits: &Logits,
    size: (usize, usize),
    align_corners: bool,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let shape = [logits.shape()[0], size.0, size.1];
    let mut labels = zeros::<T>(&shape)?;
    door::through(py, None, |control| {
        upsample::argmax(logits, size, align_corners, &mut labels, control)
    })?
    .map_err(upsample_error)?;
    Ok(labels.into_pyarray(py).reshape(shape)?.as_untyped().clone())
}

/// The `k` likeliest classes of every pixel of enlarged logits and their probabilities, as two
/// arrays (B, k, H, W).
#[pyfunction]
#[pyo3(signature = (logits, *, height, width, align_corners, brain, k))]
pub fn upsample_top_k<'py>(
    py: Python<'py>,
    logits: Scores<'py>,
    height: usize,
    width: usize,
    align_corners: bool,
    brain: bool,
    k: usize,
) -> PyResult<(Bound<'py, PyUntypedArray>, Bound<'py, PyArray4<f32>>)> {
    let logits = logits.logits(brain)?;
    let size = (height, width);
    match logits.shape()[1] {
        0..=0x100 => ranks::<u8>(py, &logits, size, align_corners, k),
        0x101..=0x1_0000 => ranks::<u16>(py, &logits, size, align_corners, k),
        _ => ranks::<u32>(py, &logits, size, align_corners, k),
    }
}

fn ranks<'py, T: Label + Element + Default>(
    py: Python<'py>,
    logits: &Logits,
    size: (usize, usize),
    align_corners: bool,
    k: usize,
) -> PyResult<(Bound<'py, PyUntypedArray>, Bound<'py, PyArray4<f32>>)> {
    let shape = [logits.shape()[0], k, size.0, size.1];
    let (mut labels, mut probs) = (zeros::<T>(&shape)?, zeros::<f32>(&shape)?);
    door::through(py, None, |control| {
        upsample::top_k(logits, size, align_corners, k, &mut labels, &mut probs, control)
    })?
    .map_err(upsample_error)?;
    let labels = labels.into_pyarray(py).reshape(shape)?.as_untyped().clone();
    Ok((labels, probs.into_pyarray(py).reshape(shape)?))
}

/// Label maps (B, H, W), contiguous.
#[derive(FromPyObject)]
pub enum Targets<'py> {
    /// Unsigned, 8 bits.
    U8(PyReadonlyArray3<'py, u8>),
    /// Unsigned, 16 bits.
    U16(PyReadonlyArray3<'py, u16>),
    /// Signed, 32 bits.
    I32(PyReadonlyArray3<'py, i32>),
    /// Signed, 64 bits.
    I64(PyReadonlyArray3<'py, i64>),
}

impl Targets<'_> {
    fn target(&self) -> PyResult<(Target<'_>, &[usize])> {
        Ok(match self {
            Self::U8(x) => (Target::U8(x.as_slice()?), x.shape()),
            Self::U16(x) => (Target::U16(x.as_slice()?), x.shape()),
            Self::I32(x) => (Target::I32(x.as_slice()?), x.shape()),
            Self::I64(x) => (Target::I64(x.as_slice()?), x.shape()),
        })
    }
}

/// How often each target met each likeliest class of logits that are enlarged to its size, as
/// (K, K).
#[pyfunction]
#[pyo3(signature = (logits, target, *, align_corners, brain, ignore_index))]
pub fn upsample_confusion<'py>(
    py: Python<'py>,
    logits: Scores<'py>,
    target: Targets<'py>,
    align_corners: bool,
    brain: bool,
    ignore_index: Option<i64>,
) -> PyResult<Bound<'py, PyArray2<i64>>> {
    let logits = logits.logits(brain)?;
    let (target, shape) = target.target()?;
    let classes = logits.shape()[1];
    let mut counts = zeros::<i64>(&[classes, classes])?;
    let size = (shape[1], shape[2]);
    door::through(py, None, |control| {
        upsample::confusion(
            &logits,
            size,
            align_corners,
            target,
            ignore_index,
            &mut counts,
            control,
        )
    })?
    .map_err(upsample_error)?;
    counts.into_pyarray(py).reshape([classes, classes])
}
