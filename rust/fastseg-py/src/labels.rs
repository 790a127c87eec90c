//! Label maps of any integer type.

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;

/// A label map, flat.
#[derive(FromPyObject)]
pub enum Labels<'py> {
    /// Bytes.
    U8(PyReadonlyArray1<'py, u8>),
    /// Two bytes.
    U16(PyReadonlyArray1<'py, u16>),
    /// Four bytes, signed.
    I32(PyReadonlyArray1<'py, i32>),
    /// Eight bytes, signed.
    I64(PyReadonlyArray1<'py, i64>),
}

/// Runs `$body` with the values of one label map.
macro_rules! with_labels {
    ($labels:expr, $values:ident => $body:expr) => {
        match $labels {
            $crate::labels::Labels::U8(values) => {
                let $values = values.as_slice()?;
                $body
            }
            $crate::labels::Labels::U16(values) => {
                let $values = values.as_slice()?;
                $body
            }
            $crate::labels::Labels::I32(values) => {
                let $values = values.as_slice()?;
                $body
            }
            $crate::labels::Labels::I64(values) => {
                let $values = values.as_slice()?;
                $body
            }
        }
    };
}
pub(crate) use with_labels;

/// Runs `$body` with the values of two label maps, which must be of one type.
macro_rules! with_two_labels {
    ($one:expr, $other:expr, $a:ident, $b:ident => $body:expr) => {
        match ($one, $other) {
            ($crate::labels::Labels::U8(a), $crate::labels::Labels::U8(b)) => {
                let ($a, $b) = (a.as_slice()?, b.as_slice()?);
                $body
            }
            ($crate::labels::Labels::U16(a), $crate::labels::Labels::U16(b)) => {
                let ($a, $b) = (a.as_slice()?, b.as_slice()?);
                $body
            }
            ($crate::labels::Labels::I32(a), $crate::labels::Labels::I32(b)) => {
                let ($a, $b) = (a.as_slice()?, b.as_slice()?);
                $body
            }
            ($crate::labels::Labels::I64(a), $crate::labels::Labels::I64(b)) => {
                let ($a, $b) = (a.as_slice()?, b.as_slice()?);
                $body
            }
            _ => Err(pyo3::exceptions::PyValueError::new_err("two label maps of different types")),
        }
    };
}
pub(crate) use with_two_labels;
