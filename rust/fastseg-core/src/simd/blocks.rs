//! Sixteen integers or doubles at a time, in as many registers as that takes.

use super::Baseline;

/// How many numbers a block holds, on every machine.
pub const BLOCK: usize = 16;

/// Sixteen numbers.
///
/// # Safety
/// As for [`super::Simd`]: only where the instruction set is available, and pointers must be valid
/// for sixteen numbers; they need no alignment.
#[allow(clippy::missing_safety_doc)] // stated once, for all methods, above
pub unsafe trait Block<T>: Copy {
    /// All `x`.
    unsafe fn splat(x: T) -> Self;
    /// Sixteen numbers from `p`.
    unsafe fn load(p: *const T) -> Self;
    /// To `p`.
    unsafe fn store(self, p: *mut T);
    /// The sum of each pair; integers wrap.
    unsafe fn add(self, other: Self) -> Self;
    /// The smaller of each pair, of which none is NaN.
    unsafe fn min(self, other: Self) -> Self;
}

/// The blocks of an instruction set.
pub trait Blocks {
    /// Sixteen integers.
    type I32: Block<i32>;
    /// Sixteen doubles.
    type F64: Block<f64>;
}

impl Blocks for Baseline {
    type I32 = [i32; BLOCK];
    type F64 = [f64; BLOCK];
}

macro_rules! plain_block {
    ($type:ty, $add:expr) => {
        // SAFETY: plain Rust; `load` and `store` touch the sixteen numbers that the trait names.
        unsafe impl Block<$type> for [$type; BLOCK] {
            #[inline(always)]
            unsafe fn splat(x: $type) -> Self {
                [x; BLOCK]
            }
            #[inline(always)]
            unsafe fn load(p: *const $type) -> Self {
                // SAFETY: `p` is valid for sixteen numbers by the trait's contract.
                unsafe { p.cast::<Self>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $type) {
                // SAFETY: `p` is valid for sixteen numbers by the trait's contract.
                unsafe { p.cast::<Self>().write_unaligned(self) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                std::array::from_fn(|i| $add(self[i], other[i]))
            }
            #[inline(always)]
            unsafe fn min(self, other: Self) -> Self {
                std::array::from_fn(|i| if other[i] < self[i] { other[i] } else { self[i] })
            }
        }
    };
}
plain_block!(i32, i32::wrapping_add);
plain_block!(f64, |a: f64, b: f64| a + b);

/// A block of several registers, each spelt out: a closure would not have the instruction set.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! block {
    ($name:ident, $type:ty, $register:ty, [$($i:literal)*], $splat:ident, $load:ident, $store:ident, $add:ident, $min:ident) => {
        /// Sixteen numbers in registers of one instruction set.
        #[derive(Clone, Copy)]
        pub struct $name([$register; BLOCK * size_of::<$type>() / size_of::<$register>()]);

        // SAFETY: every method only forwards to intrinsics of the instruction set.
        #[allow(clippy::undocumented_unsafe_blocks)] // each is the one-line forward named above
        unsafe impl Block<$type> for $name {
            #[inline(always)]
            unsafe fn splat(x: $type) -> Self {
                let register = unsafe { $splat(x) };
                Self([register; BLOCK * size_of::<$type>() / size_of::<$register>()])
            }
            #[inline(always)]
            unsafe fn load(p: *const $type) -> Self {
                let p: *const $register = p.cast();
                Self([$(unsafe { $load(p.add($i).cast()) }),*])
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $type) {
                let p: *mut $register = p.cast();
                $(unsafe { $store(p.add($i).cast(), self.0[$i]) };)*
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                Self([$(unsafe { $add(self.0[$i], other.0[$i]) }),*])
            }
            #[inline(always)]
            unsafe fn min(self, other: Self) -> Self {
                Self([$(unsafe { $min(self.0[$i], other.0[$i]) }),*])
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip] // a table
mod x86 {
    use super::super::x86::{Avx2, Avx512, Avx512Row};
    use super::{BLOCK, Block, Blocks};
    use std::arch::x86_64::*;

    impl Blocks for Avx512 {
        type I32 = I32x512;
        type F64 = F64x512;
    }
    impl Blocks for Avx512Row {
        type I32 = I32x512;
        type F64 = F64x512;
    }
    impl Blocks for Avx2 {
        type I32 = I32x256;
        type F64 = F64x256;
    }
    block!(I32x512, i32, __m512i, [0], _mm512_set1_epi32, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_add_epi32, _mm512_min_epi32);
    block!(F64x512, f64, __m512d, [0 1], _mm512_set1_pd, _mm512_loadu_pd, _mm512_storeu_pd, _mm512_add_pd, _mm512_min_pd);
    block!(I32x256, i32, __m256i, [0 1], _mm256_set1_epi32, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_add_epi32, _mm256_min_epi32);
    block!(F64x256, f64, __m256d, [0 1 2 3], _mm256_set1_pd, _mm256_loadu_pd, _mm256_storeu_pd, _mm256_add_pd, _mm256_min_pd);
}

#[cfg(target_arch = "aarch64")]
#[rustfmt::skip] // a table
mod arm {
    use super::super::arm::Neon;
    use super::{BLOCK, Block, Blocks};
    use std::arch::aarch64::*;

    impl Blocks for Neon {
        type I32 = I32x128;
        type F64 = F64x128;
    }
    block!(I32x128, i32, int32x4_t, [0 1 2 3], vdupq_n_s32, vld1q_s32, vst1q_s32, vaddq_s32, vminq_s32);
    block!(F64x128, f64, float64x2_t, [0 1 2 3 4 5 6 7], vdupq_n_f64, vld1q_f64, vst1q_f64, vaddq_f64, vminq_f64);
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, Simd, dispatch};
    use super::*;

    struct Check;

    impl Kernel for Check {
        type Output = ();

        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let a: [i32; BLOCK] = std::array::from_fn(|i| 7 * i as i32 % 16 - 5);
            let b: [i32; BLOCK] = std::array::from_fn(|i| 3 - i as i32);
            let (c, d) = (a.map(f64::from), b.map(f64::from));
            let (mut sum, mut least) = ([0; BLOCK], [0; BLOCK]);
            let (mut real_sum, mut real_least) = ([0.0; BLOCK], [0.0; BLOCK]);
            // SAFETY: `dispatch` has the instruction set; the arrays hold sixteen numbers.
            unsafe {
                let (x, y) = (S::I32::load(a.as_ptr()), S::I32::load(b.as_ptr()));
                x.add(y).add(S::I32::splat(2)).store(sum.as_mut_ptr());
                x.min(y).store(least.as_mut_ptr());
                let (x, y) = (S::F64::load(c.as_ptr()), S::F64::load(d.as_ptr()));
                x.add(y).add(S::F64::splat(2.0)).store(real_sum.as_mut_ptr());
                x.min(y).store(real_least.as_mut_ptr());
            }
            for i in 0..BLOCK {
                assert_eq!((sum[i], least[i]), (a[i] + b[i] + 2, a[i].min(b[i])));
                assert_eq!((real_sum[i], real_least[i]), (sum[i].into(), least[i].into()));
            }
        }
    }

    #[test]
    fn blocks_add_and_compare() {
        dispatch(Check);
    }
}
