//! The logits of all pixels in one cell, from those at its four corners.

use super::tile::{Label, Output};
use crate::simd::Simd;

/// The most lanes of any vector.
pub const MAX_LANES: usize = 16;

/// A cell: where its corners and its pixels' weights are.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// The first corner, in the first plane.
    pub corner: *const f32,
    /// Values from one plane to the next.
    pub plane: usize,
    /// Values from one row of samples to the next.
    pub pitch: usize,
    /// Vectors of weights along x.
    pub weights_x: *const f32,
    /// Vectors of weights along y.
    pub weights_y: *const f32,
    /// Base-2 logarithm of the lanes that one row of pixels takes in a vector.
    pub shift: usize,
    /// Columns of pixels.
    pub columns: usize,
    /// Rows of pixels.
    pub rows: usize,
    /// Whether the columns and the rows lie on samples because there are as many.
    pub same: (bool, bool),
}

/// Some pixels of a cell that one vector holds.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    row: usize,
    column: usize,
    rows: usize,
    columns: usize,
}

/// The weights of the four corners in a block: left, right, top, bottom.
#[derive(Clone, Copy, Debug)]
pub struct Weights<V> {
    left: V,
    right: V,
    top: V,
    bottom: V,
}

impl Cell {
    /// The blocks with their weights.
    ///
    /// # Safety
    /// The instruction set of `S` must be available; the weights must be there.
    #[inline(always)]
    pub unsafe fn blocks<S: Simd>(self) -> impl Iterator<Item = (Block, Weights<S::V>)> {
        let (width, height) = (1 << self.shift, S::LANES >> self.shift);
        (0..self.rows).step_by(height).enumerate().flat_map(move |(i, row)| {
            (0..self.columns).step_by(width).enumerate().map(move |(j, column)| {
                let block = Block {
                    row,
                    column,
                    rows: height.min(self.rows - row),
                    columns: width.min(self.columns - column),
                };
                // SAFETY: as the caller.
                let weights = unsafe {
                    let right = S::load(self.weights_x.add(j * S::LANES));
                    let bottom = S::load(self.weights_y.add(i * S::LANES));
                    let one = S::splat(1.0);
                    Weights { left: S::sub(one, right), right, top: S::sub(one, bottom), bottom }
                };
                (block, weights)
            })
        })
    }

    /// The logits of a class in a block.
    ///
    /// # Safety
    /// The instruction set of `S` must be available; the class must have a plane.
    #[inline(always)]
    pub unsafe fn logits<S: Simd>(self, class: u32, w: Weights<S::V>) -> S::V {
        // SAFETY: as the caller.
        unsafe {
            let corner = self.corner.add(class as usize * self.plane);
            let below = corner.add(self.pitch);
            let (a, b) = (S::splat(*corner), S::splat(*corner.add(1)));
            let (c, d) = (S::splat(*below), S::splat(*below.add(1)));
            let upper = S::mul_add(w.right, b, S::mul(w.left, a));
            let lower = S::mul_add(w.right, d, S::mul(w.left, c));
            S::mul_add(w.bottom, lower, S::mul(w.top, upper))
        }
    }

    /// The likeliest of some classes in a block, the first of equal ones; None where a logit is NaN,
    /// if `WARY`.
    ///
    /// # Safety
    /// The instruction set of `S` must be available; the classes must have planes.
    #[inline(always)]
    pub unsafe fn likeliest<S: Simd, const WARY: bool>(
        self,
        classes: &[u32],
        weights: Weights<S::V>,
    ) -> Option<S::V> {
        // SAFETY: as the caller.
        unsafe {
            let mut best = S::splat(f32::NEG_INFINITY);
            let mut label = S::splat(classes.first().map_or(0.0, |&class| class as f32));
            let mut sound = u32::MAX;
            for &class in classes {
                let logits = self.logits::<S>(class, weights);
                if WARY {
                    sound &= S::at_least(logits, logits);
                }
                label = S::if_greater(logits, best, S::splat(class as f32), label);
                best = S::max(logits, best);
            }
            let all = u32::MAX >> (32 - S::LANES);
            (!WARY || sound & all == all).then_some(label)
        }
    }

    /// The logit of a class at one pixel, with care for what is not finite.
    ///
    /// # Safety
    /// The class must have a plane, and the cell the pixel.
    pub unsafe fn logit(self, class: u32, row: usize, column: usize, lanes: usize) -> f32 {
        let width = 1 << self.shift;
        // SAFETY: as the caller; weights come in vectors of rows of `width` lanes.
        unsafe {
            let x = *self.weights_x.add(column / width * lanes + column % width);
            let per_vector = lanes >> self.shift;
            let y = *self.weights_y.add(row / per_vector * lanes + row % per_vector * width);
            let corner = self.corner.add(class as usize * self.plane);
            let below = corner.add(self.pitch);
            let upper = mixture(*corner, *corner.add(1), x, self.same.0);
            let lower = mixture(*below, *below.add(1), x, self.same.0);
            mixture(upper, lower, y, self.same.1)
        }
    }
}

/// `(1 - weight)·a + weight·b`, where an infinite value of no weight does not count.
///
/// As in PyTorch, NaN spoils it whatever its weight, except where samples are not mixed at all.
fn mixture(a: f32, b: f32, weight: f32, same: bool) -> f32 {
    if same || (weight == 0.0 && !b.is_nan()) {
        a
    } else if weight == 1.0 && !a.is_nan() {
        b
    } else {
        weight.mul_add(b, (1.0 - weight) * a)
    }
}

impl Block {
    /// The pixels of the block with their lanes, as (row, column, lane).
    #[inline(always)]
    pub fn pixels(self, shift: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..self.rows).flat_map(move |row| {
            (0..self.columns)
                .map(move |column| (self.row + row, self.column + column, (row << shift) + column))
        })
    }

    /// Writes the block's lanes as labels.
    ///
    /// # Safety
    /// The instruction set of `S` must be available; `cell` must begin at the cell's first pixel.
    #[inline(always)]
    pub unsafe fn write<S: Simd, T: Label>(self, shift: usize, lanes: S::V, cell: Output<T>) {
        let mut values = [0.0; MAX_LANES];
        // SAFETY: as the caller; no vector is longer than `values`.
        unsafe {
            S::store(values.as_mut_ptr(), lanes);
            let labels = values.map(T::from_lane);
            let to = cell.at(self.row, self.column);
            for row in 0..self.rows {
                let from = labels.as_ptr().add(row << shift);
                let to = to.start.add(row * to.pitch);
                match self.columns {
                    4 => to.cast::<[T; 4]>().write_unaligned(*from.cast()),
                    8 => to.cast::<[T; 8]>().write_unaligned(*from.cast()),
                    2 => to.cast::<[T; 2]>().write_unaligned(*from.cast()),
                    columns => {
                        for column in 0..columns {
                            *to.add(column) = *from.add(column);
                        }
                    }
                }
            }
        }
    }
}
