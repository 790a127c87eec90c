//! Products of small matrices, with one of them packed for the loads of the inner loop.

use super::lines::{Lines, padded};
use crate::simd::{Kernel, Simd, dispatch};

/// Vectors in a panel.
const fn panel(lanes: usize) -> usize {
    // What fits beside the operands: AVX-512 and NEON have 32 registers, the others 16.
    if lanes == 8 { 2 } else { 4 }
}

/// A (k, n) matrix, packed in panels of a few vectors' columns; missing columns are zero.
pub struct Packed {
    k: usize,
    n: usize,
    lanes: usize,
    data: Lines,
}

impl Packed {
    /// Packs the matrix whose element (i, j) is `b[i * row + j * column]`.
    ///
    /// # Panics
    /// Where an element lies outside of `b`.
    pub fn new(b: &[f32], k: usize, n: usize, row: usize, column: usize) -> Self {
        let lanes = crate::simd::Level::detect().lanes();
        let mut data = Lines::new(k * padded(n));
        let to = data.as_mut_slice();
        for (first, width) in panels(n, lanes) {
            let panel = &mut to[k * first..][..k * width];
            let columns = width.min(n - first);
            if row == 1 && column >= k {
                dispatch(Turn { b: &b[first * column..], k, column, columns, width, panel });
                continue;
            }
            for (i, line) in panel.chunks_exact_mut(width).enumerate() {
                let from = &b[i * row + first * column..];
                if column == 1 {
                    line[..columns].copy_from_slice(&from[..columns]);
                    continue;
                }
                for (j, x) in line[..columns].iter_mut().enumerate() {
                    *x = from[j * column];
                }
            }
        }
        Self { k, n, lanes, data }
    }
}

/// Packs a panel of a matrix whose columns are `column` apart and dense.
struct Turn<'a> {
    b: &'a [f32],
    k: usize,
    column: usize,
    columns: usize,
    width: usize,
    panel: &'a mut [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Turn { b, k, column, columns, width, panel } = self;
        assert!(columns > 0 && columns <= width && width * k <= panel.len());
        assert!((columns - 1) * column + k <= b.len());
        // SAFETY: the asserts cover `columns` runs of `k` floats and `k` lines of the panel.
        unsafe { S::transpose(b.as_ptr(), column, panel.as_mut_ptr(), width, columns, k) };
    }
}

/// First column and padded width of each panel.
pub fn panels(n: usize, lanes: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = panel(lanes) * lanes;
    (0..n)
        .step_by(step)
        .map(move |first| (first, (n - first).div_ceil(lanes).min(panel(lanes)) * lanes))
}

/// What the result of a product starts from.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    /// Nothing.
    Zero,
    /// A row that is the same for all.
    Row(&'a [f32]),
    /// What is there.
    Sum,
}

/// A matrix with `rows` rows: element (i, k) is `data[i * row + k * step]`.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// How many rows.
    pub rows: usize,
    /// Distance between rows.
    pub row: usize,
    /// Distance between the elements of a row.
    pub step: usize,
}

/// [`panel_product`] by vectors of `S`; the columns are those from `first` on of row and result.
///
/// # Safety
/// The instruction set of `S` must be available.
#[inline(always)]
unsafe fn multiply<S: Simd>(run: Run) {
    let Run { left, panel, k, columns, first, start, to, stride } = run;
    if left.rows == 0 || columns == 0 {
        return;
    }
    let vectors = columns.div_ceil(S::LANES);
    assert!(panel.len() >= k * vectors * S::LANES && vectors <= self::panel(S::LANES));
    assert!((left.rows - 1) * stride + first + columns <= to.len());
    assert!(k == 0 || (left.rows - 1) * left.row + (k - 1) * left.step < left.data.len());
    if let Start::Row(row) = start {
        assert!(row.len() >= first + columns);
    }
    let job =
        Job { left, k, b: panel.as_ptr(), columns, first, start, to: to.as_mut_ptr(), stride };
    // SAFETY: the asserts above cover every element that a job touches.
    unsafe {
        match vectors {
            1 => job.rows::<S, 12, 1>(),
            2 if S::LANES == 8 => job.rows::<S, 6, 2>(),
            2 => job.rows::<S, 12, 2>(),
            3 => job.rows::<S, 8, 3>(),
            _ => job.rows::<S, 6, 4>(),
        }
    }
}

struct Job<'a> {
    left: Left<'a>,
    k: usize,
    b: *const f32,
    columns: usize,
    first: usize,
    start: Start<'a>,
    to: *mut f32,
    stride: usize,
}

impl Job<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize, const C: usize>(&self) {
        let mut i = 0;
        while i < self.left.rows {
            let rows = R.min(self.left.rows - i);
            // SAFETY: as for `multiply`; rows beyond the last are read as the last, and not written.
            unsafe { self.tile::<S, R, C>(i, rows) };
            i += R;
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const C: usize>(&self, i: usize, rows: usize) {
        // SAFETY: as for `rows`.
        unsafe {
            let a: [*const f32; R] = std::array::from_fn(|r| {
                self.left.data.as_ptr().add((i + r.min(rows - 1)) * self.left.row)
            });
            let mut sums = [[S::splat(0.0); C]; R];
            let mut b = self.b;
            for k in 0..self.k {
                let vectors: [S::V; C] = std::array::from_fn(|c| S::load(b.add(c * S::LANES)));
                b = b.add(C * S::LANES);
                for r in 0..R {
                    let x = S::splat(*a[r].add(k * self.left.step));
                    for c in 0..C {
                        sums[r][c] = S::mul_add(x, vectors[c], sums[r][c]);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate().take(rows) {
                let to = self.to.add((i + r) * self.stride + self.first);
                for (c, sum) in sums.iter().enumerate() {
                    let at = c * S::LANES;
                    let count = self.columns.saturating_sub(at).min(S::LANES);
                    if count == S::LANES {
                        let base = match self.start {
                            Start::Zero => S::splat(0.0),
                            Start::Row(row) => S::load(row.as_ptr().add(self.first + at)),
                            Start::Sum => S::load(to.add(at)),
                        };
                        S::store(to.add(at), S::add(base, *sum));
                    } else if count > 0 {
                        let base = match self.start {
                            Start::Zero => S::splat(0.0),
                            Start::Row(row) => {
                                S::load_tail(row.as_ptr().add(self.first + at), count, 0.0)
                            }
                            Start::Sum => S::load_tail(to.add(at), count, 0.0),
                        };
                        S::store_tail(to.add(at), count, S::add(base, *sum));
                    }
                }
            }
        }
    }
}

/// One panel's part of a product.
struct Run<'a> {
    left: Left<'a>,
    panel: &'a [f32],
    k: usize,
    columns: usize,
    first: usize,
    start: Start<'a>,
    to: &'a mut [f32],
    stride: usize,
}

impl Kernel for Run<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: `dispatch` chose `S`.
        unsafe { multiply::<S>(self) };
    }
}

// Compiled once, whoever calls it: with every size of tiles inside, it is large.
#[inline(never)]
fn run(run: Run) {
    dispatch(run);
}

/// Writes `start + left × right` to rows of `to` that are `stride` apart.
///
/// # Panics
/// Where the sizes reach beyond a slice.
pub fn product(left: Left, right: &Packed, start: Start, to: &mut [f32], stride: usize) {
    let (k, n) = (right.k, right.n);
    for (first, width) in panels(n, right.lanes) {
        let panel = &right.data.as_slice()[k * first..][..k * width];
        let columns = width.min(n - first);
        run(Run { left, panel, k, columns, first, start, to, stride });
    }
}

/// Writes `start + left × panel` to rows of `to` that are `stride` apart.
///
/// The panel has `k` rows of whole vectors, as [`panels`] divides them, and `columns` that count.
///
/// # Panics
/// Where the sizes reach beyond a slice.
pub fn panel_product(
    left: Left,
    panel: &[f32],
    (k, columns): (usize, usize),
    start: Start,
    to: &mut [f32],
    stride: usize,
) {
    run(Run { left, panel, k, columns, first: 0, start, to, stride });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_any_size() {
        for (m, k, n) in [(1, 1, 1), (5, 3, 7), (13, 20, 33), (12, 4, 64), (7, 9, 150), (25, 2, 48)]
        {
            let a: Vec<f32> = (0..m * k).map(|i| (i % 7) as f32 - 3.0).collect();
            let b: Vec<f32> = (0..k * n).map(|i| (i % 5) as f32 - 2.0).collect();
            let row: Vec<f32> = (0..n).map(|i| i as f32).collect();
            for transposed in [false, true] {
                let (rs, cs) = if transposed { (1, k) } else { (n, 1) };
                let packed = Packed::new(&b, k, n, rs, cs);
                let (ar, step) = if transposed { (1, m) } else { (k, 1) };
                let left = Left { data: &a, rows: m, row: ar, step };
                let mut to = vec![1.0; m * (n + 2)];
                for (start, base) in
                    [(Start::Row(&row), 0.0), (Start::Sum, 1.0), (Start::Zero, -1.0)]
                {
                    product(left, &packed, start, &mut to, n + 2);
                    for i in 0..m {
                        for j in 0..n {
                            let dot: f32 =
                                (0..k).map(|l| a[i * ar + l * step] * b[l * rs + j * cs]).sum();
                            let wanted = match start {
                                Start::Row(_) => row[j] + dot,
                                Start::Sum => row[j] + 2.0 * dot,
                                Start::Zero => dot,
                            };
                            assert_eq!(to[i * (n + 2) + j], wanted, "{base} {m} {k} {n}");
                        }
                        assert_eq!(to[i * (n + 2) + n], 1.0);
                    }
                }
            }
        }
    }
}
