//! The mean-field update with one channel for each label.
//!
//! Blocks of points pass through three phases that stay in the first-level cache: *gather* adds the
//! messages of every kernel to the scores, *normalise* turns scores into probabilities, *spread*
//! hands these to the rows of the next iteration. The probabilities themselves never reach memory
//! before the last iteration. Phases, not points, follow each other because the chain from gather
//! to spread is long and points are independent.

use super::unary::{NATS, log2};
use crate::control::{Cancelled, Control};
use crate::lattice::{Shared, VECTORS};
use crate::simd::{Kernel, Simd};

/// Points in a block.
const BLOCK: usize = 32;
/// Blocks between two looks at whether to stop.
const BLOCKS_PER_CHECK: usize = 256;
/// Sums of 2^score outside of this and its inverse are recomputed with the largest score taken off.
const LARGEST_SUM: f32 = 1e15;

/// What one kernel holds for the points of a band.
pub(super) struct BandKernel<'a> {
    /// Corners of a point's simplex.
    pub corners_per_point: usize,
    /// For each point its corners' rows within the band.
    pub corners: &'a [u32],
    /// For each corner its weight when gathering.
    pub slice: &'a [f32],
    /// For each corner its weight when spreading.
    pub splat: &'a [f32],
    /// The blurred rows to gather from; empty to gather nothing.
    pub from: &'a [f32],
    /// The rows to spread to; empty to spread nothing.
    pub to: &'a mut [f32],
}

/// What becomes of a block after the gather.
pub(super) enum Then<'a> {
    /// Probabilities, for the next iteration and perhaps for the caller.
    Update {
        /// Where the caller wants them.
        output: Output,
        /// Where the last probabilities are kept, if the free energy is to be measured.
        last: Option<&'a mut [f32]>,
    },
    /// The messages themselves, as energies, for the caller.
    Messages(Shared<f32>),
}

/// How the caller gets the result.
#[derive(Clone, Copy)]
pub(super) enum Output {
    /// Not at all, this time.
    Nothing,
    /// Probabilities, `labels × points`, row by row.
    Probs(Shared<f32>),
    /// The most probable label, the lowest of equals.
    Labels8(Shared<u8>),
    /// The same, when there are more than 256.
    Labels16(Shared<u16>),
}

/// Where the probabilities of a band come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// From scores, labels innermost, and the messages.
    Scores(&'a [f32]),
    /// Given: `labels × points`, row by row, of all points.
    Given(&'a [f32]),
}

/// One pass over the points of one band.
pub(super) struct UpdateBand<'a> {
    pub labels: usize,
    pub stride: usize,
    /// Of all bands together.
    pub points: usize,
    /// The first point of this band.
    pub start: usize,
    /// The points of this band.
    pub count: usize,
    pub source: Source<'a>,
    pub kernels: Vec<BandKernel<'a>>,
    pub then: Then<'a>,
    pub control: &'a Control,
}

impl Kernel for UpdateBand<'_> {
    /// The free energy of the last probabilities, less the constant of the unary term.
    type Output = Result<f64, Cancelled>;

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) -> Self::Output {
        for kernel in &mut self.kernels {
            kernel.to.fill(0.0);
        }
        let mut block = vec![0.0f32; BLOCK * self.stride + S::LANES];
        // Whole vectors start on cache lines.
        let skip = block.as_ptr().cast::<u8>().align_offset(64) / size_of::<f32>();
        let skip = if skip < S::LANES { skip } else { 0 };
        let block = &mut block[skip..][..BLOCK * self.stride];
        let mut energy = 0.0;
        for (i, first) in (0..self.count).step_by(BLOCK).enumerate() {
            if i % BLOCKS_PER_CHECK == 0 {
                self.control.check()?;
            }
            let points = BLOCK.min(self.count - first);
            // SAFETY: the caller has the instruction set of `S`; the lengths below hold by
            // construction of the slices, see `block_*`.
            unsafe { self.block::<S>(first, points, block, &mut energy) };
        }
        Ok(energy)
    }
}

impl UpdateBand<'_> {
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn block<S: Simd>(
        &mut self,
        first: usize,
        points: usize,
        block: &mut [f32],
        energy: &mut f64,
    ) {
        // SAFETY: as the caller.
        unsafe {
            match self.source {
                Source::Given(q) => self.load_given(q, first, points, block),
                Source::Scores(scores) => {
                    self.gather::<S>(scores, first, points, block);
                    if let Then::Messages(out) = self.then {
                        return self.store_messages(out, first, points, block);
                    }
                    if let Then::Update {
                        last: Some(last), ..
                    } = &self.then
                    {
                        *energy += self.energy(last, scores, first, points, block);
                    }
                    let mut inverse = [0.0; BLOCK];
                    if !self.exponentiate::<S, false>(points, block, &mut inverse) {
                        self.gather::<S>(scores, first, points, block);
                        self.exponentiate::<S, true>(points, block, &mut inverse);
                    }
                    self.scale::<S>(points, block, &inverse);
                }
            }
            self.spread::<S>(first, points, block);
        }
        self.hand_over(first, points, block);
    }

    /// The scores of a block plus the messages of all kernels.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn gather<S: Simd>(
        &self,
        scores: &[f32],
        first: usize,
        points: usize,
        block: &mut [f32],
    ) {
        let vectors = self.stride / S::LANES;
        for v in (0..vectors).step_by(VECTORS) {
            // SAFETY: as the caller.
            unsafe {
                match vectors - v {
                    1 => self.gather_vectors::<S, 1>(scores, v, first, points, block),
                    2 => self.gather_vectors::<S, 2>(scores, v, first, points, block),
                    3 => self.gather_vectors::<S, 3>(scores, v, first, points, block),
                    _ => self.gather_vectors::<S, VECTORS>(scores, v, first, points, block),
                }
            }
        }
    }

    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn gather_vectors<S: Simd, const C: usize>(
        &self,
        scores: &[f32],
        v: usize,
        first: usize,
        points: usize,
        block: &mut [f32],
    ) {
        let offset = v * S::LANES;
        let scores = &scores[first * self.labels..(first + points) * self.labels];
        for p in 0..points {
            // SAFETY: a score row has `labels` floats, of which the vectors before the last are
            // whole; corners are rows of the band by construction of the lattice; a row has
            // `stride` floats, and so has a point of the block.
            unsafe {
                let row = scores.as_ptr().add(p * self.labels);
                let mut sum: [S::V; C] = std::array::from_fn(|c| {
                    let at = offset + c * S::LANES;
                    if at + S::LANES <= self.labels {
                        S::load(row.add(at))
                    } else {
                        S::load_tail(row.add(at), self.labels - at, f32::NEG_INFINITY)
                    }
                });
                for kernel in &self.kernels {
                    if kernel.from.is_empty() {
                        continue;
                    }
                    let n = kernel.corners_per_point;
                    let corners = kernel
                        .corners
                        .get_unchecked((first + p) * n..(first + p + 1) * n);
                    let weights = kernel
                        .slice
                        .get_unchecked((first + p) * n..(first + p + 1) * n);
                    for (&corner, &weight) in corners.iter().zip(weights) {
                        let row = kernel
                            .from
                            .as_ptr()
                            .add(corner as usize * self.stride + offset);
                        let weight = S::splat(weight);
                        for (c, sum) in sum.iter_mut().enumerate() {
                            *sum = S::mul_add(weight, S::load(row.add(c * S::LANES)), *sum);
                        }
                    }
                }
                let to = block.as_mut_ptr().add(p * self.stride + offset);
                for (c, sum) in sum.into_iter().enumerate() {
                    S::store(to.add(c * S::LANES), sum);
                }
            }
        }
    }

    /// Turns scores into 2^score and finds the inverse of each point's sum.
    ///
    /// Without `SAFE` it returns false where a sum leaves the range of floats.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn exponentiate<S: Simd, const SAFE: bool>(
        &self,
        points: usize,
        block: &mut [f32],
        inverse: &mut [f32; BLOCK],
    ) -> bool {
        let vectors = self.stride / S::LANES;
        let mut sums = [1.0f32; BLOCK];
        for (row, sum) in block
            .chunks_exact_mut(self.stride)
            .zip(&mut sums)
            .take(points)
        {
            let at = row.as_mut_ptr();
            // SAFETY: a row has `stride` floats, a whole number of vectors.
            unsafe {
                let shift = if SAFE {
                    let largest = (0..vectors).fold(S::splat(f32::NEG_INFINITY), |largest, v| {
                        S::max(largest, S::load(at.add(v * S::LANES)))
                    });
                    S::splat(S::largest(largest))
                } else {
                    S::splat(0.0)
                };
                let mut total = S::splat(0.0);
                for v in 0..vectors {
                    let p = at.add(v * S::LANES);
                    let x = S::load(p);
                    let e = S::exp2(if SAFE { S::sub(x, shift) } else { x });
                    S::store(p, e);
                    total = S::add(total, e);
                }
                *sum = S::sum(total);
            }
        }
        let mut in_range = true;
        for (inverse, sum) in inverse.iter_mut().zip(sums) {
            in_range &= sum < LARGEST_SUM && sum > 1.0 / LARGEST_SUM;
            *inverse = 1.0 / sum;
        }
        in_range
    }

    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn scale<S: Simd>(&self, points: usize, block: &mut [f32], inverse: &[f32; BLOCK]) {
        for (row, &inverse) in block
            .chunks_exact_mut(self.stride)
            .zip(inverse)
            .take(points)
        {
            // SAFETY: a row is a whole number of vectors.
            unsafe {
                let inverse = S::splat(inverse);
                for chunk in row.chunks_exact_mut(S::LANES) {
                    let p = chunk.as_mut_ptr();
                    S::store(p, S::mul(S::load(p), inverse));
                }
            }
        }
    }

    /// Adds the probabilities of a block to the rows of the next iteration.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn spread<S: Simd>(&mut self, first: usize, points: usize, block: &[f32]) {
        let vectors = self.stride / S::LANES;
        for v in (0..vectors).step_by(VECTORS) {
            // SAFETY: as the caller.
            unsafe {
                match vectors - v {
                    1 => self.spread_vectors::<S, 1>(v, first, points, block),
                    2 => self.spread_vectors::<S, 2>(v, first, points, block),
                    3 => self.spread_vectors::<S, 3>(v, first, points, block),
                    _ => self.spread_vectors::<S, VECTORS>(v, first, points, block),
                }
            }
        }
    }

    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn spread_vectors<S: Simd, const C: usize>(
        &mut self,
        v: usize,
        first: usize,
        points: usize,
        block: &[f32],
    ) {
        let offset = v * S::LANES;
        for p in 0..points {
            // SAFETY: as in `gather_vectors`.
            unsafe {
                let from = block.as_ptr().add(p * self.stride + offset);
                let q: [S::V; C] = std::array::from_fn(|c| S::load(from.add(c * S::LANES)));
                for kernel in &mut self.kernels {
                    if kernel.to.is_empty() {
                        continue;
                    }
                    let n = kernel.corners_per_point;
                    let corners = kernel
                        .corners
                        .get_unchecked((first + p) * n..(first + p + 1) * n);
                    let weights = kernel
                        .splat
                        .get_unchecked((first + p) * n..(first + p + 1) * n);
                    let rows = kernel.to.as_mut_ptr().add(offset);
                    for (&corner, &weight) in corners.iter().zip(weights) {
                        let row = rows.add(corner as usize * self.stride);
                        let weight = S::splat(weight);
                        for (c, &q) in q.iter().enumerate() {
                            let at = row.add(c * S::LANES);
                            S::store(at, S::mul_add(q, weight, S::load(at)));
                        }
                    }
                }
            }
        }
    }

    fn load_given(&self, q: &[f32], first: usize, points: usize, block: &mut [f32]) {
        for label in 0..self.labels {
            let from = &q[label * self.points + self.start + first..][..points];
            for (p, &q) in from.iter().enumerate() {
                block[p * self.stride + label] = q;
            }
        }
    }

    /// # Safety
    /// `out` must be valid for `labels × points` floats that no other band writes.
    unsafe fn store_messages(&self, out: Shared<f32>, first: usize, points: usize, block: &[f32]) {
        for label in 0..self.labels {
            for p in 0..points {
                let at = label * self.points + self.start + first + p;
                // SAFETY: in range by the caller's word.
                unsafe { *out.get().add(at) = -NATS * block[p * self.stride + label] };
            }
        }
    }

    /// ΣQ·(ln Q + U) + ½ΣQ·message of the last probabilities, whose messages the block holds.
    fn energy(
        &self,
        last: &[f32],
        scores: &[f32],
        first: usize,
        points: usize,
        block: &[f32],
    ) -> f64 {
        let range = first * self.labels..(first + points) * self.labels;
        let rows = last[range.clone()].chunks_exact(self.labels);
        let scores = scores[range].chunks_exact(self.labels);
        let mut energy = 0.0;
        for ((last, scores), sums) in rows.zip(scores).zip(block.chunks_exact(self.stride)) {
            let mut bits = 0.0;
            for ((&q, &score), &sum) in last.iter().zip(scores).zip(sums) {
                // Below, q·log₂ q is nothing, and the score may be infinite.
                if q > 1e-20 {
                    bits += q * (log2(q) - 0.5 * (score + sum));
                }
            }
            energy += f64::from(NATS * bits);
        }
        energy
    }

    /// Gives the probabilities of a block to the caller.
    #[inline(always)]
    fn hand_over(&mut self, first: usize, points: usize, block: &[f32]) {
        let Then::Update { output, last } = &mut self.then else {
            return;
        };
        if let Some(last) = last {
            let rows = last[first * self.labels..].chunks_exact_mut(self.labels);
            for (last, q) in rows.zip(block.chunks_exact(self.stride)).take(points) {
                last.copy_from_slice(&q[..self.labels]);
            }
        }
        let start = self.start + first;
        match *output {
            Output::Nothing => {}
            Output::Probs(out) => {
                for label in 0..self.labels {
                    // SAFETY: the caller's array holds `labels × points` floats, and the points of
                    // this band are written by no other.
                    let to = unsafe { out.get().add(label * self.points + start) };
                    for p in 0..points {
                        // SAFETY: as above.
                        unsafe { *to.add(p) = block[p * self.stride + label] };
                    }
                }
            }
            Output::Labels8(out) => {
                for (p, q) in block.chunks_exact(self.stride).enumerate().take(points) {
                    // SAFETY: the caller's array holds `points` labels, this band's its own.
                    unsafe { *out.get().add(start + p) = most_probable(&q[..self.labels]) as u8 };
                }
            }
            Output::Labels16(out) => {
                for (p, q) in block.chunks_exact(self.stride).enumerate().take(points) {
                    // SAFETY: as above.
                    unsafe { *out.get().add(start + p) = most_probable(&q[..self.labels]) as u16 };
                }
            }
        }
    }
}

/// The first of the largest.
#[inline(always)]
fn most_probable(q: &[f32]) -> usize {
    let mut best = 0;
    for (label, &x) in q.iter().enumerate() {
        if x > q[best] {
            best = label;
        }
    }
    best
}
