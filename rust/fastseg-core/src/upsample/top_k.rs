//! The likeliest classes of every pixel, and how likely they are.

use super::cell::{Cell, MAX_LANES};
use super::logits::Logits;
use super::tile::{Label, Output, Planes, Resampling, Tile, for_each_tile};
use super::{UpsampleError, prepared};
use crate::control::Control;
use crate::simd::{Kernel, Simd, dispatch};

/// The `k` likeliest classes of each pixel of (B, K, h, w) logits that are enlarged (or reduced) to
/// `size`: (B, k, H, W) in `labels`, and their probabilities by the softmax over all classes
/// likewise in `probs`.
///
/// Order and values that are not finite are as in [`super::argmax`].
pub fn top_k<T: Label>(
    logits: &Logits,
    size: (usize, usize),
    align_corners: bool,
    k: usize,
    labels: &mut [T],
    probs: &mut [f32],
    control: &Control,
) -> Result<(), UpsampleError> {
    if k == 0 || k > logits.shape()[1] {
        return Err(UpsampleError::Count);
    }
    if labels.len() != probs.len() || !labels.len().is_multiple_of(k) {
        return Err(UpsampleError::Size);
    }
    let job = Resampling::new(logits, size, align_corners);
    let tiles = prepared(&job, labels.len() / k)?;
    let labels = Output { start: labels.as_mut_ptr(), pitch: size.1 };
    let probs = Output { start: probs.as_mut_ptr(), pitch: size.1 };
    for_each_tile(
        &tiles,
        control,
        || Ranker::new(&job, &tiles, k),
        |own, tile| {
            let row = tile.item * k * size.0 + tile.pixels_y.start;
            // SAFETY: both hold `k` planes of every pixel, and tiles have none in common.
            unsafe {
                dispatch(RankTile {
                    own,
                    job: &job,
                    tile,
                    labels: labels.at(row, tile.pixels_x.start),
                    probs: probs.at(row, tile.pixels_x.start),
                });
            }
        },
        drop,
    )?;
    Ok(())
}

/// What a thread needs to rank classes.
struct Ranker {
    planes: Planes,
    /// For each sample: 0 if all its logits are finite, else NaN.
    finite: Vec<f32>,
    /// The largest logits of the pixels in a vector, and their classes.
    best: Vec<f32>,
    label: Vec<f32>,
    /// All logits of one pixel, for where they are not finite.
    logits: Vec<(f32, u32)>,
}

impl Ranker {
    fn new(job: &Resampling, tiles: &[Tile], k: usize) -> Self {
        let planes = Planes::new(job, tiles);
        Self {
            finite: vec![0.0; planes.plane + MAX_LANES],
            planes,
            best: vec![0.0; k * MAX_LANES],
            label: vec![0.0; k * MAX_LANES],
            logits: Vec::with_capacity(job.classes()),
        }
    }
}

struct RankTile<'a, T> {
    own: &'a mut Ranker,
    job: &'a Resampling<'a>,
    tile: &'a Tile,
    labels: Output<T>,
    probs: Output<f32>,
}

impl<T: Label> Kernel for RankTile<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: `top_k` vouches for the outputs, `dispatch` for `S`.
        unsafe {
            self.read::<S>();
            for row in 0..self.tile.cells_y.len() {
                let rows = self.tile.rows_of(&self.job.y, self.tile.cells_y.start + row);
                if rows.is_empty() {
                    continue;
                }
                self.own.planes.weigh_rows(self.job, &rows);
                for (x, column) in self.tile.cells_x.clone().enumerate() {
                    let pixels = self.job.x.inside(column);
                    if pixels.is_empty() {
                        continue;
                    }
                    let (y, left) = (
                        rows.start - self.tile.pixels_y.start,
                        pixels.start - self.tile.pixels_x.start,
                    );
                    let cell = self.own.planes.cell(self.job, column, (row, x), rows.len());
                    let (labels, probs) = (self.labels.at(y, left), self.probs.at(y, left));
                    if self.is_finite(row, x) {
                        self.rank::<S>(cell, labels, probs);
                    } else {
                        self.rank_odd(cell, labels, probs, S::LANES);
                    }
                }
            }
        }
    }
}

impl<T: Label> RankTile<'_, T> {
    #[inline(always)]
    unsafe fn read<S: Simd>(&mut self) {
        let own = &mut *self.own;
        let (plane, pitch, classes) = (own.planes.plane, own.planes.pitch, self.job.classes());
        let vectors = self.tile.cells_x.len().next_multiple_of(S::LANES);
        own.finite.fill(0.0);
        let zero = 0.0;
        // SAFETY: the planes are made for the job's tiles; `finite` is as large as a plane.
        unsafe {
            let planes = own.planes.read(self.job, self.tile, 0..classes, vectors);
            for class in 0..classes {
                for row in 0..=self.tile.cells_y.len() {
                    for x in (0..=vectors).step_by(S::LANES) {
                        let at = row * pitch + x;
                        let seen = own.finite.as_mut_ptr().add(at);
                        let v = S::load(planes.add(class * plane + at));
                        S::store(seen, S::mul_add(v, S::splat(zero), S::load(seen)));
                    }
                }
            }
        }
    }

    fn is_finite(&self, row: usize, column: usize) -> bool {
        let at = row * self.own.planes.pitch + column;
        let below = at + self.own.planes.pitch;
        [at, at + 1, below, below + 1].into_iter().all(|at| !self.own.finite[at].is_nan())
    }

    /// From one class's plane of the result to the next.
    fn plane(&self) -> usize {
        self.job.pixels()
    }

    /// Ranks the classes at the pixels of a cell whose logits are finite.
    #[inline(always)]
    unsafe fn rank<S: Simd>(&mut self, cell: Cell, labels: Output<T>, probs: Output<f32>) {
        let plane = self.plane();
        let own = &mut *self.own;
        let log2_e = std::f32::consts::LOG2_E;
        // SAFETY: as in `run`; `best` and `label` hold `k` vectors of any size.
        unsafe {
            for (block, weights) in cell.blocks::<S>() {
                own.best.fill(f32::NEG_INFINITY);
                own.label.fill(0.0);
                for &class in &own.planes.every {
                    let mut logits = cell.logits::<S>(class, weights);
                    let mut name = S::splat(class as f32);
                    let places =
                        own.best.chunks_mut(MAX_LANES).zip(own.label.chunks_mut(MAX_LANES));
                    for (best, label) in places {
                        let (best, label) = (best.as_mut_ptr(), label.as_mut_ptr());
                        let (there, known) = (S::load(best), S::load(label));
                        S::store(best, S::if_greater(logits, there, logits, there));
                        S::store(label, S::if_greater(logits, there, name, known));
                        name = S::if_greater(logits, there, known, name);
                        logits = S::if_greater(logits, there, there, logits);
                    }
                }
                let largest = S::load(own.best.as_ptr());
                let mut sum = S::splat(0.0);
                for &class in &own.planes.every {
                    let below = S::sub(cell.logits::<S>(class, weights), largest);
                    sum = S::add(sum, S::exp2(S::mul(below, S::splat(log2_e))));
                }
                let mut sums = [1.0; MAX_LANES];
                S::store(sums.as_mut_ptr(), sum);
                let places = own.best.chunks(MAX_LANES).zip(own.label.chunks(MAX_LANES));
                for (place, (best, label)) in places.enumerate() {
                    let below = S::sub(S::load(best.as_ptr()), largest);
                    let mut powers = [0.0; MAX_LANES];
                    S::store(powers.as_mut_ptr(), S::exp2(S::mul(below, S::splat(log2_e))));
                    for (row, column, lane) in block.pixels(cell.shift) {
                        let to = place * plane + row * labels.pitch + column;
                        *labels.start.add(to) = T::from_lane(label[lane]);
                        *probs.start.add(to) = powers[lane] / sums[lane];
                    }
                }
            }
        }
    }

    /// Ranks the classes at the pixels of a cell with NaN or infinite logits.
    unsafe fn rank_odd(&mut self, cell: Cell, labels: Output<T>, probs: Output<f32>, lanes: usize) {
        let plane = self.plane();
        let own = &mut *self.own;
        let k = own.best.len() / MAX_LANES;
        for (row, column) in (0..cell.rows).flat_map(|y| (0..cell.columns).map(move |x| (y, x))) {
            own.logits.clear();
            for &class in &own.planes.every {
                // SAFETY: as in `run`.
                own.logits.push((unsafe { cell.logit(class, row, column, lanes) }, class));
            }
            // NaN first, then the largest; the order of equal ones stays.
            own.logits.sort_by(|(a, _), (b, _)| {
                b.partial_cmp(a).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
            });
            let largest = own.logits[0].0;
            let power = |logit: f32| (logit - largest).exp();
            let sum: f32 = own.logits.iter().map(|&(logit, _)| power(logit)).sum();
            for (place, &(logit, class)) in own.logits[..k].iter().enumerate() {
                let to = place * plane + row * labels.pitch + column;
                // SAFETY: the pixel is the cell's, and there are `k` planes.
                unsafe {
                    *labels.start.add(to) = T::from_class(class);
                    *probs.start.add(to) = power(logit) / sum;
                }
            }
        }
    }
}
