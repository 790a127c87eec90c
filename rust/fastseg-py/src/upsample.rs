//! Labels of enlarged logits.

use fastseg_core::upsample::{self, Label, Logits, UpsampleError, Values};
use numpy::{
    Element, IntoPyArray, PyArrayMethods, PyReadonlyArray4, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
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
        UpsampleError::Cancelled => PyRuntimeError::new_err("cancelled"),
    }
}

/// How many values an array of a shape has.
fn volume(shape: &[usize]) -> PyResult<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .filter(|&volume| volume <= isize::MAX as usize / 8)
        .ok_or_else(|| PyValueError::new_err("the result does not fit into memory"))
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
    let mut labels = vec![T::default(); volume(&shape)?];
    door::through(py, None, |control| {
        upsample::argmax(logits, size, align_corners, &mut labels, control)
    })?
    .map_err(upsample_error)?;
    Ok(labels.into_pyarray(py).reshape(shape)?.as_untyped().clone())
}
