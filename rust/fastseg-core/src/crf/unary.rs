//! The unary term, from what the caller has to what the iterations read.
//!
//! Inside, an energy is a score in bits, −U·log₂e, with labels innermost and the best label of each
//! point at most zero: a probability is then 2^score up to a factor, whatever the input was.

use std::f32::consts::{LN_2, LOG2_E};

use rayon::prelude::*;

use crate::control::{Cancelled, Control};
use crate::simd::{Kernel, Simd, dispatch};

/// Points that are converted together.
const TILE: usize = 64;
/// Tiles in one task.
const TILES_PER_TASK: usize = 64;
/// Above one by more than rounding is no probability.
const LARGEST_PROBABILITY: f32 = 1.001;

/// The unary term as the caller gives it: `labels × points`, row by row.
#[derive(Clone, Copy, Debug)]
pub enum Unary<'a> {
    /// Non-negative scores of which each point's are divided by their sum; zeros become `clip`.
    Probs {
        /// The scores.
        values: &'a [f32],
        /// The least probability.
        clip: f32,
    },
    /// Energies U: the probability is proportional to exp(−U).
    Energies(&'a [f32]),
}

/// Why a unary term cannot be used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UnaryError {
    /// A value that is no probability, or no energy.
    Value {
        /// Its label.
        label: usize,
        /// Its point.
        point: usize,
        /// The value.
        value: f32,
    },
    /// The conversion was stopped.
    Cancelled,
}

impl From<Cancelled> for UnaryError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl Unary<'_> {
    fn values(&self) -> &[f32] {
        match self {
            Self::Probs { values, .. } | Self::Energies(values) => values,
        }
    }

    /// Writes the scores, `labels` for each point, and returns the sum over all points of what was
    /// taken off them, in nats: the constant part of ΣQ·U.
    pub(super) fn scores(
        &self,
        labels: usize,
        out: &mut [f32],
        control: &Control,
    ) -> Result<f64, UnaryError> {
        self.convert(labels, labels, out, control)
    }

    /// Writes score 1 less score 0 of each point of a problem with two labels.
    pub(super) fn differences(&self, out: &mut [f32], control: &Control) -> Result<(), UnaryError> {
        self.convert(2, 1, out, control).map(|_| ())
    }

    fn convert(
        &self,
        labels: usize,
        per_point: usize,
        out: &mut [f32],
        control: &Control,
    ) -> Result<f64, UnaryError> {
        let parts: Vec<f64> = out
            .par_chunks_mut(TILE * TILES_PER_TASK * per_point)
            .enumerate()
            .map(|(task, out)| {
                control.check()?;
                let start = task * TILE * TILES_PER_TASK;
                dispatch(Convert {
                    unary: *self,
                    labels,
                    per_point,
                    start,
                    out,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(parts.into_iter().sum())
    }
}

struct Convert<'a> {
    unary: Unary<'a>,
    labels: usize,
    per_point: usize,
    start: usize,
    out: &'a mut [f32],
}

impl Kernel for Convert<'_> {
    type Output = Result<f64, UnaryError>;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        let points = self.unary.values().len() / self.labels;
        let mut tile = vec![[0.0f32; TILE]; self.labels];
        let mut constant = 0.0;
        for (i, out) in self.out.chunks_mut(TILE * self.per_point).enumerate() {
            let start = self.start + i * TILE;
            let count = out.len() / self.per_point;
            for (label, row) in tile.iter_mut().enumerate() {
                let from = &self.unary.values()[label * points + start..][..count];
                row[..count].copy_from_slice(from);
                row[count..].fill(from[count - 1]);
            }
            let valid = match self.unary {
                Unary::Probs { clip, .. } => scores_of_probs(&mut tile, clip),
                Unary::Energies(_) => scores_of_energies(&mut tile, &mut constant, count),
            };
            if !valid {
                return Err(self.unary.first_invalid(self.labels, start, count));
            }
            if self.per_point == 1 {
                let (zero, one) = (&tile[0], &tile[1]);
                for (p, out) in out.iter_mut().enumerate() {
                    *out = one[p] - zero[p];
                }
            } else {
                for (p, out) in out.chunks_exact_mut(self.labels).enumerate() {
                    for (out, row) in out.iter_mut().zip(&tile) {
                        *out = row[p];
                    }
                }
            }
        }
        Ok(constant)
    }
}

impl Unary<'_> {
    #[cold]
    fn first_invalid(&self, labels: usize, start: usize, count: usize) -> UnaryError {
        let points = self.values().len() / labels;
        let is_valid = |x: f32| match self {
            Self::Probs { .. } => (0.0..=LARGEST_PROBABILITY).contains(&x),
            Self::Energies(_) => x > f32::NEG_INFINITY,
        };
        for label in 0..labels {
            for point in start..start + count {
                let value = self.values()[label * points + point];
                if !is_valid(value) {
                    return UnaryError::Value {
                        label,
                        point,
                        value,
                    };
                }
            }
        }
        // All energies of some point are infinite: it has no possible label.
        let impossible =
            |&p: &usize| (0..labels).all(|l| self.values()[l * points + p] == f32::INFINITY);
        let point = (start..start + count).find(impossible).unwrap_or(start);
        UnaryError::Value {
            label: 0,
            point,
            value: f32::INFINITY,
        }
    }
}

#[inline(always)]
fn scores_of_probs(tile: &mut [[f32; TILE]], clip: f32) -> bool {
    let mut sum = [0.0f32; TILE];
    let mut bad = [0u32; TILE];
    for row in tile.iter() {
        for p in 0..TILE {
            sum[p] += row[p];
            bad[p] |= u32::from(!(row[p] >= 0.0)) | u32::from(!(row[p] <= LARGEST_PROBABILITY));
        }
    }
    // A point whose scores are all zero says nothing: every label gets the same.
    for sum in &mut sum {
        *sum = if *sum > 0.0 { 1.0 / *sum } else { 0.0 };
    }
    for row in tile.iter_mut() {
        for p in 0..TILE {
            let x = row[p] * sum[p];
            row[p] = log2(if x > clip { x } else { clip });
        }
    }
    bad.iter().all(|&bad| bad == 0)
}

#[inline(always)]
fn scores_of_energies(tile: &mut [[f32; TILE]], constant: &mut f64, count: usize) -> bool {
    let mut least = [f32::INFINITY; TILE];
    let mut bad = [0u32; TILE];
    for row in tile.iter() {
        for p in 0..TILE {
            least[p] = if row[p] < least[p] { row[p] } else { least[p] };
            bad[p] |= u32::from(!(row[p] > f32::NEG_INFINITY));
        }
    }
    for p in 0..TILE {
        bad[p] |= u32::from(!(least[p] < f32::INFINITY));
    }
    for row in tile.iter_mut() {
        for p in 0..TILE {
            row[p] = (least[p] - row[p]) * LOG2_E;
        }
    }
    *constant += least[..count].iter().map(|&x| f64::from(x)).sum::<f64>();
    bad.iter().all(|&bad| bad == 0)
}

/// log₂ of a positive normal float to 2e-7 (absolute near 1, relative elsewhere); below, −126.
#[inline(always)]
pub(super) fn log2(x: f32) -> f32 {
    let x = if x > f32::MIN_POSITIVE {
        x
    } else {
        f32::MIN_POSITIVE
    };
    // Split into 2^e · m with m in [√½, √2).
    const ROOT_HALF: u32 = 0x3F35_04F3;
    let bits = x.to_bits().wrapping_sub(ROOT_HALF);
    let e = (bits as i32) >> 23;
    let m = f32::from_bits((bits & 0x007F_FFFF) + ROOT_HALF);
    // ln m = 2·artanh(s).
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = 1.0 + z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    e as f32 + s * series * (2.0 * LOG2_E)
}

/// Nats in a bit.
pub(super) const NATS: f32 = LN_2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log2_is_accurate() {
        for i in 1..100_000 {
            let x = i as f32 * 1e-5;
            let exact = f64::from(x).log2();
            assert!(
                (f64::from(log2(x)) - exact).abs() <= 2e-7 * exact.abs().max(1.0),
                "log2({x})"
            );
        }
        assert_eq!(log2(1.0), 0.0);
        assert_eq!(log2(0.0), -126.0);
    }
}
