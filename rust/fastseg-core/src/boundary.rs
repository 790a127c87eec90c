//! Which pixels of a label map are near another label, and how two maps agree there.
//!
//! A pixel is inside its label as deep as `depth` if the square of that radius around it holds no
//! other label. Each row says where its own part of the square is of one label; a count of the rows
//! above that agree says the rest.

use rayon::prelude::*;

use crate::control::{Cancelled, Control};
use crate::surface::{Label, LabelOutside};

/// Rows that one task works on.
const BAND: usize = 128;

/// A label map and how deep its boundary is.
#[derive(Clone, Copy)]
pub struct Map<'a, L> {
    /// The labels.
    pub labels: &'a [L],
    /// Pixels in a row.
    pub width: usize,
    /// How far from another label a pixel still is on the boundary, in either axis.
    pub depth: usize,
    /// Whether what lies beyond the picture is another label.
    pub edge: bool,
}

/// Writes one for each pixel on the boundary of its label, zero for the others.
pub fn near_boundary<L: Label>(
    map: Map<'_, L>,
    out: &mut [u8],
    control: &Control,
) -> Result<(), Cancelled> {
    out.par_chunks_mut(BAND * map.width).enumerate().try_for_each(|(task, out)| {
        control.check()?;
        map.write_band(task * BAND, out);
        Ok(())
    })
}

impl<L: Label> Map<'_, L> {
    fn write_band(&self, first: usize, out: &mut [u8]) {
        let height = self.labels.len() / self.width;
        let (width, depth) = (self.width, self.depth);
        let rows = out.len() / width;
        // Rows that agree, up to the current one; enough of them are all.
        let enough = 2 * depth as u32 + 1;
        let mut agree = vec![0u32; width];
        let mut uniform = vec![false; width];
        let start = first.saturating_sub(depth);
        for row in start..first + rows + depth {
            if row < height {
                self.mark_uniform(row, &mut uniform);
                self.count(row, row == start, enough, &uniform, &mut agree);
            } else if self.edge {
                agree.fill(0);
            } else {
                agree.iter_mut().for_each(|agree| *agree += u32::from(*agree > 0));
            }
            if row >= first + depth {
                let to = &mut out[(row - depth - first) * width..][..width];
                to.iter_mut().zip(&agree).for_each(|(to, &agree)| *to = u8::from(agree < enough));
            }
        }
    }

    /// Where the row has one label as far as `depth` to both sides.
    fn mark_uniform(&self, row: usize, uniform: &mut [bool]) {
        let labels = &self.labels[row * self.width..][..self.width];
        let mut x = 0;
        for run in labels.chunk_by(|a, b| a == b) {
            let end = x + run.len();
            let low = if x == 0 && !self.edge { 0 } else { (x + self.depth).min(end) };
            let high =
                if end == self.width && !self.edge { end } else { end.saturating_sub(self.depth) };
            uniform[x..end].fill(false);
            if low < high {
                uniform[low..high].fill(true);
            }
            x = end;
        }
    }

    fn count(&self, row: usize, fresh: bool, enough: u32, uniform: &[bool], agree: &mut [u32]) {
        let labels = &self.labels[row * self.width..][..self.width];
        if fresh {
            // Beyond the first row, the picture may go on as it is there.
            let before = if row == 0 && !self.edge { enough } else { 0 };
            for (agree, &uniform) in agree.iter_mut().zip(uniform) {
                *agree = if uniform { before + 1 } else { 0 };
            }
            return;
        }
        let above = &self.labels[(row - 1) * self.width..][..self.width];
        for (x, agree) in agree.iter_mut().enumerate() {
            let before = if labels[x] == above[x] { (*agree).min(2 * enough) } else { 0 };
            *agree = if uniform[x] { before + 1 } else { 0 };
        }
    }
}

/// How many pixels of each label are on the boundary: of both maps, of the prediction's, and of the
/// target's.
pub type Counts = Vec<[i64; 3]>;

/// Why there are no counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundaryError {
    /// A label is neither below the number of labels nor the one that is ignored.
    Label(LabelOutside),
    /// The computation was asked to stop.
    Cancelled,
}

/// Counts the boundary pixels of two maps of one shape; pixels whose target is `ignored` are left out.
pub fn boundary_counts<L: Label>(
    pred: Map<'_, L>,
    target: Map<'_, L>,
    count: usize,
    ignored: Option<i64>,
    control: &Control,
) -> Result<Counts, BoundaryError> {
    let width = pred.width;
    let tasks = (pred.labels.len() / width).div_ceil(BAND);
    (0..tasks)
        .into_par_iter()
        .map(|task| {
            control.check().map_err(|Cancelled| BoundaryError::Cancelled)?;
            let from = task * BAND * width;
            let len = (BAND * width).min(pred.labels.len() - from);
            let (mut near_pred, mut near_target) = (vec![0; len], vec![0; len]);
            pred.write_band(task * BAND, &mut near_pred);
            target.write_band(task * BAND, &mut near_target);
            let labels = pred.labels[from..][..len].iter().zip(&target.labels[from..][..len]);
            let mut counts = vec![[0; 3]; count];
            for ((&pred, &target), (&on_pred, &on_target)) in
                labels.zip(near_pred.iter().zip(&near_target))
            {
                if Some(target.number()) == ignored {
                    continue;
                }
                let pred = slot(pred, false, count, ignored)?;
                let target = slot(target, true, count, ignored)?;
                if let Some(pred) = pred {
                    counts[pred][0] +=
                        i64::from(on_pred & on_target & u8::from(Some(pred) == target));
                    counts[pred][1] += i64::from(on_pred);
                }
                if let Some(target) = target {
                    counts[target][2] += i64::from(on_target);
                }
            }
            Ok(counts)
        })
        .try_reduce(
            || vec![[0; 3]; count],
            |mut a, b| {
                for (a, b) in a.iter_mut().zip(b) {
                    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                }
                Ok(a)
            },
        )
}

/// The place of a label among the counts; none for a prediction of the ignored label.
#[inline(always)]
fn slot<L: Label>(
    label: L,
    in_target: bool,
    count: usize,
    ignored: Option<i64>,
) -> Result<Option<usize>, BoundaryError> {
    let label = label.number();
    match usize::try_from(label) {
        Ok(slot) if slot < count => Ok(Some(slot)),
        _ if Some(label) == ignored => Ok(None),
        _ => Err(BoundaryError::Label(LabelOutside { in_target, label })),
    }
}
