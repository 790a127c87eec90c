//! The surface of one label as a grid of codes.

use rayon::prelude::*;

use super::Elements;
use super::boxes::{Bounds, Label};
use crate::simd::{Kernel, Simd, dispatch};

/// Codes, zero where the surface does not pass.
pub(super) struct Codes {
    pub shape: [usize; 3],
    pub values: Vec<u8>,
}

/// The surface of `label` inside `bounds`. Both outside of them and of the map, nothing is inside.
pub(super) fn codes<L: Label>(
    map: &[L],
    shape: [usize; 3],
    bounds: Bounds,
    label: L,
    elements: Elements,
) -> Codes {
    let len: [usize; 3] = std::array::from_fn(|i| bounds.last[i] - bounds.first[i] + 1);
    let cells = usize::from(elements == Elements::Cells);
    // Axes of one place are those of a picture: it has no cells along them.
    let flat = shape[1] == 1;
    let grown = [len[0] + cells, len[1] + if flat { 0 } else { cells }, len[2] + cells];
    let mut values = vec![0; grown.iter().product()];
    let inside = Inside { map, shape, bounds, len, label };
    values.par_chunks_mut(grown[1] * grown[2]).enumerate().for_each(|(z, plane)| {
        dispatch(Plane { inside, z, plane, width: grown[2], elements, flat });
    });
    Codes { shape: grown, values }
}

/// Where a label is inside its bounds.
#[derive(Clone, Copy)]
struct Inside<'a, L> {
    map: &'a [L],
    shape: [usize; 3],
    bounds: Bounds,
    len: [usize; 3],
    label: L,
}

impl<L: Label> Inside<'_, L> {
    /// One row, if it exists: rows are counted from one, row zero lies before the bounds.
    #[inline(always)]
    fn row(&self, z: usize, y: usize) -> Option<&[L]> {
        if !(1..=self.len[0]).contains(&z) || !(1..=self.len[1]).contains(&y) {
            return None;
        }
        let [first_z, first_y, first_x] = self.bounds.first;
        let row = (first_z + z - 1) * self.shape[1] + first_y + y - 1;
        Some(&self.map[row * self.shape[2] + first_x..][..self.len[2]])
    }

    /// Adds `weight` where the label is.
    #[inline(always)]
    fn add(&self, z: usize, y: usize, weight: u8, sums: &mut [u8]) {
        if let Some(row) = self.row(z, y) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += if value == self.label { weight } else { 0 };
            }
        }
    }
}

/// One plane of codes.
struct Plane<'a, L> {
    inside: Inside<'a, L>,
    z: usize,
    plane: &'a mut [u8],
    width: usize,
    elements: Elements,
    flat: bool,
}

impl<L: Label> Kernel for Plane<'_, L> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { inside, z, plane, width, elements, flat } = self;
        let mut sums = vec![0u8; inside.len[2] + 2];
        for (y, codes) in plane.chunks_exact_mut(width).enumerate() {
            sums.fill(0);
            let row = &mut sums[1..=inside.len[2]];
            match elements {
                Elements::Cells if flat => {
                    inside.add(z, 1, 4, row);
                    inside.add(z + 1, 1, 1, row);
                    cells(&sums, codes, 15);
                }
                Elements::Cells => {
                    inside.add(z, y, 64, row);
                    inside.add(z, y + 1, 16, row);
                    inside.add(z + 1, y, 4, row);
                    inside.add(z + 1, y + 1, 1, row);
                    cells(&sums, codes, 255);
                }
                Elements::Pixels => {
                    inside.add(z + 1, y + 1, 128, row);
                    inside.add(z, y + 1, 1, row);
                    inside.add(z + 2, y + 1, 1, row);
                    if !flat {
                        inside.add(z + 1, y, 1, row);
                        inside.add(z + 1, y + 2, 1, row);
                    }
                    pixels(&sums, codes, if flat { 2 } else { 4 });
                }
            }
        }
    }
}

/// Joins the sums on both sides of each cell; one that is `full` is not on the surface.
#[inline(always)]
fn cells(sums: &[u8], codes: &mut [u8], full: u8) {
    for ((code, &left), &right) in codes.iter_mut().zip(sums).zip(&sums[1..]) {
        let sum = left << 1 | right;
        *code = if sum == full { 0 } else { sum };
    }
}

/// Marks what is inside, unless its neighbours in the row and `others` more are inside, too.
#[inline(always)]
fn pixels(sums: &[u8], codes: &mut [u8], others: u8) {
    let neighbours = sums.iter().zip(&sums[1..]).zip(&sums[2..]);
    for (code, ((&left, &here), &right)) in codes.iter_mut().zip(neighbours) {
        let within = left & right & 128 != 0 && here == 128 + others;
        *code = u8::from(here & 128 != 0 && !within);
    }
}
