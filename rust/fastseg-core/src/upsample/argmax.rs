//! The likeliest class of every pixel, without the pixels' logits.
//!
//! All pixels of a cell are convex combinations of its four corners. A class can therefore only win
//! inside where its largest corner reaches the largest among the classes' smallest corners, and in
//! most cells only one class does. One pass over the logits finds these cells; in the others the
//! classes that can win are evaluated at every pixel.

use super::cell::{Cell, MAX_LANES};
use super::tile::{Label, Output, Planes, Resampling, Tile};
use crate::simd::{Kernel, Simd, dispatch};

/// Channels that are looked at together, so that what is known of a cell stays in registers.
const GROUP: usize = 4;

/// What a thread needs to label tiles.
#[derive(Debug)]
pub struct Labeller {
    planes: Planes,
    /// For each cell: the largest of the classes' smallest corners.
    low: Vec<f32>,
    /// The largest corner of any class.
    high: Vec<f32>,
    /// The largest corner of any other class.
    second: Vec<f32>,
    /// The class with the largest corner.
    label: Vec<f32>,
    /// For each sample: 0 if all its logits are finite, else NaN.
    finite: Vec<f32>,
    /// The classes that can win, for each cell in a vector.
    candidates: Vec<u32>,
}

impl Labeller {
    pub fn new(job: &Resampling, tiles: &[Tile]) -> Self {
        let planes = Planes::new(job, tiles);
        let cells = vec![0.0; planes.plane + 16];
        Self {
            low: cells.clone(),
            high: cells.clone(),
            second: cells.clone(),
            label: cells.clone(),
            finite: cells,
            candidates: vec![0; MAX_LANES * job.classes()],
            planes,
        }
    }

    /// Labels the pixels of a tile.
    ///
    /// # Safety
    /// `output` must begin at the tile's first pixel and hold all of them.
    pub unsafe fn label<T: Label>(&mut self, job: &Resampling, tile: &Tile, output: Output<T>) {
        dispatch(Survey { own: self, job, tile });
        dispatch(LabelTile { own: self, job, tile, output });
    }
}

/// Reads the tile's logits and gathers what decides its cells.
struct Survey<'a> {
    own: &'a mut Labeller,
    job: &'a Resampling<'a>,
    tile: &'a Tile,
}

impl Kernel for Survey<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: `dispatch` vouches for `S`.
        unsafe {
            if is_mixed(self.job) {
                self.survey::<S, true>();
            } else {
                self.survey::<S, false>();
            }
        }
    }
}

/// Whether pixels lie between samples at all.
fn is_mixed(job: &Resampling) -> bool {
    job.same() != (true, true)
}

impl Survey<'_> {
    /// Without `MIXED` only the first corner counts.
    #[inline(always)]
    unsafe fn survey<S: Simd, const MIXED: bool>(&mut self) {
        let own = &mut *self.own;
        let plane = own.planes.plane;
        let (classes, rows) = (self.job.classes(), self.tile.cells_y.len() + 1);
        let vectors = self.tile.cells_x.len().next_multiple_of(S::LANES);
        own.low.fill(f32::NEG_INFINITY);
        own.high.fill(f32::NEG_INFINITY);
        own.second.fill(f32::NEG_INFINITY);
        own.label.fill(0.0);
        own.finite.fill(0.0);
        for first in (0..classes).step_by(GROUP) {
            let channels = first..(first + GROUP).min(classes);
            // SAFETY: the planes have room for the tile; the cells' arrays are as large as a plane.
            unsafe {
                let to = own.planes.read(self.job, self.tile, channels.clone(), vectors);
                if channels.len() == GROUP {
                    Self::observe::<S, GROUP, MIXED>(own, to, rows, vectors, first);
                } else {
                    for (i, channel) in channels.enumerate() {
                        let to = to.add(i * plane);
                        Self::observe::<S, 1, MIXED>(own, to, rows, vectors, channel);
                    }
                }
            }
        }
    }

    /// Looks at `N` planes of `rows` rows.
    #[inline(always)]
    unsafe fn observe<S: Simd, const N: usize, const MIXED: bool>(
        own: &mut Labeller,
        planes: *const f32,
        rows: usize,
        vectors: usize,
        first: usize,
    ) {
        let (plane, pitch) = (own.planes.plane, own.planes.pitch);
        let zero = 0.0;
        // SAFETY: `survey` filled the planes as far as vectors read; the cells' arrays are as large
        // as a plane.
        unsafe {
            for row in 0..rows {
                // One column more than there are cells.
                for x in (0..=vectors).step_by(S::LANES) {
                    let at = row * pitch + x;
                    let seen = own.finite.as_mut_ptr().add(at);
                    let mut finite = S::load(seen);
                    for i in 0..N {
                        let v = S::load(planes.add(i * plane + at));
                        finite = S::mul_add(v, S::splat(zero), finite);
                    }
                    S::store(seen, finite);
                }
            }
            for row in 0..rows - 1 {
                for x in (0..vectors).step_by(S::LANES) {
                    let at = row * pitch + x;
                    let (to_low, to_high) =
                        (own.low.as_mut_ptr().add(at), own.high.as_mut_ptr().add(at));
                    let (to_second, to_label) =
                        (own.second.as_mut_ptr().add(at), own.label.as_mut_ptr().add(at));
                    let (mut low, mut high) = (S::load(to_low), S::load(to_high));
                    let (mut second, mut label) = (S::load(to_second), S::load(to_label));
                    for i in 0..N {
                        let corner = planes.add(i * plane + at);
                        let a = S::load(corner);
                        let class = S::splat((first + i) as f32);
                        if MIXED {
                            let b = S::load(corner.add(1));
                            let (c, d) =
                                (S::load(corner.add(pitch)), S::load(corner.add(pitch + 1)));
                            let smallest = S::min(S::min(a, b), S::min(c, d));
                            let largest = S::max(S::max(a, b), S::max(c, d));
                            low = S::max(low, smallest);
                            second = S::max(second, S::min(high, largest));
                            label = S::if_greater(largest, high, class, label);
                            high = S::max(high, largest);
                        } else {
                            label = S::if_greater(a, high, class, label);
                            high = S::max(high, a);
                        }
                    }
                    if MIXED {
                        S::store(to_low, low);
                        S::store(to_second, second);
                    }
                    S::store(to_high, high);
                    S::store(to_label, label);
                }
            }
        }
    }
}

/// Labels a tile that was surveyed.
struct LabelTile<'a, T> {
    own: &'a mut Labeller,
    job: &'a Resampling<'a>,
    tile: &'a Tile,
    output: Output<T>,
}

impl<T: Label> Kernel for LabelTile<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: the caller of `Labeller::label` vouches for the output, `dispatch` for `S`.
        unsafe {
            let mixed = is_mixed(self.job);
            for row in 0..self.tile.cells_y.len() {
                let rows = self.tile.rows_of(&self.job.y, self.tile.cells_y.start + row);
                if rows.is_empty() {
                    continue;
                }
                let output = self.output.at(rows.start - self.tile.pixels_y.start, 0);
                self.fill(row, rows.len(), output);
                self.own.planes.weigh_rows(self.job, &rows);
                self.resolve::<S>(row, rows.len(), output, mixed);
            }
        }
    }
}

impl<T: Label> LabelTile<'_, T> {
    /// Gives every pixel of a row of cells the class with the cell's largest corner.
    #[inline(always)]
    unsafe fn fill(&self, row: usize, rows: usize, output: Output<T>) {
        let labels = &self.own.label[row * self.own.planes.pitch..];
        let width = self.tile.pixels_x.len();
        // SAFETY: the cells' pixels are the tile's.
        unsafe {
            let mut to = output.start;
            for (label, cell) in labels.iter().zip(self.tile.cells_x.clone()) {
                let label = T::from_lane(*label);
                let pixels = self.job.x.inside(cell).len();
                match pixels {
                    4 => to.cast::<[T; 4]>().write_unaligned([label; 4]),
                    8 => to.cast::<[T; 8]>().write_unaligned([label; 8]),
                    2 => to.cast::<[T; 2]>().write_unaligned([label; 2]),
                    _ => {
                        for i in 0..pixels {
                            *to.add(i) = label;
                        }
                    }
                }
                to = to.add(pixels);
            }
            for below in 1..rows {
                std::ptr::copy_nonoverlapping(output.start, output.at(below, 0).start, width);
            }
        }
    }

    /// Evaluates the cells of a row in which several classes can win.
    #[inline(always)]
    unsafe fn resolve<S: Simd>(&mut self, row: usize, rows: usize, output: Output<T>, mixed: bool) {
        let own = &mut *self.own;
        let (plane, pitch) = (own.planes.plane, own.planes.pitch);
        let classes = self.job.classes();
        let cells = self.tile.cells_x.len();
        for x in (0..cells).step_by(S::LANES) {
            let at = row * pitch + x;
            // SAFETY: as in `observe`.
            let (odd, open, low) = unsafe {
                let finite = |at: usize| {
                    let v = S::load(own.finite.as_ptr().add(at));
                    S::at_least(v, v)
                };
                let mut finite_all = finite(at);
                if mixed {
                    finite_all &= finite(at + 1) & finite(at + pitch) & finite(at + pitch + 1);
                }
                let low = S::load(own.low.as_ptr().add(at));
                let several = S::at_least(S::load(own.second.as_ptr().add(at)), low);
                let there = u32::MAX >> (32 - S::LANES.min(cells - x));
                let odd = !finite_all & there;
                (odd, if mixed { several & there & !odd } else { 0 }, low)
            };
            if odd | open == 0 {
                continue;
            }
            let mut counts = [0usize; MAX_LANES];
            if open != 0 {
                for class in 0..classes {
                    // SAFETY: as in `observe`; each list has room for all classes.
                    unsafe {
                        let corner = own.planes.corner(0, 0).add(class * plane + at);
                        let upper = S::max(S::load(corner), S::load(corner.add(1)));
                        let lower =
                            S::max(S::load(corner.add(pitch)), S::load(corner.add(pitch + 1)));
                        let mut can_win = S::at_least(S::max(upper, lower), low) & open;
                        while can_win != 0 {
                            let lane = can_win.trailing_zeros() as usize;
                            can_win &= can_win - 1;
                            let list = own.candidates.as_mut_ptr().add(lane * classes);
                            *list.add(counts[lane]) = class as u32;
                            counts[lane] += 1;
                        }
                    }
                }
            }
            let mut left = odd | open;
            while left != 0 {
                let lane = left.trailing_zeros() as usize;
                left &= left - 1;
                let column = self.tile.cells_x.start + x + lane;
                let pixels = self.job.x.inside(column);
                if pixels.is_empty() {
                    continue;
                }
                let cell = own.planes.cell(self.job, column, (row, x + lane), rows);
                // SAFETY: the planes and weights are those of this cell, and its pixels the tile's.
                unsafe {
                    let to = output.at(0, pixels.start - self.tile.pixels_x.start);
                    if odd >> lane & 1 == 1 {
                        label_odd::<S, T>(cell, &own.planes.every, to);
                    } else {
                        let list = &own.candidates[lane * classes..][..counts[lane]];
                        label_cell::<S, T>(cell, list, to);
                    }
                }
            }
        }
    }
}

/// Labels a cell of finite logits in which some classes can win.
#[inline(always)]
unsafe fn label_cell<S: Simd, T: Label>(cell: Cell, classes: &[u32], to: Output<T>) {
    // SAFETY: as the caller.
    unsafe {
        for (block, weights) in cell.blocks::<S>() {
            if let Some(labels) = cell.likeliest::<S, false>(classes, weights) {
                block.write::<S, T>(cell.shift, labels, to);
            }
        }
    }
}

/// Labels a cell with NaN or infinite logits at its corners.
#[inline(always)]
unsafe fn label_odd<S: Simd, T: Label>(cell: Cell, every: &[u32], to: Output<T>) {
    // SAFETY: as the caller.
    unsafe {
        for (block, weights) in cell.blocks::<S>() {
            if let Some(labels) = cell.likeliest::<S, true>(every, weights) {
                block.write::<S, T>(cell.shift, labels, to);
                continue;
            }
            for (row, column, _) in block.pixels(cell.shift) {
                let class = carefully(cell, every.len() as u32, row, column, S::LANES);
                *to.at(row, column).start = T::from_class(class);
            }
        }
    }
}

/// The likeliest class at a pixel: the first that is NaN, or else the first of the largest.
unsafe fn carefully(cell: Cell, classes: u32, row: usize, column: usize, lanes: usize) -> u32 {
    let (mut best, mut label) = (f32::NEG_INFINITY, 0);
    for class in 0..classes {
        // SAFETY: as the caller.
        let logit = unsafe { cell.logit(class, row, column, lanes) };
        if logit.is_nan() {
            return class;
        }
        if logit > best {
            (best, label) = (logit, class);
        }
    }
    label
}
