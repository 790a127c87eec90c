//! Labels of bilinearly enlarged logits, without the enlarged logits.

mod argmax;
mod cell;
mod confusion;
mod grid;
mod logits;
mod tile;
mod top_k;

pub use confusion::{Target, confusion};
pub use logits::{Logits, OutOfBounds, Values};
pub use tile::Label;
pub use top_k::top_k;

use argmax::Labeller;
use tile::{Output, Resampling, Tile, for_each_tile, tiles};

use crate::control::{Cancelled, Control};

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpsampleError {
    /// The output has another size than the arguments say.
    Size,
    /// There are no classes, or nothing to take samples from.
    Empty,
    /// The number of classes asked for is not in `1..=K`.
    Count,
    /// A target is no class.
    Label {
        /// Where: the pixel's number in the batch.
        position: usize,
        /// The target.
        value: i64,
    },
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
    let job = Resampling::new(logits, size, align_corners);
    let tiles = prepared(&job, labels.len())?;
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
        drop,
    )?;
    Ok(())
}

/// The tiles of a resampling, if it makes as many pixels as there is room for.
fn prepared(job: &Resampling, room: usize) -> Result<Vec<Tile>, UpsampleError> {
    let [items, classes, height, width] = job.logits.shape();
    if room != items * job.pixels() {
        return Err(UpsampleError::Size);
    }
    if room == 0 {
        return Ok(Vec::new());
    }
    if classes == 0 || height == 0 || width == 0 {
        return Err(UpsampleError::Empty);
    }
    Ok(tiles(job))
}
