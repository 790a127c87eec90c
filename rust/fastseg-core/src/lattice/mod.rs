//! The permutohedral lattice: Gaussian filtering in many dimensions in linear time.
//!
//! Adams, Baek & Davis, *Fast High-Dimensional Filtering Using the Permutohedral Lattice*, 2010.
//! A [`Lattice`] is built once from the features of the points and then filters any number of
//! values: *splat* spreads each point's value over the corners of its simplex, *blur* mixes
//! neighbouring vertices along each axis, *slice* gathers the result back at the points.
//!
//! # Bands
//! The points are cut into bands, a number that depends only on how many points there are. Each
//! band numbers the vertices it touches on its own and owns a contiguous run of rows, so bands
//! splat side by side without locks. A vertex that several bands touch has one row in each; the
//! first is its *owner*, the others are *ghosts*, added to it in band order before the blur and
//! set from it afterwards. The result is the same bit for bit for any number of threads.

mod build;
mod embed;
mod features;
mod filter;
mod keys;
mod table;

pub use features::{Features, Pixels};
pub use filter::{Direction, Rows};
pub(crate) use filter::{Shared, VECTORS, stride};
pub use keys::LARGEST_COORDINATE;

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
            Self::OutOfRange {
                feature,
                value,
                limit,
            } => write!(
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
                write!(
                    f,
                    "{points} points are more than the 2^31 / (dimension + 1) that fit"
                )
            }
            Self::Cancelled => write!(f, "cancelled"),
        }
    }
}

impl std::error::Error for LatticeError {}

/// One contiguous part of the points and the rows that it writes.
#[derive(Clone, Debug)]
pub(crate) struct Band {
    pub points: Range<usize>,
    pub rows: Range<usize>,
}

/// Marks the last vertex of a chain in [`Lattice::chains`].
const CHAIN_END: u32 = 1 << 31;

/// The structure that the features of the points give: see the module.
#[derive(Debug)]
pub struct Lattice {
    dimension: usize,
    points: usize,
    vertices: usize,
    bands: Vec<Band>,
    /// For each point the rows of its `dimension + 1` vertices, counted from its band's first row.
    corners: Buffer<u32>,
    /// For each point the weights of its vertices, which sum to one.
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
        self.points
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

    /// The corners of all points of a band, `dimension + 1` each.
    pub(crate) fn corners_of(&self, band: &Band) -> &[u32] {
        let n = self.dimension + 1;
        &self.corners[band.points.start * n..band.points.end * n]
    }

    /// The weights of all points, `dimension + 1` each.
    pub(crate) fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The weights, to scale them.
    pub(crate) fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
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
        4 * (self.corners.len() + self.weights.len() + 2 * self.ghosts.len())
            + 4 * self.chains.iter().map(Vec::len).sum::<usize>()
    }
}
