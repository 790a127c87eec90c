//! Lattice vertices as integers.
//!
//! A vertex of class r (0 ≤ r ≤ d) has coordinates (d+1)·q + r. Its q, each shifted to start at
//! zero, are packed side by side into machine words; the widths come from the real ranges of the
//! features, so nothing can overflow into its neighbour. Moving to an adjacent vertex is then one
//! addition.

use super::LatticeError;
use super::features::{BLOCK, Lanes};

/// Largest elevated coordinate: past it a float no longer resolves the inside of a simplex.
pub const LARGEST_COORDINATE: f64 = (1u64 << 21) as f64;

/// Room around the range of the points: rounding, the walk over a simplex, and its neighbours.
const MARGIN: i64 = 4;

/// The packed q of a vertex; its class is kept apart.
pub type Key<const W: usize> = [u64; W];

/// How the coordinates of a vertex are packed into `W` words.
#[derive(Clone, Debug)]
pub struct KeyLayout<const W: usize> {
    /// One step along each coordinate; zero for the last, which is not stored.
    pub unit: Vec<Key<W>>,
    /// One step along all stored coordinates.
    pub ones: Key<W>,
    /// What is subtracted from each q.
    pub low: Vec<i32>,
    /// Word and bit of each stored coordinate.
    place: Vec<(usize, u32)>,
}

/// The scale of each feature, from the paper: the blur of the lattice then has unit variance.
pub fn scales(dimension: usize) -> Vec<f32> {
    let deviation = ((2.0f64 / 3.0).sqrt() * (dimension + 1) as f64) as f32;
    (0..dimension)
        .map(|i| {
            let step = 1.0 / (((i + 1) * (i + 2)) as f64).sqrt();
            (step * f64::from(deviation)) as f32
        })
        .collect()
}

/// The range of q of each stored coordinate, from the range of each feature.
pub fn ranges(bounds: &[(f32, f32)]) -> Result<Vec<(i64, i64)>, LatticeError> {
    let d = bounds.len();
    let scaled: Vec<(f64, f64)> = bounds
        .iter()
        .zip(scales(d))
        .map(|(&(low, high), s)| (f64::from(low) * f64::from(s), f64::from(high) * f64::from(s)))
        .collect();
    let largest = |j: usize| scaled[j].0.abs().max(scaled[j].1.abs()) * (d as f64);
    if let Some(feature) = (0..d).find(|&j| largest(j) > LARGEST_COORDINATE) {
        let value = bounds[feature].0.abs().max(bounds[feature].1.abs());
        return Err(LatticeError::OutOfRange {
            feature,
            value: f64::from(value),
            limit: f64::from(value) * LARGEST_COORDINATE / largest(feature),
        });
    }
    // Elevated coordinate j is the sum of the scaled features from j on, less j times feature j-1.
    let (mut low, mut high) = (0.0, 0.0);
    let mut ranges = vec![(0, 0); d];
    for j in (0..=d).rev() {
        let own = if j == 0 { (0.0, 0.0) } else { scaled[j - 1] };
        if j < d {
            let span = (d + 1) as f64;
            let least = (low - j as f64 * own.1) / span;
            let most = (high - j as f64 * own.0) / span;
            ranges[j] = (least.floor() as i64 - MARGIN, most.ceil() as i64 + MARGIN);
        }
        low += own.0;
        high += own.1;
    }
    Ok(ranges)
}

/// How many words the ranges need.
pub fn words(ranges: &[(i64, i64)]) -> usize {
    let mut words = 1;
    let mut used = 0;
    for bits in ranges.iter().map(bits) {
        if used + bits > u64::BITS {
            words += 1;
            used = 0;
        }
        used += bits;
    }
    words
}

fn bits(&(low, high): &(i64, i64)) -> u32 {
    u64::BITS - ((high - low) as u64).leading_zeros()
}

impl<const W: usize> KeyLayout<W> {
    /// The layout for ranges that fit `W` words.
    pub fn new(ranges: &[(i64, i64)]) -> Self {
        let mut place = Vec::with_capacity(ranges.len());
        let (mut word, mut used) = (0, 0);
        for bits in ranges.iter().map(bits) {
            if used + bits > u64::BITS {
                word += 1;
                used = 0;
            }
            place.push((word, used));
            used += bits;
        }
        let mut unit = vec![[0; W]; ranges.len() + 1];
        let mut ones = [0; W];
        for (unit, &(word, shift)) in unit.iter_mut().zip(&place) {
            unit[word] = 1 << shift;
            ones[word] += 1 << shift;
        }
        Self { unit, ones, low: ranges.iter().map(|r| r.0 as i32).collect(), place }
    }

    /// Packs coordinate `i` of several vertices, integers held as floats, into their keys.
    #[inline(always)]
    pub fn put(&self, keys: &mut [Key<W>; BLOCK], i: usize, q: &Lanes) {
        let (word, shift) = self.place[i];
        let low = self.low[i];
        let field: [u64; BLOCK] =
            std::array::from_fn(|l| u64::from(integer(q[l]).wrapping_sub(low) as u32));
        if W == 1 {
            // Values that are read, changed and written back become vectors.
            let old: [u64; BLOCK] = std::array::from_fn(|l| keys[l][0]);
            let new: [u64; BLOCK] = std::array::from_fn(|l| old[l] | field[l] << shift);
            *keys = std::array::from_fn(|l| [new[l]; W]);
        } else {
            for l in 0..BLOCK {
                keys[l][word] |= field[l] << shift;
            }
        }
    }

    /// The neighbour of a vertex of class `r` in the positive direction of `axis`, and its class.
    pub fn next(&self, key: Key<W>, r: usize, axis: usize) -> (Key<W>, usize) {
        let last = self.unit.len() - 1;
        let key = if r == last { add(key, self.ones) } else { key };
        (sub(key, self.unit[axis]), if r == last { 0 } else { r + 1 })
    }
}

/// The integer that a float holds, of less than 2²² either way. Unlike `as`, which minds NaN and
/// what is too large, it becomes vectors.
#[inline(always)]
pub fn integer(x: f32) -> i32 {
    /// As far around this the floats are the integers.
    const ONES: f32 = 1.5 * (1 << 23) as f32;
    (x + ONES).to_bits().wrapping_sub(ONES.to_bits()) as i32
}

/// Word by word: no field overflows into the next, so words are independent.
#[inline(always)]
pub fn add<const W: usize>(a: Key<W>, b: Key<W>) -> Key<W> {
    std::array::from_fn(|i| a[i].wrapping_add(b[i]))
}

/// Word by word, as [`add`].
#[inline(always)]
pub fn sub<const W: usize>(a: Key<W>, b: Key<W>) -> Key<W> {
    std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
}
