//! 3×3 convolution with a quarter of the products: Winograd's F(4×4, 3×3), scale, shift and ReLU.
//!
//! A tile of 4×4 outputs is a product of polynomials in two variables. Evaluated at six points per
//! axis, the 144 products of each pair of channels become 36, and what is left to do are 36 matrix
//! products over the channels. The points 0, ±√½, ±√2 and ∞ keep the rounding error about that of
//! the plain sum.

// Loops over the second axis of small matrices.
#![allow(clippy::needless_range_loop)]

use std::f32::consts::SQRT_2;
use std::sync::{Arc, LazyLock};

use rayon::prelude::*;

use super::product::{Left, Start, panel_product, panels};
use super::{TokensError, load, require, store, volume};
use crate::control::Control;
use crate::memory::{Buffer, Workspace};
use crate::simd::{Kernel, Level, Simd, dispatch};

/// Products per tile and pair of channels.
const POINTS: usize = 36;
/// Side of a tile of the output.
const SIDE: usize = 4;
/// Tiles in a block.
const TILES: usize = 24;
/// Channels that a product goes through before the next product's turn.
const DEPTH: usize = 256;
/// Floats of what tasks share, at most: transformed weights, or transformed tokens.
const SHARED: usize = 3 << 20;
/// Floats of transformed tokens whose memory is kept, at most.
const TOKENS_KEPT: usize = 1 << 20;
/// Bytes that are kept from one convolution to the next.
const KEPT: usize = 24 << 20;

/// Memory of all convolutions.
fn workspace() -> &'static Arc<Workspace> {
    static WORKSPACE: LazyLock<Arc<Workspace>> = LazyLock::new(|| Workspace::new(KEPT));
    &WORKSPACE
}

/// Memory for what tasks share, of one size, so that all convolutions have the same in turn.
///
/// Pages that none has touched cost nothing.
fn shared(len: usize) -> Buffer<f32> {
    workspace().take(len.max(SHARED))
}

/// The sizes of a convolution from maps (B, H, W, C) to (B, H + 2 · (padding − rate), …, K).
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// B.
    pub batch: usize,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// K.
    pub filters: usize,
    /// Pixels between taps.
    pub rate: usize,
    /// Zeros around the picture.
    pub padding: usize,
}

impl Sizes {
    /// Height and width of the result; 0 where the taps do not fit.
    pub fn result(&self) -> (usize, usize) {
        let result = |size: usize| (size + 2 * self.padding).saturating_sub(2 * self.rate);
        (result(self.height), result(self.width))
    }
}

/// What happens to each channel after the convolution.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// (K) factors.
    pub scale: &'a [f32],
    /// (K) what is added after.
    pub shift: &'a [f32],
    /// Whether negative results become 0.
    pub relu: bool,
}

/// A 4×4 square of outputs, `rate` pixels apart: its picture, and its first row and column.
#[derive(Clone, Copy)]
struct Tile {
    picture: usize,
    y: usize,
    x: usize,
}

/// Tiles of all pictures. With a rate, each grid of pixels `rate` apart is a picture of its own.
fn tiles(sizes: Sizes) -> Vec<Tile> {
    let starts = |size: usize| -> Vec<usize> {
        (0..size.min(sizes.rate))
            .flat_map(|phase| (phase..size).step_by(SIDE * sizes.rate))
            .collect()
    };
    let (height, width) = sizes.result();
    let (rows, columns) = (starts(height), starts(width));
    (0..sizes.batch)
        .flat_map(|picture| rows.iter().map(move |&y| (picture, y)))
        .flat_map(|(picture, y)| columns.iter().map(move |&x| Tile { picture, y, x }))
        .collect()
}

/// Some channels of one of the maps, which a product goes through at once.
#[derive(Clone, Copy)]
struct Step {
    map: usize,
    /// The first of them in the map, and among the channels of all maps.
    from: usize,
    at: usize,
    depth: usize,
}

fn steps(channels: impl Iterator<Item = usize>) -> Vec<Step> {
    let (mut steps, mut at) = (Vec::new(), 0);
    for (map, channels) in channels.enumerate() {
        for from in (0..channels).step_by(DEPTH) {
            let depth = DEPTH.min(channels - from);
            steps.push(Step { map, from, at, depth });
            at += depth;
        }
    }
    steps
}

/// A convolution of which all sizes have been checked.
struct Conv<'a> {
    maps: &'a [(&'a [f32], usize)],
    weight: &'a [f32],
    finish: Finish<'a>,
    sizes: Sizes,
    channels: usize,
    steps: Vec<Step>,
    zeros: Vec<f32>,
    out: Out,
}

/// Writes relu(scale · convolution + shift) of maps, one stacked on the other.
///
/// Maps are (B, H, W, C) with their C; weights are (K, all C, 3, 3).
pub fn conv3x3(
    maps: &[(&[f32], usize)],
    weight: &[f32],
    finish: Finish,
    sizes: Sizes,
    out: &mut [f32],
    control: &Control,
) -> Result<(), TokensError> {
    let Sizes { batch, height, width, filters, rate, padding } = sizes;
    // Places of taps and tiles are sums of a few of these.
    if rate == 0 || rate.max(padding) > usize::MAX >> 4 {
        return Err(TokensError::Size);
    }
    let (rows, columns) = sizes.result();
    let channels = maps.iter().map(|map| map.1).sum();
    for (map, channels) in maps {
        require(&[(map.len(), volume(&[batch, height, width, *channels]))])?;
    }
    require(&[
        (weight.len(), volume(&[filters, channels, 9])),
        (finish.scale.len(), filters),
        (finish.shift.len(), filters),
        (out.len(), volume(&[batch, rows, columns, filters])),
    ])?;
    if channels == 0 {
        return Err(TokensError::Size);
    }
    if out.is_empty() {
        return Ok(());
    }
    let conv = Conv {
        maps,
        weight,
        finish,
        sizes,
        channels,
        steps: steps(maps.iter().map(|map| map.1)),
        zeros: vec![0.0; maps.iter().map(|map| map.1).max().unwrap_or(0)],
        out: Out(out.as_mut_ptr()),
    };
    let tiles = tiles(sizes);
    let panels: Vec<(usize, usize)> = panels(filters, Level::detect().lanes()).collect();
    // Tasks divide what there is more of, and share the other, transformed once.
    if tiles.len() >= filters {
        conv.by_tiles(&tiles, &panels, control)
    } else {
        conv.by_panels(&tiles, &panels, control)
    }
}

impl Conv<'_> {
    /// Floats of all maps, the result among them.
    fn values(&self) -> usize {
        let (rows, columns) = self.sizes.result();
        let out = self.sizes.batch * rows * columns * self.sizes.filters;
        self.maps.iter().map(|map| map.0.len()).sum::<usize>() + out
    }

    /// Each task has a block of tiles, and meets all filters.
    fn by_tiles(
        &self,
        tiles: &[Tile],
        panels: &[(usize, usize)],
        control: &Control,
    ) -> Result<(), TokensError> {
        let widest = panels[0].1;
        let size = POINTS * self.channels;
        // Weights of all filters at once where they are few beside the maps, else of equal parts.
        let most = SHARED.min(self.values());
        let groups = (size * widest * panels.len()).div_ceil(most).min(panels.len());
        let group = panels.len().div_ceil(groups);
        let mut filters = shared(size * widest * group);
        for panels in panels.chunks(group) {
            let mut pieces = Vec::new();
            let mut rest = &mut filters[..];
            for &panel in panels {
                for &step in &self.steps {
                    let (to, behind) = rest.split_at_mut(POINTS * step.depth * panel.1);
                    pieces.push((panel, step, to));
                    rest = behind;
                }
            }
            pieces.into_par_iter().try_for_each(|(panel, step, to)| {
                control.check()?;
                dispatch(TransformWeight { conv: self, panel, step, to });
                Ok::<(), TokensError>(())
            })?;
            let filters = &filters[..];
            tiles.par_chunks(TILES).try_for_each_init(
                || {
                    // Of the size of `by_panels`' filters, where that suffices: they have it in turn.
                    let tokens = (size * TILES).max(POINTS * DEPTH * widest);
                    (workspace().take(tokens), workspace().take(POINTS * TILES * widest))
                },
                |(tokens, products), tiles| {
                    control.check()?;
                    for &step in &self.steps {
                        let to = &mut tokens[POINTS * tiles.len() * step.at..];
                        dispatch(TransformTokens { conv: self, tiles, step, to });
                    }
                    for (&panel, filters) in panels.iter().zip(filters.chunks(size * widest)) {
                        for &step in &self.steps {
                            let tokens = &tokens[POINTS * tiles.len() * step.at..];
                            let filters = &filters[POINTS * panel.1 * step.at..];
                            self.multiply(tokens, filters, step, tiles.len(), panel, products);
                        }
                        dispatch(TransformProducts { conv: self, products, panel, tiles });
                    }
                    Ok::<(), TokensError>(())
                },
            )?;
        }
        Ok(())
    }

    /// Each task has a panel of filters, and meets all tiles.
    fn by_panels(
        &self,
        tiles: &[Tile],
        panels: &[(usize, usize)],
        control: &Control,
    ) -> Result<(), TokensError> {
        let widest = panels[0].1;
        let (each, block) = (POINTS * TILES * self.channels, POINTS * TILES * widest);
        let strip = (SHARED / (each + block)).max(1);
        let blocks = tiles.len().div_ceil(TILES).min(strip);
        let len = each * blocks;
        // Large ones go back at once: the layers around need as much for maps and weights of theirs.
        let mut tokens = if len > TOKENS_KEPT { Workspace::new(0).take(len) } else { shared(len) };
        for tiles in tiles.chunks(TILES * strip) {
            let mut pieces = Vec::new();
            for (tiles, mut rest) in tiles.chunks(TILES).zip(tokens.chunks_mut(each)) {
                for &step in &self.steps {
                    let (to, behind) = rest.split_at_mut(POINTS * tiles.len() * step.depth);
                    pieces.push((tiles, step, to));
                    rest = behind;
                }
            }
            pieces.into_par_iter().try_for_each(|(tiles, step, to)| {
                control.check()?;
                dispatch(TransformTokens { conv: self, tiles, step, to });
                Ok::<(), TokensError>(())
            })?;
            let tokens = &tokens[..];
            panels.par_iter().with_max_len(1).try_for_each_init(
                || (workspace().take(POINTS * DEPTH * widest), workspace().take(block * blocks)),
                |(filters, products), &panel| {
                    for &step in &self.steps {
                        control.check()?;
                        let to = &mut filters[..POINTS * step.depth * panel.1];
                        dispatch(TransformWeight { conv: self, panel, step, to });
                        let tiles = tiles.chunks(TILES).zip(tokens.chunks(each));
                        for ((tiles, tokens), to) in tiles.zip(products.chunks_mut(block)) {
                            let tokens = &tokens[POINTS * tiles.len() * step.at..];
                            self.multiply(tokens, filters, step, tiles.len(), panel, to);
                        }
                    }
                    for (tiles, products) in tiles.chunks(TILES).zip(products.chunks(block)) {
                        dispatch(TransformProducts { conv: self, products, panel, tiles });
                    }
                    Ok::<(), TokensError>(())
                },
            )?;
        }
        Ok(())
    }

    /// One step of the 36 products of a block of tiles with a panel of filters.
    fn multiply(
        &self,
        tokens: &[f32],
        filters: &[f32],
        step: Step,
        rows: usize,
        (first, width): (usize, usize),
        to: &mut [f32],
    ) {
        let columns = width.min(self.sizes.filters - first);
        let start = if step.at == 0 { Start::Zero } else { Start::Sum };
        let tokens = &tokens[..POINTS * rows * step.depth];
        let filters = &filters[..POINTS * width * step.depth];
        let each =
            tokens.chunks_exact(rows * step.depth).zip(filters.chunks_exact(step.depth * width));
        for ((data, panel), to) in each.zip(to.chunks_exact_mut(TILES * width)) {
            let left = Left { data, rows, row: step.depth, step: 1 };
            panel_product(left, panel, (step.depth, columns), start, to, width);
        }
    }
}

/// The result, which tasks write to at places of their own.
struct Out(*mut f32);
// SAFETY: no two tasks write the same place: each has its own tiles or its own filters.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// Values at the points of a polynomial of degree 5: those of an input.
#[inline(always)]
unsafe fn input_points<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
    // SAFETY: the instruction set is the caller's.
    unsafe {
        let [d0, d1, d2, d3, d4, d5] = d;
        let times = |x, factor: f32, plus| S::mul_add(x, S::splat(factor), plus);
        let near = times(d2, -2.0, d4);
        let far = times(d2, -0.5, d4);
        let near_odd = times(d3, SQRT_2 / 2.0, S::mul(d1, S::splat(-SQRT_2)));
        let far_odd = times(d3, SQRT_2, S::mul(d1, S::splat(-SQRT_2 / 2.0)));
        [
            S::add(times(d2, -2.5, d0), d4),
            S::add(near, near_odd),
            S::sub(near, near_odd),
            S::add(far, far_odd),
            S::sub(far, far_odd),
            S::add(times(d3, -2.5, d1), d5),
        ]
    }
}

/// Values at the points of a polynomial of degree 2: those of a filter.
#[inline(always)]
unsafe fn filter_points<S: Simd>(g: [S::V; 3]) -> [S::V; 6] {
    // SAFETY: the instruction set is the caller's.
    unsafe {
        let [g0, g1, g2] = g;
        let scaled = |x, factor: f32| S::mul(x, S::splat(factor));
        let near = S::mul_add(g0, S::splat(-2.0 / 3.0), scaled(g2, -1.0 / 3.0));
        let far = S::mul_add(g0, S::splat(1.0 / 6.0), scaled(g2, 1.0 / 3.0));
        let near_odd = scaled(g1, -SQRT_2 / 3.0);
        let far_odd = scaled(g1, SQRT_2 / 6.0);
        [
            g0,
            S::add(near, near_odd),
            S::sub(near, near_odd),
            S::add(far, far_odd),
            S::sub(far, far_odd),
            g2,
        ]
    }
}

/// Four outputs of a product of polynomials, from its values at the points.
#[inline(always)]
unsafe fn outputs<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
    // SAFETY: the instruction set is the caller's.
    unsafe {
        let [m0, m1, m2, m3, m4, m5] = m;
        let times = |x, factor: f32, plus| S::mul_add(x, S::splat(factor), plus);
        let (near, near_odd) = (S::add(m1, m2), S::sub(m1, m2));
        let (far, far_odd) = (S::add(m3, m4), S::sub(m3, m4));
        [
            S::add(S::add(m0, near), far),
            times(near_odd, SQRT_2 / 2.0, S::mul(far_odd, S::splat(SQRT_2))),
            times(near, 0.5, S::add(far, far)),
            times(near_odd, SQRT_2 / 4.0, times(far_odd, 2.0 * SQRT_2, m5)),
        ]
    }
}

/// Tokens of a block of tiles and a step at the points: (36, tiles, depth).
struct TransformTokens<'a> {
    conv: &'a Conv<'a>,
    tiles: &'a [Tile],
    step: Step,
    to: &'a mut [f32],
}

impl Kernel for TransformTokens<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Conv { maps, sizes, zeros, .. } = self.conv;
        let Sizes { height, width, rate, padding, .. } = *sizes;
        let Step { map, from: first, depth, .. } = self.step;
        let (rows, (map, stride)) = (self.tiles.len(), maps[map]);
        assert!(self.to.len() >= POINTS * rows * depth);
        assert!(first + depth <= stride && stride <= zeros.len());
        for (row, tile) in self.tiles.iter().enumerate() {
            // What lies before the picture wraps, and is outside, too.
            let place = |i: usize, start: usize| (start + i * rate).wrapping_sub(padding);
            let from: [[*const f32; 6]; 6] = std::array::from_fn(|i| {
                std::array::from_fn(|j| {
                    let (y, x) = (place(i, tile.y), place(j, tile.x));
                    let token = if y < height && x < width {
                        &map[((tile.picture * height + y) * width + x) * stride..][..stride]
                    } else {
                        zeros
                    };
                    token[first..].as_ptr()
                })
            });
            let to = self.to[row * depth..].as_mut_ptr();
            for c in (0..depth).step_by(S::LANES) {
                let n = S::LANES.min(depth - c);
                // SAFETY: every pointer has `depth` floats, and `to` 36 × rows × depth, of which
                // this is a row of each rows × depth.
                unsafe {
                    let down: [[S::V; 6]; 6] = std::array::from_fn(|j| {
                        input_points::<S>(std::array::from_fn(|i| load::<S>(from[i][j].add(c), n)))
                    });
                    for i in 0..6 {
                        let across = input_points::<S>(std::array::from_fn(|j| down[j][i]));
                        for (j, v) in across.into_iter().enumerate() {
                            store::<S>(to.add((6 * i + j) * rows * depth + c), n, v);
                        }
                    }
                }
            }
        }
    }
}

/// Weights of a panel and a step at the points: (36, depth, width).
struct TransformWeight<'a> {
    conv: &'a Conv<'a>,
    panel: (usize, usize),
    step: Step,
    to: &'a mut [f32],
}

impl Kernel for TransformWeight<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Channels that are turned at once, so that filters lie side by side.
        const TURNED: usize = 16;
        let Conv { weight, sizes: Sizes { filters, .. }, channels, .. } = *self.conv;
        let ((first, width), Step { at, depth, .. }) = (self.panel, self.step);
        let mut turned = [0.0f32; TURNED * 9 * crate::simd::LINE];
        assert!(self.to.len() == POINTS * depth * width && width % S::LANES == 0);
        for lane in (0..width).step_by(S::LANES) {
            let filter = first + lane;
            let present = (filters - filter).min(S::LANES);
            turned.fill(0.0);
            for c in (0..depth).step_by(TURNED) {
                let count = TURNED.min(depth - c);
                let from = &weight[(filter * channels + at + c) * 9..];
                assert!(from.len() >= ((present - 1) * channels + count) * 9);
                // SAFETY: the assert above; `turned` has 9 × 16 rows of a vector.
                unsafe {
                    S::transpose(
                        from.as_ptr(),
                        channels * 9,
                        turned.as_mut_ptr(),
                        S::LANES,
                        present,
                        count * 9,
                    );
                }
                for (i, taps) in turned.chunks_exact(9 * S::LANES).take(count).enumerate() {
                    let to = self.to[(c + i) * width + lane..].as_mut_ptr();
                    // SAFETY: nine vectors are in `taps`; `to` has 36 × depth × width floats from
                    // its start on, of which this is one column of each depth × width.
                    unsafe {
                        let down: [[S::V; 6]; 3] = std::array::from_fn(|x| {
                            filter_points::<S>(std::array::from_fn(|y| {
                                S::load(taps.as_ptr().add((3 * y + x) * S::LANES))
                            }))
                        });
                        for y in 0..6 {
                            let across = filter_points::<S>(std::array::from_fn(|x| down[x][y]));
                            for (x, v) in across.into_iter().enumerate() {
                                S::store(to.add((6 * y + x) * depth * width), v);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Outputs of a block of tiles and a panel of filters.
struct TransformProducts<'a> {
    conv: &'a Conv<'a>,
    products: &'a [f32],
    panel: (usize, usize),
    tiles: &'a [Tile],
}

impl Kernel for TransformProducts<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Conv { sizes, finish: Finish { scale, shift, relu }, out, .. } = self.conv;
        let Sizes { filters, rate, .. } = *sizes;
        let (height, width) = sizes.result();
        let (first, stride) = self.panel;
        let columns = stride.min(filters - first);
        let (scale, shift) = (&scale[first..][..columns], &shift[first..][..columns]);
        assert!(self.products.len() >= POINTS * TILES * stride && self.tiles.len() <= TILES);
        for (row, tile) in self.tiles.iter().enumerate() {
            for c in (0..columns).step_by(S::LANES) {
                let n = S::LANES.min(columns - c);
                // SAFETY: a product has TILES rows of `stride` floats, whole vectors; each pixel of
                // the result has `filters` floats, of which `first + c` and the `n` from there on
                // are this task's.
                unsafe {
                    let m = self.products.as_ptr().add(row * stride + c);
                    let down: [[S::V; 4]; 6] = std::array::from_fn(|j| {
                        outputs::<S>(std::array::from_fn(|i| {
                            S::load(m.add((6 * i + j) * TILES * stride))
                        }))
                    });
                    let factor = load::<S>(scale.as_ptr().add(c), n);
                    let plus = load::<S>(shift.as_ptr().add(c), n);
                    for i in 0..SIDE {
                        let y = tile.y + i * rate;
                        if y >= height {
                            break;
                        }
                        let across = outputs::<S>(std::array::from_fn(|j| down[j][i]));
                        for (j, v) in across.into_iter().enumerate() {
                            let x = tile.x + j * rate;
                            if x >= width {
                                break;
                            }
                            let mut v = S::mul_add(v, factor, plus);
                            if *relu {
                                // The second operand is what comes of NaN: it passes.
                                v = S::max(S::splat(0.0), v);
                            }
                            let pixel = (tile.picture * height + y) * width + x;
                            store::<S>(out.0.add(pixel * filters + first + c), n, v);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(
        (tokens, channels): (&[f32], usize),
        weight: &[f32],
        finish: Finish,
        sizes: Sizes,
    ) -> Vec<f32> {
        let Sizes { batch, height, width, filters, rate, padding } = sizes;
        let (rows, columns) = sizes.result();
        let mut out = Vec::new();
        for (b, y, x) in (0..batch)
            .flat_map(|b| (0..rows).flat_map(move |y| (0..columns).map(move |x| (b, y, x))))
        {
            for k in 0..filters {
                let mut sum = 0.0f64;
                for (i, j) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))) {
                    let (v, u) = (
                        (y + i * rate).wrapping_sub(padding),
                        (x + j * rate).wrapping_sub(padding),
                    );
                    if v < height && u < width {
                        for c in 0..channels {
                            let token = tokens[((b * height + v) * width + u) * channels + c];
                            let tap = weight[(k * channels + c) * 9 + 3 * i + j];
                            sum += f64::from(token) * f64::from(tap);
                        }
                    }
                }
                let value = sum as f32 * finish.scale[k] + finish.shift[k];
                out.push(if finish.relu { value.max(0.0) } else { value });
            }
        }
        out
    }

    fn noise(len: usize, seed: usize) -> Vec<f32> {
        let hash = |i: usize| (i.wrapping_add(seed).wrapping_mul(0x9E37_79B9) >> 7) % 2000;
        (0..len).map(|i| hash(i * i + 3 * i) as f32 / 1000.0 - 1.0).collect()
    }

    #[test]
    fn any_size_rate_and_number_of_channels() {
        for (batch, height, width, channels, filters, rate, padding) in [
            (1, 1, 1, 1, 1, 1, 1),
            (2, 5, 7, 3, 17, 1, 1),
            (1, 8, 4, 16, 64, 1, 1),
            (1, 9, 10, 20, 70, 2, 2),
            (2, 6, 3, 5, 33, 4, 4),
            (1, 4, 5, 300, 9, 1, 0),
            (1, 30, 29, 8, 8, 1, 1),
            (1, 3, 3, 2, 2, 7, 7),
            (2, 3, 5, 4, 3, 1, 5),
            (1, 8, 7, 2, 3, 3, 1),
        ] {
            let sizes = Sizes { batch, height, width, filters, rate, padding };
            let tokens = noise(batch * height * width * channels, 1);
            // The same channels as two maps, one stacked on the other.
            let split = channels / 2;
            let part = |range: std::ops::Range<usize>| -> Vec<f32> {
                tokens.chunks_exact(channels).flat_map(|x| x[range.clone()].to_vec()).collect()
            };
            let (low, high) = (part(0..split), part(split..channels));
            let weight = noise(filters * channels * 9, 2);
            let (scale, shift) = (noise(filters, 3), noise(filters, 4));
            for relu in [false, true] {
                let finish = Finish { scale: &scale, shift: &shift, relu };
                let expected = plain((&tokens, channels), &weight, finish, sizes);
                let tolerance = 2e-6 * (9 * channels) as f32;
                let maps: [&[(&[f32], usize)]; 2] =
                    [&[(&tokens, channels)], &[(&low, split), (&high, channels - split)]];
                for maps in maps {
                    let mut out = vec![f32::NAN; expected.len()];
                    conv3x3(maps, &weight, finish, sizes, &mut out, &Control::default())
                        .expect("nobody interrupts");
                    for (at, (x, y)) in out.iter().zip(&expected).enumerate() {
                        assert!((x - y).abs() <= tolerance, "{sizes:?} at {at}: {x} not {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let sizes = Sizes { batch: 1, height: 2, width: 2, filters: 1, rate: 1, padding: 1 };
        let finish = Finish { scale: &[1.0], shift: &[0.0], relu: false };
        let (mut out, control) = ([0.0; 4], Control::default());
        let mut run = |tokens: &[f32], sizes| {
            conv3x3(&[(tokens, 1)], &[0.0; 9], finish, sizes, &mut out, &control)
        };
        assert_eq!(run(&[0.0; 4], sizes), Ok(()));
        assert_eq!(run(&[0.0; 3], sizes), Err(TokensError::Size));
        assert_eq!(run(&[0.0; 4], Sizes { rate: 0, ..sizes }), Err(TokensError::Size));
        let huge = Sizes { rate: 1 << 62, padding: 1 << 62, ..sizes };
        assert_eq!(run(&[0.0; 4], huge), Err(TokensError::Size));
    }
}
