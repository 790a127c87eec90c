//! Labels of bilinearly enlarged logits, without the enlarged logits.

mod argmax;
mod cell;
mod grid;
mod logits;
mod tile;

pub use logits::{Logits, OutOfBounds, Values};
pub use tile::Label;

use argmax::Labeller;
use tile::{Output, Resampling, for_each_tile, tiles};

use crate::control::{Cancelled, Control};

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpsampleError {
    /// The output has another size than the arguments say.
    Size,
    /// There are no classes, or nothing to take samples from.
    Empty,
    /// The computation was asked to stop.
    Cancelled,
}

impl From<Cancelled> for UpsampleError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// The likeliest class of each pixel of (B, K, h, w) logits that are enlarged (or reduced) to
/// `size` with bilinear weights: (B, H, W) in `labels`.
///
/// Of equal logits the first class counts, and NaN counts as the largest, as in PyTorch. Infinite
/// logits of no weight at a pixel do not count.
pub fn argmax<T: Label>(
    logits: &Logits,
    size: (usize, usize),
    align_corners: bool,
    labels: &mut [T],
    control: &Control,
) -> Result<(), UpsampleError> {
    let [items, classes, height, width] = logits.shape();
    let job = Resampling::new(logits, size, align_corners);
    if labels.len() != items * job.pixels() {
        return Err(UpsampleError::Size);
    }
    if labels.is_empty() {
        return Ok(());
    }
    if classes == 0 || height == 0 || width == 0 {
        return Err(UpsampleError::Empty);
    }
    let tiles = tiles(&job);
    let output = Output { start: labels.as_mut_ptr(), pitch: size.1 };
    for_each_tile(
        &tiles,
        control,
        || Labeller::new(&job, &tiles),
        |own, tile| {
            // SAFETY: the labels hold every pixel, and tiles have none in common.
            unsafe {
                let row = tile.item * size.0 + tile.pixels_y.start;
                own.label(&job, tile, output.at(row, tile.pixels_x.start));
            }
        },
    )?;
    Ok(())
}
