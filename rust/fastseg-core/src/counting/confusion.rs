//! The confusion matrix: how often each class was predicted where each class is true.
//!
//! Label maps are piecewise constant. 64 pixels are compared with their right neighbours at once;
//! where neither map changes nothing else happens, and otherwise a whole run is counted with one
//! addition. Where nearly every pixel changes, indices are computed in vectors and counted in
//! several private tables, so that an addition does not wait for the one before it.
//!
//! Labels are never checked one by one: what is no class has a row and a column of its own.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::labels::{Bits, Labels, Word};
use crate::control::{Cancelled, Control};
use crate::simd::{self, Simd};

/// Labels that a thread counts before it asks for more, and whether to stop.
const CHUNK: usize = 1 << 16;
/// Labels compared at once.
const BLOCK: usize = 64;
/// With more runs than this in a block, each label is counted by itself.
const DENSE: u32 = 14;
/// Private tables of a thread, while they are this small in total.
const TABLES: usize = 4;
const SMALL: usize = 40 << 10;
/// The most bytes of tables of all threads together.
const BYTES: usize = 32 << 20;

/// Which of the two label maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The prediction.
    Pred,
    /// The truth.
    Target,
}

/// Why nothing was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountError {
    /// The maps differ in length, or the output has the wrong one.
    Size,
    /// A label is no class.
    Label {
        /// In which map.
        which: Which,
        /// At which place.
        index: usize,
        /// The label.
        value: i128,
    },
    /// Stopped by the caller.
    Cancelled,
}

impl fmt::Display for CountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size => write!(f, "the label maps or the counts differ in size"),
            Self::Label { which, index, value } => {
                let name = if *which == Which::Pred { "pred" } else { "target" };
                write!(f, "{name} has the label {value} at {index}, which is no class")
            }
            Self::Cancelled => write!(f, "cancelled"),
        }
    }
}

impl std::error::Error for CountError {}

impl From<Cancelled> for CountError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// What is counted, and how.
#[derive(Clone, Copy, Debug)]
pub struct Confusion {
    /// Labels from 0 to this, exclusive, are classes.
    pub classes: usize,
    /// Places with this target are left out.
    pub ignore: Option<i64>,
    /// Whether a label that is no class is an error, the ignored one apart. If not, such targets
    /// are left out and such predictions are void.
    pub strict: bool,
    /// Whether there is a last column for void predictions: those of the ignored label where it is
    /// no class. Without it they are errors, too.
    pub void: bool,
}

impl Confusion {
    /// The columns of the counts: a class each, and possibly the void ones.
    pub fn columns(&self) -> usize {
        self.classes + usize::from(self.void)
    }

    /// Adds the counts of two label maps to `counts`: rows are the target, columns the prediction.
    ///
    /// After an error `counts` are what they were.
    pub fn count(
        &self,
        pred: Labels<'_>,
        target: Labels<'_>,
        counts: &mut [i64],
        control: &Control,
    ) -> Result<(), CountError> {
        if pred.len() != target.len() || counts.len() != self.classes * self.columns() {
            return Err(CountError::Size);
        }
        let totals = self.tables(pred, target, control)?;
        if self.has_errors(&totals) {
            return Err(self.first_error(pred, target));
        }
        let (stride, columns) = (self.stride(), self.columns());
        for (row, counts) in totals.chunks(stride).zip(counts.chunks_mut(columns)) {
            for (count, n) in counts.iter_mut().zip(&row[..self.classes]) {
                *count += *n as i64;
            }
            if let Some(void) = counts.get_mut(self.classes) {
                *void += (row[self.outside()] + row[self.ignored()]) as i64;
            }
        }
        Ok(())
    }

    /// The row and column of labels that are no class.
    fn outside(&self) -> usize {
        self.classes
    }

    /// The row and column of the ignored label.
    fn ignored(&self) -> usize {
        self.classes + 1
    }

    fn stride(&self) -> usize {
        self.classes + 2
    }

    fn has_errors(&self, totals: &[u64]) -> bool {
        let (strict, stride) = (self.strict, self.stride());
        let targets = &totals[self.outside() * stride..][..stride];
        let mut rows = totals.chunks(stride).take(self.classes);
        strict && targets.iter().any(|&n| n != 0)
            || rows.any(|row| {
                strict && row[self.outside()] != 0 || !self.void && row[self.ignored()] != 0
            })
    }

    /// Looks for the first label that made `has_errors` true.
    fn first_error(&self, pred: Labels<'_>, target: Labels<'_>) -> CountError {
        let is_class = |value: i128| (0..self.classes as i128).contains(&value);
        for index in 0..target.len() {
            let (p, t) = (pred.value(index), target.value(index));
            if self.ignore.is_some_and(|ignore| t == i128::from(ignore)) {
                continue;
            }
            if !is_class(t) {
                if self.strict {
                    return CountError::Label { which: Which::Target, index, value: t };
                }
            } else if !is_class(p) {
                let is_ignored = self.ignore.is_some_and(|ignore| p == i128::from(ignore));
                if if is_ignored { !self.void } else { self.strict } {
                    return CountError::Label { which: Which::Pred, index, value: p };
                }
            }
        }
        CountError::Size // not reached: the caller has counted such a label
    }

    fn tables(
        &self,
        pred: Labels<'_>,
        target: Labels<'_>,
        control: &Control,
    ) -> Result<Vec<u64>, CountError> {
        macro_rules! each_target {
            ($p:expr) => {
                match target.bits {
                    Bits::B8(t) => self.of_words($p, pred.signed, t, target.signed, control),
                    Bits::B16(t) => self.of_words($p, pred.signed, t, target.signed, control),
                    Bits::B32(t) => self.of_words($p, pred.signed, t, target.signed, control),
                    Bits::B64(t) => self.of_words($p, pred.signed, t, target.signed, control),
                }
            };
        }
        match pred.bits {
            Bits::B8(p) => each_target!(p),
            Bits::B16(p) => each_target!(p),
            Bits::B32(p) => each_target!(p),
            Bits::B64(p) => each_target!(p),
        }
    }

    fn of_words<P: Word, T: Word>(
        &self,
        pred: &[P],
        pred_signed: bool,
        target: &[T],
        target_signed: bool,
        control: &Control,
    ) -> Result<Vec<u64>, CountError> {
        let size = self.stride() * self.stride();
        let tables = if size * TABLES * size_of::<u64>() <= SMALL { TABLES } else { 1 };
        let coder = Coder {
            pred: Side::new(self, pred_signed),
            target: Side::new(self, target_signed),
            stride: self.stride() as u32,
            size,
            tables,
        };
        let chunks = pred.len().div_ceil(CHUNK);
        let affordable = (BYTES / (size * tables * size_of::<u64>())).max(1);
        let workers = rayon::current_num_threads().min(chunks).min(affordable);
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<u64>, Cancelled> {
            let mut table = vec![0; size * tables];
            loop {
                let from = next.fetch_add(1, Ordering::Relaxed) * CHUNK;
                if from >= pred.len() {
                    break;
                }
                control.check()?;
                let to = pred.len().min(from + CHUNK);
                let (pred, target) = (&pred[from..to], &target[from..to]);
                simd::dispatch(Chunk { pred, target, coder, table: &mut table });
            }
            let (total, others) = table.split_at_mut(size);
            for other in others.chunks(size) {
                add(total, other);
            }
            table.truncate(size);
            Ok(table)
        };
        if workers <= 1 {
            return Ok(work()?);
        }
        let found: Vec<_> = (0..workers)
            .into_par_iter()
            .with_max_len(1)
            .map(|_| work())
            .collect::<Result<_, _>>()?;
        Ok(found
            .into_iter()
            .reduce(|mut total, other| {
                add(&mut total, &other);
                total
            })
            .unwrap_or_else(|| vec![0; size]))
    }
}

fn add(total: &mut [u64], other: &[u64]) {
    for (total, n) in total.iter_mut().zip(other) {
        *total += n;
    }
}

/// What the labels of one map mean.
#[derive(Clone, Copy)]
struct Side<W> {
    /// The largest that is a class, as its bits.
    last: W,
    /// The ignored label, as its bits, if the type can hold it.
    ignore: Option<W>,
    outside: u32,
    ignored: u32,
}

impl<W: Word> Side<W> {
    fn new(what: &Confusion, signed: bool) -> Self {
        // Bits from here on are negative.
        let end = if signed { 1 << (W::BITS - 1) } else { u128::from(u64::MAX) + 1 };
        let end = end.min(1 << W::BITS).min(what.classes as u128);
        let ignore = what.ignore.and_then(|ignore| {
            let bits = W::cut(ignore as u64);
            let value = i128::from(bits.wide());
            let negative = signed && bits.wide() >> (W::BITS - 1) == 1;
            let value = value - if negative { 1 << W::BITS } else { 0 };
            (value == i128::from(ignore)).then_some(bits)
        });
        Self {
            last: W::cut((end - 1) as u64),
            ignore,
            outside: what.outside() as u32,
            ignored: what.ignored() as u32,
        }
    }

    /// The row of a target.
    #[inline(always)]
    fn row(&self, x: W) -> u32 {
        let row = if x <= self.last { x.class() } else { self.outside };
        if self.ignore.is_some_and(|ignore| ignore == x) { self.ignored } else { row }
    }

    /// The column of a prediction: the ignored label is a class like others where it is in range.
    #[inline(always)]
    fn column(&self, x: W) -> u32 {
        let ignored = self.ignore.is_some_and(|ignore| ignore == x);
        let other = if ignored { self.ignored } else { self.outside };
        if x <= self.last { x.class() } else { other }
    }
}

/// Where pairs of labels are counted.
#[derive(Clone, Copy)]
struct Coder<P, T> {
    pred: Side<P>,
    target: Side<T>,
    stride: u32,
    /// Of one table.
    size: usize,
    /// How many tables follow each other: 1 or `TABLES`.
    tables: usize,
}

impl<P: Word, T: Word> Coder<P, T> {
    /// Below `size`, as rows and columns are below `stride`.
    #[inline(always)]
    fn index(&self, p: P, t: T) -> u32 {
        self.target.row(t) * self.stride + self.pred.column(p)
    }
}

/// Counts a piece of both maps.
struct Chunk<'a, P, T> {
    pred: &'a [P],
    target: &'a [T],
    coder: Coder<P, T>,
    table: &'a mut [u64],
}

impl<P: Word, T: Word> simd::Kernel for Chunk<'_, P, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { pred, target, coder, table } = self;
        let (p, t) = (pred.as_ptr(), target.as_ptr());
        let mut start = 0; // of the run that is not counted yet
        let mut i = 0;
        while i + BLOCK < pred.len() {
            // SAFETY: both maps have 65 values from `i` on; `S` is available.
            let mut ends = unsafe { P::changes::<S>(p.add(i)) | T::changes::<S>(t.add(i)) };
            if ends.count_ones() > DENSE {
                if start < i {
                    table[coder.index(pred[i - 1], target[i - 1]) as usize] += (i - start) as u64;
                }
                // SAFETY: both maps have 64 values from `i` on.
                unsafe { each(p.add(i), t.add(i), &coder, table) };
                start = i + BLOCK;
            } else {
                while ends != 0 {
                    let end = i + ends.trailing_zeros() as usize + 1;
                    let index = coder.index(pred[end - 1], target[end - 1]);
                    table[index as usize] += (end - start) as u64;
                    start = end;
                    ends &= ends - 1;
                }
            }
            i += BLOCK;
        }
        for end in i + 1..=pred.len() {
            let last = end == pred.len();
            if last || pred[end - 1] != pred[end] || target[end - 1] != target[end] {
                // A run that a dense block has counted to its end is empty.
                table[coder.index(pred[end - 1], target[end - 1]) as usize] += (end - start) as u64;
                start = end;
            }
        }
    }
}

/// Counts 64 labels one by one.
///
/// # Safety
/// `p` and `t` must be valid for as many.
#[inline(always)]
unsafe fn each<P: Word, T: Word>(p: *const P, t: *const T, coder: &Coder<P, T>, table: &mut [u64]) {
    let mut indices = [0; BLOCK];
    for (j, index) in indices.iter_mut().enumerate() {
        // SAFETY: `j` is below 64.
        *index = unsafe { coder.index(*p.add(j), *t.add(j)) };
    }
    if coder.tables == TABLES {
        let (a, rest) = table.split_at_mut(coder.size);
        let (b, rest) = rest.split_at_mut(coder.size);
        let (c, d) = rest.split_at_mut(coder.size);
        for four in indices.chunks_exact(4) {
            // SAFETY: an index is below `size`, the length of each table.
            unsafe {
                *a.get_unchecked_mut(four[0] as usize) += 1;
                *b.get_unchecked_mut(four[1] as usize) += 1;
                *c.get_unchecked_mut(four[2] as usize) += 1;
                *d.get_unchecked_mut(four[3] as usize) += 1;
            }
        }
    } else {
        for index in indices {
            // SAFETY: an index is below `size`, the length of the table.
            unsafe { *table.get_unchecked_mut(index as usize) += 1 };
        }
    }
}
