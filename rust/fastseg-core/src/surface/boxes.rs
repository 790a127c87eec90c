//! The box around each label.

use rayon::prelude::*;

use super::{Maps, SurfaceError};
use crate::control::Control;

/// Labels that are compared with one another at once.
const CHUNK: usize = 16;
/// Rows that one task works on, at least.
const TASK: usize = 64;

/// A type that labels are stored in.
pub trait Label: Copy + Eq + Send + Sync + 'static {
    /// The label as a number.
    fn number(self) -> i64;
    /// The label of an index that fits.
    fn from_index(index: usize) -> Self;
}

macro_rules! label {
    ($($type:ty)*) => {$(
        impl Label for $type {
            #[inline(always)]
            fn number(self) -> i64 {
                i64::from(self)
            }
            #[inline(always)]
            fn from_index(index: usize) -> Self {
                index as Self
            }
        }
    )*};
}
label!(u8 u16 i32 i64);

/// A label that is out of range, and in which map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelOutside {
    /// Whether it is in the target.
    pub in_target: bool,
    /// The label.
    pub label: i64,
}

/// The first and last place along each axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub first: [usize; 3],
    pub last: [usize; 3],
}

impl Bounds {
    fn around(self, other: Self) -> Self {
        Self {
            first: std::array::from_fn(|i| self.first[i].min(other.first[i])),
            last: std::array::from_fn(|i| self.last[i].max(other.last[i])),
        }
    }
}

type All = Vec<Option<Bounds>>;

/// For each label below `count`, what holds it in both maps.
pub(super) fn bounds<L: Label>(
    maps: Maps<'_, L>,
    count: usize,
    ignored: Option<i64>,
    control: &Control,
) -> Result<All, SurfaceError> {
    let [_, rows, width] = maps.grid.shape;
    let one = |map: &[L], in_target: bool| -> Result<All, SurfaceError> {
        map.par_chunks(width * TASK)
            .enumerate()
            .map(|(task, chunk)| {
                control.check()?;
                let mut found = vec![None; count];
                for (row, values) in (task * TASK..).zip(chunk.chunks_exact(width)) {
                    bounds_of_row(values, [row / rows, row % rows], ignored, &mut found)
                        .map_err(|label| SurfaceError::Label(LabelOutside { in_target, label }))?;
                }
                Ok(found)
            })
            .try_reduce(|| vec![None; count], |a, b| Ok(merge(a, &b)))
    };
    Ok(merge(one(maps.pred, false)?, &one(maps.target, true)?))
}

fn merge(mut a: All, b: &All) -> All {
    for (a, &b) in a.iter_mut().zip(b) {
        *a = match (*a, b) {
            (Some(a), Some(b)) => Some(a.around(b)),
            (a, b) => a.or(b),
        };
    }
    a
}

/// Adds one row, run by run; an error names a label that is out of range.
fn bounds_of_row<L: Label>(
    row: &[L],
    [z, y]: [usize; 2],
    ignored: Option<i64>,
    found: &mut All,
) -> Result<(), i64> {
    let mut x = 0;
    while x < row.len() {
        let (label, first) = (row[x], x);
        while row.len() - x >= CHUNK
            && row[x..x + CHUNK].iter().fold(true, |all, &l| all & (l == label))
        {
            x += CHUNK;
        }
        while x < row.len() && row[x] == label {
            x += 1;
        }
        let number = label.number();
        if Some(number) == ignored {
            continue;
        }
        let run = Bounds { first: [z, y, first], last: [z, y, x - 1] };
        let slot = usize::try_from(number).ok().and_then(|i| found.get_mut(i)).ok_or(number)?;
        *slot = Some(slot.map_or(run, |bounds| bounds.around(run)));
    }
    Ok(())
}
