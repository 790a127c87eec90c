//! The mean-field update of two labels with Potts compatibility.
//!
//! Only the difference of the two labels' scores matters, and it depends only on the difference of
//! their probabilities: one channel is filtered instead of two.

use super::update::{BandKernel, Output};
use crate::control::{Cancelled, Control};
use crate::simd::{Kernel, Simd};

/// Points in a block.
const BLOCK: usize = 128;
/// Blocks between two looks at whether to stop.
const BLOCKS_PER_CHECK: usize = 64;

/// One pass over the points of one band.
pub(super) struct BinaryBand<'a> {
    /// Of all bands together.
    pub points: usize,
    /// The first point of this band.
    pub start: usize,
    /// Score 1 less score 0 of each point of this band.
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
        for (i, scores) in self.differences.chunks(BLOCK).enumerate() {
            if i % BLOCKS_PER_CHECK == 0 {
                self.control.check()?;
            }
            let first = i * BLOCK;
            let mut block = [0.0; BLOCK];
            block[..scores.len()].copy_from_slice(scores);
            for kernel in self.kernels.iter().filter(|kernel| !kernel.from.is_empty()) {
                match kernel.corners_per_point {
                    3 => gather(kernel, 3, first, &mut block[..scores.len()]),
                    6 => gather(kernel, 6, first, &mut block[..scores.len()]),
                    n => gather(kernel, n, first, &mut block[..scores.len()]),
                }
            }
            // From here on 2^-difference, the odds of label 0.
            for chunk in block.chunks_exact_mut(S::LANES) {
                let p = chunk.as_mut_ptr();
                // SAFETY: the chunk is one vector; the caller has the instruction set of `S`.
                unsafe { S::store(p, S::exp2(S::sub(S::splat(0.0), S::load(p)))) };
            }
            self.hand_over(first, &block[..scores.len()]);
            for odds in &mut block {
                *odds = (1.0 - *odds) / (1.0 + *odds);
            }
            for kernel in self
                .kernels
                .iter_mut()
                .filter(|kernel| !kernel.to.is_empty())
            {
                match kernel.corners_per_point {
                    3 => spread(kernel, 3, first, &block[..scores.len()]),
                    6 => spread(kernel, 6, first, &block[..scores.len()]),
                    n => spread(kernel, n, first, &block[..scores.len()]),
                }
            }
        }
        Ok(())
    }
}

/// Adds the messages of `kernel`. `n` is its corners per point: a literal lets the loop unroll.
#[inline(always)]
fn gather(kernel: &BandKernel, n: usize, first: usize, block: &mut [f32]) {
    let corners = kernel.corners[first * n..].chunks_exact(n);
    let weights = kernel.slice[first * n..].chunks_exact(n);
    for (sum, (corners, weights)) in block.iter_mut().zip(corners.zip(weights)) {
        for (&corner, &weight) in corners.iter().zip(weights) {
            // SAFETY: corners are rows of the band by construction of the lattice.
            *sum += weight * unsafe { kernel.from.get_unchecked(corner as usize) };
        }
    }
}

/// Adds the differences of a block to the rows of the next iteration.
#[inline(always)]
fn spread(kernel: &mut BandKernel, n: usize, first: usize, block: &[f32]) {
    let corners = kernel.corners[first * n..].chunks_exact(n);
    let weights = kernel.splat[first * n..].chunks_exact(n);
    for (difference, (corners, weights)) in block.iter().zip(corners.zip(weights)) {
        for (&corner, &weight) in corners.iter().zip(weights) {
            // SAFETY: corners are rows of the band by construction of the lattice.
            unsafe { *kernel.to.get_unchecked_mut(corner as usize) += weight * difference };
        }
    }
}

impl BinaryBand<'_> {
    /// Gives the result of a block to the caller; `odds` are those of label 0.
    #[inline(always)]
    fn hand_over(&self, first: usize, odds: &[f32]) {
        let at = self.start + first;
        match self.output {
            Output::Nothing => {}
            Output::Probs(out) => {
                for (p, odds) in odds.iter().enumerate() {
                    let one = 1.0 / (1.0 + odds);
                    // SAFETY: the caller's array holds `2 × points` floats, and the points of this
                    // band are written by no other.
                    unsafe {
                        *out.get().add(at + p) = odds * one;
                        *out.get().add(self.points + at + p) = one;
                    }
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
