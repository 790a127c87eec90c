//! The second and third axis of one plane.

use super::line::Line;
use super::number::Number;
use crate::simd::Simd;

/// Columns that are turned into lines together: a cache line of integers.
const TILE: usize = 16;
/// Steps looked at for some places of a row that take as long as the whole row, per place of it.
const WORTH: usize = 2;

/// Room for the work on one plane.
pub(super) struct Passes<T: Number> {
    columns: Vec<Line<T>>,
    row: Line<T>,
    scale: T,
}

impl<T: Number> Passes<T> {
    /// For planes of `rows` rows of `width` places, with the scales of both axes.
    pub fn new(rows: usize, width: usize, scales: [T; 2]) -> Self {
        let columns = if rows > 1 { TILE.min(width) } else { 0 };
        Self {
            columns: (0..columns).map(|_| Line::new(rows, scales[0])).collect(),
            row: Line::new(width, scales[1]),
            scale: scales[1],
        }
    }

    /// The second axis, in place; planes of one row stay as they are.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    pub unsafe fn columns<S: Simd>(&mut self, plane: &mut [T], width: usize) {
        if self.columns.is_empty() {
            return;
        }
        for first in (0..width).step_by(TILE) {
            let lines = &mut self.columns[..TILE.min(width - first)];
            for (y, row) in plane.chunks_exact(width).enumerate() {
                for (line, &value) in lines.iter_mut().zip(&row[first..]) {
                    line.values()[y] = value;
                }
            }
            for (i, line) in lines.iter_mut().enumerate() {
                // SAFETY: as the caller.
                let least = unsafe { line.least::<S>() };
                for (row, &least) in plane.chunks_exact_mut(width).zip(least) {
                    row[first + i] = least;
                }
            }
        }
    }

    /// The third axis of one row.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    pub unsafe fn row<S: Simd>(&mut self, row: &[T]) -> &[T] {
        self.row.values().copy_from_slice(row);
        // SAFETY: as the caller.
        unsafe { self.row.least::<S>() }
    }

    /// The third axis at some places of one row: calls `write(i, least)` for the `i`th of them.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    pub unsafe fn places<S: Simd>(
        &mut self,
        row: &[T],
        at: &[u32],
        mut write: impl FnMut(usize, T),
    ) {
        let mut left = WORTH * row.len();
        for (i, &x) in at.iter().enumerate() {
            let x = x as usize;
            let mut least = row[x];
            let mut step = 1;
            while step < row.len() && left > 0 {
                let cost = T::cost(self.scale, step);
                if cost >= least {
                    break;
                }
                if x >= step {
                    least = least.least(row[x - step].plus(cost));
                }
                if x + step < row.len() {
                    least = least.least(row[x + step].plus(cost));
                }
                step += 1;
                left -= 1;
            }
            if left == 0 {
                // SAFETY: as the caller.
                let least = unsafe { self.row::<S>(row) };
                at.iter().enumerate().skip(i).for_each(|(i, &x)| write(i, least[x as usize]));
                return;
            }
            write(i, least);
        }
    }
}
