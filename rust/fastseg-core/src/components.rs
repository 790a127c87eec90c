//! Connected regions of equal values, by joining runs.

use std::cmp::Ordering;

use crate::control::{Cancelled, Control};

/// Values that are compared at once.
const CHUNK: usize = 16;

/// A stretch of equal values in one row.
#[derive(Clone, Copy, Debug)]
struct Run<L> {
    first: u32,
    end: u32,
    value: L,
}

/// The regions of a grid.
#[derive(Debug)]
pub struct Regions<L> {
    runs: Vec<Run<L>>,
    /// Where the runs of each row start, and where those of the last end.
    rows: Vec<usize>,
    /// The region of each run.
    region: Vec<u32>,
    /// How many places each region has; regions are numbered by their first place.
    sizes: Vec<u64>,
    width: usize,
}

impl<L: Copy + Eq> Regions<L> {
    /// Finds the regions of all values but `background`, in a grid of three axes.
    ///
    /// Places are neighbours if they differ by at most one along each axis, and along at most
    /// `connectivity` axes.
    pub fn find(
        values: &[L],
        shape: [usize; 3],
        background: Option<L>,
        connectivity: usize,
        control: &Control,
    ) -> Result<Self, Cancelled> {
        let [planes, rows_of_plane, width] = shape;
        let mut runs = Vec::new();
        let mut rows = vec![0];
        for row in values.chunks_exact(width) {
            if rows.len() % 1024 == 0 {
                control.check()?;
            }
            runs_of_row(row, background, &mut runs);
            rows.push(runs.len());
        }
        let mut forest: Vec<u32> = (0..runs.len() as u32).collect();
        for z in 0..planes {
            control.check()?;
            for y in 0..rows_of_plane {
                let here = z * rows_of_plane + y;
                for (dz, dy) in [(0, -1), (1, -1), (1, 0), (1, 1)] {
                    let (Some(z), Some(y)) = (z.checked_sub(dz), y.checked_add_signed(dy)) else {
                        continue;
                    };
                    let axes = dz + dy.unsigned_abs();
                    if y >= rows_of_plane || axes > connectivity {
                        continue;
                    }
                    let there = z * rows_of_plane + y;
                    let slack = u32::from(axes < connectivity);
                    join_rows(
                        &runs,
                        rows[here]..rows[here + 1],
                        rows[there]..rows[there + 1],
                        slack,
                        &mut forest,
                    );
                }
            }
        }
        let (region, sizes) = number(&runs, &mut forest);
        Ok(Self { runs, rows, region, sizes, width })
    }

    /// How many places each region has.
    pub fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// Calls `write` with the places of each run, its value and its region.
    pub fn for_runs(&self, mut write: impl FnMut(std::ops::Range<usize>, L, usize)) {
        for (row, bounds) in self.rows.windows(2).enumerate() {
            let start = row * self.width;
            for i in bounds[0]..bounds[1] {
                let Run { first, end, value } = self.runs[i];
                write(start + first as usize..start + end as usize, value, self.region[i] as usize);
            }
        }
    }
}

fn runs_of_row<L: Copy + Eq>(row: &[L], background: Option<L>, runs: &mut Vec<Run<L>>) {
    let mut x = 0;
    while x < row.len() {
        let (value, first) = (row[x], x);
        while row.len() - x >= CHUNK
            && row[x..x + CHUNK].iter().fold(true, |all, &v| all & (v == value))
        {
            x += CHUNK;
        }
        while x < row.len() && row[x] == value {
            x += 1;
        }
        if Some(value) != background {
            runs.push(Run { first: first as u32, end: x as u32, value });
        }
    }
}

/// Joins the runs of two rows that touch; with `slack`, also those that only touch at a corner.
fn join_rows<L: Copy + Eq>(
    runs: &[Run<L>],
    here: std::ops::Range<usize>,
    there: std::ops::Range<usize>,
    slack: u32,
    forest: &mut [u32],
) {
    let (mut a, mut b) = (here.start, there.start);
    while a < here.end && b < there.end {
        join(runs, a, b, slack, forest);
        match runs[a].end.cmp(&runs[b].end) {
            Ordering::Less => a += 1,
            Ordering::Greater => b += 1,
            Ordering::Equal => {
                // Each may still touch the other's successor at a corner.
                if a + 1 < here.end {
                    join(runs, a + 1, b, slack, forest);
                }
                b += 1;
            }
        }
    }
}

/// Joins two runs of neighbouring rows if they touch and are of one value.
fn join<L: Copy + Eq>(runs: &[Run<L>], a: usize, b: usize, slack: u32, forest: &mut [u32]) {
    let (one, other) = (&runs[a], &runs[b]);
    let touch = one.first < other.end + slack && other.first < one.end + slack;
    if touch && one.value == other.value {
        let (one, other) = (root(forest, a as u32), root(forest, b as u32));
        // The first run of a region is its root.
        forest[one.max(other) as usize] = one.min(other);
    }
}

fn root(forest: &mut [u32], mut i: u32) -> u32 {
    while forest[i as usize] != i {
        let next = forest[forest[i as usize] as usize];
        forest[i as usize] = next;
        i = next;
    }
    i
}

/// Numbers the regions in the order of their first runs.
fn number<L>(runs: &[Run<L>], forest: &mut [u32]) -> (Vec<u32>, Vec<u64>) {
    let mut region = vec![0; runs.len()];
    let mut sizes = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let root = root(forest, i as u32) as usize;
        if root == i {
            region[i] = sizes.len() as u32;
            sizes.push(0);
        } else {
            region[i] = region[root];
        }
        sizes[region[i] as usize] += u64::from(run.end - run.first);
    }
    (region, sizes)
}
