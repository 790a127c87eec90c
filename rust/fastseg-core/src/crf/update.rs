//! The mean-field update with one channel for each label.
//!
//! Tiles of points pass through three phases that stay in the second-level cache: *gather* adds the
//! messages of every kernel to the scores, *normalize* turns scores into probabilities, *spread*
//! hands these to the rows of the next iteration. The probabilities themselves never reach memory
//! before the last iteration.

use super::unary::{NATS, log2};
use crate::control::{Cancelled, Control};
use crate::lattice::{Band, Lattice, Shared, Start, TILE, Tile, Tiling, VECTORS, load, store};
use crate::simd::{Kernel, LINE, Simd};

/// Points that become probabilities together, so that their sums need not wait for each other.
const ROWS: usize = 4;
/// Points of the last kernel that are gathered, normalized and spread before the next are.
const GROUP: usize = 64;
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
    /// The messages themselves times a factor, `labels × points`, row by row, for the caller.
    Messages(Shared<f32>, f32),
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
    /// From the messages alone.
    Nothing,
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
        // Rows of whole lines start on them if the first does.
        let mut memory = vec![0.0f32; (2 * TILE + GROUP) * self.stride + LINE];
        let skip = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (block, packed) = memory[skip..].split_at_mut(TILE * self.stride);
        let mut energy = 0.0;
        for index in self.band.tiles.clone() {
            self.control.check()?;
            let tile = &self.tiling.tiles()[index];
            // SAFETY: the caller has the instruction set of `S`.
            unsafe { self.tile::<S>(index, tile, block, packed, &mut energy) };
        }
        Ok(energy)
    }
}

impl<'a> UpdateBand<'a> {
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &mut self,
        index: usize,
        tile: &Tile,
        block: &mut [f32],
        packed: &mut [f32],
        energy: &mut f64,
    ) {
        let block = &mut block[..tile.points.len() * self.stride];
        // SAFETY: as the caller.
        unsafe {
            match self.source {
                Source::Given(q) => self.load_given::<S>(q, tile, block),
                Source::Kept(q) => self.load_rows::<S>(q, 0.0, tile, block),
                Source::Nothing => {
                    self.gather::<S>(Start::Zero, index, block);
                    if let Then::Messages(out, factor) = self.then {
                        return self.store_messages::<S>(out, factor, tile, block);
                    }
                }
                Source::Scores(scores) => {
                    if self.exchange::<S>(scores, index, tile, block, packed) {
                        return self.hand_over::<S>(tile, block);
                    }
                    let start =
                        Start::Rows(&scores[tile.points.start * self.labels..], self.labels);
                    let softmax = self.softmax();
                    let next = scores.as_ptr().wrapping_add(tile.points.end * self.labels);
                    for is_safe in [false, true] {
                        if !self.gather::<S>(start, index, block) {
                            self.load_rows::<S>(scores, f32::NEG_INFINITY, tile, block);
                        }
                        if let (false, Then::Update { keep: Some(last), measure: true, .. }) =
                            (is_safe, &self.then)
                        {
                            *energy += self.energy::<S>(last, scores, tile, block);
                        }
                        if softmax.run::<S>(block, None, next, is_safe) {
                            break;
                        }
                    }
                }
            }
            for kernel in self.kernels.iter_mut().filter(|kernel| !kernel.to.is_empty()) {
                let runs = kernel.lattice.runs(index);
                let (n, stride) = (kernel.corners(), self.stride);
                runs.spread::<S>(n, kernel.splat, block, kernel.to, stride);
            }
            self.hand_over::<S>(tile, block);
        }
    }

    /// Gather, normalize and spread of which the last kernel's share are done group by group of
    /// its runs, in the first-level cache.
    ///
    /// It returns false, having done nothing, where there is none to gather from, the sums themselves
    /// are wanted, or the rows of a run do not fit the registers.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn exchange<S: Simd>(
        &mut self,
        scores: &[f32],
        index: usize,
        tile: &Tile,
        block: &mut [f32],
        packed: &mut [f32],
    ) -> bool {
        let is_update = matches!(self.then, Then::Update { measure: false, .. });
        let is_given = self.kernels.iter().all(|kernel| !kernel.from.is_empty());
        let (labels, stride) = (self.labels, self.stride);
        let softmax = self.softmax();
        let Some((last, others)) = self.kernels.split_last_mut() else { return false };
        if !is_update || !is_given || stride > VECTORS * S::LANES {
            return false;
        }
        let mut start = Start::Rows(&scores[tile.points.start * labels..], labels);
        let mut ahead = scores.as_ptr().wrapping_add(tile.points.end * labels);
        // SAFETY: as the caller; the slices are of the lattices' own sizes.
        unsafe {
            for kernel in &*others {
                let (n, runs) = (kernel.corners(), kernel.lattice.runs(index));
                runs.gather::<S, false>(n, kernel.slice, kernel.from, start, block, stride);
                start = Start::Block(block.as_ptr());
            }
            let n = last.corners();
            for runs in last.lattice.runs(index).groups(n, GROUP) {
                let packed = &mut packed[..runs.order.len() * stride];
                runs.gather::<S, true>(n, last.slice, last.from, start, packed, stride);
                for is_safe in [false, true] {
                    let scattered = Some((runs.order, block.as_mut_ptr()));
                    if softmax.run::<S>(packed, scattered, ahead, is_safe) {
                        break;
                    }
                }
                ahead = ahead.wrapping_add(runs.order.len() * labels);
                if !last.to.is_empty() {
                    runs.spread::<S>(n, last.splat, block, last.to, stride);
                }
            }
            for kernel in others.iter_mut().filter(|kernel| !kernel.to.is_empty()) {
                let (n, runs) = (kernel.corners(), kernel.lattice.runs(index));
                runs.spread::<S>(n, kernel.splat, block, kernel.to, stride);
            }
        }
        true
    }

    /// How the sums of a tile become probabilities.
    fn softmax(&self) -> Softmax {
        Softmax { labels: self.labels, stride: self.stride }
    }

    /// `start` plus the messages of all kernels; it returns false, having done nothing, if there are
    /// none.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn gather<S: Simd>(&self, start: Start, index: usize, block: &mut [f32]) -> bool {
        let mut start = start;
        // SAFETY: as the caller; the slices are of the lattice's own sizes.
        unsafe {
            for kernel in self.kernels.iter().filter(|kernel| !kernel.from.is_empty()) {
                let (n, stride) = (kernel.corners(), self.stride);
                let runs = kernel.lattice.runs(index);
                runs.gather::<S, false>(n, kernel.slice, kernel.from, start, block, stride);
                start = Start::Block(block.as_ptr());
            }
        }
        matches!(start, Start::Block(_))
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

    /// Rows of what is given row by row, the padding zero.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn load_given<S: Simd>(&self, q: &[f32], tile: &Tile, block: &mut [f32]) {
        let points = self.tiling.points();
        block.fill(0.0);
        for segment in self.tiling.segments(tile) {
            let from = q[segment.memory..].as_ptr();
            let to = block[segment.local * self.stride..].as_mut_ptr();
            // SAFETY: as the caller; `q` holds `labels × points` floats, the block a row for each point.
            unsafe { S::transpose(from, points, to, self.stride, self.labels, segment.len) };
        }
    }

    /// # Safety
    /// The instruction set of `S` must be available, and `out` valid for `labels × points` floats, of
    /// which no other band writes those of this one's points.
    #[inline(always)]
    unsafe fn store_messages<S: Simd>(
        &self,
        out: Shared<f32>,
        factor: f32,
        tile: &Tile,
        block: &mut [f32],
    ) {
        for sum in &mut *block {
            *sum *= factor;
        }
        let points = self.tiling.points();
        for segment in self.tiling.segments(tile) {
            let from = block[segment.local * self.stride..].as_ptr();
            // SAFETY: as the caller; every point is in one segment.
            unsafe {
                let to = out.get().add(segment.memory);
                S::transpose(from, self.stride, to, points, segment.len, self.labels);
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
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn hand_over<S: Simd>(&mut self, tile: &Tile, block: &[f32]) {
        let (labels, stride) = (self.labels, self.stride);
        let Then::Update { output, keep, .. } = &mut self.then else { return };
        if let Some(keep) = keep {
            let first = (tile.points.start - self.band.points.start) * labels;
            let rows = keep[first..].chunks_exact_mut(labels);
            for (keep, q) in rows.zip(block.chunks_exact(stride)) {
                keep.copy_from_slice(&q[..labels]);
            }
        }
        let segments = self.tiling.segments(tile);
        for (i, segment) in segments.iter().enumerate() {
            let rows = &block[segment.local * stride..(segment.local + segment.len) * stride];
            match *output {
                Output::Nothing => return,
                Output::Probs(out) => {
                    // SAFETY: as the caller; the array holds `labels × points` floats, and every
                    // point is in one segment.
                    unsafe {
                        let to = out.get().add(segment.memory);
                        let points = self.tiling.points();
                        S::transpose(rows.as_ptr(), stride, to, points, segment.len, labels);
                        // Each label's row lies elsewhere: the next are called while these are done.
                        if let Some(next) = segments.get(i + 1) {
                            for label in 0..labels {
                                let to = out.get().wrapping_add(label * points + next.memory);
                                for at in (0..next.len).step_by(LINE) {
                                    S::prefetch_write(to.wrapping_add(at));
                                }
                            }
                        }
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

/// How sums of scores and messages become probabilities.
#[derive(Clone, Copy)]
struct Softmax {
    labels: usize,
    /// Floats from one row of sums to the next.
    stride: usize,
}

impl Softmax {
    /// Turns rows of sums into probabilities.
    ///
    /// These take the place of the sums or, `scattered`, go each to the row of that number of a block.
    /// Meanwhile it calls as many rows of `labels` floats from `next` on into the cache.
    ///
    /// It returns false where a total leaves the range of floats: what it wrote is void then, but sums
    /// that were to be scattered are still there. If it `is_safe` the largest of each row is taken off
    /// first.
    ///
    /// # Safety
    /// The instruction set of `S` must be available, the rows those of the tile, and the block have
    /// rows of those numbers.
    #[inline(always)]
    unsafe fn run<S: Simd>(
        self,
        rows: &mut [f32],
        scattered: Option<(&[u16], *mut f32)>,
        next: *const f32,
        is_safe: bool,
    ) -> bool {
        if is_safe {
            for row in rows.chunks_exact_mut(self.stride) {
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                row.iter_mut().for_each(|sum| *sum -= largest);
            }
        }
        let count = rows.len() / self.stride;
        let whole = count / ROWS * ROWS;
        let mut in_range = true;
        // SAFETY: as the caller; prefetching takes any address.
        unsafe {
            for i in (0..whole).step_by(ROWS) {
                let ahead = next.wrapping_add(i * self.labels);
                for at in (0..ROWS * self.labels).step_by(LINE) {
                    S::prefetch(ahead.wrapping_add(at));
                }
                in_range &= self.some::<S, ROWS>(rows, scattered, i);
            }
            for i in whole..count {
                in_range &= self.some::<S, 1>(rows, scattered, i);
            }
        }
        in_range
    }

    /// [`Self::run`] for the `R` rows from row `i` on.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn some<S: Simd, const R: usize>(
        self,
        rows: &mut [f32],
        scattered: Option<(&[u16], *mut f32)>,
        i: usize,
    ) -> bool {
        let mut from = [rows.as_mut_ptr(); R];
        let mut to = from;
        for r in 0..R {
            from[r] = from[r].wrapping_add((i + r) * self.stride);
            to[r] = match scattered {
                None => from[r],
                Some((order, block)) => block.wrapping_add(usize::from(order[i + r]) * self.stride),
            };
        }
        // SAFETY: as the caller.
        unsafe {
            match self.stride / S::LANES {
                1 => self.vectors::<S, R, 1>(from, to),
                _ if S::IS_ROW => unreachable!("a row is one vector"),
                2 => self.vectors::<S, R, 2>(from, to),
                3 => self.vectors::<S, R, 3>(from, to),
                VECTORS => self.vectors::<S, R, VECTORS>(from, to),
                vectors => self.long::<S, R>(from, to, vectors),
            }
        }
    }

    /// Rows of `C` vectors, few enough to stay in registers.
    ///
    /// # Safety
    /// The instruction set of `S` must be available and the rows valid.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const R: usize, const C: usize>(
        self,
        from: [*mut f32; R],
        to: [*mut f32; R],
    ) -> bool {
        // SAFETY: as the caller.
        unsafe {
            let mut powers = [[S::splat(0.0); C]; R];
            let mut totals = [S::splat(0.0); R];
            for r in 0..R {
                let mut row = load::<S, C>(from[r]);
                for power in &mut row {
                    *power = S::exp2(*power);
                }
                totals[r] = row[0];
                for power in &row[1..] {
                    totals[r] = S::add(totals[r], *power);
                }
                powers[r] = row;
            }
            let sums = S::sums(totals);
            let mut in_range = true;
            for r in 0..R {
                in_range &= is_in_range(sums[r]);
                let inverse = S::splat(1.0 / sums[r]);
                let mut row = powers[r];
                for q in &mut row {
                    *q = S::mul(*q, inverse);
                }
                store::<S, C>(to[r], row);
            }
            in_range
        }
    }

    /// Rows of any number of vectors.
    ///
    /// # Safety
    /// As [`Self::vectors`].
    #[inline(always)]
    unsafe fn long<S: Simd, const R: usize>(
        self,
        from: [*mut f32; R],
        to: [*mut f32; R],
        vectors: usize,
    ) -> bool {
        // SAFETY: as the caller.
        unsafe {
            let mut totals = [S::splat(0.0); R];
            for at in (0..vectors * S::LANES).step_by(S::LANES) {
                for r in 0..R {
                    let power = S::exp2(S::load(from[r].add(at)));
                    S::store(from[r].add(at), power);
                    totals[r] = S::add(totals[r], power);
                }
            }
            let sums = S::sums(totals);
            let mut in_range = true;
            for r in 0..R {
                in_range &= is_in_range(sums[r]);
                let inverse = S::splat(1.0 / sums[r]);
                for at in (0..vectors * S::LANES).step_by(S::LANES) {
                    S::store(to[r].add(at), S::mul(S::load(from[r].add(at)), inverse));
                }
            }
            in_range
        }
    }
}

/// Whether a sum of powers can be divided by without loss; NaN cannot.
#[inline(always)]
fn is_in_range(sum: f32) -> bool {
    sum < LARGEST_SUM && sum > 1.0 / LARGEST_SUM
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
