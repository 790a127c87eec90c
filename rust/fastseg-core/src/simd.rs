//! Vectors of `f32` as wide as the machine allows, chosen at run time.
//!
//! A hot loop is written once, generic over [`Simd`], inside a [`Kernel`]. [`dispatch`] runs it
//! compiled for the best instruction set that the processor has, so that a wheel built for the
//! plain baseline is as fast as one built on the machine it runs on.

use std::sync::OnceLock;

pub mod blocks;

/// Where [`Simd::exp2`] stops falling: far below what a probability needs, far above where products
/// become denormal and slow.
pub const LOWEST_EXPONENT: f32 = -80.0;

/// Floats in a cache line.
pub const LINE: usize = 16;

/// Floats in a row that is a vector and a half of AVX-512.
const WIDE_ROW: usize = 24;

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 16 lanes.
    Avx512,
    /// 8 lanes with fused multiply-add.
    Avx2,
    /// 4 lanes with fused multiply-add (every aarch64).
    Neon,
    /// 8 lanes in plain Rust, compiled for whatever the target guarantees.
    Baseline,
}

impl Level {
    /// The best level of this machine, at most the one named in `FASTSEG_SIMD`
    /// (`avx512`, `avx2`, `neon` or `baseline`), which tests use to reach the others.
    pub fn detect() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| Self::best(std::env::var("FASTSEG_SIMD").ok().as_deref()))
    }

    /// The name as [`Self::detect`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Baseline => "baseline",
        }
    }

    /// How many floats a vector of this level holds.
    pub fn lanes(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::Avx2 | Self::Baseline => 8,
            Self::Neon => 4,
        }
    }

    /// Floats in a row of `values` values, padded to what [`dispatch_rows`] works on.
    pub fn padded(self, values: usize) -> usize {
        match (self, values) {
            // Usual numbers of classes, 19 and 21 among them, would leave a third of two vectors idle.
            (Self::Avx512, 17..=WIDE_ROW) => WIDE_ROW,
            _ => values.next_multiple_of(self.lanes()),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn best(cap: Option<&str>) -> Self {
        if cap == Some("baseline") || cfg!(miri) {
            return Self::Baseline;
        }
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("bmi2");
        match (avx512 && cap != Some("avx2"), avx2) {
            (true, true) => Self::Avx512,
            (false, true) => Self::Avx2,
            _ => Self::Baseline,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn best(cap: Option<&str>) -> Self {
        if cap == Some("baseline") || cfg!(miri) { Self::Baseline } else { Self::Neon }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn best(_cap: Option<&str>) -> Self {
        Self::Baseline
    }
}

/// A vector of `LANES` floats and what can be done with it.
///
/// # Safety
/// The methods may only run where the instruction set of the implementor is available, which
/// [`dispatch`] sees to. Pointers must be valid for `LANES` floats (`n` for the `_tail` forms);
/// they need no alignment.
#[allow(clippy::missing_safety_doc)] // stated once, for all methods, above
pub unsafe trait Simd: Copy + blocks::Blocks {
    /// The vector.
    type V: Copy;
    /// How many floats it holds.
    const LANES: usize;
    /// Whether loops are worth a copy for each usual size. Every copy is compiled once more for each
    /// instruction set, so the plain fallback goes without.
    const SPECIALIZED: bool = true;
    /// Whether a vector is a whole row, so that rows of several vectors need no code.
    const IS_ROW: bool = false;

    /// Runs a kernel as a function of its own. What is large and called from several places would
    /// otherwise be compiled into each of them, which takes minutes.
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// `LANES` floats from `p`.
    unsafe fn load(p: *const f32) -> Self::V;
    /// `n < LANES` floats from `p`, the other lanes `fill`.
    unsafe fn load_tail(p: *const f32, n: usize, fill: f32) -> Self::V;
    /// To `p`.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n < LANES` lanes to `p`.
    unsafe fn store_tail(p: *mut f32, n: usize, v: Self::V);
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the machine can.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * b + c` of single floats, rounded once where the machine can.
    #[inline(always)]
    fn mul_add_one(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    /// The larger of each pair.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each pair.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// Whether [`Self::scale2`] takes any `n`, and gives infinity past the largest float.
    const SCALE_SATURATES: bool = false;
    /// `a * 2^n` for integral `n` in `[-126, 126]`.
    unsafe fn scale2(a: Self::V, n: Self::V) -> Self::V;
    /// The sum of all lanes.
    unsafe fn sum(a: Self::V) -> f32;
    /// The sum of all lanes of each vector.
    #[inline(always)]
    unsafe fn sums<const R: usize>(vectors: [Self::V; R]) -> [f32; R] {
        // SAFETY: the same instruction set as the caller's.
        vectors.map(|v| unsafe { Self::sum(v) })
    }
    /// The largest lane.
    unsafe fn largest(a: Self::V) -> f32;
    /// The lanes of `yes` where `a > b`, those of `no` elsewhere and where either is NaN.
    unsafe fn if_greater(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// A bit for every lane, the first the lowest: whether `a >= b`, and neither is NaN.
    unsafe fn at_least(a: Self::V, b: Self::V) -> u32;

    /// Calls the cache line at `p`, which need not be valid, into the cache.
    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 has SSE, and a prefetch never faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast())
        };
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }

    /// Bit `i` of the result: whether the byte at `p + i` is another than the one after it, `i < 64`.
    ///
    /// `p` must be valid for 65 bytes; so for the wider forms, in their units.
    #[inline(always)]
    unsafe fn changes8(p: *const u8) -> u64 {
        // SAFETY: as the caller.
        unsafe { plain_changes(p) }
    }
    /// As [`Self::changes8`] for 16-bit values.
    #[inline(always)]
    unsafe fn changes16(p: *const u16) -> u64 {
        // SAFETY: as the caller.
        unsafe { plain_changes(p) }
    }
    /// As [`Self::changes8`] for 32-bit values.
    #[inline(always)]
    unsafe fn changes32(p: *const u32) -> u64 {
        // SAFETY: as the caller.
        unsafe { plain_changes(p) }
    }
    /// As [`Self::changes8`] for 64-bit values.
    #[inline(always)]
    unsafe fn changes64(p: *const u64) -> u64 {
        // SAFETY: as the caller.
        unsafe { plain_changes(p) }
    }

    /// Calls the cache line at `p`, which need not be valid, into the cache to be written.
    #[inline(always)]
    unsafe fn prefetch_write(p: *mut f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a processor that does not know this prefetch passes over it.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_ET0 }>(p.cast())
        };
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }

    /// Writes the transpose of `rows × columns` floats, in rows `from_stride` apart, to rows
    /// `to_stride` apart.
    ///
    /// # Safety
    /// As for all methods; `from` must be valid for `rows` such rows of `columns` floats, `to` for
    /// the reverse.
    #[inline(always)]
    unsafe fn transpose(
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
        rows: usize,
        columns: usize,
    ) {
        // SAFETY: as the caller.
        unsafe { transpose(from, from_stride, to, to_stride, rows, columns) };
    }

    /// `2^x` to 1e-7 relative, with `x` taken as at least [`LOWEST_EXPONENT`].
    ///
    /// Past its opposite the result is at least that large or infinite; of infinity it may be NaN.
    #[inline(always)]
    unsafe fn exp2(x: Self::V) -> Self::V {
        // SAFETY: the same instruction set as the caller's.
        unsafe {
            // The second operand is what comes of NaN: it passes.
            let x = Self::max(Self::splat(LOWEST_EXPONENT), x);
            let x =
                if Self::SCALE_SATURATES { x } else { Self::min(Self::splat(-LOWEST_EXPONENT), x) };
            let n = Self::round(x);
            let f = Self::sub(x, n);
            // Least-squares polynomial for 2^f, |f| ≤ ½, relative error 2e-9.
            let mut p = Self::splat(1.537_070_5e-4);
            for c in [1.339_984_8e-3, 9.618_374e-3, 5.550_329e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0]
            {
                p = Self::mul_add(p, f, Self::splat(c));
            }
            Self::scale2(p, n)
        }
    }
}

/// Which of 64 values differ from the next, where there is no instruction for it.
///
/// # Safety
/// `p` must be valid for 65 values.
#[inline(always)]
unsafe fn plain_changes<T: Copy + PartialEq>(p: *const T) -> u64 {
    // Most often nothing changes, which the compiler finds out in vectors.
    let mut any = false;
    for i in 0..64 {
        // SAFETY: as the caller.
        any |= unsafe { *p.add(i) != *p.add(i + 1) };
    }
    let mut changes = 0;
    if any {
        for i in 0..64 {
            // SAFETY: as the caller.
            changes |= u64::from(unsafe { *p.add(i) != *p.add(i + 1) }) << i;
        }
    }
    changes
}

/// A computation that can be compiled for every instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The computation; implementors mark it `#[inline(always)]`, as everything it calls.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs `kernel` compiled for the best instruction set of this machine.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match Level::detect() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` found every feature that `run_avx512` enables.
        Level::Avx512 => unsafe { x86::run_avx512(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect` found every feature that `run_avx2` enables.
        Level::Avx2 => unsafe { x86::run_avx2(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every aarch64 processor has NEON.
        Level::Neon => unsafe { kernel.run::<arm::Neon>() },
        // SAFETY: plain Rust needs no instruction set.
        _ => unsafe { kernel.run::<Baseline>() },
    }
}

/// [`dispatch`] for work on rows of `stride` floats, as [`Level::padded`] makes them.
#[inline]
pub fn dispatch_rows<K: Kernel>(stride: usize, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    if stride == WIDE_ROW && Level::detect() == Level::Avx512 {
        // SAFETY: `detect` found every feature that `run_avx512_rows` enables.
        return unsafe { x86::run_avx512_rows(kernel) };
    }
    dispatch(kernel)
}

/// Plain Rust, eight lanes.
#[derive(Clone, Copy)]
pub struct Baseline;

// SAFETY: the methods use no special instructions and touch only the floats that the trait names.
unsafe impl Simd for Baseline {
    type V = [f32; 8];
    const LANES: usize = 8;
    const SPECIALIZED: bool = false;

    #[inline(never)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: as the caller.
        unsafe { kernel.run::<Self>() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        // SAFETY: `p` is valid for eight floats by the trait's contract.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_tail(p: *const f32, n: usize, fill: f32) -> [f32; 8] {
        // SAFETY: `p` is valid for `n` floats by the trait's contract.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { fill })
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        // SAFETY: `p` is valid for eight floats by the trait's contract.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_tail(p: *mut f32, n: usize, v: [f32; 8]) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: `p` is valid for `n` floats by the trait's contract.
            unsafe { *p.add(i) = x };
        }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // Not f32::mul_add: without the instruction that is a slow library call.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn mul_add_one(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(a: [f32; 8]) -> [f32; 8] {
        // Adding and taking away 1.5·2^23 rounds to the nearest integer, ties to even.
        const MAGIC: f32 = 12_582_912.0;
        std::array::from_fn(|i| (a[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn scale2(a: [f32; 8], n: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: [f32; 8]) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    unsafe fn largest(a: [f32; 8]) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn if_greater(a: [f32; 8], b: [f32; 8], yes: [f32; 8], no: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn at_least(a: [f32; 8], b: [f32; 8]) -> u32 {
        (0..8).fold(0, |bits, i| bits | (u32::from(a[i] >= b[i]) << i))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use super::{Kernel, Simd, WIDE_ROW};
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor must have the features named.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi2")]
    pub unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the features of `Avx512` are enabled here.
        unsafe { kernel.run::<Avx512>() }
    }

    /// # Safety
    /// The processor must have the features named.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi2")]
    pub unsafe fn run_avx512_rows<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the features of `Avx512Row` are enabled here.
        unsafe { kernel.run::<Avx512Row>() }
    }

    /// # Safety
    /// The processor must have the features named.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the features of `Avx2` are enabled here.
        unsafe { kernel.run::<Avx2>() }
    }

    /// # Safety
    /// The processor must have AVX-512 F.
    #[inline(always)]
    unsafe fn transpose16(square: &mut [__m512; 16]) {
        // SAFETY: as the caller.
        unsafe {
            let mut t = *square;
            for i in (0..16).step_by(2) {
                t[i] = _mm512_unpacklo_ps(square[i], square[i + 1]);
                t[i + 1] = _mm512_unpackhi_ps(square[i], square[i + 1]);
            }
            // Quarter q of `u[4i + j]` is column 4q + j of rows 4i to 4i + 3.
            let mut u = t;
            for i in (0..16).step_by(4) {
                for j in 0..2 {
                    let (a, b) = (_mm512_castps_pd(t[i + j]), _mm512_castps_pd(t[i + j + 2]));
                    u[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                    u[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                }
            }
            for j in 0..4 {
                let even = _mm512_shuffle_f32x4::<0x88>(u[j], u[4 + j]);
                let even_below = _mm512_shuffle_f32x4::<0x88>(u[8 + j], u[12 + j]);
                let odd = _mm512_shuffle_f32x4::<0xDD>(u[j], u[4 + j]);
                let odd_below = _mm512_shuffle_f32x4::<0xDD>(u[8 + j], u[12 + j]);
                square[j] = _mm512_shuffle_f32x4::<0x88>(even, even_below);
                square[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd_below);
                square[8 + j] = _mm512_shuffle_f32x4::<0xDD>(even, even_below);
                square[12 + j] = _mm512_shuffle_f32x4::<0xDD>(odd, odd_below);
            }
        }
    }

    #[derive(Clone, Copy)]
    pub struct Avx512;

    // SAFETY: every method only forwards to intrinsics of AVX-512 F, VL, BW and DQ.
    #[allow(clippy::undocumented_unsafe_blocks)] // each is the one-line forward named above
    unsafe impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const SCALE_SATURATES: bool = true;

        #[inline(never)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: as the caller.
            unsafe { run_avx512(kernel) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_tail(p: *const f32, n: usize, fill: f32) -> __m512 {
            unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), ((1u32 << n) - 1) as __mmask16, p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn store_tail(p: *mut f32, n: usize, v: __m512) {
            unsafe { _mm512_mask_storeu_ps(p, ((1u32 << n) - 1) as __mmask16, v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn round(a: __m512) -> __m512 {
            unsafe { _mm512_roundscale_ps::<0>(a) }
        }
        #[inline(always)]
        unsafe fn scale2(a: __m512, n: __m512) -> __m512 {
            unsafe { _mm512_scalef_ps(a, n) }
        }
        #[inline(always)]
        unsafe fn transpose(
            from: *const f32,
            from_stride: usize,
            to: *mut f32,
            to_stride: usize,
            rows: usize,
            columns: usize,
        ) {
            // Squares of 16 × 16, at the edges cut by masks: these lanes are not touched.
            let mask = |n: usize| (u32::MAX >> (32 - n.min(16))) as __mmask16;
            for i in (0..rows).step_by(16) {
                for j in (0..columns).step_by(16) {
                    let (height, width) = ((rows - i).min(16), (columns - j).min(16));
                    unsafe {
                        let mut square = [_mm512_setzero_ps(); 16];
                        for (r, row) in square.iter_mut().enumerate() {
                            if r < height {
                                let from = from.add((i + r) * from_stride + j);
                                *row = _mm512_maskz_loadu_ps(mask(width), from);
                            }
                        }
                        transpose16(&mut square);
                        for (c, column) in square.into_iter().enumerate() {
                            if c < width {
                                let to = to.add((j + c) * to_stride + i);
                                _mm512_mask_storeu_ps(to, mask(height), column);
                            }
                        }
                    }
                }
            }
        }
        #[inline(always)]
        unsafe fn sum(a: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(a) }
        }
        #[inline(always)]
        unsafe fn sums<const R: usize>(vectors: [__m512; R]) -> [f32; R] {
            let mut sums = [0.0; R];
            let whole = R / 4 * 4;
            for i in (0..whole).step_by(4) {
                let [a, b, c, d] = [vectors[i], vectors[i + 1], vectors[i + 2], vectors[i + 3]];
                unsafe {
                    let four = sums_of_four(halved(a), halved(b), halved(c), halved(d));
                    _mm_storeu_ps(sums.as_mut_ptr().add(i), four);
                }
            }
            for i in whole..R {
                sums[i] = unsafe { _mm512_reduce_add_ps(vectors[i]) };
            }
            sums
        }
        #[inline(always)]
        unsafe fn largest(a: __m512) -> f32 {
            unsafe { _mm512_reduce_max_ps(a) }
        }
        #[inline(always)]
        unsafe fn if_greater(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes) }
        }
        #[inline(always)]
        unsafe fn at_least(a: __m512, b: __m512) -> u32 {
            unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b)) }
        }
        #[inline(always)]
        unsafe fn changes8(p: *const u8) -> u64 {
            unsafe {
                let (a, b) = (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(1).cast()));
                _mm512_cmpneq_epi8_mask(a, b)
            }
        }
        #[inline(always)]
        unsafe fn changes16(p: *const u16) -> u64 {
            (0..2).fold(0, |changes, i| unsafe {
                let p = p.add(32 * i);
                let (a, b) = (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(1).cast()));
                changes | u64::from(_mm512_cmpneq_epi16_mask(a, b)) << (32 * i)
            })
        }
        #[inline(always)]
        unsafe fn changes32(p: *const u32) -> u64 {
            (0..4).fold(0, |changes, i| unsafe {
                let p = p.add(16 * i);
                let (a, b) = (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(1).cast()));
                changes | u64::from(_mm512_cmpneq_epi32_mask(a, b)) << (16 * i)
            })
        }
        #[inline(always)]
        unsafe fn changes64(p: *const u64) -> u64 {
            (0..8).fold(0, |changes, i| unsafe {
                let p = p.add(8 * i);
                let (a, b) = (_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(1).cast()));
                changes | u64::from(_mm512_cmpneq_epi64_mask(a, b)) << (8 * i)
            })
        }
    }

    /// A row of 24 floats: a whole vector and a half one.
    #[derive(Clone, Copy)]
    pub struct Avx512Row;

    /// The first `n` of 24 lanes, as masks of the whole vector and of the half.
    #[inline(always)]
    fn row_mask(n: usize) -> (__mmask16, __mmask8) {
        let bits = (1u32 << n) - 1;
        (bits as __mmask16, (bits >> 16) as __mmask8)
    }

    // SAFETY: every method only forwards to intrinsics of AVX-512 F, VL, BW and DQ.
    #[allow(clippy::undocumented_unsafe_blocks)] // each is the short forward named above
    unsafe impl Simd for Avx512Row {
        type V = (__m512, __m256);
        const LANES: usize = WIDE_ROW;
        const SCALE_SATURATES: bool = true;
        const IS_ROW: bool = true;

        #[inline(never)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: as the caller.
            unsafe { run_avx512_rows(kernel) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { (_mm512_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            unsafe { (_mm512_loadu_ps(p), _mm256_loadu_ps(p.add(16))) }
        }
        #[inline(always)]
        unsafe fn load_tail(p: *const f32, n: usize, fill: f32) -> Self::V {
            let (whole, half) = row_mask(n);
            unsafe {
                let (a, b) = Self::splat(fill);
                let rest = p.wrapping_add(16);
                (_mm512_mask_loadu_ps(a, whole, p), _mm256_mask_loadu_ps(b, half, rest))
            }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            unsafe {
                _mm512_storeu_ps(p, v.0);
                _mm256_storeu_ps(p.add(16), v.1);
            }
        }
        #[inline(always)]
        unsafe fn store_tail(p: *mut f32, n: usize, v: Self::V) {
            let (whole, half) = row_mask(n);
            unsafe {
                _mm512_mask_storeu_ps(p, whole, v.0);
                _mm256_mask_storeu_ps(p.wrapping_add(16), half, v.1);
            }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm512_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm512_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm512_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm512_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { (_mm512_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm512_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm512_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn round(a: Self::V) -> Self::V {
            unsafe { (_mm512_roundscale_ps::<0>(a.0), _mm256_roundscale_ps::<0>(a.1)) }
        }
        #[inline(always)]
        unsafe fn scale2(a: Self::V, n: Self::V) -> Self::V {
            unsafe { (_mm512_scalef_ps(a.0, n.0), _mm256_scalef_ps(a.1, n.1)) }
        }
        #[inline(always)]
        unsafe fn transpose(
            from: *const f32,
            from_stride: usize,
            to: *mut f32,
            to_stride: usize,
            rows: usize,
            columns: usize,
        ) {
            unsafe { Avx512::transpose(from, from_stride, to, to_stride, rows, columns) };
        }
        #[inline(always)]
        unsafe fn sum(a: Self::V) -> f32 {
            unsafe { Avx2::sum(folded(a)) }
        }
        #[inline(always)]
        unsafe fn sums<const R: usize>(vectors: [Self::V; R]) -> [f32; R] {
            let mut sums = [0.0; R];
            let whole = R / 4 * 4;
            for i in (0..whole).step_by(4) {
                let [a, b, c, d] = [vectors[i], vectors[i + 1], vectors[i + 2], vectors[i + 3]];
                unsafe {
                    let four = sums_of_four(folded(a), folded(b), folded(c), folded(d));
                    _mm_storeu_ps(sums.as_mut_ptr().add(i), four);
                }
            }
            for i in whole..R {
                sums[i] = unsafe { Self::sum(vectors[i]) };
            }
            sums
        }
        #[inline(always)]
        unsafe fn largest(a: Self::V) -> f32 {
            unsafe { f32::max(_mm512_reduce_max_ps(a.0), Avx2::largest(a.1)) }
        }
        #[inline(always)]
        unsafe fn if_greater(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
            unsafe {
                (Avx512::if_greater(a.0, b.0, yes.0, no.0), Avx2::if_greater(a.1, b.1, yes.1, no.1))
            }
        }
        #[inline(always)]
        unsafe fn at_least(a: Self::V, b: Self::V) -> u32 {
            unsafe { Avx512::at_least(a.0, b.0) | Avx2::at_least(a.1, b.1) << 16 }
        }
    }

    /// Eight floats with the sum of the sixteen.
    #[inline(always)]
    unsafe fn halved(v: __m512) -> __m256 {
        // SAFETY: AVX-512 DQ is available wherever this is used.
        unsafe { _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
    }

    /// Eight floats with the sum of the twenty-four.
    #[inline(always)]
    unsafe fn folded(row: (__m512, __m256)) -> __m256 {
        // SAFETY: as for `Avx512Row`.
        unsafe { _mm256_add_ps(halved(row.0), row.1) }
    }

    /// The sum of all lanes of each vector, added while they are transposed.
    #[inline(always)]
    unsafe fn sums_of_four(a: __m256, b: __m256, c: __m256, d: __m256) -> __m128 {
        // SAFETY: AVX2 is available wherever this is used.
        unsafe {
            let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let low = _mm256_shuffle_ps::<0x44>(ab, cd);
            let all = _mm256_add_ps(low, _mm256_shuffle_ps::<0xEE>(ab, cd));
            _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all))
        }
    }

    #[derive(Clone, Copy)]
    pub struct Avx2;

    #[inline(always)]
    unsafe fn first_lanes(n: usize) -> __m256i {
        // SAFETY: AVX2 is available wherever `Avx2` is used.
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane)
        }
    }

    #[inline(always)]
    unsafe fn loaded(p: *const __m256i) -> __m256i {
        // SAFETY: `p` is valid for a vector by the caller's contract.
        unsafe { _mm256_loadu_si256(p) }
    }

    // SAFETY: every method only forwards to intrinsics of AVX, AVX2 and FMA.
    #[allow(clippy::undocumented_unsafe_blocks)] // each is the short forward named above
    unsafe impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;

        #[inline(never)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: as the caller.
            unsafe { run_avx2(kernel) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn load_tail(p: *const f32, n: usize, fill: f32) -> __m256 {
            unsafe {
                let mask = first_lanes(n);
                let v = _mm256_maskload_ps(p, mask);
                _mm256_blendv_ps(_mm256_set1_ps(fill), v, _mm256_castsi256_ps(mask))
            }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn store_tail(p: *mut f32, n: usize, v: __m256) {
            unsafe { _mm256_maskstore_ps(p, first_lanes(n), v) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn round(a: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn scale2(a: __m256, n: __m256) -> __m256 {
            unsafe {
                let e = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
                // Adding to the exponent bits of `a` in [√½, √2] multiplies it by 2^n.
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), e))
            }
        }
        #[inline(always)]
        unsafe fn sum(a: __m256) -> f32 {
            unsafe {
                let s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
                _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)))
            }
        }
        #[inline(always)]
        unsafe fn largest(a: __m256) -> f32 {
            unsafe {
                let s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let s = _mm_max_ps(s, _mm_movehl_ps(s, s));
                _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)))
            }
        }
        #[inline(always)]
        unsafe fn if_greater(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
            unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
        }
        #[inline(always)]
        unsafe fn at_least(a: __m256, b: __m256) -> u32 {
            unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b)) as u32 }
        }
        #[inline(always)]
        unsafe fn changes8(p: *const u8) -> u64 {
            (0..2).fold(0, |changes, i| unsafe {
                let p = p.add(32 * i);
                let same = _mm256_cmpeq_epi8(loaded(p.cast()), loaded(p.add(1).cast()));
                changes | u64::from(!_mm256_movemask_epi8(same) as u32) << (32 * i)
            })
        }
        #[inline(always)]
        unsafe fn changes16(p: *const u16) -> u64 {
            (0..2).fold(0, |changes, i| unsafe {
                let p = p.add(32 * i);
                let low = _mm256_cmpeq_epi16(loaded(p.cast()), loaded(p.add(1).cast()));
                let p = p.add(16);
                let high = _mm256_cmpeq_epi16(loaded(p.cast()), loaded(p.add(1).cast()));
                // Packing works on halves of 128 bits: their order is put right after it.
                let same = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(low, high));
                changes | u64::from(!_mm256_movemask_epi8(same) as u32) << (32 * i)
            })
        }
        #[inline(always)]
        unsafe fn changes32(p: *const u32) -> u64 {
            !(0..8).fold(0, |same, i| unsafe {
                let p = p.add(8 * i);
                let equal = _mm256_cmpeq_epi32(loaded(p.cast()), loaded(p.add(1).cast()));
                same | (_mm256_movemask_ps(_mm256_castsi256_ps(equal)) as u64) << (8 * i)
            })
        }
        #[inline(always)]
        unsafe fn changes64(p: *const u64) -> u64 {
            !(0..16).fold(0, |same, i| unsafe {
                let p = p.add(4 * i);
                let equal = _mm256_cmpeq_epi64(loaded(p.cast()), loaded(p.add(1).cast()));
                same | (_mm256_movemask_pd(_mm256_castsi256_pd(equal)) as u64) << (4 * i)
            })
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) mod arm {
    use super::Simd;
    use std::arch::aarch64::*;

    #[derive(Clone, Copy)]
    pub struct Neon;

    // SAFETY: every method only forwards to NEON intrinsics, which every aarch64 has.
    #[allow(clippy::undocumented_unsafe_blocks)] // each is the short forward named above
    unsafe impl Simd for Neon {
        type V = float32x4_t;
        const LANES: usize = 4;

        #[inline(never)]
        unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: as the caller.
            unsafe { kernel.run::<Self>() }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> float32x4_t {
            unsafe { vdupq_n_f32(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> float32x4_t {
            unsafe { vld1q_f32(p) }
        }
        #[inline(always)]
        unsafe fn load_tail(p: *const f32, n: usize, fill: f32) -> float32x4_t {
            let lanes: [f32; 4] =
                std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { fill });
            unsafe { vld1q_f32(lanes.as_ptr()) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: float32x4_t) {
            unsafe { vst1q_f32(p, v) }
        }
        #[inline(always)]
        unsafe fn store_tail(p: *mut f32, n: usize, v: float32x4_t) {
            let mut lanes = [0.0; 4];
            unsafe { vst1q_f32(lanes.as_mut_ptr(), v) };
            for (i, x) in lanes.into_iter().enumerate().take(n) {
                unsafe { *p.add(i) = x };
            }
        }
        #[inline(always)]
        unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vaddq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vsubq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vmulq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vdivq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vmaxq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vminq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn round(a: float32x4_t) -> float32x4_t {
            unsafe { vrndnq_f32(a) }
        }
        #[inline(always)]
        unsafe fn scale2(a: float32x4_t, n: float32x4_t) -> float32x4_t {
            unsafe {
                let e = vshlq_n_s32::<23>(vcvtq_s32_f32(n));
                vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), e))
            }
        }
        #[inline(always)]
        unsafe fn sum(a: float32x4_t) -> f32 {
            unsafe { vaddvq_f32(a) }
        }
        #[inline(always)]
        unsafe fn largest(a: float32x4_t) -> f32 {
            unsafe { vmaxvq_f32(a) }
        }
        #[inline(always)]
        unsafe fn if_greater(
            a: float32x4_t,
            b: float32x4_t,
            yes: float32x4_t,
            no: float32x4_t,
        ) -> float32x4_t {
            unsafe { vbslq_f32(vcgtq_f32(a, b), yes, no) }
        }
        #[inline(always)]
        unsafe fn at_least(a: float32x4_t, b: float32x4_t) -> u32 {
            const BITS: [u32; 4] = [1, 2, 4, 8];
            unsafe { vaddvq_u32(vandq_u32(vcgeq_f32(a, b), vld1q_u32(BITS.as_ptr()))) }
        }
    }
}

/// Writes the transpose of four rows of four floats, `from_stride` apart, to rows `to_stride` apart.
///
/// # Safety
/// `from` and `to` must be valid for four such rows.
#[inline(always)]
unsafe fn transpose4(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as the caller; every x86-64 has SSE.
    unsafe {
        use std::arch::x86_64::*;
        let mut a = _mm_loadu_ps(from);
        let mut b = _mm_loadu_ps(from.add(from_stride));
        let mut c = _mm_loadu_ps(from.add(2 * from_stride));
        let mut d = _mm_loadu_ps(from.add(3 * from_stride));
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        _mm_storeu_ps(to, a);
        _mm_storeu_ps(to.add(to_stride), b);
        _mm_storeu_ps(to.add(2 * to_stride), c);
        _mm_storeu_ps(to.add(3 * to_stride), d);
    }
    #[cfg(not(target_arch = "x86_64"))]
    for i in 0..4 {
        for j in 0..4 {
            // SAFETY: as the caller.
            unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
        }
    }
}

/// [`Simd::transpose`] for any instruction set.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn transpose(
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
    rows: usize,
    columns: usize,
) {
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    // SAFETY: as the caller.
    unsafe {
        for i in (0..whole_rows).step_by(4) {
            for j in (0..whole_columns).step_by(4) {
                let (from, to) = (from.add(i * from_stride + j), to.add(j * to_stride + i));
                transpose4(from, from_stride, to, to_stride);
            }
        }
        for i in 0..rows {
            let first = if i < whole_rows { whole_columns } else { 0 };
            for j in first..columns {
                *to.add(j * to_stride + i) = *from.add(i * from_stride + j);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp2<'a>(&'a mut [f32]);

    impl Kernel for Exp2<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for chunk in self.0.chunks_exact_mut(S::LANES) {
                // SAFETY: the chunk has `LANES` floats.
                unsafe { S::store(chunk.as_mut_ptr(), S::exp2(S::load(chunk.as_ptr()))) };
            }
        }
    }

    fn check(run: impl Fn(Exp2)) {
        let x: Vec<f32> = (0..2592).map(|i| i as f32 * 0.0617 - 79.99).collect();
        let mut y = x.clone();
        run(Exp2(&mut y));
        for (x, y) in x.iter().zip(&y) {
            let exact = f64::from(*x).exp2();
            assert!((f64::from(*y) / exact - 1.0).abs() < 2e-7, "2^{x} = {exact}, got {y}");
        }
    }

    #[test]
    fn exp2_is_accurate_at_every_level() {
        check(|kernel| dispatch(kernel));
        // SAFETY: plain Rust needs no instruction set.
        check(|k| unsafe { k.run::<Baseline>() });
        #[cfg(target_arch = "x86_64")]
        if Level::detect() == Level::Avx512 {
            // SAFETY: a machine with AVX-512 has AVX2.
            check(|k| unsafe { x86::run_avx2(k) });
            // SAFETY: the machine has AVX-512.
            check(|k| unsafe { x86::run_avx512_rows(k) });
        }
    }

    /// What the lanes of one vector become in every operation that tells lanes apart.
    struct Lanes<'a> {
        from: &'a [f32],
        lanes: &'a mut usize,
    }

    impl Kernel for Lanes<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> Vec<f32> {
            *self.lanes = S::LANES;
            let p = self.from.as_ptr();
            // SAFETY: there are two vectors of floats, and of the tails fewer than one.
            unsafe {
                let (a, b) = (S::load(p), S::load(p.add(S::LANES)));
                let [sum, negative, ..] = S::sums([a, S::sub(S::splat(0.0), a), b, b, a]);
                let mut out = vec![S::sum(a), sum, negative, S::largest(a)];
                out.push(S::at_least(a, b) as f32);
                for tail in [1, S::LANES / 2, S::LANES - 1] {
                    let mut lanes = vec![-1.0; S::LANES];
                    S::store_tail(lanes.as_mut_ptr(), tail, S::if_greater(a, b, a, b));
                    out.append(&mut lanes);
                    lanes = vec![0.0; S::LANES];
                    S::store(lanes.as_mut_ptr(), S::load_tail(p, tail, 7.0));
                    out.append(&mut lanes);
                }
                out
            }
        }
    }

    fn check_lanes(run: impl Fn(Lanes) -> Vec<f32>) {
        let from: Vec<f32> = (0..48).map(|i| (i * 29 % 37) as f32).collect();
        let mut lanes = 0;
        let out = run(Lanes { from: &from, lanes: &mut lanes });
        let (a, b) = (&from[..lanes], &from[lanes..2 * lanes]);
        let (sum, largest): (f32, f32) = (a.iter().sum(), a.iter().copied().fold(0.0, f32::max));
        let bits = (0..lanes).fold(0u32, |bits, i| bits | u32::from(a[i] >= b[i]) << i);
        let mut expected = vec![sum, sum, -sum, largest, bits as f32];
        for tail in [1, lanes / 2, lanes - 1] {
            expected.extend((0..lanes).map(|i| if i < tail { a[i].max(b[i]) } else { -1.0 }));
            expected.extend((0..lanes).map(|i| if i < tail { a[i] } else { 7.0 }));
        }
        assert_eq!(out, expected, "{lanes} lanes");
    }

    #[test]
    fn lanes_are_told_apart_at_every_level() {
        check_lanes(|kernel| dispatch(kernel));
        // SAFETY: plain Rust needs no instruction set.
        check_lanes(|k| unsafe { k.run::<Baseline>() });
        #[cfg(target_arch = "x86_64")]
        if Level::detect() == Level::Avx512 {
            // SAFETY: a machine with AVX-512 has AVX2.
            check_lanes(|k| unsafe { x86::run_avx2(k) });
            // SAFETY: the machine has AVX-512.
            check_lanes(|k| unsafe { x86::run_avx512_rows(k) });
        }
    }

    struct Comparisons<'a>(&'a [f32], &'a [f32]);

    impl Kernel for Comparisons<'_> {
        type Output = (Vec<f32>, Vec<bool>);
        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> Self::Output {
            let (mut chosen, mut bits) = (vec![0.0; 16], Vec::new());
            for i in (0..16).step_by(S::LANES) {
                // SAFETY: both hold 16 floats, and no vector is longer.
                unsafe {
                    let (a, b) = (S::load(self.0[i..].as_ptr()), S::load(self.1[i..].as_ptr()));
                    let v = S::if_greater(a, b, S::splat(1.0), S::splat(-1.0));
                    S::store(chosen[i..].as_mut_ptr(), v);
                    let some = S::at_least(a, b);
                    bits.extend((0..S::LANES).map(|lane| some >> lane & 1 == 1));
                }
            }
            (chosen, bits)
        }
    }

    /// What `changes…` of each width say of the same values.
    struct Changes<'a>(&'a [u8]);

    impl Kernel for Changes<'_> {
        type Output = [u64; 4];
        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> [u64; 4] {
            let wide = |shift: u32| self.0.iter().map(move |&x| u64::from(x) << shift);
            let (b16, b32, b64): (Vec<u16>, Vec<u32>, Vec<u64>) = (
                wide(8).map(|x| x as u16).collect(),
                wide(24).map(|x| x as u32).collect(),
                wide(56).collect(),
            );
            // SAFETY: each has 65 values.
            unsafe {
                [
                    S::changes8(self.0.as_ptr()),
                    S::changes16(b16.as_ptr()),
                    S::changes32(b32.as_ptr()),
                    S::changes64(b64.as_ptr()),
                ]
            }
        }
    }

    #[test]
    fn comparisons_take_nan_for_neither() {
        let a: Vec<f32> =
            (0..16).map(|i| [1.0, 2.0, f32::NAN, 3.0, f32::INFINITY][i % 5]).collect();
        let b: Vec<f32> = (0..16).map(|i| [2.0, 2.0, 0.0, f32::NAN][i % 4]).collect();
        let expected: (Vec<f32>, Vec<bool>) =
            a.iter().zip(&b).map(|(a, b)| (if a > b { 1.0 } else { -1.0 }, a >= b)).unzip();
        assert_eq!(dispatch(Comparisons(&a, &b)), expected);
        // SAFETY: plain Rust needs no instruction set.
        assert_eq!(unsafe { Comparisons(&a, &b).run::<Baseline>() }, expected);
        #[cfg(target_arch = "x86_64")]
        if Level::detect() == Level::Avx512 {
            // SAFETY: a machine with AVX-512 has AVX2.
            assert_eq!(unsafe { x86::run_avx2(Comparisons(&a, &b)) }, expected);
        }
    }

    #[test]
    fn changes_are_found_at_every_level() {
        for every in [1, 2, 3, 7, 31, 63, 64, 65] {
            for shift in 0..every.min(5) {
                let x: Vec<u8> = (0..65).map(|i| ((i + shift) / every * 37) as u8).collect();
                let expected = (0..64).fold(0, |bits, i| bits | u64::from(x[i] != x[i + 1]) << i);
                assert_eq!(dispatch(Changes(&x)), [expected; 4], "every {every}");
                // SAFETY: plain Rust needs no instruction set.
                assert_eq!(unsafe { Changes(&x).run::<Baseline>() }, [expected; 4]);
                #[cfg(target_arch = "x86_64")]
                if Level::detect() == Level::Avx512 {
                    // SAFETY: a machine with AVX-512 has AVX2.
                    assert_eq!(unsafe { x86::run_avx2(Changes(&x)) }, [expected; 4]);
                }
            }
        }
    }

    #[test]
    fn transposes_of_any_size() {
        for rows in 1..36 {
            for columns in 1..36 {
                let from: Vec<f32> = (0..rows * 37).map(|i| i as f32).collect();
                let mut to = vec![-1.0; columns * 39];
                dispatch(Transpose { from: &from, to: &mut to, rows, columns });
                for i in 0..39 {
                    for j in 0..columns {
                        let expected = if i < rows { from[i * 37 + j] } else { -1.0 };
                        assert_eq!(to[j * 39 + i], expected);
                    }
                }
            }
        }
    }

    /// Rows of 37 floats to rows of 39.
    struct Transpose<'a> {
        from: &'a [f32],
        to: &'a mut [f32],
        rows: usize,
        columns: usize,
    }

    impl Kernel for Transpose<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let (from, to) = (self.from.as_ptr(), self.to.as_mut_ptr());
            // SAFETY: rows of 37 floats hold `columns`, rows of 39 hold `rows`.
            unsafe { S::transpose(from, 37, to, 39, self.rows, self.columns) };
        }
    }

    #[test]
    fn exp2_saturates() {
        let mut y = vec![f32::NEG_INFINITY; 16];
        y[1] = 1e9;
        y[2] = -1e9;
        dispatch(Exp2(&mut y));
        assert!(y[0] < 1e-24 && y[2] < 1e-24 && y[1] > 1e24);
    }
}
