//! Attention of many queries over few keys, all of whose keys and values stay in the cache.

use rayon::prelude::*;

use super::lines::{Lines, padded};
use super::product::{Left, Packed, Start, product};
use super::{TokensError, require, volume};
use crate::control::Control;
use crate::simd::{Kernel, Simd, dispatch};

/// Queries in a task of the forward pass, few: the last stage of SegFormer has a hundred or two.
const TASK: usize = 48;
/// Tasks that the queries of one picture are divided into by the backward pass, at most.
const BACKWARD_TASKS: usize = 16;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// B.
    pub batch: usize,
    /// N.
    pub queries: usize,
    /// M.
    pub keys: usize,
    /// How many heads share out the channels.
    pub heads: usize,
    /// Channels of a head.
    pub width: usize,
}

impl Sizes {
    fn channels(&self) -> usize {
        self.heads.saturating_mul(self.width)
    }

    fn check(&self, query: &[f32], key: &[f32], value: &[f32]) -> Result<(), TokensError> {
        if self.keys == 0 || self.heads == 0 || self.width == 0 {
            return Err(TokensError::Size);
        }
        let keys = volume(&[self.batch, self.keys, self.channels()]);
        require(&[
            (query.len(), volume(&[self.batch, self.queries, self.channels()])),
            (key.len(), keys),
            (value.len(), keys),
        ])
    }

    /// Queries whose scores fit into the first cache, together with what they are computed from.
    fn block(&self) -> usize {
        (8192 / padded(self.keys)).clamp(1, 4) * 12
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// Writes softmax(Q Kᵀ / √width) V to `out`, and the logarithm of each softmax's sum to `lse`.
///
/// Queries, keys, values and `out` are (B, tokens, heads × width), `lse` is (B, N, heads).
pub fn forward(
    query: &[f32],
    key: &[f32],
    value: &[f32],
    sizes: Sizes,
    out: &mut [f32],
    lse: &mut [f32],
    control: &Control,
) -> Result<(), TokensError> {
    sizes.check(query, key, value)?;
    let channels = sizes.channels();
    require(&[
        (out.len(), query.len()),
        (lse.len(), volume(&[sizes.batch, sizes.queries, sizes.heads])),
    ])?;
    for b in 0..sizes.batch {
        let rows = |x, count| part(x, b, count * channels);
        let (k, v) = (rows(key, sizes.keys), rows(value, sizes.keys));
        let heads: Vec<(Packed, Packed)> = (0..sizes.heads)
            .into_par_iter()
            .map(|h| {
                let at = h * sizes.width;
                (
                    Packed::new(&k[at..], sizes.width, sizes.keys, 1, channels),
                    Packed::new(&v[at..], sizes.keys, sizes.width, channels, 1),
                )
            })
            .collect();
        let outs = &mut out[b * sizes.queries * channels..][..sizes.queries * channels];
        let sums = &mut lse[b * sizes.queries * sizes.heads..][..sizes.queries * sizes.heads];
        rows(query, sizes.queries)
            .par_chunks(TASK * channels)
            .zip(outs.par_chunks_mut(TASK * channels))
            .zip(sums.par_chunks_mut(TASK * sizes.heads))
            .try_for_each_init(
                || Lines::new(sizes.block() * padded(sizes.keys)),
                |scores, ((query, out), lse)| {
                    control.check()?;
                    let scores = scores.as_mut_slice();
                    dispatch(Forward { query, heads: &heads, sizes, scores, out, lse });
                    Ok::<_, TokensError>(())
                },
            )?;
    }
    Ok(())
}

fn part(x: &[f32], b: usize, len: usize) -> &[f32] {
    &x[b * len..][..len]
}

struct Forward<'a> {
    query: &'a [f32],
    heads: &'a [(Packed, Packed)],
    sizes: Sizes,
    /// Room for a block of queries by all keys.
    scores: &'a mut [f32],
    out: &'a mut [f32],
    lse: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Sizes { keys, heads, width, .. } = self.sizes;
        let (channels, block, ld) = (heads * width, self.sizes.block(), padded(keys));
        let scale = self.sizes.scale();
        let scores = self.scores;
        let rows = self.query.len() / channels;
        for first in (0..rows).step_by(block) {
            let count = block.min(rows - first);
            for (h, (key, value)) in self.heads.iter().enumerate() {
                let at = first * channels + h * width;
                let left = Left { data: &self.query[at..], rows: count, row: channels, step: 1 };
                product(left, key, Start::Zero, scores, ld);
                let mut factors = [0.0; 48];
                for r in 0..count {
                    let row = &mut scores[r * ld..][..keys];
                    // SAFETY: `dispatch` chose `S`.
                    let (largest, sum) = unsafe { softmax::<S>(row, scale) };
                    factors[r] = 1.0 / sum;
                    self.lse[(first + r) * heads + h] = largest * scale + sum.ln();
                }
                let left = Left { data: scores, rows: count, row: ld, step: 1 };
                let out = &mut self.out[at..];
                product(left, value, Start::Zero, out, channels);
                for (r, factor) in factors.iter().enumerate().take(count) {
                    for x in &mut out[r * channels..][..width] {
                        *x *= factor;
                    }
                }
            }
        }
    }
}

/// Replaces scores by exp(scale × (score − largest)); returns the largest and the sum.
#[inline(always)]
unsafe fn softmax<S: Simd>(row: &mut [f32], scale: f32) -> (f32, f32) {
    let (p, n) = (row.as_mut_ptr(), row.len());
    let (whole, rest) = (n / S::LANES * S::LANES, n % S::LANES);
    // SAFETY: the offsets stay below `n`.
    unsafe {
        // Two of each, which need not wait for each other.
        let pairs = whole / (2 * S::LANES) * (2 * S::LANES);
        let mut mosts = [S::splat(f32::NEG_INFINITY); 2];
        for i in (0..pairs).step_by(2 * S::LANES) {
            mosts = [
                S::max(mosts[0], S::load(p.add(i))),
                S::max(mosts[1], S::load(p.add(i + S::LANES))),
            ];
        }
        let mut most = S::max(mosts[0], mosts[1]);
        if pairs < whole {
            most = S::max(most, S::load(p.add(pairs)));
        }
        if rest > 0 {
            most = S::max(most, S::load_tail(p.add(whole), rest, f32::NEG_INFINITY));
        }
        let largest = S::largest(most);
        let factor = scale * std::f32::consts::LOG2_E;
        let (factors, offset) = (S::splat(factor), S::splat(-largest * factor));
        let mut sums = [S::splat(0.0); 2];
        for i in (0..pairs).step_by(2 * S::LANES) {
            let first = S::exp2(S::mul_add(S::load(p.add(i)), factors, offset));
            let second = S::exp2(S::mul_add(S::load(p.add(i + S::LANES)), factors, offset));
            S::store(p.add(i), first);
            S::store(p.add(i + S::LANES), second);
            sums = [S::add(sums[0], first), S::add(sums[1], second)];
        }
        let mut sum = S::add(sums[0], sums[1]);
        if pairs < whole {
            let e = S::exp2(S::mul_add(S::load(p.add(pairs)), factors, offset));
            S::store(p.add(pairs), e);
            sum = S::add(sum, e);
        }
        let mut total = S::sum(sum);
        if rest > 0 {
            let x = S::load_tail(p.add(whole), rest, largest);
            let e = S::exp2(S::mul_add(x, factors, offset));
            S::store_tail(p.add(whole), rest, e);
            total += row[whole..].iter().sum::<f32>();
        }
        (largest, total)
    }
}

/// What the backward pass is given.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The gradient of `out`, (B, N, heads × width).
    pub grad: &'a [f32],
    /// As for [`forward`].
    pub query: &'a [f32],
    /// As for [`forward`].
    pub key: &'a [f32],
    /// As for [`forward`].
    pub value: &'a [f32],
    /// What [`forward`] wrote.
    pub out: &'a [f32],
    /// What [`forward`] wrote.
    pub lse: &'a [f32],
}

/// Writes the gradients of queries, keys and values.
pub fn backward(
    given: Given,
    sizes: Sizes,
    d_query: &mut [f32],
    d_key: &mut [f32],
    d_value: &mut [f32],
    control: &Control,
) -> Result<(), TokensError> {
    sizes.check(given.query, given.key, given.value)?;
    sizes.check(d_query, d_key, d_value)?;
    let channels = sizes.channels();
    require(&[
        (given.grad.len(), given.query.len()),
        (given.out.len(), given.query.len()),
        (given.lse.len(), volume(&[sizes.batch, sizes.queries, sizes.heads])),
    ])?;
    let block = sizes.block();
    let task = sizes.queries.div_ceil(BACKWARD_TASKS).max(1).next_multiple_of(block);
    for b in 0..sizes.batch {
        let rows = |x, count| part(x, b, count * channels);
        let (k, v) = (rows(given.key, sizes.keys), rows(given.value, sizes.keys));
        let heads: Vec<[Packed; 3]> = (0..sizes.heads)
            .into_par_iter()
            .map(|h| {
                let at = h * sizes.width;
                [
                    Packed::new(&k[at..], sizes.width, sizes.keys, 1, channels),
                    Packed::new(&v[at..], sizes.width, sizes.keys, 1, channels),
                    Packed::new(&k[at..], sizes.keys, sizes.width, channels, 1),
                ]
            })
            .collect();
        let (query, grad, out) = (
            rows(given.query, sizes.queries),
            rows(given.grad, sizes.queries),
            rows(given.out, sizes.queries),
        );
        let lse = part(given.lse, b, sizes.queries * sizes.heads);
        let dq = &mut d_query[b * sizes.queries * channels..][..sizes.queries * channels];
        let sums: Vec<(Lines, Lines)> = dq
            .par_chunks_mut(task * channels)
            .enumerate()
            .map(|(i, d_query)| {
                control.check()?;
                let (first, len) = (i * task * channels, d_query.len());
                let rows = len / channels;
                Ok(dispatch(Backward {
                    query: &query[first..][..len],
                    grad: &grad[first..][..len],
                    out: &out[first..][..len],
                    lse: &lse[i * task * sizes.heads..][..rows * sizes.heads],
                    heads: &heads,
                    sizes,
                    d_query,
                }))
            })
            .collect::<Result<_, TokensError>>()?;
        let len = sizes.keys * channels;
        let (dk, dv) = (&mut d_key[b * len..][..len], &mut d_value[b * len..][..len]);
        dk.fill(0.0);
        dv.fill(0.0);
        for (of_key, of_value) in &sums {
            add(dk, of_key.as_slice());
            add(dv, of_value.as_slice());
        }
    }
    Ok(())
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

struct Backward<'a> {
    query: &'a [f32],
    grad: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
    heads: &'a [[Packed; 3]],
    sizes: Sizes,
    d_query: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = (Lines, Lines);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (Lines, Lines) {
        let Sizes { keys, heads, width, .. } = self.sizes;
        let (channels, block, ld) = (heads * width, self.sizes.block(), padded(keys));
        let scale = self.sizes.scale();
        let (mut p, mut ds) = (Lines::new(block * ld), Lines::new(block * ld));
        let (mut d_key, mut d_value) = (Lines::new(keys * channels), Lines::new(keys * channels));
        let rows = self.query.len() / channels;
        for first in (0..rows).step_by(block) {
            let count = block.min(rows - first);
            for (h, [key, value, key_rows]) in self.heads.iter().enumerate() {
                let at = first * channels + h * width;
                let (p, ds) = (p.as_mut_slice(), ds.as_mut_slice());
                let of = |data| Left { data, rows: count, row: channels, step: 1 };
                product(of(&self.query[at..]), key, Start::Zero, p, ld);
                product(of(&self.grad[at..]), value, Start::Zero, ds, ld);
                for r in 0..count {
                    let row = at + r * channels;
                    let (grad, out) = (&self.grad[row..][..width], &self.out[row..][..width]);
                    let dot: f32 = grad.iter().zip(out).map(|(g, o)| g * o).sum();
                    let lse = self.lse[(first + r) * heads + h];
                    let (p, ds) = (&mut p[r * ld..][..ld], &mut ds[r * ld..][..ld]);
                    // SAFETY: `dispatch` chose `S`; rows are padded to whole vectors of every instruction set.
                    unsafe { slopes::<S>(p, ds, scale, lse, dot) };
                }
                let across = |data| Left { data, rows: count, row: ld, step: 1 };
                let along = |data| Left { data, rows: keys, row: 1, step: ld };
                let queries = Packed::new(&self.query[at..], count, width, channels, 1);
                let grads = Packed::new(&self.grad[at..], count, width, channels, 1);
                let (to_key, to_value) = (
                    &mut d_key.as_mut_slice()[h * width..],
                    &mut d_value.as_mut_slice()[h * width..],
                );
                product(across(ds), key_rows, Start::Zero, &mut self.d_query[at..], channels);
                product(along(ds), &queries, Start::Sum, to_key, channels);
                product(along(p), &grads, Start::Sum, to_value, channels);
            }
        }
        (d_key, d_value)
    }
}

/// Turns scores into probabilities p, and gradients of them into gradients of the scores.
#[inline(always)]
unsafe fn slopes<S: Simd>(p: &mut [f32], ds: &mut [f32], scale: f32, lse: f32, dot: f32) {
    // SAFETY: both have the same length, a multiple of every vector's lanes.
    unsafe {
        let factor = S::splat(scale * std::f32::consts::LOG2_E);
        let offset = S::splat(-lse * std::f32::consts::LOG2_E);
        for i in (0..p.len()).step_by(S::LANES) {
            let (to_p, to_ds) = (p.as_mut_ptr().add(i), ds.as_mut_ptr().add(i));
            let e = S::exp2(S::mul_add(S::load(to_p), factor, offset));
            let d = S::sub(S::load(to_ds), S::splat(dot));
            S::store(to_p, e);
            S::store(to_ds, S::mul(S::mul(e, d), S::splat(scale)));
        }
    }
}
