//! Cross entropy of enlarged logits, which are never there as a whole.

use rayon::prelude::*;

use super::lines::{Lines, padded};
use super::taps::{Tap, taps};
use super::{TokensError, require, volume};
use crate::control::Control;
use crate::simd::{self, Kernel, Simd, dispatch};

/// A logit that no class has: its probability is zero.
const NOTHING: f32 = -1e30;

/// The sizes of logits (B, K, h, w) and a target (B, H, W), and how one becomes the other.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// B.
    pub batch: usize,
    /// K.
    pub classes: usize,
    /// h.
    pub height: usize,
    /// w.
    pub width: usize,
    /// H.
    pub full_height: usize,
    /// W.
    pub full_width: usize,
    /// The label of pixels that do not count.
    pub ignore: i64,
    /// Whether the corners' centres stay where they are.
    pub align_corners: bool,
}

/// Returns the mean loss over the pixels that count, and writes its gradient where there is room.
///
/// `d_logits` is empty or as long as `logits`.
pub fn cross_entropy(
    logits: &[f32],
    target: &[i64],
    sizes: Sizes,
    d_logits: &mut [f32],
    control: &Control,
) -> Result<f32, TokensError> {
    let Sizes { batch, classes, height, width, full_height, full_width, .. } = sizes;
    let all = volume(&[batch, classes, height, width]);
    require(&[(logits.len(), all), (target.len(), volume(&[batch, full_height, full_width]))])?;
    if all == 0 || !(d_logits.is_empty() || d_logits.len() == all) {
        return Err(TokensError::Size);
    }
    let wrong = |&&label: &&i64| label != sizes.ignore && !(0..classes as i64).contains(&label);
    if let Some(&label) = target.iter().find(wrong) {
        return Err(TokensError::Label(label));
    }
    let counted = target.par_iter().filter(|&&label| label != sizes.ignore).count();
    let factor = 1.0 / counted as f32;
    let (rows, columns) = (
        taps(height, full_height, sizes.align_corners),
        taps(width, full_width, sizes.align_corners),
    );
    let (line, plane, gradient) = (padded(classes), height * width, !d_logits.is_empty());
    let mut total = 0.0f64;
    for b in 0..batch {
        let logits = &logits[b * classes * plane..][..classes * plane];
        let mut tokens = Lines::new(plane * line);
        tokens.as_mut_slice().fill(NOTHING);
        // SAFETY: `logits` has `classes` rows of `plane`, `tokens` `plane` rows of `line`.
        unsafe {
            let to = tokens.as_mut_slice().as_mut_ptr();
            simd::transpose(logits.as_ptr(), plane, to, line, classes, plane);
        }
        // All pixels between rows y and y + 1 of the logits are a task: what it adds to the
        // gradient of each of the two rows is kept apart, so that no two tasks write to one place.
        let room = if gradient { plane * line } else { 0 };
        let (mut above, mut below) = (Lines::new(room), Lines::new(room));
        let per_row = width * line;
        let target = &target[b * full_height * full_width..][..full_height * full_width];
        let run = |y: usize, above: &mut [f32], below: &mut [f32]| {
            control.check()?;
            let first = rows.partition_point(|tap| tap.low < y);
            let last = rows.partition_point(|tap| tap.low <= y);
            Ok(dispatch(Strip {
                tokens: tokens.as_slice(),
                target: &target[first * full_width..last * full_width],
                rows: &rows[first..last],
                columns: &columns,
                ignore: sizes.ignore,
                line,
                width,
                above,
                below,
            }))
        };
        let losses: Vec<f64> = if gradient {
            let above = &mut above.as_mut_slice()[..room];
            let below = &mut below.as_mut_slice()[..room];
            above
                .par_chunks_mut(per_row)
                .zip(below.par_chunks_mut(per_row))
                .enumerate()
                .map(|(y, (above, below))| run(y, above, below))
                .collect::<Result<_, TokensError>>()?
        } else {
            (0..height)
                .into_par_iter()
                .map(|y| run(y, &mut [], &mut []))
                .collect::<Result<_, TokensError>>()?
        };
        total += losses.iter().sum::<f64>();
        if gradient {
            let (above, below) = (above.as_mut_slice(), below.as_slice());
            for y in 0..height {
                // The row behind the last one is the last one.
                let to = if y + 1 < height { y + 1 } else { y };
                let from = &below[y * per_row..][..per_row];
                for (to, from) in above[to * per_row..][..per_row].iter_mut().zip(from) {
                    *to += from;
                }
            }
            for x in above.iter_mut() {
                *x *= factor;
            }
            let to = &mut d_logits[b * classes * plane..][..classes * plane];
            // SAFETY: `above` has `plane` rows of `line` ≥ `classes`, `to` the reverse.
            unsafe {
                simd::transpose(above.as_ptr(), line, to.as_mut_ptr(), plane, plane, classes);
            }
        }
    }
    Ok((total / counted as f64) as f32)
}

/// The rows of the target that lie between two rows of the logits.
struct Strip<'a> {
    tokens: &'a [f32],
    target: &'a [i64],
    rows: &'a [Tap],
    columns: &'a [Tap],
    ignore: i64,
    line: usize,
    width: usize,
    above: &'a mut [f32],
    below: &'a mut [f32],
}

impl Kernel for Strip<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        let (line, len) = (self.line, self.width * self.line);
        let gradient = !self.above.is_empty();
        let (mut tall, mut slopes, mut pixel) =
            (Lines::new(len), Lines::new(len), Lines::new(line));
        let (tall, slopes) = (tall.as_mut_slice(), slopes.as_mut_slice());
        let pixel = pixel.as_mut_slice();
        let mut total = 0.0;
        for (tap, labels) in self.rows.iter().zip(self.target.chunks_exact(self.columns.len())) {
            let (low, high) = (&self.tokens[tap.low * len..], &self.tokens[tap.high * len..]);
            for ((to, low), high) in tall[..len].iter_mut().zip(low).zip(high) {
                *to = S::mul_add_one(high - low, tap.weight, *low);
            }
            if gradient {
                slopes.fill(0.0);
            }
            for (column, &label) in self.columns.iter().zip(labels) {
                if label == self.ignore {
                    continue;
                }
                let (low, high) = (column.low * line, column.high * line);
                // SAFETY: lines are whole vectors of every instruction set; `dispatch` chose `S`.
                unsafe {
                    let weight = S::splat(column.weight);
                    let mut most = S::splat(NOTHING);
                    for i in (0..line).step_by(S::LANES) {
                        let low = S::load(tall.as_ptr().add(low + i));
                        let high = S::load(tall.as_ptr().add(high + i));
                        let x = S::mul_add(S::sub(high, low), weight, low);
                        S::store(pixel.as_mut_ptr().add(i), x);
                        most = S::max(most, x);
                    }
                    let largest = S::largest(most);
                    let own = pixel[label as usize];
                    let scale = S::splat(std::f32::consts::LOG2_E);
                    let offset = S::splat(-largest * std::f32::consts::LOG2_E);
                    let mut sum = S::splat(0.0);
                    for i in (0..line).step_by(S::LANES) {
                        let p = pixel.as_mut_ptr().add(i);
                        let e = S::exp2(S::mul_add(S::load(p), scale, offset));
                        S::store(p, e);
                        sum = S::add(sum, e);
                    }
                    let sum = S::sum(sum);
                    total += f64::from(sum.ln() + largest - own);
                    if gradient {
                        let factor = S::splat(1.0 / sum);
                        for i in (0..line).step_by(S::LANES) {
                            let p = pixel.as_mut_ptr().add(i);
                            S::store(p, S::mul(S::load(p), factor));
                        }
                        pixel[label as usize] -= 1.0;
                        for (at, share) in [(low, 1.0 - column.weight), (high, column.weight)] {
                            let share = S::splat(share);
                            for i in (0..line).step_by(S::LANES) {
                                let to = slopes.as_mut_ptr().add(at + i);
                                let g = S::load(pixel.as_ptr().add(i));
                                S::store(to, S::mul_add(g, share, S::load(to)));
                            }
                        }
                    }
                }
            }
            if gradient {
                for (to, share) in
                    [(&mut *self.above, 1.0 - tap.weight), (&mut *self.below, tap.weight)]
                {
                    for (to, from) in to.iter_mut().zip(&*slopes) {
                        *to = S::mul_add_one(share, *from, *to);
                    }
                }
            }
        }
        total
    }
}
