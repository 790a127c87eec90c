//! The first axis: steps to the nearest feature, by one sweep down and one up.

use rayon::prelude::*;

use super::number::Number;
use crate::control::{Cancelled, Control};
use crate::simd::{Kernel, Simd, dispatch};

/// Places of a plane that are swept together: a few vectors, and a strip that fits a cache.
const STRIP: usize = 256;

/// Steps along an axis.
pub(super) trait Count: Copy + Ord + Send + Sync + 'static {
    /// There is no feature.
    const NONE: Self;
    fn next(self) -> Self;
    fn steps(self) -> usize;
    const ZERO: Self;
}

macro_rules! count {
    ($type:ty) => {
        impl Count for $type {
            const NONE: Self = <$type>::MAX;
            const ZERO: Self = 0;
            #[inline(always)]
            fn next(self) -> Self {
                self.saturating_add(1)
            }
            #[inline(always)]
            fn steps(self) -> usize {
                self as usize
            }
        }
    };
}
count!(u16);
count!(u32);

/// For each place of each plane, the steps along the first axis to the nearest feature.
///
/// Planes are cut into strips, and each strip lies in memory on its own: that is what lets threads
/// write them side by side.
pub(super) struct Scan<C> {
    counts: Vec<C>,
    planes: usize,
    plane: usize,
    strip: usize,
}

impl<C: Count> Scan<C> {
    /// Sweeps over `planes` planes; `is_feature` says which values are features.
    pub fn new<F: Fn(u8) -> bool + Sync>(
        values: &[u8],
        planes: usize,
        is_feature: F,
        control: &Control,
    ) -> Result<Self, Cancelled> {
        let plane = values.len() / planes;
        let strip = STRIP.min(plane);
        let strips = plane.div_ceil(strip);
        let mut counts = vec![C::NONE; strips * planes * strip];
        counts.par_chunks_mut(planes * strip).enumerate().try_for_each(|(i, counts)| {
            control.check()?;
            dispatch(Sweep {
                values,
                plane,
                first: i * strip,
                strip,
                counts,
                is_feature: &is_feature,
            });
            Ok(())
        })?;
        Ok(Self { counts, planes, plane, strip })
    }

    /// Squared distances of one plane, along the first axis alone.
    #[inline(always)]
    pub fn load<T: Number>(&self, z: usize, scale: T, plane: &mut [T]) {
        for (i, to) in plane.chunks_mut(self.strip).enumerate() {
            let from = &self.counts[(i * self.planes + z) * self.strip..][..to.len()];
            for (to, &count) in to.iter_mut().zip(from) {
                let cost = T::cost(scale, count.steps());
                *to = if count == C::NONE { T::FAR } else { cost };
            }
        }
    }

    pub fn plane(&self) -> usize {
        self.plane
    }
}

/// One strip.
struct Sweep<'a, C, F> {
    values: &'a [u8],
    plane: usize,
    first: usize,
    strip: usize,
    counts: &'a mut [C],
    is_feature: &'a F,
}

impl<C: Count, F: Fn(u8) -> bool> Kernel for Sweep<'_, C, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { values, plane, first, strip, counts, is_feature } = self;
        let width = strip.min(plane - first);
        let planes = counts.len() / strip;
        for z in 0..planes {
            let (above, row) =
                counts[z.saturating_sub(1) * strip..].split_at_mut(if z > 0 { strip } else { 0 });
            let values = &values[z * plane + first..][..width];
            let row = &mut row[..width];
            if z == 0 {
                for (to, &value) in row.iter_mut().zip(values) {
                    *to = if is_feature(value) { C::ZERO } else { C::NONE };
                }
            } else {
                for ((to, &value), &above) in row.iter_mut().zip(values).zip(&above[..width]) {
                    *to = if is_feature(value) { C::ZERO } else { above.next() };
                }
            }
        }
        for z in (0..planes - 1).rev() {
            let (row, below) = counts[z * strip..].split_at_mut(strip);
            for (to, &below) in row[..width].iter_mut().zip(&below[..width]) {
                *to = (*to).min(below.next());
            }
        }
    }
}
