//! The exact GELU, x Φ(x), and its derivative.

use crate::simd::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
// Φ(−t) = φ(t) u(1 + …), where u = 1 / (1 + C t): the tail of the normal distribution over its
// density, which is smooth in u. Coefficients of u, u², … by least squares over [0, 14].
const SCALE: f32 = 0.23;
const TAIL: [f32; 8] = [
    0.088420086,
    0.121733315,
    -0.023393944,
    0.28275302,
    -0.1155312,
    0.050823327,
    0.14703277,
    -0.05183738,
];

/// exp(−x²/2), and Φ(−|x|) over it.
#[inline(always)]
unsafe fn parts<S: Simd>(x: S::V) -> (S::V, S::V, S::V) {
    // SAFETY: the same instruction set as the caller's.
    unsafe {
        // The end keeps infinity from meeting a zero; NaN passes, being the second operand.
        let t = S::min(S::splat(100.0), S::max(x, S::sub(S::splat(0.0), x)));
        let e = S::exp2(S::mul(S::mul(x, x), S::splat(-0.5 * LOG2_E)));
        let u = S::div(S::splat(1.0), S::mul_add(t, S::splat(SCALE), S::splat(1.0)));
        let mut p = S::splat(TAIL[TAIL.len() - 1]);
        for c in TAIL.iter().rev().skip(1) {
            p = S::mul_add(p, u, S::splat(*c));
        }
        (t, e, S::mul(p, u))
    }
}

/// GELU of each lane.
///
/// # Safety
/// The instruction set of `S` must be available.
#[inline(always)]
pub unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as the caller.
    unsafe {
        let (t, e, p) = parts::<S>(x);
        // x Φ(x) = max(x, 0) − |x| Φ(−|x|).
        S::sub(S::max(x, S::splat(0.0)), S::mul(S::mul(t, e), p))
    }
}

/// The derivative of GELU at each lane: Φ(x) + x φ(x).
///
/// # Safety
/// The instruction set of `S` must be available.
#[inline(always)]
pub unsafe fn gelu_slope<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as the caller.
    unsafe {
        let (_, e, p) = parts::<S>(x);
        let tail = S::mul(e, p);
        let below = S::if_greater(S::splat(0.0), x, tail, S::sub(S::splat(1.0), tail));
        let density = S::mul(e, S::splat(0.398_942_3));
        S::mul_add(x, density, below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, dispatch};

    struct Both<'a>(&'a [f32], &'a mut [f32], &'a mut [f32]);

    impl Kernel for Both<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for i in (0..self.0.len()).step_by(S::LANES) {
                // SAFETY: the slices hold a multiple of every vector's lanes.
                unsafe {
                    let x = S::load(self.0.as_ptr().add(i));
                    S::store(self.1.as_mut_ptr().add(i), gelu::<S>(x));
                    S::store(self.2.as_mut_ptr().add(i), gelu_slope::<S>(x));
                }
            }
        }
    }

    /// Φ by Simpson's rule from −12 on.
    fn normal(x: f64) -> f64 {
        let n = 20_000;
        let h = (x + 12.0) / f64::from(n);
        let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let inner: f64 = (1..n)
            .map(|i| density(-12.0 + h * f64::from(i)) * if i % 2 == 1 { 4.0 } else { 2.0 })
            .sum();
        (density(-12.0) + inner + density(x)) * h / 3.0
    }

    #[test]
    fn both_are_accurate() {
        let x: Vec<f32> = (0..320).map(|i| i as f32 * 0.05 - 8.0).collect();
        let (mut y, mut slope) = (vec![0.0; 320], vec![0.0; 320]);
        dispatch(Both(&x, &mut y, &mut slope));
        for i in 0..320 {
            let (at, below) = (f64::from(x[i]), normal(f64::from(x[i])));
            let density = (-at * at / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            assert!((f64::from(y[i]) - at * below).abs() < 4e-7 * (1.0 + at.abs()), "{at}");
            assert!((f64::from(slope[i]) - below - at * density).abs() < 4e-7, "{at}");
        }
    }
}
