//! Label maps of any integer type, read as they are.

use crate::simd::Simd;

/// The values of a label map as unsigned integers of their own width.
#[derive(Clone, Copy, Debug)]
pub enum Bits<'a> {
    /// 8 bits each.
    B8(&'a [u8]),
    /// 16 bits each.
    B16(&'a [u16]),
    /// 32 bits each.
    B32(&'a [u32]),
    /// 64 bits each.
    B64(&'a [u64]),
}

/// A label map.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Its values.
    pub bits: Bits<'a>,
    /// Whether they are meant as two's complement.
    pub signed: bool,
}

impl Labels<'_> {
    /// How many labels there are.
    pub fn len(&self) -> usize {
        match self.bits {
            Bits::B8(x) => x.len(),
            Bits::B16(x) => x.len(),
            Bits::B32(x) => x.len(),
            Bits::B64(x) => x.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at `i`, as it is meant.
    pub fn value(&self, i: usize) -> i128 {
        let (bits, width) = match self.bits {
            Bits::B8(x) => (u64::from(x[i]), 8),
            Bits::B16(x) => (u64::from(x[i]), 16),
            Bits::B32(x) => (u64::from(x[i]), 32),
            Bits::B64(x) => (x[i], 64),
        };
        let negative = self.signed && bits >> (width - 1) == 1;
        i128::from(bits) - if negative { 1 << width } else { 0 }
    }
}

macro_rules! labels_from {
    ($($signed:ty, $unsigned:ty, $variant:ident;)*) => {$(
        impl<'a> From<&'a [$unsigned]> for Labels<'a> {
            fn from(values: &'a [$unsigned]) -> Self {
                Self { bits: Bits::$variant(values), signed: false }
            }
        }

        impl<'a> From<&'a [$signed]> for Labels<'a> {
            fn from(values: &'a [$signed]) -> Self {
                // SAFETY: both types have the same size and alignment, and any bits are a value.
                let bits = unsafe {
                    std::slice::from_raw_parts(values.as_ptr().cast::<$unsigned>(), values.len())
                };
                Self { bits: Bits::$variant(bits), signed: true }
            }
        }
    )*};
}

labels_from! {
    i8, u8, B8;
    i16, u16, B16;
    i32, u32, B32;
    i64, u64, B64;
}

/// An unsigned integer that labels are read as.
pub trait Word: Copy + Eq + Ord + Send + Sync + 'static {
    /// Its width.
    const BITS: u32;
    /// As the widest.
    fn wide(self) -> u64;
    /// As a class number; only of values that are one.
    fn class(self) -> u32;
    /// The lowest bits of `x`.
    fn cut(x: u64) -> Self;
    /// Bit `i` of the result: whether value `i` at `p` is another than value `i + 1`, for 64 of them.
    ///
    /// # Safety
    /// `p` must be valid for 65 values, and the instruction set of `S` available.
    unsafe fn changes<S: Simd>(p: *const Self) -> u64;
}

macro_rules! word {
    ($($word:ty, $changes:ident;)*) => {$(
        impl Word for $word {
            const BITS: u32 = <$word>::BITS;
            #[inline(always)]
            fn wide(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn class(self) -> u32 {
                self as u32
            }
            #[inline(always)]
            fn cut(x: u64) -> Self {
                x as Self
            }
            #[inline(always)]
            unsafe fn changes<S: Simd>(p: *const Self) -> u64 {
                // SAFETY: as the caller.
                unsafe { S::$changes(p) }
            }
        }
    )*};
}

word! {
    u8, changes8;
    u16, changes16;
    u32, changes32;
    u64, changes64;
}
