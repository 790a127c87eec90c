//! Counts of targets and likeliest classes, without a label map.

use std::sync::{Mutex, PoisonError};

use super::argmax::Labeller;
use super::logits::Logits;
use super::tile::{Label, Output, Resampling, Tile, for_each_tile};
use super::{UpsampleError, prepared};
use crate::control::Control;

/// A batch of label maps (B, H, W), row by row.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// Unsigned, 8 bits.
    U8(&'a [u8]),
    /// Unsigned, 16 bits.
    U16(&'a [u16]),
    /// Signed, 32 bits.
    I32(&'a [i32]),
    /// Signed, 64 bits.
    I64(&'a [i64]),
}

/// Adds to `counts` (K, K) how often each target (the row) met each likeliest class (the column) of
/// (B, K, h, w) logits that are enlarged (or reduced) to the target's `size`.
///
/// Targets equal to `ignore` are left out. Where a target is no class, nothing of `counts` is to be
/// used.
pub fn confusion(
    logits: &Logits,
    size: (usize, usize),
    align_corners: bool,
    target: Target,
    ignore: Option<i64>,
    counts: &mut [i64],
    control: &Control,
) -> Result<(), UpsampleError> {
    let job = Resampling::new(logits, size, align_corners);
    let wide = job.classes() > 1 << 16;
    match (target, wide) {
        (Target::U8(x), false) => count::<_, u16>(&job, x, ignore, counts, control),
        (Target::U16(x), false) => count::<_, u16>(&job, x, ignore, counts, control),
        (Target::I32(x), false) => count::<_, u16>(&job, x, ignore, counts, control),
        (Target::I64(x), false) => count::<_, u16>(&job, x, ignore, counts, control),
        (Target::U8(x), true) => count::<_, u32>(&job, x, ignore, counts, control),
        (Target::U16(x), true) => count::<_, u32>(&job, x, ignore, counts, control),
        (Target::I32(x), true) => count::<_, u32>(&job, x, ignore, counts, control),
        (Target::I64(x), true) => count::<_, u32>(&job, x, ignore, counts, control),
    }
}

/// What a thread needs to count tiles.
struct Counter<L> {
    labeller: Labeller,
    labels: Vec<L>,
    /// Runs of equal pairs: the place in the matrix and how many pixels.
    runs: Vec<(usize, u32)>,
}

fn count<T: Copy + PartialEq + Into<i64> + Sync, L: Label + PartialEq + Default>(
    job: &Resampling,
    target: &[T],
    ignore: Option<i64>,
    counts: &mut [i64],
    control: &Control,
) -> Result<(), UpsampleError> {
    let classes = job.classes();
    if counts.len() != classes * classes {
        return Err(UpsampleError::Size);
    }
    let tiles = prepared(job, target.len())?;
    let largest = tiles.iter().map(|tile| tile.pixels_x.len() * tile.pixels_y.len()).max();
    let counts = Mutex::new(counts);
    let wrong = Mutex::new(None);
    for_each_tile(
        &tiles,
        control,
        || Counter {
            labeller: Labeller::new(job, &tiles),
            labels: vec![L::default(); largest.unwrap_or(0)],
            runs: Vec::new(),
        },
        |own, tile| {
            let width = tile.pixels_x.len();
            let output = Output { start: own.labels.as_mut_ptr(), pitch: width };
            // SAFETY: the labels are as many as the largest tile's.
            unsafe { own.labeller.label(job, tile, output) };
            own.runs.clear();
            for (y, labels) in tile.pixels_y.clone().zip(own.labels.chunks(width)) {
                let first = first_pixel(job, tile, y);
                let row = &target[first..first + width];
                if let Err(x) = pair_up(row, labels, classes, ignore, &mut own.runs) {
                    let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                    let found = (first + x, row[x].into());
                    *wrong = Some(wrong.map_or(found, |known: (usize, i64)| known.min(found)));
                    break;
                }
            }
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            for &(place, pixels) in &own.runs {
                counts[place] += i64::from(pixels);
            }
        },
        drop,
    )?;
    match wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some((position, value)) => Err(UpsampleError::Label { position, value }),
    }
}

fn first_pixel(job: &Resampling, tile: &Tile, y: usize) -> usize {
    (tile.item * job.y.pixels() + y) * job.x.pixels() + tile.pixels_x.start
}

/// Appends the runs of a row; an error names the first target that is no class.
fn pair_up<T: Copy + PartialEq + Into<i64>, L: Label + PartialEq>(
    targets: &[T],
    labels: &[L],
    classes: usize,
    ignore: Option<i64>,
    runs: &mut Vec<(usize, u32)>,
) -> Result<(), usize> {
    let mut x = 0;
    while let (Some(&target), Some(&label)) = (targets.get(x), labels.get(x)) {
        let run = targets[x..]
            .iter()
            .zip(&labels[x..])
            .take_while(|&(&t, &l)| t == target && l == label)
            .count();
        let value: i64 = target.into();
        if Some(value) != ignore {
            let class = usize::try_from(value).ok().filter(|&class| class < classes).ok_or(x)?;
            runs.push((class * classes + label.index(), run as u32));
        }
        x += run;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_pairs() {
        let mut runs = Vec::new();
        let targets = [0u8, 0, 1, 1, 9, 1];
        let labels = [0u16, 0, 0, 1, 1, 1];
        assert_eq!(pair_up(&targets, &labels, 2, Some(9), &mut runs), Ok(()));
        assert_eq!(runs, [(0, 2), (2, 1), (3, 1), (3, 1)]);
        assert_eq!(pair_up(&targets, &labels, 2, None, &mut runs), Err(4));
        assert_eq!(pair_up(&[-1i32], &[0u16], 2, None, &mut runs), Err(0));
        assert_eq!(pair_up(&[1i64 << 40], &[0u16], 2, None, &mut runs), Err(0));
    }
}
