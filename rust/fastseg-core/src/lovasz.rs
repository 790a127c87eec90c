//! The slopes of the Lovász extension of the Jaccard loss.

use std::fmt;

use rayon::prelude::*;

use crate::control::{Cancelled, Control};

/// Why there are no slopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LovaszError {
    /// The arrays are not rows of one length, or a row is too long for 31 bits.
    Size,
    /// The work was cancelled.
    Cancelled,
}

impl fmt::Display for LovaszError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size => f.write_str("errors, truth and slopes: expected whole rows of one size"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for LovaszError {}

impl From<Cancelled> for LovaszError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// By how much the Jaccard loss grows with each pixel, taken in the order of falling errors.
///
/// Rows are independent of each other. Level errors are taken in the order of pixels. Errors below
/// zero count as zero. A row without a true pixel has a slope of one at its largest error.
///
/// # Errors
/// [`LovaszError::Size`] for arrays that are not as long as each other, or not whole rows of
/// `row` pixels; [`LovaszError::Cancelled`].
pub fn jaccard_slopes(
    errors: &[f32],
    truth: &[bool],
    row: usize,
    slopes: &mut [f32],
    control: &Control,
) -> Result<(), LovaszError> {
    let size = errors.len();
    if truth.len() != size || slopes.len() != size || row >= INDEX as usize {
        return Err(LovaszError::Size);
    }
    if size == 0 {
        return Ok(());
    }
    if !size.is_multiple_of(row) {
        return Err(LovaszError::Size);
    }
    slopes
        .par_chunks_mut(row)
        .zip(errors.par_chunks(row))
        .zip(truth.par_chunks(row))
        .try_for_each_init(Pairs::default, |pairs, ((slopes, errors), truth)| {
            control.check()?;
            row_slopes(errors, truth, slopes, pairs);
            Ok(())
        })
}

/// What is sorted: errors above, so that larger ones come first, and below where they are, with a
/// bit that says whether the pixel is true.
#[derive(Default)]
struct Pairs {
    pairs: Vec<u64>,
    spare: Vec<u64>,
}

/// The bit that says whether a pixel is true; its index is below.
const INDEX: u64 = 1 << 31;

/// The place of an error in the order of falling ones.
///
/// Of floats from zero on the bits have the order of the values.
fn place(error: f32) -> u32 {
    !error.max(0.0).to_bits()
}

fn row_slopes(errors: &[f32], truth: &[bool], slopes: &mut [f32], memory: &mut Pairs) {
    slopes.fill(0.0);
    let total = truth.iter().filter(|&&hit| hit).count();
    if total == 0 {
        let largest = (0..errors.len()).min_by_key(|&i| place(errors[i]));
        slopes[largest.expect("rows are not empty")] = 1.0;
        return;
    }
    // Behind the last true pixel nothing is left to be lost: slopes there are zero, in any order.
    let mut last = 0;
    for (&error, &hit) in errors.iter().zip(truth) {
        last = last.max(if hit { place(error) } else { 0 });
    }
    let pairs = &mut memory.pairs;
    pairs.clear();
    for (index, (&error, &hit)) in errors.iter().zip(truth).enumerate() {
        let at = place(error);
        if at <= last {
            pairs.push(u64::from(at) << 32 | u64::from(hit) << 31 | index as u64);
        }
    }
    sort(memory);
    let (mut left, mut union) = (total, total);
    for &pair in &memory.pairs {
        // A true pixel takes one from the intersection, any other adds one to the union:
        // differences without cancellation.
        let slope = if pair & INDEX != 0 {
            left -= 1;
            1.0 / union as f64
        } else {
            union += 1;
            left as f64 / (union as f64 * (union - 1) as f64)
        };
        slopes[(pair & (INDEX - 1)) as usize] = slope as f32;
    }
}

/// Sorts by the upper 32 bits; what is level there stays in order.
fn sort(memory: &mut Pairs) {
    let Pairs { pairs, spare } = memory;
    let Some(&first) = pairs.first() else { return };
    spare.resize(pairs.len(), 0);
    let mut counts = [[0u32; 1 << 11]; DIGITS.len()];
    for &pair in pairs.iter() {
        for (counts, &digit) in counts.iter_mut().zip(&DIGITS) {
            counts[digit.of(pair)] += 1;
        }
    }
    for (counts, digit) in counts.iter_mut().zip(DIGITS) {
        // A digit that all have in common sorts nothing.
        if counts[digit.of(first)] as usize == pairs.len() {
            continue;
        }
        let mut start = 0;
        for count in counts.iter_mut() {
            start += std::mem::replace(count, start);
        }
        for &pair in pairs.iter() {
            let to = &mut counts[digit.of(pair)];
            spare[*to as usize] = pair;
            *to += 1;
        }
        std::mem::swap(pairs, spare);
    }
}

/// Some bits of what is sorted.
#[derive(Clone, Copy)]
struct Digit {
    shift: u32,
    bits: u32,
}

/// What the passes of the sort look at, one after the other.
const DIGITS: [Digit; 3] =
    [Digit { shift: 32, bits: 11 }, Digit { shift: 43, bits: 11 }, Digit { shift: 54, bits: 10 }];

impl Digit {
    fn of(self, pair: u64) -> usize {
        (pair >> self.shift) as usize & ((1 << self.bits) - 1)
    }
}
