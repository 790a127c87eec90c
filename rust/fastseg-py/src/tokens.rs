//! Operations on tokens, whose memory is a torch tensor's.

use fastseg_core::control::Control;
use fastseg_core::tokens::decoder::{Decoder, Map};
use fastseg_core::tokens::{TokensError, attention, cross_entropy, decoder, depthwise, winograd};
use numpy::{Element, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::{door, openmp};

type In<'py> = PyReadonlyArray1<'py, f32>;
type Out<'py> = PyReadwriteArray1<'py, f32>;

fn tokens_error(error: TokensError) -> PyErr {
    match error {
        TokensError::Size => PyValueError::new_err(error.to_string()),
        TokensError::Label(label) => PyValueError::new_err(("label", label)),
        TokensError::Cancelled => PyRuntimeError::new_err("cancelled"),
    }
}

fn run<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&Control) -> Result<T, TokensError> + Send,
) -> PyResult<T> {
    openmp::asleep(|| door::through(py, None, work))?.map_err(tokens_error)
}

fn slices<'a, T: Element>(arrays: &'a [PyReadonlyArray1<'_, T>]) -> PyResult<Vec<&'a [T]>> {
    arrays.iter().map(|x| x.as_slice().map_err(PyErr::from)).collect()
}

fn maps<'a>(data: &[&'a [f32]], shapes: &[(usize, usize, usize)]) -> PyResult<Vec<Map<'a>>> {
    if data.len() != shapes.len() {
        return Err(tokens_error(TokensError::Size));
    }
    let maps = data.iter().zip(shapes);
    Ok(maps
        .map(|(data, &(height, width, channels))| Map { data, height, width, channels })
        .collect())
}

/// Attention of (B, N, H × D) queries over (B, M, H × D) keys; `shape` is (B, N, M, H, D).
#[pyfunction]
pub fn sequence_reduced_attention(
    py: Python<'_>,
    query: In<'_>,
    key: In<'_>,
    value: In<'_>,
    shape: (usize, usize, usize, usize, usize),
    mut out: Out<'_>,
    mut lse: Out<'_>,
) -> PyResult<()> {
    let (query, key, value) = (query.as_slice()?, key.as_slice()?, value.as_slice()?);
    let (out, lse) = (out.as_slice_mut()?, lse.as_slice_mut()?);
    run(py, |control| attention::forward(query, key, value, sizes(shape), out, lse, control))
}

fn sizes(shape: (usize, usize, usize, usize, usize)) -> attention::Sizes {
    let (batch, queries, keys, heads, width) = shape;
    attention::Sizes { batch, queries, keys, heads, width }
}

/// Gradients of queries, keys and values; `given` is (grad, query, key, value, out, lse).
#[pyfunction]
pub fn sequence_reduced_attention_backward(
    py: Python<'_>,
    given: [In<'_>; 6],
    shape: (usize, usize, usize, usize, usize),
    mut d_query: Out<'_>,
    mut d_key: Out<'_>,
    mut d_value: Out<'_>,
) -> PyResult<()> {
    let [grad, query, key, value, out, lse] = &given;
    let given = attention::Given {
        grad: grad.as_slice()?,
        query: query.as_slice()?,
        key: key.as_slice()?,
        value: value.as_slice()?,
        out: out.as_slice()?,
        lse: lse.as_slice()?,
    };
    let (dq, dk, dv) = (d_query.as_slice_mut()?, d_key.as_slice_mut()?, d_value.as_slice_mut()?);
    run(py, |control| attention::backward(given, sizes(shape), dq, dk, dv, control))
}

fn picture(shape: (usize, usize, usize, usize)) -> depthwise::Sizes {
    let (batch, height, width, channels) = shape;
    depthwise::Sizes { batch, height, width, channels }
}

/// Depthwise 3×3 convolution, bias and GELU of (B, H, W, C) tokens.
#[pyfunction]
pub fn depthwise_conv_gelu(
    py: Python<'_>,
    tokens: In<'_>,
    weight: In<'_>,
    bias: In<'_>,
    shape: (usize, usize, usize, usize),
    mut out: Out<'_>,
) -> PyResult<()> {
    let (tokens, weight, bias) = (tokens.as_slice()?, weight.as_slice()?, bias.as_slice()?);
    let out = out.as_slice_mut()?;
    run(py, |control| depthwise::forward(tokens, weight, bias, picture(shape), out, control))
}

/// Gradients of tokens, weight and bias; `given` is (grad, tokens, weight, bias).
#[pyfunction]
pub fn depthwise_conv_gelu_backward(
    py: Python<'_>,
    given: [In<'_>; 4],
    shape: (usize, usize, usize, usize),
    mut d_tokens: Out<'_>,
    mut d_weight: Out<'_>,
    mut d_bias: Out<'_>,
) -> PyResult<()> {
    let [grad, tokens, weight, bias] = &given;
    let (grad, tokens) = (grad.as_slice()?, tokens.as_slice()?);
    let (weight, bias) = (weight.as_slice()?, bias.as_slice()?);
    let (dx, dw, db) = (d_tokens.as_slice_mut()?, d_weight.as_slice_mut()?, d_bias.as_slice_mut()?);
    let shape = picture(shape);
    run(py, |control| depthwise::backward(grad, tokens, weight, bias, shape, dx, dw, db, control))
}

/// 3×3 convolution, scale, shift and ReLU of maps (B, H, W, C…), one stacked on the other.
///
/// `given` is (weight, scale, shift), `shape` (B, H, W, K).
#[pyfunction]
#[pyo3(signature = (maps, given, shape, out, *, rate, padding, relu))]
#[allow(clippy::too_many_arguments)] // Python's, by name
pub fn conv3x3(
    py: Python<'_>,
    maps: Vec<(In<'_>, usize)>,
    given: [In<'_>; 3],
    shape: (usize, usize, usize, usize),
    mut out: Out<'_>,
    rate: usize,
    padding: usize,
    relu: bool,
) -> PyResult<()> {
    let maps = maps
        .iter()
        .map(|(map, channels)| Ok((map.as_slice()?, *channels)))
        .collect::<PyResult<Vec<_>>>()?;
    let [weight, scale, shift] = &given;
    let weight = weight.as_slice()?;
    let finish = winograd::Finish { scale: scale.as_slice()?, shift: shift.as_slice()?, relu };
    let (batch, height, width, filters) = shape;
    let sizes = winograd::Sizes { batch, height, width, filters, rate, padding };
    let out = out.as_slice_mut()?;
    run(py, |control| winograd::conv3x3(&maps, weight, finish, sizes, out, control))
}

/// The first map plus the others enlarged to its size, plus a bias; shapes are (h, w, C).
#[pyfunction]
pub fn upsample_sum(
    py: Python<'_>,
    data: Vec<In<'_>>,
    shapes: Vec<(usize, usize, usize)>,
    bias: In<'_>,
    batch: usize,
    mut out: Out<'_>,
) -> PyResult<()> {
    let maps = maps(&slices(&data)?, &shapes)?;
    let (bias, out) = (bias.as_slice()?, out.as_slice_mut()?);
    run(py, |control| decoder::upsample_sum(&maps, bias, batch, out, control))
}

/// The transpose of enlarging a map of `size` to the gradient's (h, w, C).
#[pyfunction]
pub fn upsample_sum_backward(
    py: Python<'_>,
    grad: In<'_>,
    shape: (usize, usize, usize),
    batch: usize,
    size: (usize, usize),
    mut out: Out<'_>,
) -> PyResult<()> {
    let grad = maps(&[grad.as_slice()?], &[shape])?[0];
    let out = out.as_slice_mut()?;
    run(py, |control| decoder::downsample(grad, batch, size.0, size.1, out, control))
}

/// SegFormer's folded decoder; `matrices` is (bias, classifier, its bias).
#[pyfunction]
pub fn folded_decoder(
    py: Python<'_>,
    features: Vec<In<'_>>,
    shapes: Vec<(usize, usize, usize)>,
    weights: Vec<In<'_>>,
    matrices: [In<'_>; 3],
    batch: usize,
    mut out: Out<'_>,
) -> PyResult<()> {
    let maps = maps(&slices(&features)?, &shapes)?;
    let weights = slices(&weights)?;
    let [bias, classifier, classifier_bias] = &matrices;
    let decoder = Decoder {
        weights: &weights,
        bias: bias.as_slice()?,
        classifier: classifier.as_slice()?,
        classifier_bias: classifier_bias.as_slice()?,
    };
    let out = out.as_slice_mut()?;
    run(py, |control| decoder::folded_decoder(&maps, decoder, batch, out, control))
}

/// Mean cross entropy of enlarged logits; `shape` is (B, K, h, w), `size` the target's (H, W).
#[pyfunction]
#[pyo3(signature = (logits, target, shape, size, *, ignore_index, align_corners, d_logits))]
#[allow(clippy::too_many_arguments)] // Python's, by name
pub fn upsample_cross_entropy(
    py: Python<'_>,
    logits: In<'_>,
    target: PyReadonlyArray1<'_, i64>,
    shape: (usize, usize, usize, usize),
    size: (usize, usize),
    ignore_index: i64,
    align_corners: bool,
    mut d_logits: Out<'_>,
) -> PyResult<f32> {
    let (batch, classes, height, width) = shape;
    let sizes = cross_entropy::Sizes {
        batch,
        classes,
        height,
        width,
        full_height: size.0,
        full_width: size.1,
        ignore: ignore_index,
        align_corners,
    };
    let (logits, target) = (logits.as_slice()?, target.as_slice()?);
    let d_logits = d_logits.as_slice_mut()?;
    run(py, |control| cross_entropy::cross_entropy(logits, target, sizes, d_logits, control))
}
