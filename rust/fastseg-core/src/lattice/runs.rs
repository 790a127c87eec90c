//! The innermost loops: between the points of a tile and the rows of their corners.
//!
//! *Gather* adds to each point the weighted rows of its corners (slice); *spread* adds each point,
//! weighted, to the rows of its corners (splat). The rows of a run are touched once for all its
//! points.

use super::{Runs, VECTORS};
use crate::simd::Simd;

impl Runs<'_> {
    /// Adds to every value of `block` the weighted values of its `n` corners.
    #[inline(always)]
    pub fn gather_channel(&self, n: usize, weights: &[f32], rows: &[f32], block: &mut [f32]) {
        match n {
            3 => self.gather_channel_from::<3>(weights, rows, block),
            4 => self.gather_channel_from::<4>(weights, rows, block),
            6 => self.gather_channel_from::<6>(weights, rows, block),
            7 => self.gather_channel_from::<7>(weights, rows, block),
            n => {
                let mut weights = weights[self.first * n..].chunks_exact(n);
                let mut order = self.order.iter();
                for (corners, &length) in self.corners.chunks_exact(n).zip(self.lengths) {
                    let points = order.by_ref().zip(weights.by_ref());
                    for (&p, weights) in points.take(usize::from(length)) {
                        let taps = corners.iter().zip(weights);
                        let sum: f32 = taps.map(|(&corner, &w)| w * rows[corner as usize]).sum();
                        block[usize::from(p)] += sum;
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn gather_channel_from<const N: usize>(
        &self,
        weights: &[f32],
        rows: &[f32],
        block: &mut [f32],
    ) {
        let (weights, _) = weights[self.first * N..].as_chunks::<N>();
        let (corners, _) = self.corners.as_chunks::<N>();
        let mut points = self.order.iter().zip(weights);
        for (corners, &length) in corners.iter().zip(self.lengths) {
            // SAFETY: corners are rows of the band by construction of the lattice.
            let values = corners.map(|corner| unsafe { *rows.get_unchecked(corner as usize) });
            for (&p, weights) in points.by_ref().take(usize::from(length)) {
                // SAFETY: the order holds points of the tile.
                let sum = unsafe { block.get_unchecked_mut(usize::from(p)) };
                for i in 0..N {
                    *sum += weights[i] * values[i];
                }
            }
        }
    }

    /// Adds every value of `block`, weighted, to the values of its `n` corners.
    #[inline(always)]
    pub fn spread_channel(&self, n: usize, weights: &[f32], block: &[f32], rows: &mut [f32]) {
        match n {
            3 => self.spread_channel_to::<3>(weights, block, rows),
            4 => self.spread_channel_to::<4>(weights, block, rows),
            6 => self.spread_channel_to::<6>(weights, block, rows),
            7 => self.spread_channel_to::<7>(weights, block, rows),
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

    #[inline(always)]
    fn spread_channel_to<const N: usize>(&self, weights: &[f32], block: &[f32], rows: &mut [f32]) {
        let (weights, _) = weights[self.first * N..].as_chunks::<N>();
        let (corners, _) = self.corners.as_chunks::<N>();
        let mut points = self.order.iter().zip(weights);
        for (corners, &length) in corners.iter().zip(self.lengths) {
            let mut sums = [0.0; N];
            for (&p, weights) in points.by_ref().take(usize::from(length)) {
                // SAFETY: the order holds points of the tile.
                let value = unsafe { *block.get_unchecked(usize::from(p)) };
                for i in 0..N {
                    sums[i] += weights[i] * value;
                }
            }
            for (&corner, sum) in corners.iter().zip(sums) {
                // SAFETY: corners are rows of the band by construction of the lattice.
                unsafe { *rows.get_unchecked_mut(corner as usize) += sum };
            }
        }
    }

    /// Adds to every row of `block` the weighted rows of its `n` corners, `stride` floats each.
    ///
    /// # Safety
    /// The instruction set of `S` must be available; `stride` must be whole vectors; `rows` must
    /// hold the rows of the band and `block` those of the tile.
    #[inline(always)]
    pub unsafe fn gather<S: Simd>(
        &self,
        n: usize,
        weights: &[f32],
        rows: &[f32],
        block: &mut [f32],
        stride: usize,
    ) {
        let vectors = stride / S::LANES;
        // SAFETY: as the caller. Where the whole row is held in registers its stride is a constant.
        unsafe {
            match vectors {
                1 => self.gather_n::<S, 1>(n, weights, rows, block, S::LANES),
                2 => self.gather_n::<S, 2>(n, weights, rows, block, 2 * S::LANES),
                3 => self.gather_n::<S, 3>(n, weights, rows, block, 3 * S::LANES),
                VECTORS => self.gather_n::<S, VECTORS>(n, weights, rows, block, VECTORS * S::LANES),
                _ => {
                    for v in (0..vectors).step_by(VECTORS) {
                        let rows = &rows[v * S::LANES..];
                        let block = &mut block[v * S::LANES..];
                        match vectors - v {
                            1 => self.gather_n::<S, 1>(n, weights, rows, block, stride),
                            2 => self.gather_n::<S, 2>(n, weights, rows, block, stride),
                            3 => self.gather_n::<S, 3>(n, weights, rows, block, stride),
                            _ => self.gather_n::<S, VECTORS>(n, weights, rows, block, stride),
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::gather`].
    #[inline(always)]
    unsafe fn gather_n<S: Simd, const C: usize>(
        &self,
        n: usize,
        weights: &[f32],
        rows: &[f32],
        block: &mut [f32],
        stride: usize,
    ) {
        // SAFETY: as the caller.
        unsafe {
            match n {
                3 => self.gather_from::<S, C, 3>(weights, rows, block, stride),
                4 => self.gather_from::<S, C, 4>(weights, rows, block, stride),
                6 => self.gather_from::<S, C, 6>(weights, rows, block, stride),
                7 => self.gather_from::<S, C, 7>(weights, rows, block, stride),
                n => {
                    let mut weights = weights[self.first * n..].chunks_exact(n);
                    let mut order = self.order.iter();
                    for (corners, &length) in self.corners.chunks_exact(n).zip(self.lengths) {
                        let points = order.by_ref().zip(weights.by_ref());
                        for (&p, weights) in points.take(usize::from(length)) {
                            let to = block.as_mut_ptr().add(usize::from(p) * stride);
                            let mut sum = load::<S, C>(to);
                            for (&corner, &weight) in corners.iter().zip(weights) {
                                let row = load::<S, C>(rows.as_ptr().add(corner as usize * stride));
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
    }

    /// # Safety
    /// As [`Self::gather`].
    #[inline(always)]
    unsafe fn gather_from<S: Simd, const C: usize, const N: usize>(
        &self,
        weights: &[f32],
        rows: &[f32],
        block: &mut [f32],
        stride: usize,
    ) {
        let (weights, _) = weights[self.first * N..].as_chunks::<N>();
        let (corners, _) = self.corners.as_chunks::<N>();
        let mut points = self.order.iter().zip(weights);
        for (corners, &length) in corners.iter().zip(self.lengths) {
            // SAFETY: as the caller: corners are rows of the band, the order points of the tile.
            unsafe {
                let rows: [[S::V; C]; N] =
                    corners.map(|corner| load::<S, C>(rows.as_ptr().add(corner as usize * stride)));
                for (&p, weights) in points.by_ref().take(usize::from(length)) {
                    let to = block.as_mut_ptr().add(usize::from(p) * stride);
                    let mut sum = load::<S, C>(to);
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

    /// Adds every row of `block`, weighted, to the rows of its `n` corners, `stride` floats each.
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
        let vectors = stride / S::LANES;
        // SAFETY: as the caller. Where the whole row is held in registers its stride is a constant.
        unsafe {
            match vectors {
                1 => self.spread_n::<S, 1>(n, weights, block, rows, S::LANES),
                2 => self.spread_n::<S, 2>(n, weights, block, rows, 2 * S::LANES),
                3 => self.spread_n::<S, 3>(n, weights, block, rows, 3 * S::LANES),
                VECTORS => self.spread_n::<S, VECTORS>(n, weights, block, rows, VECTORS * S::LANES),
                _ => {
                    for v in (0..vectors).step_by(VECTORS) {
                        let rows = &mut rows[v * S::LANES..];
                        let block = &block[v * S::LANES..];
                        match vectors - v {
                            1 => self.spread_n::<S, 1>(n, weights, block, rows, stride),
                            2 => self.spread_n::<S, 2>(n, weights, block, rows, stride),
                            3 => self.spread_n::<S, 3>(n, weights, block, rows, stride),
                            _ => self.spread_n::<S, VECTORS>(n, weights, block, rows, stride),
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::gather`].
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
                3 => self.spread_to::<S, C, 3>(weights, block, rows, stride),
                4 => self.spread_to::<S, C, 4>(weights, block, rows, stride),
                6 => self.spread_to::<S, C, 6>(weights, block, rows, stride),
                7 => self.spread_to::<S, C, 7>(weights, block, rows, stride),
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
        for (corners, &length) in corners.iter().zip(self.lengths) {
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
                for (&corner, sums) in corners.iter().zip(sums) {
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

/// # Safety
/// `p` must be valid for `C` vectors and the instruction set of `S` available.
#[inline(always)]
unsafe fn load<S: Simd, const C: usize>(p: *const f32) -> [S::V; C] {
    // SAFETY: as the caller.
    std::array::from_fn(|c| unsafe { S::load(p.add(c * S::LANES)) })
}

/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn store<S: Simd, const C: usize>(p: *mut f32, vectors: [S::V; C]) {
    for (c, v) in vectors.into_iter().enumerate() {
        // SAFETY: as the caller.
        unsafe { S::store(p.add(c * S::LANES), v) };
    }
}
