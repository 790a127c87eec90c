//! Exact Euclidean distances to the nearest feature of a grid of two or three axes.
//!
//! Distances along the first axis are counted by two sweeps over whole planes; the other axes are
//! done plane by plane, in scratch memory of one plane for each thread. Every value is a sum of one
//! squared length per axis, added in the order of the axes, whatever the number of threads.

mod envelope;
mod line;
mod nearest;
mod number;
mod passes;
mod scan;

use rayon::prelude::*;

use crate::control::{Cancelled, Control};
use crate::simd::blocks::BLOCK;
use crate::simd::{Kernel, Simd, dispatch};
pub use nearest::nearest_features;
pub use number::Number;
use passes::Passes;
use scan::{Count, Scan};

/// Places that one task works on, at least, so that it is worth handing out.
const TASK: usize = 1 << 14;

/// A grid of three axes; one of two has its middle axis of length one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Length of each axis, none of them zero.
    pub shape: [usize; 3],
    /// Distance between neighbours along each axis, positive and finite.
    pub spacing: [f64; 3],
}

impl Grid {
    /// How many places there are.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The squares of the spacing, if all squared distances are integers below [`i32::FAR`].
    pub fn integer_scales(&self) -> Option<[i32; 3]> {
        let mut farthest = 0.0;
        for (&len, &spacing) in self.shape.iter().zip(&self.spacing) {
            // Lines are worked through in whole blocks, and an axis of one place has no steps.
            let steps = if len > 1 { (len + BLOCK) as f64 * spacing } else { 0.0 };
            farthest += steps * steps;
            if len > 1 && spacing.fract() != 0.0 {
                return None;
            }
        }
        let scale = |i: usize| {
            if self.shape[i] > 1 { (self.spacing[i] * self.spacing[i]) as i32 } else { 1 }
        };
        (farthest < f64::from(i32::FAR)).then(|| [scale(0), scale(1), scale(2)])
    }
}

/// What becomes of a squared distance.
pub trait Output<T>: Copy + Send {
    /// The value to write.
    fn from_square(square: T) -> Self;
}

impl Output<i32> for f32 {
    #[inline(always)]
    fn from_square(square: i32) -> Self {
        if square >= i32::FAR { f32::INFINITY } else { (square as f32).sqrt() }
    }
}

impl Output<f64> for f32 {
    #[inline(always)]
    fn from_square(square: f64) -> Self {
        square.sqrt() as f32
    }
}

impl Output<i32> for i32 {
    #[inline(always)]
    fn from_square(square: i32) -> Self {
        if square >= i32::FAR { i32::MAX } else { square }
    }
}

impl Output<f64> for i64 {
    #[inline(always)]
    fn from_square(square: f64) -> Self {
        // A cast takes infinity to the largest integer.
        square as i64
    }
}

/// Writes the distance of every place to the nearest one where `mask` is zero, infinite where there
/// is none.
pub fn transform(
    mask: &[u8],
    grid: &Grid,
    out: &mut [f32],
    control: &Control,
) -> Result<(), Cancelled> {
    match grid.integer_scales() {
        Some(scales) => write::<i32, f32>(mask, grid, scales, out, control),
        None => write::<f64, f32>(mask, grid, grid.spacing, out, control),
    }
}

/// Squared distances of a grid whose [`Grid::integer_scales`] are given, [`i32::MAX`] where there
/// is no feature.
pub fn squares(
    mask: &[u8],
    grid: &Grid,
    scales: [i32; 3],
    out: &mut [i32],
    control: &Control,
) -> Result<(), Cancelled> {
    write::<i32, i32>(mask, grid, scales, out, control)
}

/// Squared distances of a grid of integral spacing, [`i64::MAX`] where there is no feature; exact
/// below 2^53.
pub fn wide_squares(
    mask: &[u8],
    grid: &Grid,
    out: &mut [i64],
    control: &Control,
) -> Result<(), Cancelled> {
    write::<f64, i64>(mask, grid, grid.spacing, out, control)
}

/// The squared distances from all places where `from` is not zero to the nearest where `features` is
/// not, in the order of the places, each with the value of `from` there.
pub(crate) fn least_at<T: Number>(
    features: &[u8],
    from: &[u8],
    grid: &Grid,
    scales: [T; 3],
    control: &Control,
) -> Result<Vec<(T, u8)>, Cancelled> {
    if grid.shape[0] < usize::from(u16::MAX) {
        let scan = Scan::<u16>::new(features, grid.shape[0], |x| x != 0, control)?;
        least_in_planes(&scan, from, grid, scales, control)
    } else {
        let scan = Scan::<u32>::new(features, grid.shape[0], |x| x != 0, control)?;
        least_in_planes(&scan, from, grid, scales, control)
    }
}

fn least_in_planes<C: Count, T: Number>(
    scan: &Scan<C>,
    from: &[u8],
    grid: &Grid,
    scales: [T; 3],
    control: &Control,
) -> Result<Vec<(T, u8)>, Cancelled> {
    let [_, rows, width] = grid.shape;
    let plane = scan.plane();
    let planes = TASK.div_ceil(plane);
    let room =
        || (vec![T::FAR; plane], Passes::new(rows, width, [scales[1], scales[2]]), Vec::new());
    let found: Result<Vec<_>, Cancelled> = from
        .par_chunks(planes * plane)
        .enumerate()
        .map_init(room, |room, (task, from)| {
            control.check()?;
            let (values, passes, at) = room;
            let (first, scale) = (task * planes, scales[0]);
            let mut found = Vec::new();
            let found_in = &mut found;
            dispatch(LeastAt {
                scan,
                first,
                scale,
                width,
                values,
                passes,
                at,
                from,
                found: found_in,
            });
            Ok(found)
        })
        .collect();
    Ok(found?.concat())
}

/// The second and third axis of some planes, where something is asked for.
struct LeastAt<'a, C, T: Number> {
    scan: &'a Scan<C>,
    first: usize,
    scale: T,
    width: usize,
    values: &'a mut [T],
    passes: &'a mut Passes<T>,
    at: &'a mut Vec<u32>,
    from: &'a [u8],
    found: &'a mut Vec<(T, u8)>,
}

impl<C: Count, T: Number> Kernel for LeastAt<'_, C, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { scan, first, scale, width, values, passes, at, from, found } = self;
        for (z, from) in (first..).zip(from.chunks_exact(values.len())) {
            if from.iter().fold(0, |any, &code| any | code) == 0 {
                continue;
            }
            scan.load(z, scale, values);
            // SAFETY: the caller has the instruction set.
            unsafe { passes.columns::<S>(values, width) };
            for (row, from) in values.chunks_exact(width).zip(from.chunks_exact(width)) {
                at.clear();
                at.extend((0..).zip(from).filter_map(|(x, &code)| (code != 0).then_some(x)));
                // SAFETY: as above.
                unsafe {
                    passes
                        .places::<S>(row, at, |i, least| found.push((least, from[at[i] as usize])))
                };
            }
        }
    }
}

fn write<T: Number, O: Output<T>>(
    mask: &[u8],
    grid: &Grid,
    scales: [T; 3],
    out: &mut [O],
    control: &Control,
) -> Result<(), Cancelled> {
    assert_eq!((mask.len(), out.len()), (grid.len(), grid.len()), "arrays of the grid's size");
    if grid.shape[0] < usize::from(u16::MAX) {
        let scan = Scan::<u16>::new(mask, grid.shape[0], |x| x == 0, control)?;
        write_planes(&scan, grid, scales, out, control)
    } else {
        let scan = Scan::<u32>::new(mask, grid.shape[0], |x| x == 0, control)?;
        write_planes(&scan, grid, scales, out, control)
    }
}

fn write_planes<C: Count, T: Number, O: Output<T>>(
    scan: &Scan<C>,
    grid: &Grid,
    scales: [T; 3],
    out: &mut [O],
    control: &Control,
) -> Result<(), Cancelled> {
    let plane = scan.plane();
    let planes = TASK.div_ceil(plane);
    let [_, rows, width] = grid.shape;
    let room = || (vec![T::FAR; plane], Passes::new(rows, width, [scales[1], scales[2]]));
    out.par_chunks_mut(planes * plane).enumerate().try_for_each_init(room, |room, (task, out)| {
        control.check()?;
        let (values, passes) = room;
        let (first, scale) = (task * planes, scales[0]);
        dispatch(WritePlanes { scan, first, scale, width, values, passes, out });
        Ok(())
    })
}

/// The second and third axis of some planes.
struct WritePlanes<'a, C, T: Number, O> {
    scan: &'a Scan<C>,
    first: usize,
    scale: T,
    width: usize,
    values: &'a mut [T],
    passes: &'a mut Passes<T>,
    out: &'a mut [O],
}

impl<C: Count, T: Number, O: Output<T>> Kernel for WritePlanes<'_, C, T, O> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { scan, first, scale, width, values, passes, out } = self;
        for (z, out) in (first..).zip(out.chunks_exact_mut(values.len())) {
            scan.load(z, scale, values);
            // SAFETY: the caller has the instruction set.
            unsafe { passes.columns::<S>(values, width) };
            for (row, out) in values.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                // SAFETY: as above.
                let least = unsafe { passes.row::<S>(row) };
                for (to, &square) in out.iter_mut().zip(least) {
                    *to = O::from_square(square);
                }
            }
        }
    }
}
