//! Distances between the surfaces of two segmentations, label by label.
//!
//! Each label is worked on inside the box that holds it in both maps. Its surface becomes a grid of
//! codes, zero where there is none; the distances to one surface are computed where the other is.

mod boxes;
mod elements;

use rayon::prelude::*;

use boxes::{Bounds, bounds};
pub use boxes::{Label, LabelOutside};
use elements::{Codes, codes};

use crate::control::{Cancelled, Control};
use crate::distance::{Grid, Number, least_at};

/// What a surface consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// The pixels of a mask that have a neighbour outside it along an axis.
    Pixels,
    /// What marching squares or cubes put between the pixels. A code says which of the four or eight
    /// pixels around are inside, the one with the highest coordinates in its lowest bit.
    Cells,
}

/// The distances of one surface's elements to the other surface, ascending, and their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distances {
    /// Infinite where there is no other surface.
    pub distances: Vec<f64>,
    /// The weight of each element's code; of elements that are equally far, the lightest first.
    pub weights: Vec<f64>,
}

/// Why there are no distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SurfaceError {
    /// A label is neither below the number of labels nor the one that is ignored.
    Label(LabelOutside),
    /// The computation was asked to stop.
    Cancelled,
}

impl From<Cancelled> for SurfaceError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Two label maps of one grid.
#[derive(Clone, Copy)]
pub struct Maps<'a, L> {
    /// What was predicted.
    pub pred: &'a [L],
    /// What is true.
    pub target: &'a [L],
    /// The shape of both, and what a step measures.
    pub grid: Grid,
}

/// For each label, the distances from the target's surface to the prediction's, and back.
///
/// `labels` are those to measure, all below `count`; `weights` holds a weight for each code.
pub fn surface_distances<L: Label>(
    maps: Maps<'_, L>,
    labels: &[usize],
    count: usize,
    ignored: Option<i64>,
    elements: Elements,
    weights: &[f64; 256],
    control: &Control,
) -> Result<Vec<[Distances; 2]>, SurfaceError> {
    let bounds = bounds(maps, count, ignored, control)?;
    let ranks = Ranks::new(weights);
    labels
        .par_iter()
        .map(|&label| match bounds[label] {
            Some(bounds) => {
                Ok(one_label(maps, L::from_index(label), bounds, elements, &ranks, control)?)
            }
            None => Ok(Default::default()),
        })
        .collect()
}

fn one_label<L: Label>(
    maps: Maps<'_, L>,
    label: L,
    bounds: Bounds,
    elements: Elements,
    ranks: &Ranks<'_>,
    control: &Control,
) -> Result<[Distances; 2], Cancelled> {
    control.check()?;
    let shape = maps.grid.shape;
    let (pred, target) = rayon::join(
        || codes(maps.pred, shape, bounds, label, elements),
        || codes(maps.target, shape, bounds, label, elements),
    );
    let (forth, back) = rayon::join(
        || between(&target, &pred, maps.grid.spacing, ranks, control),
        || between(&pred, &target, maps.grid.spacing, ranks, control),
    );
    Ok([forth?, back?])
}

/// The distances of the elements of `from` to those of `to`.
fn between(
    from: &Codes,
    to: &Codes,
    spacing: [f64; 3],
    ranks: &Ranks<'_>,
    control: &Control,
) -> Result<Distances, Cancelled> {
    let grid = Grid { shape: to.shape, spacing };
    match grid.integer_scales() {
        Some(scales) => {
            let squares = least_at(&to.values, &from.values, &grid, scales, control)?;
            Ok(ranks.sorted(
                squares,
                |square| square as u64,
                |key| (key as f64).sqrt(),
                i32::FAR as u64,
            ))
        }
        None => {
            let squares = least_at(&to.values, &from.values, &grid, grid.spacing, control)?;
            let root = |key| f64::from_bits(key).sqrt();
            Ok(ranks.sorted(squares, f64::to_bits, root, f64::FAR.to_bits()))
        }
    }
}

/// The order of codes by weight.
struct Ranks<'a> {
    weights: &'a [f64; 256],
    rank: [u8; 256],
    code: [u8; 256],
}

impl<'a> Ranks<'a> {
    fn new(weights: &'a [f64; 256]) -> Self {
        let mut code: [u8; 256] = std::array::from_fn(|i| i as u8);
        code.sort_by(|&a, &b| weights[usize::from(a)].total_cmp(&weights[usize::from(b)]));
        let mut rank = [0; 256];
        for (i, &code) in (0..=u8::MAX).zip(&code) {
            rank[usize::from(code)] = i;
        }
        Self { weights, rank, code }
    }

    /// Sorts squared distances, given with their codes, by a key of the same order.
    fn sorted<T: Number>(
        &self,
        squares: Vec<(T, u8)>,
        key: impl Fn(T) -> u64,
        root: impl Fn(u64) -> f64,
        far: u64,
    ) -> Distances {
        let mut keys: Vec<(u64, u8)> = squares
            .into_iter()
            .map(|(square, code)| (key(square), self.rank[usize::from(code)]))
            .collect();
        keys.sort_unstable();
        let distance = |key| if key >= far { f64::INFINITY } else { root(key) };
        let weight = |rank: u8| self.weights[usize::from(self.code[usize::from(rank)])];
        Distances {
            distances: keys.iter().map(|&(key, _)| distance(key)).collect(),
            weights: keys.iter().map(|&(_, rank)| weight(rank)).collect(),
        }
    }
}
