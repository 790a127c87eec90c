//! The border weights of U-Net: heavy where a pixel lies between two cells that are near.
//!
//! The distances to the nearest and the second-nearest cell are exact. Two sweeps over the columns
//! keep, for each pixel, the two nearest different cells above or below it; each row then merges the
//! columns to the left and right, nearest first, until no farther one can matter. Two for each column
//! suffice: a third is farther than both, from wherever in the row it is looked at.

use rayon::prelude::*;

use crate::control::{Cancelled, Control};
use crate::simd::{Kernel, Simd, dispatch};

/// Rows that one task works on, at most; tasks come in fours, so that few threads share them evenly.
const BAND: usize = 80;
const EVENLY: usize = 4;
/// Pixels that are worked on together.
const BLOCK: usize = 64;
/// Columns merged between two looks at whether that is far enough.
const STRIDE: usize = 4;
/// The border term is taken as zero below two to this power: half of what float32 resolves at 1.
const NEGLIGIBLE: f64 = -25.0;

/// What a weight is made of: `class + w0·exp(−(d1 + d2)² / (2σ²))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Border {
    /// The largest border term.
    pub w0: f64,
    /// How fast it falls, in pixels.
    pub sigma: f64,
    /// The weight of the background and that of cells.
    pub class: [f32; 2],
    /// Whether cells have a border term, too.
    pub everywhere: bool,
}

impl Border {
    /// How far the farther cell may be, in pixels, for the term not to be negligible.
    pub fn reach(&self) -> usize {
        let decades = self.w0.ln() - NEGLIGIBLE * std::f64::consts::LN_2;
        if decades > 0.0 { (self.sigma * (2.0 * decades).sqrt()) as usize } else { 0 }
    }
}

/// What cells and squared distances are stored in.
pub trait Cell: Copy + Ord + Send + Sync + 'static {
    /// No cell.
    const NONE: Self;
    /// Farther than any.
    const FAR: Self;
    /// The farthest reach whose squared distances are below [`Self::FAR`].
    const REACH: usize;
    /// A number that is known to fit.
    fn new(number: usize) -> Self;
    /// The sum, at most [`Self::FAR`].
    fn plus(self, other: Self) -> Self;
    /// The square of a number of steps, [`Self::FAR`] if that is more than `reach`.
    fn square(self, reach: Self) -> Self;
    /// As a float.
    fn float(self) -> f32;
}

macro_rules! cell {
    ($type:ty, $reach:expr) => {
        impl Cell for $type {
            const NONE: Self = 0;
            const FAR: Self = <$type>::MAX;
            const REACH: usize = $reach;
            #[inline(always)]
            fn new(number: usize) -> Self {
                number as Self
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.saturating_add(other)
            }
            #[inline(always)]
            fn square(self, reach: Self) -> Self {
                if self > reach { Self::FAR } else { self.wrapping_mul(self) }
            }
            #[inline(always)]
            fn float(self) -> f32 {
                self as f32
            }
        }
    };
}
cell!(u16, 180);
cell!(u32, 46_000);

/// Writes the weight of each pixel of `cells`, rows of `width`, [`Cell::NONE`] being background.
///
/// A reach beyond [`Cell::REACH`] is cut off there.
pub fn border_weights<T: Cell>(
    cells: &[T],
    width: usize,
    border: &Border,
    out: &mut [f32],
    control: &Control,
) -> Result<(), Cancelled> {
    assert_eq!(cells.len(), out.len(), "a weight for each pixel");
    let height = cells.len() / width;
    let reach = border.reach().min(T::REACH);
    let rows = height.div_ceil(height.div_ceil(BAND).next_multiple_of(EVENLY));
    out.par_chunks_mut(rows * width).enumerate().try_for_each_init(
        || Band::new(rows, width, height, reach),
        |band, (task, out)| {
            control.check()?;
            dispatch(Weights { cells, border, first: task * rows, band, out });
            Ok(())
        },
    )
}

/// The two nearest cells of some places, and how far they are.
#[derive(Clone)]
struct Nearest<T> {
    far: [Vec<T>; 2],
    cell: [Vec<T>; 2],
}

impl<T: Cell> Nearest<T> {
    fn none(len: usize) -> Self {
        Self {
            far: [vec![T::FAR; len], vec![T::FAR; len]],
            cell: [vec![T::NONE; len], vec![T::NONE; len]],
        }
    }

    fn forget(&mut self) {
        self.far.iter_mut().for_each(|far| far.fill(T::FAR));
        self.cell.iter_mut().for_each(|cell| cell.fill(T::NONE));
    }

    /// One step further, then the cells of a row.
    #[inline(always)]
    fn step(&mut self, row: &[T]) {
        let [far, second_far] = &mut self.far;
        let [cell, second_cell] = &mut self.cell;
        let places = row.iter().zip(far).zip(second_far).zip(cell).zip(second_cell);
        for ((((&here, far), second_far), cell), second_cell) in places {
            let inside = here != T::NONE;
            let another = inside & (here != *cell);
            *second_cell = if another { *cell } else { *second_cell };
            *second_far = (if another { *far } else { *second_far }).plus(T::new(1));
            *far = if inside { T::new(0) } else { far.plus(T::new(1)) };
            *cell = if inside { here } else { *cell };
        }
    }
}

/// Room for the work on one band of rows, each padded on both sides by what a window reaches over.
struct Band<T> {
    width: usize,
    /// How far the two cells of a pixel may be together.
    both: f32,
    /// How far one may be.
    reach: usize,
    padded: usize,
    sweep: Nearest<T>,
    columns: Nearest<T>,
}

impl<T: Cell> Band<T> {
    fn new(rows: usize, width: usize, height: usize, both: usize) -> Self {
        // Beyond the picture there is no cell.
        let reach = both.min(height.max(width));
        let padded = width.next_multiple_of(BLOCK) + 2 * reach;
        Self {
            width,
            both: both as f32,
            reach,
            padded,
            sweep: Nearest::none(width),
            columns: Nearest::none(rows * padded),
        }
    }

    /// The two nearest cells of each column, for `rows` rows from `first`.
    #[inline(always)]
    fn sweep(&mut self, cells: &[T], first: usize, rows: usize) {
        let Self { width, reach, padded, .. } = *self;
        let height = cells.len() / width;
        let row = |y: usize| &cells[y * width..][..width];
        self.sweep.forget();
        for y in first.saturating_sub(reach)..first + rows {
            self.sweep.step(row(y));
            if y >= first {
                let at = (y - first) * padded + reach;
                for i in 0..2 {
                    self.columns.far[i][at..][..width].copy_from_slice(&self.sweep.far[i]);
                    self.columns.cell[i][at..][..width].copy_from_slice(&self.sweep.cell[i]);
                }
            }
        }
        self.sweep.forget();
        for y in (first..(first + rows + reach).min(height)).rev() {
            self.sweep.step(row(y));
            if y < first + rows {
                self.merge_sweep((y - first) * padded + reach);
            }
        }
    }

    /// Merges what lies below into what lies above, and squares the distances.
    #[inline(always)]
    fn merge_sweep(&mut self, at: usize) {
        let width = self.width;
        let reach = T::new(self.reach);
        let [far, second_far] = &mut self.columns.far;
        let [cell, second_cell] = &mut self.columns.cell;
        let (far, second_far) = (&mut far[at..][..width], &mut second_far[at..][..width]);
        let (cell, second_cell) = (&mut cell[at..][..width], &mut second_cell[at..][..width]);
        let [below_far, below_second_far] = self.sweep.far.each_ref().map(|far| &far[..width]);
        let [below_cell, below_second_cell] = self.sweep.cell.each_ref().map(|cell| &cell[..width]);
        for x in 0..width {
            let mut two = (far[x], cell[x], second_far[x], second_cell[x]);
            two = merge(two, below_far[x], below_cell[x]);
            two = merge(two, below_second_far[x], below_second_cell[x]);
            far[x] = two.0.square(reach);
            cell[x] = two.1;
            second_far[x] = two.2.square(reach);
            second_cell[x] = two.3;
        }
    }

    /// The squared distances of a block of pixels to their two nearest cells, as far as the sum of
    /// the distances is within reach. Only the pixels that are `asked` for are looked at.
    #[inline(always)]
    fn look(&self, row: usize, first: usize, asked: &[bool; BLOCK]) -> ([T; BLOCK], [T; BLOCK]) {
        let at = row * self.padded + self.reach + first;
        let mut near = block(&self.columns.far[0], at);
        let mut cell = block(&self.columns.cell[0], at);
        let mut second = block(&self.columns.far[1], at);
        let mut step = 1;
        while step <= self.reach && (step * step) as f32 <= self.farthest(&near, &second, asked) {
            for step in step..(step + STRIDE).min(self.reach + 1) {
                self.merge_columns(at, step, &mut near, &mut cell, &mut second);
            }
            step += STRIDE;
        }
        (near, second)
    }

    /// The square of the farthest step that can still matter to a pixel.
    ///
    /// What lies `s` away can become the second-nearest if it is nearer than that, and matters if
    /// its distance and that of the nearest are within reach together; it can become the nearest
    /// and matter, with something farther, up to half the reach.
    #[inline(always)]
    fn farthest(&self, near: &[T; BLOCK], second: &[T; BLOCK], asked: &[bool; BLOCK]) -> f32 {
        // Whole steps were cut off, and square roots are rounded.
        let reach = self.both + 1.01;
        let mut bounds = [0.0f32; BLOCK];
        for (((bound, &near), &second), &asked) in
            bounds.iter_mut().zip(near).zip(second).zip(asked)
        {
            let room = (reach - near.float().sqrt()).max(reach / 2.0);
            let least = second.float().min(room * room);
            *bound = if asked { least } else { 0.0 };
        }
        // Floats that are not negative compare as their bits do, and those in vectors.
        f32::from_bits(bounds.iter().fold(0, |most, bound| most.max(bound.to_bits())))
    }

    /// Merges the columns `step` to the left and to the right.
    #[inline(always)]
    fn merge_columns(
        &self,
        at: usize,
        step: usize,
        near: &mut [T; BLOCK],
        cell: &mut [T; BLOCK],
        second: &mut [T; BLOCK],
    ) {
        let square = T::new(step * step);
        let far = &self.columns.far;
        let cells = &self.columns.cell;
        let (left, right) = (at - step, at + step);
        let far = [
            &far[0][left..][..BLOCK],
            &far[1][left..][..BLOCK],
            &far[0][right..][..BLOCK],
            &far[1][right..][..BLOCK],
        ];
        let cells = [
            &cells[0][left..][..BLOCK],
            &cells[1][left..][..BLOCK],
            &cells[0][right..][..BLOCK],
            &cells[1][right..][..BLOCK],
        ];
        for i in 0..BLOCK {
            let mut two = (near[i], cell[i], second[i]);
            two = merge_near(two, far[0][i].plus(square), cells[0][i]);
            two = merge_near(two, far[1][i].plus(square), cells[1][i]);
            two = merge_near(two, far[2][i].plus(square), cells[2][i]);
            two = merge_near(two, far[3][i].plus(square), cells[3][i]);
            (near[i], cell[i], second[i]) = two;
        }
    }
}

#[inline(always)]
fn block<T: Cell>(values: &[T], at: usize) -> [T; BLOCK] {
    let mut block = [T::FAR; BLOCK];
    block.copy_from_slice(&values[at..][..BLOCK]);
    block
}

/// The two nearest different cells of three; which the second is does not matter to later merges.
#[inline(always)]
fn merge_near<T: Cell>((near, cell, second): (T, T, T), far: T, other: T) -> (T, T, T) {
    let same = other == cell;
    let nearer = far < near;
    let pushed = if nearer { near } else { second.min(far) };
    (near.min(far), if nearer { other } else { cell }, if same { second } else { pushed })
}

/// The same, and which the second is.
#[inline(always)]
fn merge<T: Cell>(two: (T, T, T, T), far: T, other: T) -> (T, T, T, T) {
    let (near, cell, second, second_cell) = two;
    let same = other == cell;
    let nearer = far < near;
    let pushed = if nearer {
        cell
    } else if far < second {
        other
    } else {
        second_cell
    };
    let (near, first_cell, second) = merge_near((near, cell, second), far, other);
    (near, first_cell, second, if same { second_cell } else { pushed })
}

/// The weights of one band.
struct Weights<'a, T> {
    cells: &'a [T],
    border: &'a Border,
    first: usize,
    band: &'a mut Band<T>,
    out: &'a mut [f32],
}

impl<T: Cell> Kernel for Weights<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { cells, border, first, band, out } = self;
        let width = band.width;
        let rows = out.len() / width;
        band.sweep(cells, first, rows);
        let cells = &cells[first * width..][..rows * width];
        for (y, (out, cells)) in
            out.chunks_exact_mut(width).zip(cells.chunks_exact(width)).enumerate()
        {
            for (i, (out, cells)) in out.chunks_mut(BLOCK).zip(cells.chunks(BLOCK)).enumerate() {
                let mut asked = [false; BLOCK];
                for (asked, &cell) in asked.iter_mut().zip(cells) {
                    *asked = border.everywhere || cell == T::NONE;
                }
                let mut term = [0.0; BLOCK];
                if asked.iter().fold(false, |any, &asked| any | asked) {
                    let (near, second) = band.look(y, i * BLOCK, &asked);
                    // SAFETY: the caller has the instruction set.
                    unsafe { terms::<T, S>(&near, &second, border, &mut term) };
                }
                for ((out, &cell), &term) in out.iter_mut().zip(cells).zip(&term) {
                    let inside = cell != T::NONE;
                    let term = if inside && !border.everywhere { 0.0 } else { term };
                    *out = border.class[usize::from(inside)] + term;
                }
            }
        }
    }
}

/// `w0·exp(−(d1 + d2)² / (2σ²))`, zero where there is no second cell.
///
/// # Safety
/// The instruction set of `S` must be available.
#[inline(always)]
unsafe fn terms<T: Cell, S: Simd>(
    near: &[T; BLOCK],
    second: &[T; BLOCK],
    border: &Border,
    terms: &mut [f32; BLOCK],
) {
    let scale = (-std::f64::consts::LOG2_E / (2.0 * border.sigma * border.sigma)) as f32;
    for ((term, &near), &second) in terms.iter_mut().zip(near).zip(second) {
        let sum = near.float().sqrt() + second.float().sqrt();
        *term = sum * sum * scale;
    }
    for i in (0..BLOCK).step_by(S::LANES) {
        // SAFETY: as the caller; a block is a whole number of vectors.
        unsafe {
            let p = terms.as_mut_ptr().add(i);
            S::store(p, S::mul(S::splat(border.w0 as f32), S::exp2(S::load(p))));
        }
    }
    for (term, &second) in terms.iter_mut().zip(second) {
        *term = if second == T::FAR { 0.0 } else { *term };
    }
}
