//! Where each point lies in the space that the lattice tiles.

use super::LatticeError;

/// Points are embedded this many at a time, one per lane.
pub const BLOCK: usize = 16;

/// One value for each point of a block.
pub type Lanes = [f32; BLOCK];

/// Image values, channels innermost.
#[derive(Clone, Copy, Debug)]
pub enum Pixels<'a> {
    /// 8-bit.
    U8(&'a [u8]),
    /// 16-bit.
    U16(&'a [u16]),
    /// Floating point.
    F32(&'a [f32]),
}

impl Pixels<'_> {
    /// Number of values, over all points and channels.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(x) => x.len(),
            Self::U16(x) => x.len(),
            Self::F32(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The features of all points, produced block by block so that they never fill memory.
#[derive(Clone, Debug)]
pub enum Features<'a> {
    /// Given values, `dimension` rows of `points` each, already divided by their sigmas.
    Planar {
        /// `dimension × points`, row by row.
        values: &'a [f32],
        /// How many features a point has.
        dimension: usize,
        /// The grid that the points form, slowest axis first; one axis if they form none.
        shape: Vec<usize>,
    },
    /// The points of a grid, fastest axis first, followed by the channels of an image.
    Grid {
        /// For each axis the coordinate over its sigma, at every index along it.
        axes: Vec<Vec<f32>>,
        /// The image and the sigma of each of its channels.
        color: Option<(Pixels<'a>, Vec<f32>)>,
    },
}

impl<'a> Features<'a> {
    /// The grid of `shape` (slowest axis first, as in memory) with one sigma for each axis.
    pub fn grid(shape: &[usize], sigmas: &[f32], color: Option<(Pixels<'a>, Vec<f32>)>) -> Self {
        let axes = shape
            .iter()
            .zip(sigmas)
            .rev()
            .map(|(&len, &sigma)| (0..len).map(|i| i as f32 / sigma).collect())
            .collect();
        Self::Grid { axes, color }
    }

    /// How many features a point has.
    pub fn dimension(&self) -> usize {
        match self {
            Self::Planar { dimension, .. } => *dimension,
            Self::Grid { axes, color } => {
                axes.len() + color.as_ref().map_or(0, |(_, sigmas)| sigmas.len())
            }
        }
    }

    /// The grid that the points form, slowest axis first.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Planar { shape, .. } => shape.clone(),
            Self::Grid { axes, .. } => axes.iter().rev().map(Vec::len).collect(),
        }
    }

    /// How many points there are.
    pub fn points(&self) -> usize {
        self.shape().iter().product()
    }

    /// The least and the greatest value of each feature.
    pub fn bounds(&self) -> Result<Vec<(f32, f32)>, LatticeError> {
        let bounds: Vec<(f32, f32)> = match self {
            Self::Planar { values, .. } => values
                .chunks_exact(self.points())
                .map(|feature| min_max(feature.iter().copied()))
                .collect(),
            Self::Grid { axes, color } => {
                let axes = axes.iter().map(|axis| min_max(axis.iter().copied()));
                let channels = color.iter().flat_map(|(pixels, sigmas)| {
                    let step = sigmas.len();
                    // Of integers the range over all channels will do, and is found much faster.
                    let all = match pixels {
                        Pixels::U8(x) => Some(min_max_int(x)),
                        Pixels::U16(x) => Some(min_max_int(x)),
                        Pixels::F32(_) => None,
                    };
                    sigmas.iter().enumerate().map(move |(c, &sigma)| {
                        let (low, high) = match (all, pixels) {
                            (None, Pixels::F32(x)) => min_max(x[c..].iter().copied().step_by(step)),
                            (all, _) => all.unwrap_or_default(),
                        };
                        (low / sigma, high / sigma)
                    })
                });
                axes.chain(channels).collect()
            }
        };
        match bounds.iter().position(|(low, high)| !low.is_finite() || !high.is_finite()) {
            Some(feature) => Err(LatticeError::NotFinite { feature }),
            None => Ok(bounds),
        }
    }

    /// Writes the features of the `count` points from `start` on, all within one row of the grid;
    /// past these it repeats the last.
    #[inline(always)]
    pub(super) fn fill(&self, start: usize, count: usize, out: &mut [Lanes]) {
        match self {
            Self::Planar { values, .. } => {
                let points = values.len() / out.len();
                for (feature, lanes) in values.chunks_exact(points).zip(out.iter_mut()) {
                    lanes[..count].copy_from_slice(&feature[start..start + count]);
                }
            }
            Self::Grid { axes, color } => {
                let (position, channels) = out.split_at_mut(axes.len());
                let mut rest = start;
                // As in the tiling, rows run along the fastest axis of more than one point.
                let mut is_row = true;
                for (axis, lanes) in axes.iter().zip(position) {
                    let at = rest % axis.len();
                    rest /= axis.len();
                    if is_row && axis.len() > 1 {
                        is_row = false;
                        lanes[..count].copy_from_slice(&axis[at..at + count]);
                    } else {
                        *lanes = [axis[at]; BLOCK];
                    }
                }
                if let Some((pixels, sigmas)) = color {
                    let at = start * sigmas.len()..(start + count) * sigmas.len();
                    match pixels {
                        Pixels::U8(x) => fill_channels(&x[at], sigmas, channels, f32::from),
                        Pixels::U16(x) => fill_channels(&x[at], sigmas, channels, f32::from),
                        Pixels::F32(x) => fill_channels(&x[at], sigmas, channels, |x| x),
                    }
                }
            }
        }
        for lanes in out {
            for lane in count..BLOCK {
                lanes[lane] = lanes[count - 1];
            }
        }
    }
}

/// Writes the channels of at most `BLOCK` pixels, divided by their sigmas.
#[inline(always)]
fn fill_channels<T: Copy>(
    pixels: &[T],
    sigmas: &[f32],
    channels: &mut [Lanes],
    float: impl Fn(T) -> f32,
) {
    // Of a whole block in colour the sizes are known when compiling.
    if let (Ok(pixels), [a, b, c]) = (<&[T; 3 * BLOCK]>::try_from(pixels), &mut *channels) {
        // One loop over all channels: the pixels are read in whole vectors and taken apart there.
        for (lane, pixel) in pixels.as_chunks::<3>().0.iter().enumerate() {
            (a[lane], b[lane], c[lane]) = (float(pixel[0]), float(pixel[1]), float(pixel[2]));
        }
        for (lanes, sigma) in [a, b, c].into_iter().zip(sigmas) {
            lanes.iter_mut().for_each(|value| *value /= sigma);
        }
        return;
    }
    for (channel, (lanes, sigma)) in channels.iter_mut().zip(sigmas).enumerate() {
        for (value, pixel) in lanes.iter_mut().zip(pixels.chunks_exact(sigmas.len())) {
            *value = float(pixel[channel]) / sigma;
        }
    }
}

fn min_max(values: impl Iterator<Item = f32>) -> (f32, f32) {
    values.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| {
        // `f32::min` passes over NaN; here one must show.
        if x.is_nan() {
            (f32::NAN, f32::NAN)
        } else {
            (keep(low, x, x < low), keep(high, x, x > high))
        }
    })
}

fn keep(old: f32, new: f32, replace: bool) -> f32 {
    if replace { new } else { old }
}

fn min_max_int<T: Copy + Ord + Into<f32>>(values: &[T]) -> (f32, f32) {
    let Some(&first) = values.first() else { return (0.0, 0.0) };
    // By value: of references the compiler makes no vectors.
    let (low, high) =
        values.iter().fold((first, first), |(low, high), &x| (low.min(x), high.max(x)));
    (low.into(), high.into())
}
