//! Work on one window of the output after the other, with what a thread needs for that.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::cell::Cell;
use super::grid::{Axis, Columns};
use super::logits::{self, Logits, Window};
use crate::control::{Cancelled, Control};
use crate::simd::{Kernel, Level, Simd, dispatch};

/// Bytes of logits in a tile: they stay in the caches of a core while they are used again, and rows
/// are read in long pieces.
const TILE_BYTES: usize = 1536 << 10;
/// Rows of cells in a tile, where there is room.
const TILE_ROWS: usize = 4;
/// Rows of pixels in a tile.
const TILE_PIXEL_ROWS: usize = 64;
/// Pixels in a tile.
const TILE_PIXELS: usize = 1 << 18;

/// A resampling: logits, and where the output pixels lie on them.
#[derive(Clone, Debug)]
pub struct Resampling<'a> {
    pub logits: &'a Logits<'a>,
    pub y: Axis,
    pub x: Axis,
    pub columns: Columns,
}

impl<'a> Resampling<'a> {
    pub fn new(logits: &'a Logits<'a>, size: (usize, usize), align_corners: bool) -> Self {
        let [_, _, height, width] = logits.shape();
        let x = Axis::new(width, size.1, align_corners);
        Self {
            logits,
            y: Axis::new(height, size.0, align_corners),
            columns: Columns::new(&x, Level::detect().lanes()),
            x,
        }
    }

    pub fn classes(&self) -> usize {
        self.logits.shape()[1]
    }

    /// Pixels of one label map.
    pub fn pixels(&self) -> usize {
        self.y.pixels() * self.x.pixels()
    }

    /// Whether x and y have as many pixels as samples, which then are not mixed.
    pub fn same(&self) -> (bool, bool) {
        (self.x.pixels() == self.x.cells(), self.y.pixels() == self.y.cells())
    }
}

/// A window of the output: whole columns of cells, and some rows of pixels.
#[derive(Clone, Debug)]
pub struct Tile {
    pub item: usize,
    pub cells_x: Range<usize>,
    pub cells_y: Range<usize>,
    pub pixels_x: Range<usize>,
    pub pixels_y: Range<usize>,
}

impl Tile {
    /// The samples at the corners of the cells.
    pub fn window(&self) -> Window {
        Window {
            item: self.item,
            row: self.cells_y.start,
            rows: self.cells_y.len() + 1,
            column: self.cells_x.start,
            columns: self.cells_x.len() + 1,
        }
    }

    /// The pixels of a row of cells that are in this tile.
    pub fn rows_of(&self, axis: &Axis, cell: usize) -> Range<usize> {
        let inside = axis.inside(cell);
        inside.start.max(self.pixels_y.start)..inside.end.min(self.pixels_y.end)
    }
}

/// Divides the output; how does not depend on the number of threads.
pub fn tiles(job: &Resampling) -> Vec<Tile> {
    let budget = (TILE_BYTES / size_of::<f32>() / job.classes()).max(1);
    let rows = TILE_ROWS.min(job.y.cells()).min((budget / 64).max(1));
    let columns = (budget / (rows + 1)).clamp(32, 4096) / 16 * 16;
    let columns = columns.min(job.x.cells());
    let mut bands = Vec::new();
    for cells in split(0..job.y.cells(), rows) {
        bands.extend(split(job.y.inside_all(&cells), TILE_PIXEL_ROWS));
    }
    let pixel_rows = bands.iter().map(Range::len).max().unwrap_or(1).max(1);
    // Cells that become very wide are taken fewer at a time.
    let enlargement = job.x.pixels().div_ceil(job.x.cells().max(1)).max(1);
    let columns = columns.min((TILE_PIXELS / pixel_rows / enlargement).max(1));
    let mut tiles = Vec::new();
    for item in 0..job.logits.shape()[0] {
        for pixels_y in &bands {
            for cells_x in split(0..job.x.cells(), columns) {
                let pixels_x = job.x.inside_all(&cells_x);
                if pixels_x.is_empty() {
                    continue;
                }
                let (cells_y, pixels_y) = (job.y.cells_of(pixels_y), pixels_y.clone());
                tiles.push(Tile { item, cells_x, cells_y, pixels_x, pixels_y });
            }
        }
    }
    tiles
}

fn split(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |start| start..(start + size).min(end))
}

/// Calls `work` on each tile, with something that `begin` makes for each thread and `end` takes.
pub fn for_each_tile<W>(
    tiles: &[Tile],
    control: &Control,
    begin: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, &Tile) + Sync,
    end: impl Fn(W) + Sync,
) -> Result<(), Cancelled> {
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new(Ok(()));
    let worker = || {
        let mut own = None;
        while let Some(tile) = tiles.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(cancelled) = control.check() {
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Err(cancelled);
                return;
            }
            work(own.get_or_insert_with(&begin), tile);
        }
        if let Some(own) = own {
            end(own);
        }
    };
    let threads = rayon::current_num_threads().min(tiles.len());
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| worker());
        }
        worker();
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The logits of a tile as planes of `f32`, and the rows' weights.
#[derive(Debug)]
pub struct Planes {
    values: Vec<f32>,
    /// Values from one plane to the next.
    pub plane: usize,
    /// Values from one row to the next.
    pub pitch: usize,
    /// Row weights as vectors, for every shift.
    pub rows: Vec<Vec<f32>>,
    /// Every class.
    pub every: Vec<u32>,
}

impl Planes {
    /// Room for any of the tiles; vectors of any size may read from each cell's corners.
    pub fn new(job: &Resampling, tiles: &[Tile]) -> Self {
        let rows = tiles.iter().map(|tile| tile.cells_y.len() + 1).max().unwrap_or(1);
        let columns = tiles.iter().map(|tile| tile.cells_x.len()).max().unwrap_or(1);
        let pitch = columns.next_multiple_of(16) + 16;
        let plane = rows * pitch;
        Self {
            // Vectors that begin at the last cell of the last row stay inside.
            values: vec![0.0; job.classes() * plane + 16],
            plane,
            pitch,
            rows: vec![Vec::new(); 8],
            every: (0..job.classes() as u32).collect(),
        }
    }

    /// Reads some channels of a tile, `columns` cells wide: those beyond the tile's repeat the
    /// last. Returns the first value of the first of these planes.
    ///
    /// # Safety
    /// The planes must be made for tiles of this size, and `columns` for no more than a vector
    /// beyond the tile's.
    pub unsafe fn read(
        &mut self,
        job: &Resampling,
        tile: &Tile,
        channels: Range<usize>,
        columns: usize,
    ) -> *mut f32 {
        let window = tile.window();
        let (plane, pitch) = (self.plane, self.pitch);
        let planes = self.values[channels.start * plane..].as_mut_ptr();
        let count = channels.len();
        // SAFETY: as the caller.
        unsafe {
            dispatch(Read { logits: job.logits, window: &window, channels, planes, plane, pitch });
            for row in 0..count * window.rows {
                let row = row / window.rows * plane + row % window.rows * pitch;
                let row = planes.add(row);
                let last = *row.add(window.columns - 1);
                for x in window.columns..=columns {
                    *row.add(x) = last;
                }
            }
        }
        planes
    }

    /// A corner of the first plane, counted in the tile.
    pub fn corner(&self, row: usize, column: usize) -> *const f32 {
        self.values[row * self.pitch + column..].as_ptr()
    }

    /// The cell in a column of the logits, whose row and column in the tile are `at`, with `rows`
    /// rows of pixels.
    pub fn cell(&self, job: &Resampling, column: usize, at: (usize, usize), rows: usize) -> Cell {
        let shift = job.columns.shift(column);
        Cell {
            corner: self.corner(at.0, at.1),
            plane: self.plane,
            pitch: self.pitch,
            weights_x: job.columns.weights(column).as_ptr(),
            weights_y: self.rows[shift].as_ptr(),
            shift,
            columns: job.x.inside(column).len(),
            rows,
            same: job.same(),
        }
    }

    /// Prepares the row weights for a row of pixels of cells.
    pub fn weigh_rows(&mut self, job: &Resampling, rows: &Range<usize>) {
        for shift in job.columns.shifts() {
            job.columns.fill_rows(&job.y.weights()[rows.clone()], shift, &mut self.rows[shift]);
        }
    }
}

/// Reads a window of logits, compiled once for every instruction set.
struct Read<'a> {
    logits: &'a Logits<'a>,
    window: &'a Window,
    channels: Range<usize>,
    planes: *mut f32,
    plane: usize,
    pitch: usize,
}

impl Kernel for Read<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { logits, window, channels, planes, plane, pitch } = self;
        // SAFETY: as the caller of `Planes::read`.
        unsafe { logits::read(logits, window, channels, planes, plane, pitch) };
    }
}

/// A part of the output that one thread writes: its first pixel, and pixels from row to row.
#[derive(Debug)]
pub struct Output<T> {
    pub start: *mut T,
    pub pitch: usize,
}

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Output<T> {}

// SAFETY: threads use an output for pixels of their own tiles only.
unsafe impl<T: Send> Send for Output<T> {}
// SAFETY: likewise.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T> Output<T> {
    /// The output that begins so many rows and columns further.
    ///
    /// # Safety
    /// The pixel must be in the output.
    #[inline(always)]
    pub unsafe fn at(self, row: usize, column: usize) -> Self {
        // SAFETY: as the caller.
        Self { start: unsafe { self.start.add(row * self.pitch + column) }, pitch: self.pitch }
    }
}

/// An integer type that labels are written as.
pub trait Label: Copy + Send + Sync + 'static {
    /// From a lane, which holds a whole number that fits.
    fn from_lane(lane: f32) -> Self;
    /// From a class, which fits.
    fn from_class(class: u32) -> Self;
    /// As an index.
    fn index(self) -> usize;
}

macro_rules! label {
    ($($kind:ty),*) => {$(
        impl Label for $kind {
            #[inline(always)]
            fn from_lane(lane: f32) -> Self {
                // SAFETY: lanes hold class numbers.
                unsafe { lane.to_int_unchecked::<i32>() as $kind }
            }
            #[inline(always)]
            fn from_class(class: u32) -> Self {
                class as $kind
            }
            #[inline(always)]
            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}
label!(u8, u16, u32);

#[cfg(test)]
mod tests {
    use super::super::logits::Values;
    use super::*;

    #[test]
    fn tiles_cover_every_pixel_once() {
        for (shape, size) in [
            ([2, 3, 5, 7], (20, 28)),
            ([1, 150, 40, 60], (53, 77)),
            ([1, 2, 1, 1], (300, 9000)),
            ([1, 7000, 30, 100], (10, 20)),
            ([1, 1, 9, 9], (1, 1)),
        ] {
            let values = [0.0];
            let logits = Logits::new(Values::F32(&values), 0, shape, [0; 4]).expect("inside");
            for align_corners in [false, true] {
                let job = Resampling::new(&logits, size, align_corners);
                let mut seen = vec![0u8; shape[0] * size.0 * size.1];
                for tile in tiles(&job) {
                    assert!(
                        tile.pixels_x.len() * tile.pixels_y.len() <= TILE_PIXELS.max(size.1 * 64)
                    );
                    let inside = job.y.inside_all(&tile.cells_y);
                    assert!(inside.start <= tile.pixels_y.start && inside.end >= tile.pixels_y.end);
                    for y in tile.pixels_y.clone() {
                        for x in tile.pixels_x.clone() {
                            seen[(tile.item * size.0 + y) * size.1 + x] += 1;
                        }
                    }
                }
                assert!(seen.iter().all(|&times| times == 1));
            }
        }
    }
}
