//! Depthwise 3×3 convolution with zero padding, bias and GELU.

use rayon::prelude::*;

use super::gelu::{gelu, gelu_slope};
use super::{TokensError, load, require, store, volume};
use crate::control::Control;
use crate::simd::{Kernel, Simd, dispatch};

/// Rows of the picture in a task of the backward pass.
const BAND: usize = 8;

/// The sizes of tokens (B, H, W, C).
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// B.
    pub batch: usize,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// C.
    pub channels: usize,
}

impl Sizes {
    fn row(&self) -> usize {
        self.width * self.channels
    }

    fn check(&self, tokens: &[f32], weight: &[f32], bias: &[f32]) -> Result<(), TokensError> {
        let channels = self.channels;
        let all = volume(&[self.batch, self.height, self.width, channels]);
        require(&[
            (tokens.len(), all),
            (weight.len(), volume(&[channels, 9])),
            (bias.len(), channels),
        ])?;
        if all == 0 { Err(TokensError::Size) } else { Ok(()) }
    }
}

/// Weights (C, 9) as nine rows of C.
fn by_tap(weight: &[f32], channels: usize) -> Vec<f32> {
    let mut taps = vec![0.0; 9 * channels];
    for (c, nine) in weight.chunks_exact(9).enumerate() {
        for (t, w) in nine.iter().enumerate() {
            taps[t * channels + c] = *w;
        }
    }
    taps
}

/// The three rows around row `y` of a picture, or zeros.
fn around<'a>(picture: &'a [f32], zeros: &'a [f32], y: usize, len: usize) -> [&'a [f32]; 3] {
    let row = |y: usize| picture.get(y * len..(y + 1) * len).unwrap_or(zeros);
    [if y == 0 { zeros } else { row(y - 1) }, row(y), row(y + 1)]
}

/// Writes gelu(convolution + bias) to `out`; weights are (C, 1, 3, 3).
pub fn forward(
    tokens: &[f32],
    weight: &[f32],
    bias: &[f32],
    sizes: Sizes,
    out: &mut [f32],
    control: &Control,
) -> Result<(), TokensError> {
    sizes.check(tokens, weight, bias)?;
    require(&[(out.len(), tokens.len())])?;
    let (taps, zeros, len) = (by_tap(weight, sizes.channels), vec![0.0; sizes.row()], sizes.row());
    out.par_chunks_mut(len).enumerate().try_for_each(|(i, out)| {
        control.check()?;
        let (b, y) = (i / sizes.height, i % sizes.height);
        let picture = &tokens[b * sizes.height * len..][..sizes.height * len];
        let rows = around(picture, &zeros, y, len);
        dispatch(Convolve { rows, taps: &taps, bias, slopes_of: None, out });
        Ok(())
    })
}

/// One row of the result.
struct Convolve<'a> {
    rows: [&'a [f32]; 3],
    taps: &'a [f32],
    bias: &'a [f32],
    /// A gradient to multiply with the GELU's slope, instead of the GELU.
    slopes_of: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (channels, len) = (self.bias.len(), self.out.len());
        let width = len / channels;
        let rows = self.rows.map(<[f32]>::as_ptr);
        let out = self.out.as_mut_ptr();
        let finish = |h: S::V, at: usize, n: usize| {
            // SAFETY: `at + n` lies within the row; `dispatch` chose `S`.
            unsafe {
                let result = match self.slopes_of {
                    None => gelu::<S>(h),
                    Some(grad) => S::mul(load::<S>(grad.as_ptr().add(at), n), gelu_slope::<S>(h)),
                };
                store::<S>(out.add(at), n, result);
            }
        };
        for x in 0..width {
            let inside = x > 0 && x + 1 < width;
            for c in (0..channels).step_by(S::LANES) {
                let (n, at) = (S::LANES.min(channels - c), x * channels + c);
                // SAFETY: rows have `len` floats, taps and bias `channels` from their start on; a
                // tap is left out where its token lies outside of the row.
                let h = unsafe {
                    if inside && n == S::LANES {
                        nine::<S>(rows, self.taps, self.bias, at, c)
                    } else {
                        let mut h = load::<S>(self.bias.as_ptr().add(c), n);
                        for (i, row) in rows.iter().enumerate() {
                            for j in 0..3 {
                                if x + j >= 1 && x + j <= width {
                                    let token = load::<S>(row.add(at + j * channels - channels), n);
                                    let tap = self.taps.as_ptr().add((3 * i + j) * channels + c);
                                    h = S::mul_add(token, load::<S>(tap, n), h);
                                }
                            }
                        }
                        h
                    }
                };
                finish(h, at, n);
            }
        }
    }
}

/// The sum of bias and nine taps, none of which lies outside.
#[inline(always)]
unsafe fn nine<S: Simd>(
    rows: [*const f32; 3],
    taps: &[f32],
    bias: &[f32],
    at: usize,
    c: usize,
) -> S::V {
    let channels = bias.len();
    // SAFETY: as the caller.
    unsafe {
        // Three sums, which need not wait for each other.
        let mut sums = [S::load(bias.as_ptr().add(c)), S::splat(0.0), S::splat(0.0)];
        for i in 0..3 {
            for j in 0..3 {
                let token = S::load(rows[i].add(at + j * channels - channels));
                let tap = S::load(taps.as_ptr().add((3 * i + j) * channels + c));
                sums[i] = S::mul_add(token, tap, sums[i]);
            }
        }
        S::add(sums[0], S::add(sums[1], sums[2]))
    }
}

/// Writes the gradients of tokens, weight and bias; the convolution is computed again.
#[allow(clippy::too_many_arguments)] // four tensors in, three out
pub fn backward(
    grad: &[f32],
    tokens: &[f32],
    weight: &[f32],
    bias: &[f32],
    sizes: Sizes,
    d_tokens: &mut [f32],
    d_weight: &mut [f32],
    d_bias: &mut [f32],
    control: &Control,
) -> Result<(), TokensError> {
    sizes.check(tokens, weight, bias)?;
    sizes.check(d_tokens, d_weight, d_bias)?;
    require(&[(grad.len(), tokens.len())])?;
    let (channels, height, len) = (sizes.channels, sizes.height, sizes.row());
    let taps = by_tap(weight, channels);
    let mut flipped = taps.clone();
    for (t, row) in flipped.chunks_exact_mut(channels).enumerate() {
        row.copy_from_slice(&taps[(8 - t) * channels..][..channels]);
    }
    let zeros = vec![0.0; len];
    let no_bias = vec![0.0; channels];
    let mut sums = vec![0.0f32; 10 * channels];
    for (b, d_tokens) in d_tokens.chunks_exact_mut(height * len).enumerate() {
        let picture = |x| &<[f32]>::as_ref(x)[b * height * len..][..height * len];
        let (tokens, grad): (&[f32], &[f32]) = (picture(tokens), picture(grad));
        let parts: Vec<Vec<f32>> = d_tokens
            .par_chunks_mut(BAND * len)
            .enumerate()
            .map(|(i, d_tokens)| {
                control.check()?;
                let (first, count) = (i * BAND, d_tokens.len() / len);
                // The gradients before the GELU of this band's rows, and of one above and below.
                let mut inner = vec![0.0; (count + 2) * len];
                for (r, out) in inner.chunks_exact_mut(len).enumerate() {
                    let Some(y) = (first + r).checked_sub(1).filter(|&y| y < height) else {
                        continue;
                    };
                    let rows = around(tokens, &zeros, y, len);
                    let slopes_of = Some(&grad[y * len..][..len]);
                    dispatch(Convolve { rows, taps: &taps, bias, slopes_of, out });
                }
                let mut sums = vec![0.0; 10 * channels];
                for (r, out) in d_tokens.chunks_exact_mut(len).enumerate() {
                    let rows = [0, 1, 2].map(|i| &inner[(r + i) * len..][..len]);
                    dispatch(Transpose { rows, taps: &flipped, zero: &no_bias, out });
                    let rows = around(tokens, &zeros, first + r, len);
                    let inner = &inner[(r + 1) * len..][..len];
                    dispatch(Weights { inner, rows, sums: &mut sums });
                }
                Ok(sums)
            })
            .collect::<Result<_, TokensError>>()?;
        for part in parts {
            for (to, from) in sums.iter_mut().zip(part) {
                *to += from;
            }
        }
    }
    for (c, nine) in d_weight.chunks_exact_mut(9).enumerate() {
        for (t, w) in nine.iter_mut().enumerate() {
            *w = sums[t * channels + c];
        }
    }
    d_bias.copy_from_slice(&sums[9 * channels..]);
    Ok(())
}

/// One row of the gradient of the tokens: a convolution with the taps the other way round.
struct Transpose<'a> {
    rows: [&'a [f32]; 3],
    taps: &'a [f32],
    zero: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.zero.len();
        let width = self.out.len() / channels;
        let rows = self.rows.map(<[f32]>::as_ptr);
        for x in 0..width {
            let inside = x > 0 && x + 1 < width;
            for c in (0..channels).step_by(S::LANES) {
                let (n, at) = (S::LANES.min(channels - c), x * channels + c);
                // SAFETY: as in `Convolve`.
                unsafe {
                    let h = if inside && n == S::LANES {
                        nine::<S>(rows, self.taps, self.zero, at, c)
                    } else {
                        let mut h = S::splat(0.0);
                        for (i, row) in rows.iter().enumerate() {
                            for j in 0..3 {
                                if x + j >= 1 && x + j <= width {
                                    let token = load::<S>(row.add(at + j * channels - channels), n);
                                    let tap = self.taps.as_ptr().add((3 * i + j) * channels + c);
                                    h = S::mul_add(token, load::<S>(tap, n), h);
                                }
                            }
                        }
                        h
                    };
                    store::<S>(self.out.as_mut_ptr().add(at), n, h);
                }
            }
        }
    }
}

/// Adds one row's part of the gradients of weights and bias.
struct Weights<'a> {
    inner: &'a [f32],
    rows: [&'a [f32]; 3],
    sums: &'a mut [f32],
}

impl Kernel for Weights<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.sums.len() / 10;
        let width = self.inner.len() / channels;
        let rows = self.rows.map(<[f32]>::as_ptr);
        let sums = self.sums.as_mut_ptr();
        for c in (0..channels).step_by(S::LANES) {
            let n = S::LANES.min(channels - c);
            // SAFETY: rows have `width × channels` floats, sums ten times `channels`; a tap is left
            // out where its token lies outside of the row.
            unsafe {
                let mut total: [S::V; 10] =
                    std::array::from_fn(|t| load::<S>(sums.add(t * channels + c), n));
                for x in 0..width {
                    let at = x * channels + c;
                    let g = load::<S>(self.inner.as_ptr().add(at), n);
                    total[9] = S::add(total[9], g);
                    if x > 0 && x + 1 < width {
                        for t in 0..9 {
                            let token = rows[t / 3].add(at + t % 3 * channels - channels);
                            total[t] = S::mul_add(load::<S>(token, n), g, total[t]);
                        }
                    } else {
                        for t in 0..9 {
                            let j = t % 3;
                            if x + j >= 1 && x + j <= width {
                                let token = rows[t / 3].add(at + j * channels - channels);
                                total[t] = S::mul_add(load::<S>(token, n), g, total[t]);
                            }
                        }
                    }
                }
                for (t, v) in total.into_iter().enumerate() {
                    store::<S>(sums.add(t * channels + c), n, v);
                }
            }
        }
    }
}
