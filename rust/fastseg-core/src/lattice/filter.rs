//! Splat, blur and slice.

use std::sync::Arc;

use rayon::prelude::*;

use super::runs::load;
use super::{Band, CHAIN_END, Lattice, Runs, TILE, Tile};
use crate::control::{Cancelled, Control};
use crate::memory::{Buffer, Workspace};
use crate::simd::{Kernel, LINE, Level, Simd, dispatch, dispatch_rows};

/// Floats of the rows of the chain entries that one task blurs: waking a thread takes as long as some
/// ten thousand.
const FLOATS_PER_TASK: usize = 1 << 16;
/// Ghosts that one task adds or sets.
const GHOSTS_PER_TASK: usize = 1 << 12;
/// How many chain entries ahead rows are called into the cache: they lie anywhere in memory.
const PREFETCH: usize = 12;
/// Chain entries of single values that are blurred together.
const SINGLES: usize = 256;
/// Vectors of one row that are held in registers at a time.
pub(crate) const VECTORS: usize = 4;

/// The values at the vertices: for each row `stride` floats.
#[derive(Debug)]
pub struct Rows {
    data: Buffer<f32>,
    stride: usize,
}

impl Rows {
    /// Unwritten rows of one value.
    pub(crate) fn single(lattice: &Lattice, workspace: &Arc<Workspace>) -> Self {
        Self { data: workspace.take(lattice.rows()), stride: 1 }
    }

    /// Unwritten rows of several values, padded to whole vectors.
    pub(crate) fn padded(lattice: &Lattice, channels: usize, workspace: &Arc<Workspace>) -> Self {
        let stride = padded(channels);
        Self { data: workspace.take(lattice.rows() * stride), stride }
    }

    /// Floats from one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The rows of one band.
    pub(crate) fn of(&self, band: &Band) -> &[f32] {
        &self.data[band.rows.start * self.stride..band.rows.end * self.stride]
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The rows of each band.
    pub(crate) fn split(&mut self, bands: &[Band]) -> Vec<&mut [f32]> {
        let mut rest = &mut self.data[..];
        bands
            .iter()
            .map(|band| rest.split_off_mut(..band.rows.len() * self.stride).unwrap_or_default())
            .collect()
    }
}

/// Floats in a padded row of `channels` values.
pub(crate) fn padded(channels: usize) -> usize {
    Level::detect().padded(channels)
}

/// A pointer that several threads write through, each to rows of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub *mut T);
// SAFETY: whoever dereferences it states why no two threads touch the same values.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// The pointer. A method, so that closures capture the whole and stay `Sync`.
    #[inline(always)]
    pub fn get(self) -> *mut T {
        self.0
    }
}

/// In which order the axes are blurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first axis to the last.
    Forward,
    /// From the last to the first: the transpose.
    Transposed,
}

impl Lattice {
    /// Filters one value of each point: slice ∘ blur ∘ splat, times α.
    pub(crate) fn filter_channel(
        &self,
        values: &[f32],
        out: &mut [f32],
        direction: Direction,
        workspace: &Arc<Workspace>,
        control: &Control,
    ) -> Result<(), Cancelled> {
        let mut rows = Rows::single(self, workspace);
        let alpha = self.alpha();
        let load = |tile: &Tile, block: &mut [f32]| {
            for segment in self.tiling().segments(tile) {
                block[segment.local..][..segment.len]
                    .copy_from_slice(&values[segment.memory..][..segment.len]);
            }
        };
        self.splat_channel(load, &mut rows, control)?;
        self.blur(&mut rows, direction, None, control)?;
        let out = Shared(out.as_mut_ptr());
        let store = |tile: &Tile, block: &[f32]| {
            for segment in self.tiling().segments(tile) {
                for (i, x) in block[segment.local..][..segment.len].iter().enumerate() {
                    // SAFETY: every point is in one segment of one tile.
                    unsafe { *out.get().add(segment.memory + i) = alpha * x };
                }
            }
        };
        self.slice_channel(&rows, store, control)
    }

    /// Slices the blurred `rows` and multiplies the weights of each point by a function of the
    /// result.
    pub(crate) fn scale_weights(
        &mut self,
        rows: &Rows,
        factor: impl Fn(f32) -> f32 + Copy + Send + Sync,
        workspace: &Arc<Workspace>,
        control: &Control,
    ) -> Result<(), Cancelled> {
        let mut weights = workspace.take(0);
        self.swap_weights(&mut weights);
        let n = self.dimension() + 1;
        let mut rest = &mut weights[..];
        let bands: Vec<_> = self
            .bands()
            .iter()
            .map(|band| (band, rest.split_off_mut(..band.points.len() * n).unwrap_or_default()))
            .collect();
        let result = bands.into_par_iter().with_max_len(1).try_for_each(|(band, weights)| {
            let rows = rows.of(band);
            band.tiles.clone().try_for_each(|tile| {
                control.check()?;
                let mut runs = self.runs(tile);
                runs.first -= band.points.start;
                dispatch(ScaleTile { runs, n, weights: &mut *weights, rows, factor });
                Ok(())
            })
        });
        self.swap_weights(&mut weights);
        result
    }

    /// Spreads one value of each point, which `load` writes for a tile, over the vertices.
    pub(crate) fn splat_channel(
        &self,
        load: impl Fn(&Tile, &mut [f32]) + Sync,
        rows: &mut Rows,
        control: &Control,
    ) -> Result<(), Cancelled> {
        let parts = self.bands().par_iter().zip(rows.split(self.bands()));
        parts.with_max_len(1).try_for_each(|(band, rows)| {
            rows.fill(0.0);
            let mut block = vec![0.0; TILE];
            for tile in band.tiles.clone() {
                control.check()?;
                load(&self.tiling().tiles()[tile], &mut block);
                dispatch(SpreadTile { lattice: self, tile, block: &block, rows });
            }
            Ok(())
        })
    }

    /// Gathers one value for each point from the vertices and hands each tile to `store`.
    pub(crate) fn slice_channel(
        &self,
        rows: &Rows,
        store: impl Fn(&Tile, &[f32]) + Sync,
        control: &Control,
    ) -> Result<(), Cancelled> {
        self.bands().par_iter().with_max_len(1).try_for_each(|band| {
            let rows = rows.of(band);
            let mut block = vec![0.0; TILE];
            for tile in band.tiles.clone() {
                control.check()?;
                block.fill(0.0);
                dispatch(GatherTile { lattice: self, tile, rows, block: &mut block });
                store(&self.tiling().tiles()[tile], &block);
            }
            Ok(())
        })
    }

    /// Mixes neighbouring vertices along every axis: ½, 1, ½, a missing neighbour counting zero.
    ///
    /// Ghosts are added to their owners before and set from them after. `scale` (a row) multiplies
    /// the result; it needs [`Direction::Forward`].
    pub(crate) fn blur(
        &self,
        rows: &mut Rows,
        direction: Direction,
        scale: Option<&[f32]>,
        control: &Control,
    ) -> Result<(), Cancelled> {
        debug_assert!(scale.is_none() || direction == Direction::Forward);
        let stride = rows.stride;
        let data = Shared(rows.data.as_mut_ptr());
        self.for_ghosts(|owner, ghost| {
            // SAFETY: a task has all ghosts of its owners, and no row is both, so no two tasks
            // touch the same row; rows of a lattice lie inside its `Rows`.
            unsafe {
                let owner = std::slice::from_raw_parts_mut(data.get().add(owner * stride), stride);
                let ghost = std::slice::from_raw_parts(data.get().add(ghost * stride), stride);
                owner.iter_mut().zip(ghost).for_each(|(owner, ghost)| *owner += ghost);
            }
        });
        let last = self.chains.len() - 1;
        for step in 0..=last {
            control.check()?;
            let axis = if direction == Direction::Forward { step } else { last - step };
            let scale = scale.filter(|_| step == last);
            chain_tasks(&self.chains[axis], FLOATS_PER_TASK / stride).into_par_iter().for_each(
                |chains| {
                    dispatch_rows(stride, BlurChains { chains, data, stride, scale });
                },
            );
        }
        self.for_ghosts(|owner, ghost| {
            // SAFETY: every ghost is written once, and owners are only read.
            unsafe {
                let from = data.get().add(owner * stride);
                std::ptr::copy_nonoverlapping(from, data.get().add(ghost * stride), stride);
            }
        });
        Ok(())
    }

    /// Calls `f(owner, ghost)` for every ghost; all ghosts of one owner in one task, in order.
    fn for_ghosts(&self, f: impl Fn(usize, usize) + Sync) {
        let ghosts = &self.ghosts;
        let boundary = |i: usize| match ghosts.get(i) {
            None => ghosts.len(),
            Some(&(owner, _)) if i > 0 => ghosts.partition_point(|&(o, _)| o < owner),
            Some(_) => 0,
        };
        let tasks = ghosts.len().div_ceil(GHOSTS_PER_TASK);
        (0..tasks).into_par_iter().for_each(|task| {
            let range = boundary(task * GHOSTS_PER_TASK)..boundary((task + 1) * GHOSTS_PER_TASK);
            for &(owner, ghost) in &ghosts[range] {
                f(owner as usize, ghost as usize);
            }
        });
    }
}

/// Spreads the values of one tile.
struct SpreadTile<'a> {
    lattice: &'a Lattice,
    tile: usize,
    block: &'a [f32],
    rows: &'a mut [f32],
}

impl Kernel for SpreadTile<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { lattice, tile, block, rows } = self;
        let n = lattice.dimension() + 1;
        // SAFETY: the caller has the instruction set; rows and block are of the lattice's sizes.
        unsafe { lattice.runs(tile).spread_channel::<S>(n, lattice.weights(), block, rows) };
    }
}

/// Gathers the values of one tile.
struct GatherTile<'a> {
    lattice: &'a Lattice,
    tile: usize,
    rows: &'a [f32],
    block: &'a mut [f32],
}

impl Kernel for GatherTile<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { lattice, tile, rows, block } = self;
        let n = lattice.dimension() + 1;
        // SAFETY: the caller has the instruction set; rows and block are of the lattice's sizes.
        unsafe { lattice.runs(tile).gather_channel::<S>(n, lattice.weights(), rows, block) };
    }
}

/// Multiplies the weights of one tile by a function of what it gathers.
struct ScaleTile<'a, F> {
    runs: Runs<'a>,
    n: usize,
    weights: &'a mut [f32],
    rows: &'a [f32],
    factor: F,
}

impl<F: Fn(f32) -> f32> Kernel for ScaleTile<'_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { runs, n, weights, rows, factor } = self;
        let mut block = [0.0; TILE];
        // SAFETY: the caller has the instruction set; all is of the lattice's sizes.
        unsafe { runs.gather_channel::<S>(n, weights, rows, &mut block) };
        for x in &mut block {
            *x = factor(*x);
        }
        let weights = &mut weights[runs.first * n..];
        // A literal number of weights lets the loop over them unroll.
        match n {
            3 => scale_rows(3, weights, runs.order, &block),
            6 => scale_rows(6, weights, runs.order, &block),
            n => scale_rows(n, weights, runs.order, &block),
        }
    }
}

/// Multiplies the `n` weights of each point by its factor.
#[inline(always)]
fn scale_rows(n: usize, weights: &mut [f32], order: &[u16], factors: &[f32; TILE]) {
    for (weights, &point) in weights.chunks_exact_mut(n).zip(order) {
        let factor = factors[usize::from(point)];
        weights.iter_mut().for_each(|weight| *weight *= factor);
    }
}

/// Cuts chains into pieces of about so many entries, at least one, between chains.
fn chain_tasks(chains: &[u32], entries: usize) -> Vec<&[u32]> {
    let entries = entries.max(1);
    let mut tasks = Vec::with_capacity(chains.len() / entries + 1);
    let mut rest = chains;
    while !rest.is_empty() {
        let nominal = entries.min(rest.len()) - 1;
        let end = rest[nominal..].iter().position(|row| row & CHAIN_END != 0);
        let (task, after) = rest.split_at(end.map_or(rest.len(), |end| nominal + end + 1));
        tasks.push(task);
        rest = after;
    }
    tasks
}

/// Blurs whole chains in place, carrying the unblurred previous row along.
struct BlurChains<'a> {
    chains: &'a [u32],
    data: Shared<f32>,
    stride: usize,
    scale: Option<&'a [f32]>,
}

impl Kernel for BlurChains<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        if self.stride == 1 {
            return self.single();
        }
        let mut first = 0;
        while first < self.stride {
            // SAFETY: `run` has the instruction set of `S`.
            unsafe {
                match (self.stride - first) / S::LANES {
                    1 => self.vectors::<S, 1>(first),
                    _ if S::IS_ROW => unreachable!("a row is one vector"),
                    2 => self.vectors::<S, 2>(first),
                    3 => self.vectors::<S, 3>(first),
                    _ => self.vectors::<S, VECTORS>(first),
                }
            }
            first += VECTORS * S::LANES;
        }
    }
}

impl BlurChains<'_> {
    /// Rows of one value: the old values are collected first, so that nothing waits for a chain.
    #[inline(always)]
    fn single(&self) {
        let scale = self.scale.map_or(1.0, |scale| scale[0]);
        let at = |row: u32| self.data.get().wrapping_add((row & !CHAIN_END) as usize);
        // All bits of a value, or none where the chain ends after `row`.
        let beyond = |row: u32, value: f32| {
            f32::from_bits(value.to_bits() & (row >> CHAIN_END.ilog2()).wrapping_sub(1))
        };
        let mut old = [0.0; SINGLES + 1];
        let (mut before, mut last) = (0.0, CHAIN_END);
        let mut rest = self.chains;
        while !rest.is_empty() {
            let (rows, after) = rest.split_at(SINGLES.min(rest.len()));
            // SAFETY: every owner row is in one chain of an axis, so in one task; rows of a lattice
            // lie inside its `Rows`.
            unsafe {
                for (old, &row) in old.iter_mut().zip(rest) {
                    *old = *at(row);
                }
                for (&row, neighbours) in rows.iter().zip(old.windows(2)) {
                    let sum = beyond(last, before) + beyond(row, neighbours[1]);
                    (last, before) = (row, neighbours[0]);
                    *at(row) = (before + 0.5 * sum) * scale;
                }
            }
            rest = after;
        }
    }

    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const C: usize>(&self, first: usize) {
        // SAFETY: every owner row is in one chain of an axis, so in one task; rows of a lattice
        // lie inside its `Rows`, and `first + C * LANES` is within a row.
        unsafe {
            let half = S::splat(0.5);
            let zero = [S::splat(0.0); C];
            let scale: [S::V; C] = std::array::from_fn(|c| match self.scale {
                Some(scale) => S::load(scale.as_ptr().add(first + c * S::LANES)),
                None => S::splat(1.0),
            });
            let at =
                |row: u32| self.data.get().add((row & !CHAIN_END) as usize * self.stride + first);
            let (mut before, mut here) = (zero, zero);
            let mut is_start = true;
            for (i, &row) in self.chains.iter().enumerate() {
                if let Some(&ahead) = self.chains.get(i + PREFETCH) {
                    for float in (0..C * S::LANES).step_by(LINE) {
                        S::prefetch(at(ahead).add(float));
                    }
                }
                if is_start {
                    (before, here) = (zero, load::<S, C>(at(row)));
                }
                is_start = row & CHAIN_END != 0;
                let after = if is_start { zero } else { load::<S, C>(at(self.chains[i + 1])) };
                let p = at(row);
                for c in 0..C {
                    let sum = S::mul_add(half, S::add(before[c], after[c]), here[c]);
                    S::store(p.add(c * S::LANES), S::mul(sum, scale[c]));
                }
                (before, here) = (here, after);
            }
        }
    }
}
