//! Building the lattice: every band on its own, then the bands merged class by class.
//!
//! The vertices of one simplex have the classes 0…d, one each, and a neighbour of a vertex of
//! class r has class r ± 1 modulo d+1. So each class has a table of its own, and both the merge
//! and the search for neighbours run in parallel over classes and axes.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::embed::Embedding;
use super::features::{BLOCK, Features};
use super::keys::{Key, KeyLayout, ranges, sub, words};
use super::table::{NONE, Table};
use super::tiling::{TILE, Tiling};
use super::{Band, CHAIN_END, Lattice, LatticeError};
use crate::control::Control;
use crate::memory::Workspace;
use crate::simd::{Kernel, Simd, dispatch};

/// Widest key in words; enough for about a hundred features.
const MAX_WORDS: usize = 8;

impl Lattice {
    /// Builds the lattice of `features`.
    ///
    /// `with_origin` adds the vertices around the zero feature, which take part in the blur without
    /// holding a point: pydensecrf does so when the number of points is not a multiple of four.
    pub fn build(
        features: &Features,
        with_origin: bool,
        workspace: &Arc<Workspace>,
        control: &Control,
    ) -> Result<Self, LatticeError> {
        let mut bounds = features.bounds()?;
        if with_origin {
            for (low, high) in &mut bounds {
                (*low, *high) = (low.min(0.0), high.max(0.0));
            }
        }
        let points = features.points();
        if points * (features.dimension() + 1) >= CHAIN_END as usize {
            return Err(LatticeError::TooManyPoints { points });
        }
        let ranges = ranges(&bounds)?;
        let build = Build { features, with_origin, workspace, control };
        match words(&ranges) {
            1 => build.run(&KeyLayout::<1>::new(&ranges)),
            2 => build.run(&KeyLayout::<2>::new(&ranges)),
            3..=4 => build.run(&KeyLayout::<4>::new(&ranges)),
            5..=MAX_WORDS => build.run(&KeyLayout::<MAX_WORDS>::new(&ranges)),
            words => Err(LatticeError::KeyTooWide { words, limit: MAX_WORDS }),
        }
    }
}

struct Build<'a> {
    features: &'a Features<'a>,
    with_origin: bool,
    workspace: &'a Arc<Workspace>,
    control: &'a Control,
}

/// The vertices that one band touches.
struct BandVertices<const W: usize> {
    /// One table for each class, from key to number within the band.
    tables: Vec<Table<W>>,
    count: u32,
}

impl<const W: usize> BandVertices<W> {
    fn new(classes: usize, points: usize) -> Self {
        Self {
            // A picture has a few hundredths as many vertices of a class as points.
            tables: vec![Table::with_room(points / 64); classes],
            count: 0,
        }
    }

    #[inline(always)]
    fn number(&mut self, class: usize, key: Key<W>) -> u32 {
        let number = self.tables[class].get_or_insert(&key, self.count);
        self.count += u32::from(number == self.count);
        number
    }

    /// Writes the numbers of the corners of the simplex with corner `base` and, from there on, the
    /// step of each class.
    #[inline(always)]
    fn number_corners(
        &mut self,
        base: Key<W>,
        step: impl Fn(usize) -> usize,
        layout: &KeyLayout<W>,
        corners: &mut [u32],
    ) {
        let mut key = base;
        for (r, corner) in corners.iter_mut().enumerate() {
            if r > 0 {
                key = sub(key, layout.unit[step(r - 1)]);
            }
            *corner = self.number(r, key);
        }
    }
}

impl Build<'_> {
    fn run<const W: usize>(&self, layout: &KeyLayout<W>) -> Result<Lattice, LatticeError> {
        let dimension = self.features.dimension();
        let classes = dimension + 1;
        let tiling = Tiling::new(&self.features.shape());
        let points = tiling.points();
        let tiles = tiling.bands();
        let ranges: Vec<_> = tiles.iter().map(|tiles| tiling.points_of(tiles)).collect();
        // There are at most as many runs as points; memory that no run needs is never touched.
        let mut lengths = self.workspace.take::<u16>(points);
        let mut corners = self.workspace.take::<u32>(points * classes);
        let mut order = self.workspace.take::<u16>(points);
        let mut weights = self.workspace.take::<f32>(points * classes);
        let parts: Vec<_> = tiles
            .iter()
            .cloned()
            .zip(split(&mut lengths, &ranges, 1))
            .zip(split(&mut corners, &ranges, classes))
            .zip(split(&mut order, &ranges, 1))
            .zip(split(&mut weights, &ranges, classes))
            .map(|((((tiles, lengths), corners), order), weights)| EmbedBand {
                features: self.features,
                layout,
                tiling: &tiling,
                with_origin: self.with_origin && tiles.end == tiling.tiles().len(),
                tiles,
                lengths,
                corners,
                order,
                weights,
                control: self.control,
            })
            .collect();
        let parts: Vec<(BandVertices<W>, Vec<u32>)> =
            parts.into_par_iter().with_max_len(1).map(dispatch).collect::<Result<_, _>>()?;
        let (vertices, run_counts): (Vec<_>, Vec<_>) = parts.into_iter().unzip();

        let mut bands = Vec::with_capacity(tiles.len());
        let mut tile_runs = Vec::with_capacity(tiling.tiles().len());
        let mut row = 0;
        for (((tiles, points), band), counts) in
            tiles.into_iter().zip(ranges).zip(&vertices).zip(run_counts)
        {
            let mut run = points.start as u32;
            for count in counts {
                tile_runs.push((run, count));
                run += count;
            }
            let end = row + band.count as usize;
            bands.push(Band { tiles, points, rows: row..end });
            row = end;
        }
        if row >= CHAIN_END as usize {
            return Err(LatticeError::TooManyPoints { points });
        }
        let (tables, ghosts) = merge(vertices, &bands);
        self.control.check()?;
        let mut owned = vec![true; row];
        for &(_, ghost) in &ghosts {
            owned[ghost as usize] = false;
        }
        let chains = (0..classes)
            .into_par_iter()
            .map(|axis| chains(axis, &tables, layout, &owned))
            .collect();
        Ok(Lattice {
            dimension,
            vertices: row - ghosts.len(),
            tiling,
            bands,
            tile_runs,
            lengths,
            corners,
            order,
            weights,
            ghosts,
            chains,
        })
    }
}

/// Cuts `values`, `per_point` for each point, at the ends of `ranges`.
fn split<'a, T>(
    mut values: &'a mut [T],
    ranges: &[Range<usize>],
    per_point: usize,
) -> Vec<&'a mut [T]> {
    ranges
        .iter()
        .map(|range| values.split_off_mut(..range.len() * per_point).unwrap_or_default())
        .collect()
}

/// One table for each class, from key to owner row, and the (owner, ghost) rows, sorted.
#[allow(clippy::type_complexity)] // a pair of lists, named above
fn merge<const W: usize>(
    mut vertices: Vec<BandVertices<W>>,
    bands: &[Band],
) -> (Vec<Table<W>>, Vec<(u32, u32)>) {
    if vertices.len() == 1 {
        return (vertices.remove(0).tables, Vec::new());
    }
    let classes = vertices[0].tables.len();
    let merged: Vec<_> = (0..classes)
        .into_par_iter()
        .map(|class| {
            let most =
                vertices.iter().map(|band| band.tables[class].entries().len()).max().unwrap_or(0);
            let mut table = Table::with_room(2 * most);
            let mut ghosts = Vec::new();
            for (vertices, band) in vertices.iter().zip(bands) {
                for (key, number) in vertices.tables[class].entries() {
                    let row = band.rows.start as u32 + number;
                    let owner = table.get_or_insert(key, row);
                    if owner != row {
                        ghosts.push((owner, row));
                    }
                }
            }
            (table, ghosts)
        })
        .collect();
    let (tables, ghosts): (Vec<_>, Vec<_>) = merged.into_iter().unzip();
    let mut ghosts = ghosts.concat();
    ghosts.par_sort_unstable();
    (tables, ghosts)
}

/// The runs of neighbours along `axis`.
fn chains<const W: usize>(
    axis: usize,
    tables: &[Table<W>],
    layout: &KeyLayout<W>,
    owned: &[bool],
) -> Vec<u32> {
    let last_axis = axis + 1 == tables.len();
    let mut next = vec![NONE; owned.len()];
    let mut is_first = [owned, &[false]].concat();
    for (class, table) in tables.iter().enumerate() {
        for &(key, row) in table.entries() {
            let (neighbour, class) = layout.next(key, class, axis);
            let neighbour = tables[class].get(&neighbour);
            next[row as usize] = neighbour;
            // Which vertices have a neighbour cannot be foretold: those without mark one too many.
            is_first[owned.len().min(neighbour as usize)] = false;
        }
    }
    let mut chains = Vec::new();
    for (first, &is_first) in is_first.iter().enumerate() {
        if !is_first || (next[first] == NONE && !last_axis) {
            continue;
        }
        let mut row = first as u32;
        while next[row as usize] != NONE {
            chains.push(row);
            row = next[row as usize];
        }
        chains.push(row | CHAIN_END);
    }
    chains
}

/// Embeds the points of one band, sorts each tile into runs and numbers the vertices.
struct EmbedBand<'a, const W: usize> {
    features: &'a Features<'a>,
    layout: &'a KeyLayout<W>,
    tiling: &'a Tiling,
    tiles: Range<usize>,
    with_origin: bool,
    lengths: &'a mut [u16],
    corners: &'a mut [u32],
    order: &'a mut [u16],
    weights: &'a mut [f32],
    control: &'a Control,
}

impl<const W: usize> Kernel for EmbedBand<'_, W> {
    /// The vertices, and how many runs each tile has.
    type Output = Result<(BandVertices<W>, Vec<u32>), LatticeError>;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        // SAFETY: the caller has the instruction set. Literal dimensions let the loops of the usual
        // cases unroll; wide keys are rare.
        unsafe {
            match self.features.dimension() {
                2 if W == 1 && S::SPECIALIZED => self.embed::<S>(2),
                3 if W == 1 && S::SPECIALIZED => self.embed::<S>(3),
                5 if W == 1 && S::SPECIALIZED => self.embed::<S>(5),
                6 if W == 1 && S::SPECIALIZED => self.embed::<S>(6),
                d => self.embed::<S>(d),
            }
        }
    }
}

impl<const W: usize> EmbedBand<'_, W> {
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn embed<S: Simd>(self, d: usize) -> Result<(BandVertices<W>, Vec<u32>), LatticeError> {
        let n = d + 1;
        let mut features = vec![[0.0; BLOCK]; d];
        let mut embedding = Embedding::new(d);
        let mut vertices = BandVertices::new(n, self.order.len());
        let mut simplices = TileSimplices::new(d);
        let mut run_counts = Vec::with_capacity(self.tiles.len());
        let (mut run, mut point) = (0, 0);
        for tile in &self.tiling.tiles()[self.tiles.clone()] {
            self.control.check()?;
            for segment in self.tiling.segments(tile) {
                for start in (0..segment.len).step_by(BLOCK) {
                    let count = BLOCK.min(segment.len - start);
                    self.features.fill(segment.memory + start, count, &mut features);
                    embedding.embed(d, &features, self.layout);
                    // SAFETY: the caller has the instruction set.
                    unsafe { simplices.put::<S>(d, segment.local + start, count, &embedding) };
                }
            }
            let points = tile.points.len();
            let runs = simplices.sort(
                d,
                points,
                &mut self.order[point..point + points],
                &mut self.weights[point * n..(point + points) * n],
            );
            // Numbered in order of first touch, so that neighbouring runs have neighbouring rows.
            for &Run { point, length, place, .. } in &simplices.runs {
                let place = run + usize::from(place);
                self.lengths[place] = length;
                let corners = &mut self.corners[place * n..(place + 1) * n];
                let base = simplices.base[usize::from(point)];
                vertices.number_corners(
                    base,
                    |r| simplices.step(d, point, r),
                    self.layout,
                    corners,
                );
            }
            run_counts.push(runs as u32);
            run += runs;
            point += points;
        }
        if self.with_origin {
            embedding.embed(d, &vec![[0.0; BLOCK]; d], self.layout);
            // SAFETY: as above.
            unsafe { simplices.put::<S>(d, 0, 1, &embedding) };
            let (base, corners) = (simplices.base[0], &mut vec![0; n]);
            vertices.number_corners(base, |r| simplices.step(d, 0, r), self.layout, corners);
        }
        Ok((vertices, run_counts))
    }
}

/// A run of the tile.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Its first point.
    point: u16,
    /// How many points it has.
    length: u16,
    /// Which run of the tile it becomes.
    place: u16,
    /// Where its first point comes among the points of the tile.
    start: u16,
}

/// The simplices of the points of one tile, and how they are sorted into runs.
struct TileSimplices<const W: usize> {
    base: Vec<Key<W>>,
    code: Vec<u64>,
    /// For each point the order of steps from corner to corner; empty where the code tells it.
    steps: Vec<u8>,
    /// For each point where the search for its simplex begins.
    slot: Vec<u32>,
    /// The weights of the corners of each point, in rows of whole vectors.
    weights: Vec<f32>,
    /// The run of each point, and how many of its points come before.
    run: Vec<(u16, u16)>,
    runs: Vec<Run>,
    /// From hash of a simplex to the run that it is, and the tile in which that was.
    slots: Vec<(u32, u16)>,
    tile: u32,
}

/// Lengths of runs that are told apart when runs are sorted by length.
const LENGTHS: usize = 32;
/// The largest step that the four bits of a code hold: those of `d` dimensions are 0 to `d`.
const EXACT_CODE: usize = 15;
/// Points that a tile has room for: blocks may reach past its last.
const ROOM: usize = TILE + BLOCK;
/// Floats from the weights of a point to those of the next, in `d` dimensions.
const fn pitch(d: usize) -> usize {
    (d + 1).next_multiple_of(8)
}

/// Slots of the table of simplices of a tile, a power of two with room to spare.
const SLOTS: usize = 2 * TILE;

impl<const W: usize> TileSimplices<W> {
    fn new(d: usize) -> Self {
        Self {
            base: vec![[0; W]; ROOM],
            code: vec![0; ROOM],
            steps: if d <= EXACT_CODE { Vec::new() } else { vec![0; TILE * d] },
            slot: vec![0; ROOM],
            weights: vec![0.0; ROOM * pitch(d)],
            run: vec![(0, 0); TILE],
            runs: Vec::with_capacity(TILE),
            slots: vec![(0, 0); SLOTS],
            tile: 0,
        }
    }

    /// Stores the first `count` lanes of a block as the points from `local` on. Those after them are
    /// stored later, so that whole blocks can be written.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    #[inline(always)]
    unsafe fn put<S: Simd>(
        &mut self,
        d: usize,
        local: usize,
        count: usize,
        embedding: &Embedding<W>,
    ) {
        let block = local..local + BLOCK;
        self.base[block.clone()].copy_from_slice(&embedding.base);
        self.code[block.clone()].copy_from_slice(&embedding.code);
        let (base, code) = (embedding.base, embedding.code);
        let slot: [u32; BLOCK] = std::array::from_fn(|l| {
            let hash = base[l].iter().fold(code[l], |hash, word| {
                (hash.rotate_left(29) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            });
            (hash >> 40) as u32 % SLOTS as u32
        });
        self.slot[block.clone()].copy_from_slice(&slot);
        let (from, pitch) = (&embedding.weight[..=d], pitch(d));
        let to = &mut self.weights[local * pitch..(local + BLOCK) * pitch];
        // SAFETY: the caller has the instruction set; the block has d + 1 rows of `BLOCK`
        // weights, and a row of the tile `pitch` floats, which are no fewer than d + 1.
        unsafe {
            S::transpose(from.as_ptr().cast(), BLOCK, to.as_mut_ptr(), pitch, d + 1, BLOCK);
        }
        if d > EXACT_CODE {
            for (lane, point) in block.enumerate().take(count) {
                let steps = &mut self.steps[point * d..(point + 1) * d];
                for (r, step) in steps.iter_mut().enumerate() {
                    *step = embedding.order[r][lane];
                }
            }
        }
    }

    /// Which coordinate steps down from the corner of class `r` of a point's simplex.
    #[inline(always)]
    fn step(&self, d: usize, point: u16, r: usize) -> usize {
        let point = usize::from(point);
        if d <= EXACT_CODE {
            (self.code[point] >> (4 * (d - 1 - r))) as usize & 15
        } else {
            usize::from(self.steps[point * d + r])
        }
    }

    /// Whether two points have the same steps, of which the codes are equal.
    #[inline(always)]
    fn has_equal_steps(&self, d: usize, a: usize, b: usize) -> bool {
        d <= EXACT_CODE || self.steps[a * d..(a + 1) * d] == self.steps[b * d..(b + 1) * d]
    }

    /// Sorts the points of the tile into runs and returns how many there are.
    #[inline(always)]
    fn sort(&mut self, d: usize, points: usize, order: &mut [u16], weights: &mut [f32]) -> usize {
        let n = d + 1;
        self.tile += 1;
        self.runs.clear();
        self.runs.resize(points, Run::default());
        // Whether a simplex is new cannot be foretold, so nothing branches on it: the run to come is
        // compared as if it had been found.
        let mut count = 0;
        for point in 0..points {
            let (base, code) = (self.base[point], self.code[point]);
            self.runs[count].point = point as u16;
            let mut slot = self.slot[point] as usize;
            let run = loop {
                let (tile, found) = self.slots[slot];
                let run = if tile == self.tile { usize::from(found) } else { count };
                let other = usize::from(self.runs[run].point);
                let is_same = (self.base[other] == base) & (self.code[other] == code);
                if is_same && self.has_equal_steps(d, point, other) {
                    break run;
                }
                slot = (slot + 1) % SLOTS;
            };
            self.slots[slot] = (self.tile, run as u16);
            count += usize::from(run == count);
            let length = &mut self.runs[run].length;
            self.run[point] = (run as u16, *length);
            *length += 1;
        }
        self.runs.truncate(count);
        // Runs of equal length follow each other: a loop over a run then ends where the processor
        // expects it to. The longest are few and share a bucket.
        let bucket = |run: &Run| usize::from(run.length).min(LENGTHS);
        // For each bucket its first run and that run's first point.
        let mut first = [(0u16, 0u16); LENGTHS + 1];
        for run in &self.runs {
            let (runs, points) = &mut first[bucket(run)];
            *runs += 1;
            *points += run.length;
        }
        let mut at = (0, 0);
        for first in &mut first {
            let (runs, points) = std::mem::replace(first, at);
            at = (at.0 + runs, at.1 + points);
        }
        for run in &mut self.runs {
            let next = &mut first[bucket(run)];
            (run.place, run.start) = *next;
            *next = (next.0 + 1, next.1 + run.length);
        }
        for (point, &(run, before)) in self.run[..points].iter().enumerate() {
            order[usize::from(self.runs[usize::from(run)].start + before)] = point as u16;
        }
        // Whole rows are copied, padding too, which the next one overwrites.
        let pitch = pitch(d);
        let mut rest = &mut weights[..points * n];
        let mut points = order.iter();
        while let Some((to, _)) = rest.split_at_mut_checked(pitch) {
            let Some(&point) = points.next() else { break };
            to.copy_from_slice(&self.weights[usize::from(point) * pitch..][..pitch]);
            rest = &mut rest[n..];
        }
        for (to, &point) in rest.chunks_exact_mut(n).zip(points) {
            to.copy_from_slice(&self.weights[usize::from(point) * pitch..][..n]);
        }
        self.runs.len()
    }
}
