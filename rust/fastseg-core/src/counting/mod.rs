//! Counting pairs of labels: what every overlap score is computed from.

mod confusion;
mod labels;

pub use confusion::{Confusion, CountError, Which};
pub use labels::{Bits, Labels};
