//! Which feature is nearest.

use rayon::prelude::*;

use super::Grid;
use super::envelope::Envelope;
use super::number::Number;
use crate::control::{Cancelled, Control};

/// There is no feature.
const NONE: i32 = -1;

/// Writes, for each place, the three coordinates of a nearest place where `mask` is zero, one array
/// after the other; −1 where there is none.
pub fn nearest_features(
    mask: &[u8],
    grid: &Grid,
    out: &mut [i32],
    control: &Control,
) -> Result<(), Cancelled> {
    assert_eq!((mask.len(), out.len()), (grid.len(), 3 * grid.len()), "arrays of the grid's size");
    match grid.integer_scales() {
        Some(scales) => find(mask, grid, scales, out, control),
        None => find(mask, grid, grid.spacing, out, control),
    }
}

fn find<T: Number>(
    mask: &[u8],
    grid: &Grid,
    scales: [T; 3],
    out: &mut [i32],
    control: &Control,
) -> Result<(), Cancelled> {
    let [_, rows, width] = grid.shape;
    let plane = rows * width;
    let (first, rest) = out.split_at_mut(grid.len());
    let (second, third) = rest.split_at_mut(grid.len());
    nearest_planes(mask, plane, first);
    let room = || Rows {
        squares: vec![T::FAR; plane],
        planes: vec![NONE; plane],
        line: Vec::new(),
        envelope: Envelope::new(),
    };
    let planes =
        (first.par_chunks_mut(plane), second.par_chunks_mut(plane), third.par_chunks_mut(plane));
    planes.into_par_iter().enumerate().try_for_each_init(
        room,
        |room, (z, (first, second, third))| {
            control.check()?;
            room.columns(z, width, scales, first, second);
            room.rows(width, scales[2], first, second, third);
            Ok(())
        },
    )
}

/// The nearest plane that has a feature at the same place, the lower of two.
fn nearest_planes(mask: &[u8], plane: usize, out: &mut [i32]) {
    let planes = mask.len() / plane;
    for z in 0..planes {
        let (above, row) =
            out[z.saturating_sub(1) * plane..].split_at_mut(if z > 0 { plane } else { 0 });
        for (i, to) in row[..plane].iter_mut().enumerate() {
            let above = above.get(i).copied().unwrap_or(NONE);
            *to = if mask[z * plane + i] == 0 { z as i32 } else { above };
        }
    }
    for z in (0..planes - 1).rev() {
        let (row, below) = out[z * plane..].split_at_mut(plane);
        for (to, &below) in row.iter_mut().zip(&below[..plane]) {
            let here = z as i32;
            if below != NONE && (*to == NONE || (below - here).abs() < (here - *to).abs()) {
                *to = below;
            }
        }
    }
}

/// Room for the work on one plane.
struct Rows<T: Number> {
    squares: Vec<T>,
    planes: Vec<i32>,
    line: Vec<T>,
    envelope: Envelope<T>,
}

impl<T: Number> Rows<T> {
    /// The row of the nearest feature among those of the same column.
    fn columns(
        &mut self,
        z: usize,
        width: usize,
        scales: [T; 3],
        first: &[i32],
        second: &mut [i32],
    ) {
        let Self { squares, planes, line, envelope } = self;
        planes.copy_from_slice(first);
        second.fill(NONE);
        for x in 0..width {
            line.clear();
            line.extend(planes.iter().skip(x).step_by(width).map(|&plane| {
                if plane == NONE { T::FAR } else { T::cost(scales[0], z.abs_diff(plane as usize)) }
            }));
            squares.iter_mut().skip(x).step_by(width).for_each(|square| *square = T::FAR);
            envelope.sweep(line, scales[1], |y, least, from| {
                squares[y * width + x] = least;
                second[y * width + x] = from as i32;
            });
        }
    }

    /// The place in the row of the nearest feature, and with it the other coordinates.
    fn rows(
        &mut self,
        width: usize,
        scale: T,
        first: &mut [i32],
        second: &mut [i32],
        third: &mut [i32],
    ) {
        let Self { squares, planes, line, envelope } = self;
        let mut nearest = vec![NONE; width];
        for (y, squares) in squares.chunks_exact(width).enumerate() {
            let (first, second, third) =
                (&mut first[y * width..], &mut second[y * width..], &mut third[y * width..]);
            nearest.copy_from_slice(&second[..width]);
            third[..width].fill(NONE);
            line.clear();
            line.extend_from_slice(squares);
            envelope.sweep(line, scale, |x, _, from| {
                third[x] = from as i32;
                second[x] = nearest[from];
                first[x] = planes[nearest[from] as usize * width + from];
            });
        }
    }
}
