//! The mean-field update of two labels with Potts compatibility.
//!
//! Only the difference of the two labels' scores matters, and it depends only on the difference of
//! their probabilities: one channel is filtered instead of two.

use super::update::{BandKernel, Output};
use crate::control::{Cancelled, Control};
use crate::lattice::{Band, Segment, TILE, Tiling};
use crate::simd::{Kernel, LOWEST_EXPONENT, Simd};

/// One pass over the points of one band.
pub(super) struct BinaryBand<'a> {
    pub tiling: &'a Tiling,
    pub band: &'a Band,
    /// Score 1 less score 0 of each point, in tile order.
    pub differences: &'a [f32],
    pub kernels: Vec<BandKernel<'a>>,
    pub output: Output,
    pub control: &'a Control,
}

impl Kernel for BinaryBand<'_> {
    type Output = Result<(), Cancelled>;

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) -> Self::Output {
        for kernel in &mut self.kernels {
            kernel.to.fill(0.0);
        }
        let mut block = vec![0.0; TILE];
        for index in self.band.tiles.clone() {
            self.control.check()?;
            let tile = &self.tiling.tiles()[index];
            let scores = &self.differences[tile.points.clone()];
            block[..scores.len()].copy_from_slice(scores);
            for kernel in self.kernels.iter().filter(|kernel| !kernel.from.is_empty()) {
                let runs = kernel.lattice.runs(index);
                // SAFETY: the caller has the instruction set; all is of the lattice's sizes.
                unsafe {
                    runs.gather_channel::<S>(
                        kernel.corners(),
                        kernel.slice,
                        kernel.from,
                        &mut block,
                    )
                };
            }
            // From here on 2^-difference, the odds of label 0.
            for chunk in block.chunks_exact_mut(S::LANES) {
                let p = chunk.as_mut_ptr();
                // SAFETY: the chunk is one vector; the caller has the instruction set of `S`.
                unsafe {
                    let least = S::max(S::load(p), S::splat(LOWEST_EXPONENT));
                    S::store(p, S::exp2(S::sub(S::splat(0.0), least)));
                }
            }
            for segment in self.tiling.segments(tile) {
                self.hand_over(segment, &block[segment.local..][..segment.len]);
            }
            for odds in &mut block {
                *odds = (1.0 - *odds) / (1.0 + *odds);
            }
            for kernel in self.kernels.iter_mut().filter(|kernel| !kernel.to.is_empty()) {
                let runs = kernel.lattice.runs(index);
                // SAFETY: as above.
                unsafe {
                    runs.spread_channel::<S>(kernel.corners(), kernel.splat, &block, kernel.to)
                };
            }
        }
        Ok(())
    }
}

impl BinaryBand<'_> {
    /// Gives the result of a segment to the caller; `odds` are those of label 0.
    #[inline(always)]
    fn hand_over(&self, segment: &Segment, odds: &[f32]) {
        let at = segment.memory;
        match self.output {
            Output::Nothing => {}
            Output::Probs(out) => {
                let plane = |label: usize| {
                    let start = label * self.tiling.points() + at;
                    // SAFETY: the caller's array holds `2 × points` floats, and the points of this
                    // band are written by no other.
                    unsafe { std::slice::from_raw_parts_mut(out.get().add(start), odds.len()) }
                };
                // Of slices, which do not overlap, the compiler makes vectors.
                for ((zero, one), odds) in plane(0).iter_mut().zip(plane(1)).zip(odds) {
                    *one = 1.0 / (1.0 + odds);
                    *zero = odds * *one;
                }
            }
            Output::Labels8(out) => {
                for (p, &odds) in odds.iter().enumerate() {
                    // SAFETY: the caller's array holds `points` labels, this band's its own.
                    unsafe { *out.get().add(at + p) = u8::from(odds < 1.0) };
                }
            }
            Output::Labels16(out) => {
                for (p, &odds) in odds.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { *out.get().add(at + p) = u16::from(odds < 1.0) };
                }
            }
        }
    }
}
