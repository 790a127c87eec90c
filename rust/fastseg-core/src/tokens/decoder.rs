//! Sums of enlarged maps, and SegFormer's decoder made of them.

use rayon::prelude::*;

use super::lines::{Lines, padded};
use super::product::{Left, Packed, Start, product};
use super::taps::{Tap, taps};
use super::{TokensError, require, volume};
use crate::control::Control;
use crate::simd::{Kernel, Simd, dispatch};

/// A map (B, h, w, C).
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    /// The values.
    pub data: &'a [f32],
    /// h.
    pub height: usize,
    /// w.
    pub width: usize,
    /// C.
    pub channels: usize,
}

impl Map<'_> {
    fn check(&self, batch: usize) -> Result<(), TokensError> {
        let all = volume(&[batch, self.height, self.width, self.channels]);
        if all == 0 {
            return Err(TokensError::Size);
        }
        require(&[(self.data.len(), all)])
    }
}

/// A smaller map and where the places of the full size lie on it.
struct Enlarged<'a> {
    map: Map<'a>,
    rows: Vec<Tap>,
    columns: Vec<Tap>,
}

impl<'a> Enlarged<'a> {
    fn new(map: Map<'a>, height: usize, width: usize) -> Self {
        Self { rows: taps(map.height, height, false), columns: taps(map.width, width, false), map }
    }
}

/// Adds row `y` of enlarged maps to a row of the full size; `tall` has room for a row of each map.
struct AddRow<'a> {
    maps: &'a [Enlarged<'a>],
    b: usize,
    y: usize,
    row: &'a mut [f32],
    tall: &'a mut [f32],
    relu: bool,
}

impl Kernel for AddRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Some(channels) = self.maps.first().map(|enlarged| enlarged.map.channels) else {
            if self.relu {
                relu(self.row);
            }
            return;
        };
        let mut rest = &mut *self.tall;
        for enlarged in self.maps {
            let Map { data, height, width, .. } = enlarged.map;
            let (tap, len) = (enlarged.rows[self.y], width * channels);
            let at = |y: usize| &data[(self.b * height + y) * len..][..len];
            let (low, high) = (at(tap.low), at(tap.high));
            let tall;
            (tall, rest) = rest.split_at_mut(len);
            for ((to, low), high) in tall.iter_mut().zip(low).zip(high) {
                *to = S::mul_add_one(high - low, tap.weight, *low);
            }
        }
        // Place by place, which stays in the first cache while every map adds to it.
        for (x, to) in self.row.chunks_exact_mut(channels).enumerate() {
            let mut rest = &*self.tall;
            for enlarged in self.maps {
                let (tap, tall) = (enlarged.columns[x], rest);
                rest = &rest[enlarged.map.width * channels..];
                let low = &tall[tap.low * channels..][..channels];
                let high = &tall[tap.high * channels..][..channels];
                for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
                    *to += S::mul_add_one(high - low, tap.weight, *low);
                }
            }
            if self.relu {
                relu(to);
            }
        }
    }
}

#[inline(always)]
fn relu(row: &mut [f32]) {
    for x in row {
        // Not f32::max, which would hide NaN.
        *x = if *x < 0.0 { 0.0 } else { *x };
    }
}

/// Writes `first + bias + Σ enlarged maps` to `out`, which is of the first map's size.
pub fn upsample_sum(
    maps: &[Map],
    bias: &[f32],
    batch: usize,
    out: &mut [f32],
    control: &Control,
) -> Result<(), TokensError> {
    let (&first, rest) = maps.split_first().ok_or(TokensError::Size)?;
    for map in maps {
        map.check(batch)?;
        require(&[(map.channels, bias.len())])?;
    }
    require(&[(out.len(), first.data.len())])?;
    let enlarged: Vec<_> =
        rest.iter().map(|&map| Enlarged::new(map, first.height, first.width)).collect();
    let tall = rest.iter().map(|map| map.width * map.channels).sum();
    let len = first.width * first.channels;
    out.par_chunks_mut(len).enumerate().try_for_each_init(
        || Lines::new(tall),
        |tall, (i, row)| {
            control.check()?;
            let (b, y) = (i / first.height, i % first.height);
            let from = first.data[i * len..].chunks_exact(bias.len());
            for (to, from) in row.chunks_exact_mut(bias.len()).zip(from) {
                for ((to, from), bias) in to.iter_mut().zip(from).zip(bias) {
                    *to = from + bias;
                }
            }
            let tall = tall.as_mut_slice();
            dispatch(AddRow { maps: &enlarged, b, y, row, tall, relu: false });
            Ok(())
        },
    )
}

/// Writes the transpose of an enlargement: each place of `out` (B, h, w, C) gathers what `grad`
/// (B, H, W, C) has where it was enlarged to.
pub fn downsample(
    grad: Map,
    batch: usize,
    height: usize,
    width: usize,
    out: &mut [f32],
    control: &Control,
) -> Result<(), TokensError> {
    grad.check(batch)?;
    let channels = grad.channels;
    require(&[(out.len(), volume(&[batch, height, width, channels]))])?;
    if out.is_empty() {
        return Err(TokensError::Size);
    }
    let (rows, columns) = (taps(height, grad.height, false), taps(width, grad.width, false));
    let len = grad.width * channels;
    out.par_chunks_mut(width * channels).enumerate().try_for_each_init(
        || Lines::new(len),
        |tall, (i, out)| {
            control.check()?;
            let (b, y) = (i / height, i % height);
            let tall = &mut tall.as_mut_slice()[..len];
            tall.fill(0.0);
            for (from, tap) in rows.iter().enumerate() {
                let weight = share(tap, y);
                if weight != 0.0 {
                    let row = &grad.data[(b * grad.height + from) * len..][..len];
                    dispatch(Axpy { weight, from: row, to: tall });
                }
            }
            out.fill(0.0);
            for (x, tap) in columns.iter().enumerate() {
                let from = &tall[x * channels..][..channels];
                let to = &mut out[tap.low * channels..][..channels];
                dispatch(Axpy { weight: 1.0 - tap.weight, from, to });
                let to = &mut out[tap.high * channels..][..channels];
                dispatch(Axpy { weight: tap.weight, from, to });
            }
            Ok(())
        },
    )
}

/// How much of a place of the full size comes from place `y`.
fn share(tap: &Tap, y: usize) -> f32 {
    (if tap.low == y { 1.0 - tap.weight } else { 0.0 })
        + (if tap.high == y { tap.weight } else { 0.0 })
}

/// `to += weight × from`.
struct Axpy<'a> {
    weight: f32,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Axpy<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = S::mul_add_one(self.weight, *from, *to);
        }
    }
}

/// The matrices of a decoder.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    /// (D, C) for each feature.
    pub weights: &'a [&'a [f32]],
    /// (D).
    pub bias: &'a [f32],
    /// (K, D).
    pub classifier: &'a [f32],
    /// (K).
    pub classifier_bias: &'a [f32],
}

/// Writes the logits (B, K, H, W) of classifier(relu(Σ enlarged(W x) + bias)).
///
/// Of the hidden map, no more than a row for each thread is ever there.
pub fn folded_decoder(
    features: &[Map],
    decoder: Decoder,
    batch: usize,
    out: &mut [f32],
    control: &Control,
) -> Result<(), TokensError> {
    let (&first, rest) = features.split_first().ok_or(TokensError::Size)?;
    let (dim, classes) = (decoder.bias.len(), decoder.classifier_bias.len());
    require(&[
        (decoder.weights.len(), features.len()),
        (decoder.classifier.len(), volume(&[classes, dim])),
        (out.len(), volume(&[batch, classes, first.height, first.width])),
    ])?;
    if dim == 0 || classes == 0 {
        return Err(TokensError::Size);
    }
    for (map, weight) in features.iter().zip(decoder.weights) {
        map.check(batch)?;
        require(&[(weight.len(), volume(&[dim, map.channels]))])?;
    }
    let pack = |weight: &[f32], k: usize, n: usize| Packed::new(weight, k, n, 1, k);
    let mut projected = Vec::new();
    for (map, weight) in rest.iter().zip(&decoder.weights[1..]) {
        let packed = pack(weight, map.channels, dim);
        let mut to = Lines::new(map.data.len() / map.channels * dim);
        let tokens = 64;
        let filled = &mut to.as_mut_slice()[..map.data.len() / map.channels * dim];
        filled
            .par_chunks_mut(tokens * dim)
            .zip(map.data.par_chunks(tokens * map.channels))
            .try_for_each(|(to, from)| {
                control.check()?;
                let rows = from.len() / map.channels;
                let left = Left { data: from, rows, row: map.channels, step: 1 };
                product(left, &packed, Start::Zero, to, dim);
                Ok::<_, TokensError>(())
            })?;
        projected.push((to, *map));
    }
    let enlarged: Vec<_> = projected
        .iter()
        .map(|(values, map)| {
            let len = volume(&[batch, map.height, map.width, dim]);
            let map = Map { data: &values.as_slice()[..len], channels: dim, ..*map };
            Enlarged::new(map, first.height, first.width)
        })
        .collect();
    let tall = rest.iter().map(|map| map.width * dim).sum();
    let largest = pack(decoder.weights[0], first.channels, dim);
    let classifier = pack(decoder.classifier, dim, classes);
    let plane = first.height * first.width;
    let rows = Rows { out: out.as_mut_ptr(), len: out.len() };
    (0..batch * first.height).into_par_iter().with_max_len(1).try_for_each_init(
        || Scratch {
            hidden: Lines::new(first.width * dim),
            tall: Lines::new(tall),
            logits: Lines::new(first.width * padded(classes)),
        },
        |scratch, i| {
            control.check()?;
            let (b, y) = (i / first.height, i % first.height);
            let to =
                rows.at(b * classes * plane + y * first.width, (classes - 1) * plane + first.width);
            dispatch(Row {
                first: &first.data[i * first.width * first.channels..]
                    [..first.width * first.channels],
                largest: &largest,
                classifier: &classifier,
                bias: decoder.bias,
                classifier_bias: decoder.classifier_bias,
                maps: &enlarged,
                scratch,
                b,
                y,
                to,
                plane,
            });
            Ok(())
        },
    )
}

/// Where tasks write rows of all classes to.
struct Rows {
    out: *mut f32,
    len: usize,
}

// SAFETY: tasks write to rows of their own.
unsafe impl Sync for Rows {}

impl Rows {
    /// The place `start`, behind which there is room for `len`.
    fn at(&self, start: usize, len: usize) -> *mut f32 {
        assert!(start + len <= self.len);
        self.out.wrapping_add(start)
    }
}

struct Scratch {
    hidden: Lines,
    tall: Lines,
    logits: Lines,
}

/// The logits of a row of tokens.
struct Row<'a> {
    first: &'a [f32],
    largest: &'a Packed,
    classifier: &'a Packed,
    bias: &'a [f32],
    classifier_bias: &'a [f32],
    maps: &'a [Enlarged<'a>],
    scratch: &'a mut Scratch,
    b: usize,
    y: usize,
    /// Where the row of the first class goes, in an array that has room for those of all classes.
    to: *mut f32,
    /// Distance between the classes there.
    plane: usize,
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dim = self.bias.len();
        let classes = self.classifier_bias.len();
        // Tokens by classes, in rows padded to cache lines.
        let stride = padded(classes);
        let width = self.scratch.logits.as_slice().len() / stride;
        let channels = self.first.len() / width;
        let hidden = &mut self.scratch.hidden.as_mut_slice()[..width * dim];
        let left = Left { data: self.first, rows: width, row: channels, step: 1 };
        product(left, self.largest, Start::Row(self.bias), hidden, dim);
        let add = AddRow {
            maps: self.maps,
            b: self.b,
            y: self.y,
            row: hidden,
            tall: self.scratch.tall.as_mut_slice(),
            relu: true,
        };
        // SAFETY: `dispatch` chose `S`.
        unsafe { add.run::<S>() };
        let left = Left { data: hidden, rows: width, row: dim, step: 1 };
        let to = self.scratch.logits.as_mut_slice();
        product(left, self.classifier, Start::Row(self.classifier_bias), to, stride);
        // SAFETY: row y of every class of picture b lies within `out`, as `at` asserts, and no other
        // task writes to it.
        unsafe { S::transpose(to.as_ptr(), stride, self.to, self.plane, width, classes) };
    }
}
