//! From features to the enclosing simplex: its vertices and the weight of each.
//!
//! Adams, Baek & Davis 2010, section 3. Sixteen points at a time, operation by operation in the
//! order of the published CRF code and without fused multiply-adds: a point on the border between
//! two simplices must fall on the same side here as there.

use super::features::{BLOCK, Lanes};
use super::keys::{Key, KeyLayout, integer, scales};

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
    /// The same, four bits a step: exact up to sixteen steps, a hash beyond.
    pub code: [u64; BLOCK],
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
            code: [0; BLOCK],
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

        // Lanes are read into values and written back: loops over values become vectors.
        let mut sum = [0.0; BLOCK];
        for j in (1..=d).rev() {
            let (f, s) = (features[j - 1], scale[j - 1]);
            let scaled: Lanes = each(|l| f[l] * s);
            e[j] = each(|l| sum[l] - j as f32 * scaled[l]);
            sum = each(|l| sum[l] + scaled[l]);
        }
        e[0] = sum;

        let (up, down) = (corners as f32, 1.0 / corners as f32);
        let mut excess = [0.0; BLOCK];
        for i in 0..=d {
            let at = e[i];
            let nearest: Lanes = each(|l| (at[l] * down).round_ties_even());
            excess = each(|l| excess[l] + nearest[l]);
            // From here on the offset from the nearest vertex.
            e[i] = each(|l| at[l] - nearest[l] * up);
            v[i] = nearest;
            rank[i] = [0; BLOCK];
        }
        for i in 0..d {
            let (here, mut ahead) = (e[i], rank[i]);
            for j in i + 1..=d {
                let (there, behind) = (e[j], rank[j]);
                let is_behind: [i32; BLOCK] = each(|l| i32::from(here[l] < there[l]));
                ahead = each(|l| ahead[l] + is_behind[l]);
                rank[j] = each(|l| behind[l] + 1 - is_behind[l]);
            }
            rank[i] = ahead;
        }
        for i in 0..=d {
            let (at, nearest, old) = (e[i], v[i], rank[i]);
            let shifted: [i32; BLOCK] = each(|l| old[l] + integer(excess[l]));
            let wrap: [i32; BLOCK] =
                each(|l| i32::from(shifted[l] < 0) - i32::from(shifted[l] > d as i32));
            rank[i] = each(|l| shifted[l] + wrap[l] * corners as i32);
            v[i] = each(|l| nearest[l] + wrap[l] as f32);
            e[i] = each(|l| at[l] - wrap[l] as f32 * up);
        }

        // Sort the offsets by rank; their differences are the weights.
        let mut before = [0.0; BLOCK];
        let mut code = [0u64; BLOCK];
        for (place, weight) in self.weight[..corners].iter_mut().enumerate() {
            let wanted = (d - place) as i32;
            let (mut offset, mut which) = ([0u32; BLOCK], [0u32; BLOCK]);
            for i in 0..=d {
                let (at, rank) = (e[i], rank[i]);
                // Exactly one coordinate has the wanted rank: its bits survive the mask.
                let mask: [u32; BLOCK] = each(|l| u32::from(rank[l] == wanted).wrapping_neg());
                offset = each(|l| offset[l] | mask[l] & at[l].to_bits());
                which = each(|l| which[l] | mask[l] & i as u32);
            }
            let sorted: Lanes = each(|l| f32::from_bits(offset[l]) * down);
            *weight = each(|l| sorted[l] - before[l]);
            self.order[place] = each(|l| which[l] as u8);
            if place < d {
                code = each(|l| code[l].rotate_left(4) ^ u64::from(which[l]));
            }
            before = sorted;
        }
        self.code = code;
        // The first closes the sum to one: it also takes what the last leaves.
        let first = self.weight[0];
        self.weight[0] = each(|l| first[l] + (1.0 - before[l]));

        self.base = [[0; W]; BLOCK];
        for (i, v) in v.iter().enumerate().take(d) {
            layout.put(&mut self.base, i, v);
        }
    }
}

/// A value for each lane.
#[inline(always)]
fn each<T>(lane: impl FnMut(usize) -> T) -> [T; BLOCK] {
    std::array::from_fn(lane)
}
