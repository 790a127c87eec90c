//! The mean-field update with one channel for each label.
//!
//! Tiles of points pass through three phases that stay in the second-level cache: *gather* adds the
//! messages of every kernel to the scores, *normalize* turns scores into probabilities, *spread*
//! hands these to the rows of the next iteration. The probabilities themselves never reach memory
//! before the last iteration.

use super::unary::{NATS, log2};
use crate::control::{Cancelled, Control};
use crate::lattice::{Band, Lattice, Shared, Start, TILE, Tile, Tiling};
use crate::simd::{Kernel, Simd, transpose};

/// Floats in a cache line.
const LINE: usize = 16;
/// Points that become probabilities together, so that their sums need not wait for each other.
const ROWS: usize = 4;
/// Sums of 2^score outside of this and its inverse are recomputed with the largest score taken off.
const LARGEST_SUM: f32 = 1e15;

/// What one kernel holds for a band.
pub(super) struct BandKernel<'a> {
    pub lattice: &'a Lattice,
    /// Weights of the corners when gathering, of all points.
    pub slice: &'a [f32],
    /// Weights of the corners when spreading, of all points.
    pub splat: &'a [f32],
    /// The band's blurred rows to gather from; empty to gather nothing.
    pub from: &'a [f32],
    /// The band's rows to spread to; empty to spread nothing.
    pub to: &'a mut [f32],
}

impl BandKernel<'_> {
    /// How many corners a point's simplex has.
    pub fn corners(&self) -> usize {
        self.lattice.dimension() + 1
    }
}

/// What becomes of a block after the gather.
pub(super) enum Then<'a> {
    /// Probabilities, for the next iteration and perhaps for the caller.
    Update {
        /// Where the caller wants them.
        output: Output,
        /// Where the probabilities are kept, labels innermost, in tile order.
        keep: Option<&'a mut [f32]>,
        /// Whether to measure the free energy of those kept last.
        measure: bool,
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

/// Where the probabilities come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// From scores, labels innermost, in tile order, and the messages.
    Scores(&'a [f32]),
    /// Kept before: labels innermost, in tile order.
    Kept(&'a [f32]),
    /// Given: `labels × points`, row by row, in memory order.
    Given(&'a [f32]),
}

/// One pass over the points of one band.
pub(super) struct UpdateBand<'a> {
    pub labels: usize,
    pub stride: usize,
    pub tiling: &'a Tiling,
    pub band: &'a Band,
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
        // Rows start on cache lines if the first does.
        let mut memory = vec![0.0f32; TILE * self.stride + LINE];
        let skip = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let block = &mut memory[skip..][..TILE * self.stride];
        let mut energy = 0.0;
        for index in self.band.tiles.clone() {
            self.control.check()?;
            let tile = &self.tiling.tiles()[index];
            // SAFETY: the caller has the instruction set of `S`.
            unsafe { self.tile::<S>(index, tile, block, &mut energy) };
        }
        Ok(energy)
    }
}

impl UpdateBand<'_> {
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &mut self,
        index: usize,
        tile: &Tile,
        block: &mut [f32],
        energy: &mut f64,
    ) {
        let block = &mut block[..tile.points.len() * self.stride];
        // SAFETY: as the caller.
        unsafe {
            match self.source {
                Source::Given(q) => self.load_given(q, tile, block),
                Source::Kept(q) => self.load_rows::<S>(q, 0.0, tile, block),
                Source::Scores(scores) => {
                    self.gather::<S>(scores, index, tile, block);
                    if let Then::Messages(out) = self.then {
                        return self.store_messages(out, tile, block);
                    }
                    if let Then::Update { keep: Some(last), measure: true, .. } = &self.then {
                        *energy += self.energy::<S>(last, scores, tile, block);
                    }
                    let next = scores.as_ptr().wrapping_add(tile.points.end * self.labels);
                    if !self.normalize::<S, false>(block, next) {
                        self.gather::<S>(scores, index, tile, block);
                        self.normalize::<S, true>(block, next);
                    }
                }
            }
            for kernel in self.kernels.iter_mut().filter(|kernel| !kernel.to.is_empty()) {
                let runs = kernel.lattice.runs(index);
                runs.spread::<S>(kernel.corners(), kernel.splat, block, kernel.to, self.stride);
            }
        }
        self.hand_over(tile, block);
    }

    /// The scores of a tile plus the messages of all kernels.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn gather<S: Simd>(&self, scores: &[f32], index: usize, tile: &Tile, block: &mut [f32]) {
        let rows = &scores[tile.points.start * self.labels..tile.points.end * self.labels];
        // SAFETY: as the caller; the slices are of the lattice's own sizes.
        unsafe {
            let mut start = Start::Rows(rows, self.labels);
            for kernel in self.kernels.iter().filter(|kernel| !kernel.from.is_empty()) {
                let (n, stride) = (kernel.corners(), self.stride);
                let runs = kernel.lattice.runs(index);
                runs.gather::<S>(n, kernel.slice, kernel.from, start, block, stride);
                start = Start::Block;
            }
            if let Start::Rows(..) = start {
                self.load_rows::<S>(scores, f32::NEG_INFINITY, tile, block);
            }
        }
    }

    /// Rows with the labels innermost, padded with `fill`.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn load_rows<S: Simd>(&self, rows: &[f32], fill: f32, tile: &Tile, block: &mut [f32]) {
        let rows = &rows[tile.points.start * self.labels..tile.points.end * self.labels];
        let whole = self.labels / S::LANES * S::LANES;
        let rest = self.labels - whole;
        for (from, to) in rows.chunks_exact(self.labels).zip(block.chunks_exact_mut(self.stride)) {
            let (from, to) = (from.as_ptr(), to.as_mut_ptr());
            // SAFETY: a row has `labels` floats, a row of the block `stride`, and these are
            // the labels rounded up to whole vectors.
            unsafe {
                for at in (0..whole).step_by(S::LANES) {
                    S::store(to.add(at), S::load(from.add(at)));
                }
                if rest > 0 {
                    let tail = S::load_tail(from.add(whole), rest, fill);
                    S::store(to.add(whole), tail);
                }
            }
        }
    }

    /// Turns the scores of a tile into probabilities.
    ///
    /// Meanwhile it calls the scores of the `next` tile into the cache.
    ///
    /// Without `SAFE` it returns false where a sum leaves the range of floats, having spoilt the
    /// scores; with it the largest score is taken off first.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn normalize<S: Simd, const SAFE: bool>(
        &self,
        block: &mut [f32],
        next: *const f32,
    ) -> bool {
        let mut in_range = true;
        let mut ahead = next;
        let mut rows = block.chunks_exact_mut(ROWS * self.stride);
        for rows in &mut rows {
            let rows = rows.as_mut_ptr();
            // SAFETY: the chunk has that many rows of whole vectors, and prefetching takes any
            // address. Literal strides let a row stay in registers.
            in_range &= unsafe {
                for at in (0..ROWS * self.labels).step_by(LINE) {
                    S::prefetch(ahead.wrapping_add(at));
                }
                match self.stride / S::LANES {
                    1 => softmax_rows::<S, ROWS, SAFE>(rows, S::LANES),
                    2 => softmax_rows::<S, ROWS, SAFE>(rows, 2 * S::LANES),
                    3 => softmax_rows::<S, ROWS, SAFE>(rows, 3 * S::LANES),
                    _ => softmax_rows::<S, ROWS, SAFE>(rows, self.stride),
                }
            };
            ahead = ahead.wrapping_add(ROWS * self.labels);
        }
        for row in rows.into_remainder().chunks_exact_mut(self.stride) {
            // SAFETY: the chunk is one row of whole vectors.
            in_range &= unsafe { softmax_rows::<S, 1, SAFE>(row.as_mut_ptr(), self.stride) };
        }
        in_range
    }

    fn load_given(&self, q: &[f32], tile: &Tile, block: &mut [f32]) {
        for segment in self.tiling.segments(tile) {
            for label in 0..self.labels {
                let from = &q[label * self.tiling.points() + segment.memory..][..segment.len];
                for (p, &q) in from.iter().enumerate() {
                    block[(segment.local + p) * self.stride + label] = q;
                }
            }
        }
    }

    /// # Safety
    /// `out` must be valid for `labels × points` floats that no other band writes.
    unsafe fn store_messages(&self, out: Shared<f32>, tile: &Tile, block: &[f32]) {
        for segment in self.tiling.segments(tile) {
            for label in 0..self.labels {
                let to = label * self.tiling.points() + segment.memory;
                for p in 0..segment.len {
                    let message = -NATS * block[(segment.local + p) * self.stride + label];
                    // SAFETY: in range by the caller's word.
                    unsafe { *out.get().add(to + p) = message };
                }
            }
        }
    }

    /// ΣQ·(ln Q + U) + ½ΣQ·message of the last probabilities, whose messages the block holds.
    #[inline(always)]
    fn energy<S: Simd>(&self, last: &[f32], scores: &[f32], tile: &Tile, block: &[f32]) -> f64 {
        let points = &tile.points;
        let first = self.band.points.start;
        let last = &last[(points.start - first) * self.labels..(points.end - first) * self.labels];
        let rows = last.chunks_exact(self.labels);
        let scores = scores[points.start * self.labels..].chunks_exact(self.labels);
        let mut energy = 0.0;
        for ((last, scores), sums) in rows.zip(scores).zip(block.chunks_exact(self.stride)) {
            let mut bits = 0.0;
            for ((&q, &score), &sum) in last.iter().zip(scores).zip(sums) {
                // Below, q·log₂ q is nothing, and the score may be infinite.
                if q > 1e-20 {
                    bits += q * (log2::<S>(q) - 0.5 * (score + sum));
                }
            }
            energy += f64::from(NATS * bits);
        }
        energy
    }

    /// Gives the probabilities of a tile to the caller.
    #[inline(always)]
    fn hand_over(&mut self, tile: &Tile, block: &[f32]) {
        let (labels, stride) = (self.labels, self.stride);
        let Then::Update { output, keep, .. } = &mut self.then else { return };
        if let Some(keep) = keep {
            let first = (tile.points.start - self.band.points.start) * labels;
            let rows = keep[first..].chunks_exact_mut(labels);
            for (keep, q) in rows.zip(block.chunks_exact(stride)) {
                keep.copy_from_slice(&q[..labels]);
            }
        }
        for segment in self.tiling.segments(tile) {
            let rows = &block[segment.local * stride..(segment.local + segment.len) * stride];
            match *output {
                Output::Nothing => return,
                Output::Probs(out) => {
                    // SAFETY: the caller's array holds `labels × points` floats, and every point is
                    // in one segment.
                    unsafe {
                        let to = out.get().add(segment.memory);
                        let points = self.tiling.points();
                        transpose(rows.as_ptr(), stride, to, points, segment.len, labels);
                    }
                }
                Output::Labels8(out) => {
                    for (p, q) in rows.chunks_exact(stride).enumerate() {
                        let label = most_probable(&q[..labels]);
                        // SAFETY: the caller's array holds `points` labels; as above.
                        unsafe { *out.get().add(segment.memory + p) = label as u8 };
                    }
                }
                Output::Labels16(out) => {
                    for (p, q) in rows.chunks_exact(stride).enumerate() {
                        let label = most_probable(&q[..labels]);
                        // SAFETY: as above.
                        unsafe { *out.get().add(segment.memory + p) = label as u16 };
                    }
                }
            }
        }
    }
}

/// Turns `R` rows of scores, `stride` floats apart, into probabilities; see `normalize`.
///
/// # Safety
/// The instruction set of `S` must be available and the rows valid.
#[inline(always)]
unsafe fn softmax_rows<S: Simd, const R: usize, const SAFE: bool>(
    rows: *mut f32,
    stride: usize,
) -> bool {
    // SAFETY: as the caller.
    unsafe {
        let at = |r: usize, v: usize| rows.add(r * stride + v * S::LANES);
        let vectors = stride / S::LANES;
        let zero = S::splat(0.0);
        let mut shift = [zero; R];
        if SAFE {
            for (r, shift) in shift.iter_mut().enumerate() {
                let mut largest = S::splat(f32::NEG_INFINITY);
                for v in 0..vectors {
                    largest = S::max(largest, S::load(at(r, v)));
                }
                *shift = S::splat(S::largest(largest));
            }
        }
        let mut totals = [zero; R];
        for v in 0..vectors {
            for r in 0..R {
                let x = S::load(at(r, v));
                let e = S::exp2(if SAFE { S::sub(x, shift[r]) } else { x });
                S::store(at(r, v), e);
                totals[r] = S::add(totals[r], e);
            }
        }
        let mut in_range = true;
        for (r, sum) in S::sums(totals).into_iter().enumerate() {
            in_range &= sum < LARGEST_SUM && sum > 1.0 / LARGEST_SUM;
            let inverse = S::splat(1.0 / sum);
            for v in 0..vectors {
                S::store(at(r, v), S::mul(S::load(at(r, v)), inverse));
            }
        }
        in_range
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
