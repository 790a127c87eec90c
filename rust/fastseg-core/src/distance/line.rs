//! The least sums along one line: `least(x) = min over q of value(q) + (s·(x − q))²`.
//!
//! The place `q` of the minimum never moves back as `x` grows. So the minima of every sixteenth place
//! are found first, each between those of its neighbours, and then all sums of sixteen places and
//! the few sources between two such minima are computed at once. That takes about as long whatever
//! the values are, and needs neither branches nor divisions.

use super::number::Number;
use crate::simd::Simd;
use crate::simd::blocks::{BLOCK, Block};

/// Room for lines of one length and scale.
pub(super) struct Line<T> {
    len: usize,
    scale: T,
    /// The squared length of every step from `1 - len` to `len - 1`, and further at both ends.
    costs: Vec<T>,
    /// The values, followed by a block of [`Number::FAR`].
    values: Vec<T>,
    /// The results, with room for a whole last block.
    least: Vec<T>,
    /// For every sixteenth place, and the last, where its minimum is.
    nearest: Vec<usize>,
}

impl<T: Number> Line<T> {
    pub fn new(len: usize, scale: T) -> Self {
        let steps = (0..2 * len + 2 * BLOCK).map(|i| T::cost(scale, (len - 1).abs_diff(i)));
        Self {
            len,
            scale,
            costs: steps.collect(),
            values: vec![T::FAR; len + BLOCK],
            least: vec![T::FAR; len.next_multiple_of(BLOCK)],
            nearest: vec![0; len.div_ceil(BLOCK) + 1],
        }
    }

    /// The values to start from.
    #[inline(always)]
    pub fn values(&mut self) -> &mut [T] {
        &mut self.values[..self.len]
    }

    /// The least sums of the values; what has none is at least [`Number::FAR`].
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    pub unsafe fn least<S: Simd>(&mut self) -> &[T] {
        // SAFETY: as the caller.
        unsafe {
            self.find_nearest::<S>();
            self.fill_blocks::<S>();
        }
        &self.least[..self.len]
    }

    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn find_nearest<S: Simd>(&mut self) {
        let last = self.nearest.len() - 1;
        let end = self.len - 1;
        // SAFETY: as the caller.
        unsafe {
            self.nearest[0] = self.argmin::<S>(0, 0, end);
            self.nearest[last] = self.argmin::<S>(end, self.nearest[0], end);
            let mut stride = last.next_power_of_two();
            while stride > 1 {
                let half = stride / 2;
                for i in (half..last).step_by(stride) {
                    let (from, to) = (self.nearest[i - half], self.nearest[(i + half).min(last)]);
                    self.nearest[i] = self.argmin::<S>(i * BLOCK, from, to);
                }
                stride = half;
            }
        }
    }

    /// The first place from `from` to `to` whose sum at `x` is least.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn argmin<S: Simd>(&self, x: usize, from: usize, to: usize) -> usize {
        // No farther away than what is here already.
        let reach = self.values[x].steps_within(self.scale, self.len);
        let (from, to) = (from.max(x.saturating_sub(reach)), to.min(x + reach));
        if from >= to {
            return from.min(to);
        }
        // SAFETY: as the caller; places up to a block after the last have values, and costs.
        unsafe {
            let values = self.values.as_ptr();
            let costs = self.costs.as_ptr().add(self.len - 1 - x);
            let mut least = sums::<T, S>(values, costs, from);
            for q in (from + BLOCK..=to).step_by(BLOCK) {
                least = least.min(sums::<T, S>(values, costs, q));
            }
            let mut block = [T::FAR; BLOCK];
            least.store(block.as_mut_ptr());
            let least = block.into_iter().fold(block[0], T::least);
            for q in (from..=to).step_by(BLOCK) {
                sums::<T, S>(values, costs, q).store(block.as_mut_ptr());
                if block.iter().fold(false, |found, &sum| found | (sum == least)) {
                    let first = block.iter().position(|&sum| sum == least).unwrap_or(0);
                    return (q + first).min(to);
                }
            }
        }
        to
    }

    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn fill_blocks<S: Simd>(&mut self) {
        for (i, least) in self.least.chunks_exact_mut(BLOCK).enumerate() {
            // SAFETY: as the caller; the costs reach a block beyond the last place.
            unsafe {
                let costs = self.costs.as_ptr().add(self.len - 1 + i * BLOCK);
                let mut best = T::Block::<S>::splat(T::FAR);
                for q in self.nearest[i]..=self.nearest[i + 1] {
                    let value = T::Block::<S>::splat(*self.values.get_unchecked(q));
                    best = best.min(value.add(T::Block::<S>::load(costs.sub(q))));
                }
                best.store(least.as_mut_ptr());
            }
        }
    }
}

/// The values of a block of places from `q`, and what it costs to come from there.
///
/// # Safety
/// The instruction set of `S` must be available, and both must have a block at `q`.
#[inline(always)]
unsafe fn sums<T: Number, S: Simd>(values: *const T, costs: *const T, q: usize) -> T::Block<S> {
    // SAFETY: as the caller.
    unsafe { T::Block::<S>::load(values.add(q)).add(T::Block::<S>::load(costs.add(q))) }
}
