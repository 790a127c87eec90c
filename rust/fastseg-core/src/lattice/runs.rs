//! The innermost loops: between the points of a tile and the rows of their corners.
//!
//! *Gather* adds to each point the weighted rows of its corners (slice); *spread* adds each point,
//! weighted, to the rows of its corners (splat). The rows of a run are touched once for all its
//! points.

use super::{Runs, VECTORS};
use crate::simd::{Kernel, Simd};

/// How many points ahead weights of single values are called into the cache: there are several
/// streams of them, and little is done for each.
const AHEAD: usize = 256;

/// What the sums of a gather start from.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// The padded rows of a block.
    Block(*const f32),
    /// The rows of an unpadded array, this many floats each; padding becomes −∞.
    Rows(&'a [f32], usize),
}

impl Start<'_> {
    /// `C` vectors of the sum of point `p`, from float `offset` of its row on.
    ///
    /// # Safety
    /// The instruction set of `S` must be available; `p` must be a point of the rows, which a block
    /// has `stride` floats apart.
    #[inline(always)]
    unsafe fn load<S: Simd, const C: usize>(
        self,
        p: usize,
        offset: usize,
        stride: usize,
    ) -> [S::V; C] {
        match self {
            // SAFETY: as the caller.
            Start::Zero => [unsafe { S::splat(0.0) }; C],
            // SAFETY: as the caller.
            Start::Block(block) => unsafe { load::<S, C>(block.add(p * stride + offset)) },
            // SAFETY: as the caller; the point's row has `width` floats, of which the vectors before
            // the last are whole.
            Start::Rows(rows, width) => unsafe {
                let mut vectors = [S::splat(f32::NEG_INFINITY); C];
                for (c, v) in vectors.iter_mut().enumerate() {
                    let at = offset + c * S::LANES;
                    let from = rows.as_ptr().add(p * width + at);
                    *v = if at + S::LANES <= width {
                        S::load(from)
                    } else {
                        S::load_tail(from, width - at, f32::NEG_INFINITY)
                    };
                }
                vectors
            },
        }
    }
}

impl Runs<'_> {
    /// Adds to every value of `block` the weighted values of its `n` corners.
    ///
    /// # Safety
    /// The instruction set of `S` must be available; `rows` must hold the values of the band and
    /// `block` those of the tile.
    #[inline(always)]
    pub unsafe fn gather_channel<S: Simd>(
        &self,
        n: usize,
        weights: &[f32],
        rows: &[f32],
        block: &mut [f32],
    ) {
        // SAFETY: as the caller. A literal number of corners keeps their values in registers.
        unsafe {
            match n {
                3 if S::SPECIALIZED => self.gather_channel_from::<S, 3>(weights, rows, block),
                4 if S::SPECIALIZED => self.gather_channel_from::<S, 4>(weights, rows, block),
                6 if S::SPECIALIZED => self.gather_channel_from::<S, 6>(weights, rows, block),
                7 if S::SPECIALIZED => self.gather_channel_from::<S, 7>(weights, rows, block),
                n => {
                    let mut weights = weights[self.first * n..].chunks_exact(n);
                    let mut order = self.order.iter();
                    for (corners, &length) in self.corners.chunks_exact(n).zip(self.lengths) {
                        let points = order.by_ref().zip(weights.by_ref());
                        for (&p, weights) in points.take(usize::from(length)) {
                            let taps = corners.iter().zip(weights);
                            let sum: f32 = taps.map(|(&row, &w)| w * rows[row as usize]).sum();
                            block[usize::from(p)] += sum;
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::gather_channel`].
    #[inline(always)]
    unsafe fn gather_channel_from<S: Simd, const N: usize>(
        &self,
        weights: &[f32],
        rows: &[f32],
        block: &mut [f32],
    ) {
        let (weights, _) = weights[self.first * N..].as_chunks::<N>();
        let (corners, _) = self.corners.as_chunks::<N>();
        let mut points = self.order.iter().zip(weights);
        for (corners, &length) in corners.iter().zip(self.lengths) {
            // SAFETY: as the caller: corners are rows of the band.
            let values = corners.map(|corner| unsafe { *rows.get_unchecked(corner as usize) });
            for (&p, weights) in points.by_ref().take(usize::from(length)) {
                // SAFETY: prefetching takes any address.
                unsafe { S::prefetch(weights.as_ptr().wrapping_add(N * AHEAD)) };
                // Two sums, so that the additions need not wait for each other.
                let mut sums = [0.0; 2];
                for i in 0..N {
                    sums[i % 2] = S::mul_add_one(weights[i], values[i], sums[i % 2]);
                }
                // SAFETY: the order holds points of the tile.
                unsafe { *block.get_unchecked_mut(usize::from(p)) += sums[0] + sums[1] };
            }
        }
    }

    /// Adds every value of `block`, weighted, to the values of its `n` corners.
    ///
    /// # Safety
    /// As [`Self::gather_channel`].
    #[inline(always)]
    pub unsafe fn spread_channel<S: Simd>(
        &self,
        n: usize,
        weights: &[f32],
        block: &[f32],
        rows: &mut [f32],
    ) {
        // SAFETY: as the caller. A literal number of corners keeps their sums in registers.
        unsafe {
            match n {
                3 if S::SPECIALIZED => self.spread_channel_to::<S, 3>(weights, block, rows),
                4 if S::SPECIALIZED => self.spread_channel_to::<S, 4>(weights, block, rows),
                6 if S::SPECIALIZED => self.spread_channel_to::<S, 6>(weights, block, rows),
                7 if S::SPECIALIZED => self.spread_channel_to::<S, 7>(weights, block, rows),
                n => {
                    let mut weights = weights[self.first * n..].chunks_exact(n);
                    let mut order = self.order.iter();
                    for (corners, &length) in self.corners.chunks_exact(n).zip(self.lengths) {
                        let points = order.by_ref().zip(weights.by_ref());
                        for (&p, weights) in points.take(usize::from(length)) {
                            for (&corner, &w) in corners.iter().zip(weights) {
                                rows[corner as usize] += w * block[usize::from(p)];
                            }
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::gather_channel`].
    #[inline(always)]
    unsafe fn spread_channel_to<S: Simd, const N: usize>(
        &self,
        weights: &[f32],
        block: &[f32],
        rows: &mut [f32],
    ) {
        let (weights, _) = weights[self.first * N..].as_chunks::<N>();
        let (corners, _) = self.corners.as_chunks::<N>();
        let mut points = self.order.iter().zip(weights);
        for (corners, &length) in corners.iter().zip(self.lengths) {
            let mut sums = [0.0; N];
            for (&p, weights) in points.by_ref().take(usize::from(length)) {
                // SAFETY: the order holds points of the tile.
                let value = unsafe { *block.get_unchecked(usize::from(p)) };
                for i in 0..N {
                    sums[i] = S::mul_add_one(weights[i], value, sums[i]);
                }
            }
            for (&corner, sum) in corners.iter().zip(sums) {
                // SAFETY: corners are rows of the band by construction of the lattice.
                unsafe { *rows.get_unchecked_mut(corner as usize) += sum };
            }
        }
    }

    /// Some runs that follow each other at a time, of `points` points or a few more.
    pub fn groups(&self, n: usize, points: usize) -> impl Iterator<Item = Self> {
        let (mut rest, whole) = (*self, *self);
        std::iter::from_fn(move || {
            let mut count = 0;
            let lengths = rest.lengths.iter();
            let runs = lengths.take_while(|&&length| {
                let is_open = count < points;
                count += if is_open { usize::from(length) } else { 0 };
                is_open
            });
            let runs = runs.count();
            if runs == 0 {
                return None;
            }
            let mut group = rest;
            (group.lengths, rest.lengths) = rest.lengths.split_at(runs);
            (group.corners, rest.corners) = rest.corners.split_at(runs * n);
            (group.order, rest.order) = rest.order.split_at(count);
            rest.first += count;
            debug_assert!(rest.first <= whole.first + whole.order.len());
            Some(group)
        })
    }

    /// Sets the row of every point to its start plus the weighted rows of its `n` corners, `stride`
    /// floats each.
    ///
    /// With `PACKED` the rows follow each other in the order of the runs and have at most `VECTORS`
    /// vectors; else they lie where the points are in the tile.
    ///
    /// # Safety
    /// The instruction set of `S` must be available; `stride` must be whole vectors; `rows` must
    /// hold the rows of the band, `start` those of the tile, `block` those of the tile or of the
    /// runs.
    #[inline(always)]
    pub unsafe fn gather<S: Simd, const PACKED: bool>(
        &self,
        n: usize,
        weights: &[f32],
        rows: &[f32],
        start: Start,
        block: &mut [f32],
        stride: usize,
    ) {
        let job = Gather::<PACKED> { runs: self, n, weights, rows, start };
        // SAFETY: as the caller.
        unsafe { S::call(GatherRows { job, block, stride }) }
    }

    /// Adds the row of every point, weighted, to the rows of its `n` corners, `stride` floats each.
    ///
    /// # Safety
    /// As [`Self::gather`].
    #[inline(always)]
    pub unsafe fn spread<S: Simd>(
        &self,
        n: usize,
        weights: &[f32],
        block: &[f32],
        rows: &mut [f32],
        stride: usize,
    ) {
        // SAFETY: as the caller.
        unsafe { S::call(Spread { runs: self, n, weights, block, rows, stride }) }
    }
}

/// All vectors of the rows of a gather.
struct GatherRows<'a, const PACKED: bool> {
    job: Gather<'a, PACKED>,
    block: &'a mut [f32],
    stride: usize,
}

impl<const PACKED: bool> Kernel for GatherRows<'_, PACKED> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { job, block, stride } = self;
        let vectors = stride / S::LANES;
        // SAFETY: as the caller. Where the whole row is held in registers its stride is a constant.
        unsafe {
            match vectors {
                1 => job.vectors::<S, 1>(0, block, S::LANES),
                _ if S::IS_ROW => unreachable!("a row is one vector"),
                2 => job.vectors::<S, 2>(0, block, 2 * S::LANES),
                3 => job.vectors::<S, 3>(0, block, 3 * S::LANES),
                VECTORS => job.vectors::<S, VECTORS>(0, block, VECTORS * S::LANES),
                _ if PACKED => unreachable!("wider than the registers"),
                _ => {
                    for v in (0..vectors).step_by(VECTORS) {
                        let offset = v * S::LANES;
                        match vectors - v {
                            1 => job.vectors::<S, 1>(offset, block, stride),
                            2 => job.vectors::<S, 2>(offset, block, stride),
                            3 => job.vectors::<S, 3>(offset, block, stride),
                            _ => job.vectors::<S, VECTORS>(offset, block, stride),
                        }
                    }
                }
            }
        }
    }
}

/// The arguments of [`Runs::spread`].
struct Spread<'a> {
    runs: &'a Runs<'a>,
    n: usize,
    weights: &'a [f32],
    block: &'a [f32],
    rows: &'a mut [f32],
    stride: usize,
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { runs, n, weights, block, rows, stride } = self;
        let vectors = stride / S::LANES;
        // SAFETY: as the caller. Where the whole row is held in registers its stride is a constant.
        unsafe {
            match vectors {
                1 => runs.spread_n::<S, 1>(n, weights, block, rows, S::LANES),
                _ if S::IS_ROW => unreachable!("a row is one vector"),
                2 => runs.spread_n::<S, 2>(n, weights, block, rows, 2 * S::LANES),
                3 => runs.spread_n::<S, 3>(n, weights, block, rows, 3 * S::LANES),
                VECTORS => runs.spread_n::<S, VECTORS>(n, weights, block, rows, VECTORS * S::LANES),
                _ => {
                    for v in (0..vectors).step_by(VECTORS) {
                        let rows = &mut rows[v * S::LANES..];
                        let block = &block[v * S::LANES..];
                        match vectors - v {
                            1 => runs.spread_n::<S, 1>(n, weights, block, rows, stride),
                            2 => runs.spread_n::<S, 2>(n, weights, block, rows, stride),
                            3 => runs.spread_n::<S, 3>(n, weights, block, rows, stride),
                            _ => runs.spread_n::<S, VECTORS>(n, weights, block, rows, stride),
                        }
                    }
                }
            }
        }
    }
}

impl Runs<'_> {
    /// # Safety
    /// As [`Self::spread`].
    #[inline(always)]
    unsafe fn spread_n<S: Simd, const C: usize>(
        &self,
        n: usize,
        weights: &[f32],
        block: &[f32],
        rows: &mut [f32],
        stride: usize,
    ) {
        // SAFETY: as the caller.
        unsafe {
            match n {
                3 if S::SPECIALIZED => self.spread_to::<S, C, 3>(weights, block, rows, stride),
                4 if S::SPECIALIZED => self.spread_to::<S, C, 4>(weights, block, rows, stride),
                6 if S::SPECIALIZED => self.spread_to::<S, C, 6>(weights, block, rows, stride),
                7 if S::SPECIALIZED => self.spread_to::<S, C, 7>(weights, block, rows, stride),
                n => {
                    let mut weights = weights[self.first * n..].chunks_exact(n);
                    let mut order = self.order.iter();
                    for (corners, &length) in self.corners.chunks_exact(n).zip(self.lengths) {
                        let points = order.by_ref().zip(weights.by_ref());
                        for (&p, weights) in points.take(usize::from(length)) {
                            let from = load::<S, C>(block.as_ptr().add(usize::from(p) * stride));
                            for (&corner, &weight) in corners.iter().zip(weights) {
                                let to = rows.as_mut_ptr().add(corner as usize * stride);
                                let mut row = load::<S, C>(to);
                                let weight = S::splat(weight);
                                for c in 0..C {
                                    row[c] = S::mul_add(weight, from[c], row[c]);
                                }
                                store::<S, C>(to, row);
                            }
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::gather`].
    #[inline(always)]
    unsafe fn spread_to<S: Simd, const C: usize, const N: usize>(
        &self,
        weights: &[f32],
        block: &[f32],
        rows: &mut [f32],
        stride: usize,
    ) {
        let (weights, _) = weights[self.first * N..].as_chunks::<N>();
        let (corners, _) = self.corners.as_chunks::<N>();
        let mut points = self.order.iter().zip(weights);
        for (here, &length) in corners.iter().zip(self.lengths) {
            // SAFETY: as the caller: corners are rows of the band, the order points of the tile.
            unsafe {
                let mut sums = [[S::splat(0.0); C]; N];
                for (&p, weights) in points.by_ref().take(usize::from(length)) {
                    let from = load::<S, C>(block.as_ptr().add(usize::from(p) * stride));
                    for i in 0..N {
                        let weight = S::splat(weights[i]);
                        for c in 0..C {
                            sums[i][c] = S::mul_add(weight, from[c], sums[i][c]);
                        }
                    }
                }
                for (&corner, sums) in here.iter().zip(sums) {
                    let to = rows.as_mut_ptr().add(corner as usize * stride);
                    let mut row = load::<S, C>(to);
                    for c in 0..C {
                        row[c] = S::add(row[c], sums[c]);
                    }
                    store::<S, C>(to, row);
                }
            }
        }
    }
}

/// Where the row of the next point lies.
struct Place<const PACKED: bool>(usize);

impl<const PACKED: bool> Place<PACKED> {
    /// The row of the next point, which is point `p` of the tile.
    #[inline(always)]
    fn of(&mut self, p: usize) -> usize {
        if !PACKED {
            return p;
        }
        self.0 += 1;
        self.0 - 1
    }
}

/// The arguments of [`Runs::gather`].
struct Gather<'a, const PACKED: bool> {
    runs: &'a Runs<'a>,
    n: usize,
    weights: &'a [f32],
    rows: &'a [f32],
    start: Start<'a>,
}

impl<const PACKED: bool> Gather<'_, PACKED> {
    /// Gathers `C` vectors of each row, from float `offset` on.
    ///
    /// # Safety
    /// As [`Runs::gather`].
    #[inline(always)]
    unsafe fn vectors<S: Simd, const C: usize>(
        &self,
        offset: usize,
        block: &mut [f32],
        stride: usize,
    ) {
        // SAFETY: as the caller. A literal number of corners keeps their rows in registers.
        unsafe {
            match self.n {
                3 if S::SPECIALIZED => self.corners::<S, C, 3>(offset, block, stride),
                4 if S::SPECIALIZED => self.corners::<S, C, 4>(offset, block, stride),
                6 if S::SPECIALIZED => self.corners::<S, C, 6>(offset, block, stride),
                7 if S::SPECIALIZED => self.corners::<S, C, 7>(offset, block, stride),
                n => self.any_corners::<S, C>(n, offset, block, stride),
            }
        }
    }

    /// # Safety
    /// As [`Runs::gather`].
    #[inline(always)]
    unsafe fn corners<S: Simd, const C: usize, const N: usize>(
        &self,
        offset: usize,
        block: &mut [f32],
        stride: usize,
    ) {
        let (weights, _) = self.weights[self.runs.first * N..].as_chunks::<N>();
        let (corners, _) = self.runs.corners.as_chunks::<N>();
        let mut points = self.runs.order.iter().zip(weights);
        let mut at = Place::<PACKED>(0);
        for (here, &length) in corners.iter().zip(self.runs.lengths) {
            // SAFETY: as the caller: corners are rows of the band, the order points of the tile.
            unsafe {
                let first = self.rows.as_ptr().add(offset);
                let rows: [[S::V; C]; N] =
                    here.map(|corner| load::<S, C>(first.add(corner as usize * stride)));
                for (&p, weights) in points.by_ref().take(usize::from(length)) {
                    let p = usize::from(p);
                    let to = block.as_mut_ptr().add(at.of(p) * stride + offset);
                    let mut sum = self.start.load::<S, C>(p, offset, stride);
                    for i in 0..N {
                        let weight = S::splat(weights[i]);
                        for c in 0..C {
                            sum[c] = S::mul_add(weight, rows[i][c], sum[c]);
                        }
                    }
                    store::<S, C>(to, sum);
                }
            }
        }
    }

    /// # Safety
    /// As [`Runs::gather`].
    #[inline(always)]
    unsafe fn any_corners<S: Simd, const C: usize>(
        &self,
        n: usize,
        offset: usize,
        block: &mut [f32],
        stride: usize,
    ) {
        let mut weights = self.weights[self.runs.first * n..].chunks_exact(n);
        let mut order = self.runs.order.iter();
        let mut at = Place::<PACKED>(0);
        for (corners, &length) in self.runs.corners.chunks_exact(n).zip(self.runs.lengths) {
            let points = order.by_ref().zip(weights.by_ref());
            for (&p, weights) in points.take(usize::from(length)) {
                // SAFETY: as in `corners`.
                unsafe {
                    let p = usize::from(p);
                    let to = block.as_mut_ptr().add(at.of(p) * stride + offset);
                    let mut sum = self.start.load::<S, C>(p, offset, stride);
                    for (&corner, &weight) in corners.iter().zip(weights) {
                        let row = self.rows.as_ptr().add(corner as usize * stride + offset);
                        let row = load::<S, C>(row);
                        let weight = S::splat(weight);
                        for c in 0..C {
                            sum[c] = S::mul_add(weight, row[c], sum[c]);
                        }
                    }
                    store::<S, C>(to, sum);
                }
            }
        }
    }
}

/// `C` vectors from `p`.
///
/// # Safety
/// `p` must be valid for `C` vectors and the instruction set of `S` available.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, const C: usize>(p: *const f32) -> [S::V; C] {
    // SAFETY: as the caller.
    unsafe {
        let mut vectors = [S::splat(0.0); C];
        for (c, v) in vectors.iter_mut().enumerate() {
            *v = S::load(p.add(c * S::LANES));
        }
        vectors
    }
}

/// `C` vectors to `p`.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(crate) unsafe fn store<S: Simd, const C: usize>(p: *mut f32, vectors: [S::V; C]) {
    for (c, v) in vectors.iter().enumerate() {
        // SAFETY: as the caller.
        unsafe { S::store(p.add(c * S::LANES), *v) };
    }
}
