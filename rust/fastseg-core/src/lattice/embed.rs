//! From features to the enclosing simplex: its vertices and the weight of each.
//!
//! Adams, Baek & Davis 2010, section 3. Sixteen points at a time, operation by operation in the
//! order of the published CRF code and without fused multiply-adds: a point on the border between
//! two simplices must fall on the same side here as there.

use super::features::{BLOCK, Lanes};
use super::keys::{Key, KeyLayout, scales};

/// Scratch memory and results for one block of points.
pub struct Embedding<const W: usize> {
    scale: Vec<f32>,
    elevated: Vec<Lanes>,
    nearest: Vec<Lanes>,
    rank: Vec<[i32; BLOCK]>,
    /// The packed vertex of class 0 of each point.
    pub base: [Key<W>; BLOCK],
    /// `order[r][lane]`: which coordinate steps down between the vertices of class r and r+1.
    pub order: Vec<[u8; BLOCK]>,
    /// `weight[r][lane]`: the barycentric weight of the vertex of class r.
    pub weight: Vec<Lanes>,
}

impl<const W: usize> Embedding<W> {
    /// Scratch memory for `dimension` features.
    pub fn new(dimension: usize) -> Self {
        let corners = dimension + 1;
        Self {
            scale: scales(dimension),
            elevated: vec![[0.0; BLOCK]; corners],
            nearest: vec![[0.0; BLOCK]; corners],
            rank: vec![[0; BLOCK]; corners],
            base: [[0; W]; BLOCK],
            order: vec![[0; BLOCK]; corners],
            weight: vec![[0.0; BLOCK]; corners],
        }
    }

    /// Embeds one block. `d` is the dimension: a literal at the call lets the loops unroll.
    #[inline(always)]
    pub fn embed(&mut self, d: usize, features: &[Lanes], layout: &KeyLayout<W>) {
        let corners = d + 1;
        let features = &features[..d];
        let scale = &self.scale[..d];
        let e = &mut self.elevated[..corners];
        let v = &mut self.nearest[..corners];
        let rank = &mut self.rank[..corners];

        let mut sum = [0.0; BLOCK];
        for j in (1..=d).rev() {
            for l in 0..BLOCK {
                let scaled = features[j - 1][l] * scale[j - 1];
                e[j][l] = sum[l] - j as f32 * scaled;
                sum[l] += scaled;
            }
        }
        e[0] = sum;

        let (up, down) = (corners as f32, 1.0 / corners as f32);
        let mut excess = [0.0; BLOCK];
        for i in 0..=d {
            for l in 0..BLOCK {
                v[i][l] = (e[i][l] * down).round_ties_even();
                excess[l] += v[i][l];
                e[i][l] -= v[i][l] * up; // from here on the offset from the nearest vertex
            }
            rank[i] = [0; BLOCK];
        }
        for i in 0..d {
            for j in i + 1..=d {
                for l in 0..BLOCK {
                    let behind = i32::from(e[i][l] < e[j][l]);
                    rank[i][l] += behind;
                    rank[j][l] += 1 - behind;
                }
            }
        }
        for i in 0..=d {
            for l in 0..BLOCK {
                let r = rank[i][l] + excess[l] as i32;
                let wrap = i32::from(r < 0) - i32::from(r > d as i32);
                rank[i][l] = r + wrap * corners as i32;
                v[i][l] += wrap as f32;
                e[i][l] -= wrap as f32 * up;
            }
        }

        // Sort the offsets by rank; their differences are the weights.
        let sorted = &mut self.weight[..corners];
        for place in 0..=d {
            let wanted = (d - place) as i32;
            let mut offset = [0u32; BLOCK];
            let mut which = [0u32; BLOCK];
            for i in 0..=d {
                for l in 0..BLOCK {
                    // Exactly one coordinate has the wanted rank: its bits survive the mask.
                    let mask = u32::from(rank[i][l] == wanted).wrapping_neg();
                    offset[l] |= mask & e[i][l].to_bits();
                    which[l] |= mask & i as u32;
                }
            }
            for l in 0..BLOCK {
                sorted[place][l] = f32::from_bits(offset[l]) * down;
                self.order[place][l] = which[l] as u8;
            }
        }
        // weight[j] = sorted[j] - sorted[j-1], and weight[0] closes the sum to one.
        let last = sorted[d];
        for j in (1..=d).rev() {
            for l in 0..BLOCK {
                sorted[j][l] -= sorted[j - 1][l];
            }
        }
        for l in 0..BLOCK {
            sorted[0][l] += 1.0 - last[l];
        }

        self.base = [[0; W]; BLOCK];
        for i in 0..d {
            layout.put(&mut self.base, i, &v[i]);
        }
    }
}
