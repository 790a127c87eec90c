//! Operations on tokens: pictures with their channels last, as transformers keep them.
//!
//! Every function checks the lengths of its slices, works on the current pool in pieces whose
//! number does not depend on the number of threads, and gives the same bits for any number.

pub mod attention;
pub mod cross_entropy;
pub mod decoder;
pub mod depthwise;
mod gelu;
mod lines;
mod product;
mod taps;
pub mod winograd;

use std::fmt;

use crate::control::Cancelled;
use crate::simd::Simd;

/// Why an operation did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensError {
    /// A slice has another length than the sizes say.
    Size,
    /// A label is neither a class nor the one to ignore.
    Label(i64),
    /// It was asked to stop.
    Cancelled,
}

impl fmt::Display for TokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size => f.write_str("a tensor has another size than the others say"),
            Self::Label(label) => write!(f, "label {label} is out of range"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for TokensError {}

impl From<Cancelled> for TokensError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// An error unless every slice has the length that belongs to it.
fn require(lengths: &[(usize, usize)]) -> Result<(), TokensError> {
    if lengths.iter().all(|(found, wanted)| found == wanted) {
        Ok(())
    } else {
        Err(TokensError::Size)
    }
}

/// The product of sizes, which no slice has if it is too large to count.
fn volume(sizes: &[usize]) -> usize {
    sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).unwrap_or(usize::MAX)
}

/// A whole vector, or the `n` floats that are there and zeros.
///
/// # Safety
/// As for all methods of [`Simd`]; `p` must be valid for `n` floats.
#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller has `n` floats at `p`, at most a vector.
    unsafe { if n == S::LANES { S::load(p) } else { S::load_tail(p, n, 0.0) } }
}

/// A whole vector, or its first `n` lanes.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
unsafe fn store<S: Simd>(p: *mut f32, n: usize, v: S::V) {
    // SAFETY: the caller has `n` floats at `p`, at most a vector.
    unsafe { if n == S::LANES { S::store(p, v) } else { S::store_tail(p, n, v) } }
}
