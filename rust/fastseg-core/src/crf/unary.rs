//! The unary term, from what the caller has to what the iterations read.
//!
//! Inside, an energy is a score in bits, −U·log₂e, with labels innermost and the best label of each
//! point at most zero: a probability is then 2^score up to a factor, whatever the input was.

use std::f32::consts::{LN_2, LOG2_E};

use std::ops::Range;

use rayon::prelude::*;

use crate::control::{Cancelled, Control};
use crate::lattice::{Segment, Tiling};
use crate::simd::{Kernel, LINE, Simd, dispatch};

/// Points that are converted together: the most in a segment.
const TOGETHER: usize = 64;
/// Segments that are converted between two looks at whether to stop.
const CHECKED: usize = 64;
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

    /// Writes the scores in tile order, `labels` for each point, and returns the sum over all
    /// points of what was taken off them, in nats: the constant part of ΣQ·U.
    pub(super) fn scores(
        &self,
        labels: usize,
        tiling: &Tiling,
        out: &mut [f32],
        control: &Control,
    ) -> Result<f64, UnaryError> {
        self.convert(labels, labels, tiling, out, control)
    }

    /// Writes score 1 less score 0 of each point of a problem with two labels, in tile order.
    pub(super) fn differences(
        &self,
        tiling: &Tiling,
        out: &mut [f32],
        control: &Control,
    ) -> Result<(), UnaryError> {
        self.convert(2, 1, tiling, out, control).map(|_| ())
    }

    fn convert(
        &self,
        labels: usize,
        per_point: usize,
        tiling: &Tiling,
        mut out: &mut [f32],
        control: &Control,
    ) -> Result<f64, UnaryError> {
        let parts: Vec<_> = tiling
            .bands()
            .into_iter()
            .map(|tiles| {
                let floats = tiling.points_of(&tiles).len() * per_point;
                let out = out.split_off_mut(..floats).unwrap_or_default();
                Convert { unary: *self, labels, per_point, tiling, tiles, out, control }
            })
            .collect();
        let constants: Vec<f64> =
            parts.into_par_iter().with_max_len(1).map(dispatch).collect::<Result<_, _>>()?;
        Ok(constants.into_iter().sum())
    }
}

/// Converts the points of some tiles.
struct Convert<'a> {
    unary: Unary<'a>,
    labels: usize,
    per_point: usize,
    tiling: &'a Tiling,
    tiles: Range<usize>,
    out: &'a mut [f32],
    control: &'a Control,
}

impl Kernel for Convert<'_> {
    type Output = Result<f64, UnaryError>;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        let points = self.tiling.points();
        let mut rows = vec![[0.0f32; TOGETHER]; self.labels];
        let mut constant = 0.0;
        let mut out = self.out;
        let segments = self.tiling.segments_of(&self.tiles);
        for (i, &Segment { memory, len, .. }) in segments.iter().enumerate() {
            if i % CHECKED == 0 {
                self.control.check()?;
            }
            let next = segments.get(i + 1).map_or(memory, |next| next.memory);
            for (label, row) in rows.iter_mut().enumerate() {
                let plane = &self.unary.values()[label * points..][..points];
                let from = &plane[memory..][..len];
                for at in (0..TOGETHER).step_by(LINE) {
                    // SAFETY: prefetching takes any address.
                    unsafe { S::prefetch(plane.as_ptr().wrapping_add(next + at)) };
                }
                row[..len].copy_from_slice(from);
                row[len..].fill(from[len - 1]);
            }
            let valid = match self.unary {
                Unary::Probs { clip, .. } => scores_of_probs::<S>(&mut rows, clip),
                Unary::Energies(_) => scores_of_energies(&mut rows, &mut constant, len),
            };
            if !valid {
                return Err(self.unary.first_invalid(self.labels, memory, len));
            }
            let out = out.split_off_mut(..len * self.per_point).unwrap_or_default();
            if self.per_point < self.labels {
                for ((out, one), zero) in out.iter_mut().zip(&rows[1]).zip(&rows[0]) {
                    *out = one - zero;
                }
            } else {
                let (from, to) = (rows.as_ptr().cast(), out.as_mut_ptr());
                // SAFETY: the caller has the instruction set; there are `labels` rows of `TOGETHER`
                // floats, and `len` of `labels`.
                unsafe { S::transpose(from, TOGETHER, to, self.labels, self.labels, len) };
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
                    return UnaryError::Value { label, point, value };
                }
            }
        }
        // All energies of some point are infinite: it has no possible label.
        let impossible =
            |&p: &usize| (0..labels).all(|l| self.values()[l * points + p] == f32::INFINITY);
        let point = (start..start + count).find(impossible).unwrap_or(start);
        UnaryError::Value { label: 0, point, value: f32::INFINITY }
    }
}

#[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN must fail the test
#[inline(always)]
fn scores_of_probs<S: Simd>(rows: &mut [[f32; TOGETHER]], clip: f32) -> bool {
    let mut sum = [0.0f32; TOGETHER];
    let mut bad = [0u32; TOGETHER];
    for row in rows.iter() {
        for p in 0..TOGETHER {
            sum[p] += row[p];
            bad[p] |= u32::from(!(row[p] >= 0.0)) | u32::from(!(row[p] <= LARGEST_PROBABILITY));
        }
    }
    // A point whose scores are all zero says nothing: every label gets the same.
    for sum in &mut sum {
        *sum = if *sum > 0.0 { 1.0 / *sum } else { 0.0 };
    }
    for row in rows.iter_mut() {
        for p in 0..TOGETHER {
            let x = row[p] * sum[p];
            row[p] = log2::<S>(if x > clip { x } else { clip });
        }
    }
    bad.iter().all(|&bad| bad == 0)
}

#[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN must fail the test
#[inline(always)]
fn scores_of_energies(rows: &mut [[f32; TOGETHER]], constant: &mut f64, count: usize) -> bool {
    let mut least = [f32::INFINITY; TOGETHER];
    let mut bad = [0u32; TOGETHER];
    for row in rows.iter() {
        for p in 0..TOGETHER {
            least[p] = if row[p] < least[p] { row[p] } else { least[p] };
            bad[p] |= u32::from(!(row[p] > f32::NEG_INFINITY));
        }
    }
    for p in 0..TOGETHER {
        bad[p] |= u32::from(!(least[p] < f32::INFINITY));
    }
    for row in rows.iter_mut() {
        for p in 0..TOGETHER {
            row[p] = (least[p] - row[p]) * LOG2_E;
        }
    }
    *constant += least[..count].iter().map(|&x| f64::from(x)).sum::<f64>();
    bad.iter().all(|&bad| bad == 0)
}

/// log₂ of a positive normal float to 2e-7 (absolute near 1, relative elsewhere); below, −126.
#[inline(always)]
pub(super) fn log2<S: Simd>(x: f32) -> f32 {
    /// Least-squares polynomial for log₂(1 + x)/x on [√½ − 1, √2 − 1], relative error 3e-8.
    const SERIES: [f32; 8] = [
        -0.205_705_61,
        0.216_119_13,
        -0.239_194_9,
        0.287_901_76,
        -0.360_692_1,
        0.480_910_78,
        -0.721_347_5,
        std::f32::consts::LOG2_E,
    ];
    let x = if x > f32::MIN_POSITIVE { x } else { f32::MIN_POSITIVE };
    // Split into 2^e · m with m in [√½, √2).
    const ROOT_HALF: u32 = 0x3F35_04F3;
    let bits = x.to_bits().wrapping_sub(ROOT_HALF);
    let e = (bits as i32) >> 23;
    let x = f32::from_bits((bits & 0x007F_FFFF) + ROOT_HALF) - 1.0;
    let series = SERIES.iter().fold(0.122_805_28, |sum, &c| S::mul_add_one(sum, x, c));
    S::mul_add_one(series, x, e as f32)
}

/// Nats in a bit.
pub(super) const NATS: f32 = LN_2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;

    #[test]
    fn log2_is_accurate() {
        for i in 1..100_000 {
            let x = i as f32 * 1e-5;
            let exact = f64::from(x).log2();
            assert!(
                (f64::from(log2::<Baseline>(x)) - exact).abs() <= 2e-7 * exact.abs().max(1.0),
                "log2({x})"
            );
        }
        assert_eq!(log2::<Baseline>(1.0), 0.0);
        assert_eq!(log2::<Baseline>(0.0), -126.0);
    }
}
