//! The permutohedral lattice: Gaussian filtering in many dimensions in linear time.
//!
//! Adams, Baek & Davis, *Fast High-Dimensional Filtering Using the Permutohedral Lattice*, 2010.
//! A [`Lattice`] is built once from the features of the points and then filters any number of
//! values: *splat* spreads each point's value over the corners of its simplex, *blur* mixes
//! neighbouring vertices along each axis, *slice* gathers the result back at the points.
//!
//! # Tiles and runs
//! Points are worked through tile by tile (see [`tiling`]), and within a tile sorted so that those
//! in the same simplex, a *run*, follow each other: a run reads and writes the rows of its corners
//! once for all its points.
//!
//! # Bands
//! The tiles are cut into bands, a number that depends only on how many points there are. Each
//! band numbers the vertices it touches on its own and owns a contiguous run of rows, so bands
//! splat side by side without locks. A vertex that several bands touch has one row in each; the
//! first is its *owner*, the others are *ghosts*, added to it in band order before the blur and
//! set from it afterwards. The result is the same bit for bit for any number of threads.

mod build;
mod embed;
mod features;
mod filter;
mod keys;
mod runs;
mod table;
mod tiling;

pub use features::{Features, Pixels};
pub use filter::{Direction, Rows};
pub(crate) use filter::{Shared, VECTORS, padded};
pub use keys::LARGEST_COORDINATE;
pub(crate) use runs::{Start, load, store};
pub(crate) use tiling::{Segment, TILE, Tile, Tiling};

use std::fmt;
use std::ops::Range;

use crate::control::Cancelled;
use crate::memory::Buffer;

/// Why a lattice cannot be built.
#[derive(Clone, Debug, PartialEq)]
pub enum LatticeError {
    /// A feature is NaN or infinite.
    NotFinite {
        /// Which feature.
        feature: usize,
    },
    /// A feature is too large for the position inside a simplex to be known.
    OutOfRange {
        /// Which feature.
        feature: usize,
        /// Its largest absolute value.
        value: f64,
        /// The largest that can be embedded.
        limit: f64,
    },
    /// The vertices need more bits than the widest key has.
    KeyTooWide {
        /// How many 64-bit words they need.
        words: usize,
        /// How many there are.
        limit: usize,
    },
    /// There are more points than can be numbered.
    TooManyPoints {
        /// How many there are.
        points: usize,
    },
    /// The build was stopped.
    Cancelled,
}

impl From<Cancelled> for LatticeError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl fmt::Display for LatticeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite { feature } => write!(f, "feature {feature} is NaN or infinite"),
            Self::OutOfRange { feature, value, limit } => write!(
                f,
                "feature {feature} reaches {value:.4e} sigmas, more than the {limit:.4e} up to which \
                 32-bit floats can place a point inside the lattice"
            ),
            Self::KeyTooWide { words, limit } => write!(
                f,
                "the lattice vertices need {words} 64-bit words each, more than the {limit} there \
                 are: use fewer features or larger sigmas"
            ),
            Self::TooManyPoints { points } => {
                write!(f, "{points} points are more than the 2^31 / (dimension + 1) that fit")
            }
            Self::Cancelled => write!(f, "cancelled"),
        }
    }
}

impl std::error::Error for LatticeError {}

/// One contiguous part of the tiles and the rows that it writes.
#[derive(Clone, Debug)]
pub(crate) struct Band {
    pub tiles: Range<usize>,
    /// In tile order.
    pub points: Range<usize>,
    pub rows: Range<usize>,
}

/// The runs of one tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs<'a> {
    /// How many points each run has.
    pub lengths: &'a [u16],
    /// For each run the rows of its `dimension + 1` corners, counted from its band's first row.
    pub corners: &'a [u32],
    /// The points of all runs, within the tile.
    pub order: &'a [u16],
    /// The index of the first of these points among all points, in run order: its weights start
    /// at `dimension + 1` times that.
    pub first: usize,
}

/// Marks the last vertex of a chain in [`Lattice::chains`].
const CHAIN_END: u32 = 1 << 31;

/// The structure that the features of the points give: see the module.
#[derive(Debug)]
pub struct Lattice {
    dimension: usize,
    vertices: usize,
    tiling: Tiling,
    bands: Vec<Band>,
    /// For each tile its first run, and how many it has.
    tile_runs: Vec<(u32, u32)>,
    /// For each run how many points it has.
    lengths: Buffer<u16>,
    /// For each run the rows of its corners, counted from its band's first row.
    corners: Buffer<u32>,
    /// For each point in run order which of its tile it is.
    order: Buffer<u16>,
    /// For each point in run order the weights of its corners, which sum to one.
    weights: Buffer<f32>,
    /// (owner, ghost) rows, sorted.
    ghosts: Vec<(u32, u32)>,
    /// For each axis the owner rows in runs of neighbours, the last of each run marked. Vertices
    /// without neighbours along an axis are left out, except on the last axis.
    chains: Vec<Vec<u32>>,
}

impl Lattice {
    /// How many features a point has.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// How many points there are.
    pub fn points(&self) -> usize {
        self.tiling.points()
    }

    /// How many distinct vertices the points touch.
    pub fn vertices(&self) -> usize {
        self.vertices
    }

    /// How many rows of values filtering needs: the vertices and their ghosts.
    pub(crate) fn rows(&self) -> usize {
        self.bands.last().map_or(0, |band| band.rows.end)
    }

    pub(crate) fn bands(&self) -> &[Band] {
        &self.bands
    }

    pub(crate) fn tiling(&self) -> &Tiling {
        &self.tiling
    }

    /// The runs of a tile.
    #[inline(always)]
    pub(crate) fn runs(&self, tile: usize) -> Runs<'_> {
        let (first, count) = self.tile_runs[tile];
        let runs = first as usize..(first + count) as usize;
        let n = self.dimension + 1;
        let points = self.tiling.tiles()[tile].points.clone();
        Runs {
            lengths: &self.lengths[runs.clone()],
            corners: &self.corners[runs.start * n..runs.end * n],
            first: points.start,
            order: &self.order[points],
        }
    }

    /// The weights of all points in run order, `dimension + 1` each.
    pub(crate) fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Exchanges the weights with others.
    pub(crate) fn swap_weights(&mut self, other: &mut Buffer<f32>) {
        std::mem::swap(&mut self.weights, other);
    }

    /// The factor that makes a filtered constant about constant.
    pub fn alpha(&self) -> f32 {
        1.0 / (1.0 + 0.5f32.powi(self.dimension as i32))
    }

    /// How many bytes the structure takes.
    pub fn bytes(&self) -> usize {
        let chains = self.chains.iter().map(Vec::len).sum::<usize>();
        4 * (self.corners.len() + self.weights.len() + 2 * self.ghosts.len() + chains)
            + 2 * (self.order.len() + self.lengths.len())
    }
}
