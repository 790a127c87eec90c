//! The numbers in which squared distances are kept: exact integers, or doubles.

use crate::simd::Simd;
use crate::simd::blocks::Block;

/// A squared distance.
pub trait Number: Copy + PartialOrd + Send + Sync + 'static {
    /// Sixteen of them.
    type Block<S: Simd>: Block<Self>;
    /// Farther than everything: there is no feature.
    const FAR: Self;
    /// What the products of [`crate::distance::envelope`] are computed in.
    type Wide: Copy + PartialOrd;

    /// The squared length of `steps` steps along an axis of this scale: for integers the square of
    /// its spacing, for doubles the spacing itself.
    fn cost(scale: Self, steps: usize) -> Self;
    /// The sum of two squared lengths.
    fn plus(self, other: Self) -> Self;
    /// The smaller of two numbers.
    fn least(self, other: Self) -> Self;
    /// At least as many steps as a squared length has room for, at most `most`.
    fn steps_within(self, scale: Self, most: usize) -> usize;
    /// The height of the parabola of a point above the origin: its value and its squared place.
    fn height(self, scale: Self, at: usize) -> Self::Wide;
    /// The product of a difference of heights and one of places.
    fn slope(high: Self::Wide, low: Self::Wide, places: usize) -> Self::Wide;
    /// The distance itself.
    fn root(self) -> f64;
}

/// Exact as long as no squared distance reaches [`Number::FAR`].
impl Number for i32 {
    type Block<S: Simd> = S::I32;
    const FAR: Self = 1 << 30;
    type Wide = i64;

    #[inline(always)]
    fn cost(scale: Self, steps: usize) -> Self {
        // Wrapping: also what says "none" is costed, and then not used.
        scale.wrapping_mul(steps as i32).wrapping_mul(steps as i32)
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn least(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
    #[inline(always)]
    fn steps_within(self, scale: Self, most: usize) -> usize {
        if self >= Self::FAR {
            return most;
        }
        // One more, so that rounding does not matter.
        ((self as f32 / scale as f32).sqrt() as usize + 2).min(most)
    }
    #[inline(always)]
    fn height(self, scale: Self, at: usize) -> i64 {
        i64::from(self) + i64::from(scale) * (at * at) as i64
    }
    #[inline(always)]
    fn slope(high: i64, low: i64, places: usize) -> i64 {
        (high - low) * places as i64
    }
    #[inline(always)]
    fn root(self) -> f64 {
        f64::from(self).sqrt()
    }
}

impl Number for f64 {
    type Block<S: Simd> = S::F64;
    const FAR: Self = f64::INFINITY;
    type Wide = f64;

    #[inline(always)]
    fn cost(scale: Self, steps: usize) -> Self {
        let length = scale * steps as f64;
        length * length
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn least(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
    #[inline(always)]
    fn steps_within(self, scale: Self, most: usize) -> usize {
        // One more, so that rounding does not matter; a cast takes infinity to the largest integer.
        (self.sqrt() / scale).min(most as f64) as usize + 1
    }
    #[inline(always)]
    fn height(self, scale: Self, at: usize) -> f64 {
        self + Self::cost(scale, at)
    }
    #[inline(always)]
    fn slope(high: f64, low: f64, places: usize) -> f64 {
        (high - low) * places as f64
    }
    #[inline(always)]
    fn root(self) -> f64 {
        self.sqrt()
    }
}
