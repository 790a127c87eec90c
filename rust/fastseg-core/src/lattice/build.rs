//! Building the lattice: every band on its own, then the bands merged class by class.
//!
//! The vertices of one simplex have the classes 0…d, one each, and a neighbour of a vertex of
//! class r has class r ± 1 modulo d+1. So each class has a table of its own, and both the merge
//! and the search for neighbours run in parallel over classes and axes.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::embed::Embedding;
use super::features::{BLOCK, Features, Lanes};
use super::keys::{Key, KeyLayout, ranges, sub, words};
use super::table::Table;
use super::{Band, CHAIN_END, Lattice, LatticeError};
use crate::control::Control;
use crate::memory::Workspace;
use crate::simd::{Kernel, Simd, dispatch};

/// Points in a band when there are enough of them; fewer would leave more ghosts.
const BAND_POINTS: usize = 1 << 15;
/// The most bands, and so the most threads that are of use.
const MAX_BANDS: usize = 16;
/// Widest key in words; enough for about a hundred features.
const MAX_WORDS: usize = 8;
/// Blocks between two looks at whether to stop.
const BLOCKS_PER_CHECK: usize = 256;
/// Recently seen simplices that are remembered, a power of two.
const REMEMBERED: usize = 1 << 11;

const NONE: u32 = u32::MAX;

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
        let build = Build {
            features,
            with_origin,
            workspace,
            control,
        };
        match words(&ranges) {
            1 => build.run(&KeyLayout::<1>::new(&ranges)),
            2 => build.run(&KeyLayout::<2>::new(&ranges)),
            3..=4 => build.run(&KeyLayout::<4>::new(&ranges)),
            5..=MAX_WORDS => build.run(&KeyLayout::<MAX_WORDS>::new(&ranges)),
            words => Err(LatticeError::KeyTooWide {
                words,
                limit: MAX_WORDS,
            }),
        }
    }
}

/// Cuts `points` into bands, the same for any number of threads.
fn bands_of(points: usize) -> Vec<Range<usize>> {
    let count = (points / BAND_POINTS).clamp(1, MAX_BANDS);
    let blocks = points.div_ceil(BLOCK);
    (0..count)
        .map(|b| {
            let start = blocks * b / count * BLOCK;
            let end = blocks * (b + 1) / count * BLOCK;
            start.min(points)..end.min(points)
        })
        .collect()
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
    /// For each class the keys and numbers, in order of first touch.
    touched: Vec<Vec<(Key<W>, u32)>>,
    count: u32,
}

impl<const W: usize> BandVertices<W> {
    fn new(classes: usize) -> Self {
        Self {
            tables: vec![Table::with_room(256); classes],
            touched: vec![Vec::new(); classes],
            count: 0,
        }
    }

    #[inline(always)]
    fn number(&mut self, class: usize, key: Key<W>) -> u32 {
        let number = self.tables[class].get_or_insert(&key, self.count);
        if number == self.count {
            self.touched[class].push((key, number));
            self.count += 1;
        }
        number
    }
}

impl Build<'_> {
    fn run<const W: usize>(&self, layout: &KeyLayout<W>) -> Result<Lattice, LatticeError> {
        let dimension = self.features.dimension();
        let classes = dimension + 1;
        let points = self.features.points();
        let mut corners = self.workspace.take::<u32>(points * classes);
        let mut weights = self.workspace.take::<f32>(points * classes);

        let ranges = bands_of(points);
        let last = ranges.len() - 1;
        let parts: Vec<_> = split(&mut corners, &ranges, classes)
            .into_iter()
            .zip(split(&mut weights, &ranges, classes))
            .zip(&ranges)
            .enumerate()
            .collect();
        let vertices: Vec<BandVertices<W>> = parts
            .into_par_iter()
            .with_max_len(1)
            .map(|(b, ((corners, weights), range))| {
                dispatch(EmbedBand {
                    features: self.features,
                    layout,
                    points: range.clone(),
                    with_origin: self.with_origin && b == last,
                    corners,
                    weights,
                    control: self.control,
                })
            })
            .collect::<Result<_, _>>()?;

        let mut bands = Vec::with_capacity(ranges.len());
        let mut row = 0;
        for (points, band) in ranges.into_iter().zip(&vertices) {
            let end = row + band.count as usize;
            bands.push(Band {
                points,
                rows: row..end,
            });
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
            points,
            vertices: row - ghosts.len(),
            bands,
            corners,
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
        .map(|range| {
            values
                .split_off_mut(..range.len() * per_point)
                .unwrap_or_default()
        })
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
            let most = vertices
                .iter()
                .map(|band| band.touched[class].len())
                .max()
                .unwrap_or(0);
            let mut table = Table::with_room(2 * most);
            let mut ghosts = Vec::new();
            for (vertices, band) in vertices.iter().zip(bands) {
                for (key, number) in &vertices.touched[class] {
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
    let mut is_first = owned.to_vec();
    for (class, table) in tables.iter().enumerate() {
        for (key, row) in table.iter() {
            let (neighbour, class) = layout.next(*key, class, axis);
            if let Some(neighbour) = tables[class].get(&neighbour) {
                next[row as usize] = neighbour;
                is_first[neighbour as usize] = false;
            }
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

/// Embeds the points of one band and numbers the vertices they touch.
struct EmbedBand<'a, const W: usize> {
    features: &'a Features<'a>,
    layout: &'a KeyLayout<W>,
    points: Range<usize>,
    with_origin: bool,
    corners: &'a mut [u32],
    weights: &'a mut [f32],
    control: &'a Control,
}

impl<const W: usize> Kernel for EmbedBand<'_, W> {
    type Output = Result<BandVertices<W>, LatticeError>;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        // Literal dimensions let the loops of the usual cases unroll.
        match self.features.dimension() {
            2 => self.embed(2),
            3 => self.embed(3),
            5 => self.embed(5),
            6 => self.embed(6),
            d => self.embed(d),
        }
    }
}

impl<const W: usize> EmbedBand<'_, W> {
    #[inline(always)]
    fn embed(self, d: usize) -> Result<BandVertices<W>, LatticeError> {
        let classes = d + 1;
        let mut features = vec![[0.0; BLOCK]; d];
        let mut embedding = Embedding::new(d);
        let mut vertices = BandVertices::new(classes);
        let mut recent = RecentSimplices::new(classes);
        let blocks = self.points.clone().step_by(BLOCK);
        let corners = self.corners.chunks_mut(BLOCK * classes);
        let weights = self.weights.chunks_mut(BLOCK * classes);
        for (i, ((start, corners), weights)) in blocks.zip(corners).zip(weights).enumerate() {
            if i % BLOCKS_PER_CHECK == 0 {
                self.control.check()?;
            }
            self.features.fill(start, &mut features);
            embedding.embed(d, &features, self.layout);
            let corners = corners.chunks_exact_mut(classes);
            let weights = weights.chunks_exact_mut(classes);
            for (lane, (corners, weights)) in corners.zip(weights).enumerate() {
                for r in 0..classes {
                    weights[r] = embedding.weight[r][lane];
                }
                number_corners(
                    lane,
                    d,
                    &embedding,
                    self.layout,
                    &mut vertices,
                    &mut recent,
                    corners,
                );
            }
        }
        if self.with_origin {
            let zero: Vec<Lanes> = vec![[0.0; BLOCK]; d];
            embedding.embed(d, &zero, self.layout);
            let corners = &mut vec![0; classes];
            number_corners(
                0,
                d,
                &embedding,
                self.layout,
                &mut vertices,
                &mut recent,
                corners,
            );
        }
        Ok(vertices)
    }
}

/// Writes the numbers of the vertices of the point in `lane`.
#[inline(always)]
fn number_corners<const W: usize>(
    lane: usize,
    d: usize,
    embedding: &Embedding<W>,
    layout: &KeyLayout<W>,
    vertices: &mut BandVertices<W>,
    recent: &mut RecentSimplices<W>,
    corners: &mut [u32],
) {
    let base = embedding.base[lane];
    // Four bits for each coordinate's place; beyond sixteen corners nothing is remembered.
    let order = (0..d).fold(0u64, |code, r| {
        (code << 4) | u64::from(embedding.order[r][lane])
    });
    let slot = recent.slot(&base, order);
    if d < 16 && recent.simplex[slot] == (base, order) {
        corners.copy_from_slice(&recent.corners[slot * (d + 1)..][..d + 1]);
        return;
    }
    let mut key = base;
    for (r, corner) in corners.iter_mut().enumerate() {
        *corner = vertices.number(r, key);
        key = sub(key, layout.unit[usize::from(embedding.order[r][lane])]);
    }
    recent.simplex[slot] = (base, order);
    recent.corners[slot * (d + 1)..][..d + 1].copy_from_slice(corners);
}

/// Simplices seen lately: neighbouring pixels often share one.
struct RecentSimplices<const W: usize> {
    simplex: Vec<(Key<W>, u64)>,
    corners: Vec<u32>,
}

impl<const W: usize> RecentSimplices<W> {
    fn new(classes: usize) -> Self {
        // No simplex has the order "all ones", so the table starts out empty.
        Self {
            simplex: vec![([0; W], u64::MAX); REMEMBERED],
            corners: vec![0; REMEMBERED * classes],
        }
    }

    #[inline(always)]
    fn slot(&self, base: &Key<W>, order: u64) -> usize {
        let hash = base.iter().fold(order, |h, word| {
            (h.rotate_left(29) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        (hash >> 40) as usize % REMEMBERED
    }
}
