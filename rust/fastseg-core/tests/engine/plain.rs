//! The lattice and the mean field as in the papers, one number at a time.

use std::collections::HashMap;

/// Adams, Baek & Davis 2010. Positions in 32 bits, as a point on the border of two simplices falls
/// into the one or the other by its last bit; sums in 64.
pub struct Lattice {
    pub vertices: usize,
    dimension: usize,
    /// For each point the vertices of its simplex and their weights.
    corners: Vec<Vec<(usize, f64)>>,
    /// For each axis both neighbours of each vertex.
    neighbours: Vec<Vec<[Option<usize>; 2]>>,
}

type Simplex = Vec<(Vec<i64>, f64)>;

fn simplex(feature: &[f32]) -> Simplex {
    let d = feature.len();
    let n = d + 1;
    let spread = ((2.0f64 / 3.0).sqrt() * n as f64) as f32;
    let mut elevated = vec![0.0f32; n];
    let mut sum = 0.0f32;
    for j in (1..=d).rev() {
        let scale = (1.0 / ((j * (j + 1)) as f64).sqrt() * f64::from(spread)) as f32;
        let scaled = feature[j - 1] * scale;
        elevated[j] = sum - j as f32 * scaled;
        sum += scaled;
    }
    elevated[0] = sum;

    let down = 1.0 / n as f32;
    let mut nearest: Vec<i64> =
        elevated.iter().map(|e| (e * down).round_ties_even() as i64).collect();
    let excess: i64 = nearest.iter().sum();
    let offset: Vec<f32> =
        elevated.iter().zip(&nearest).map(|(e, &v)| e - v as f32 * n as f32).collect();
    let mut rank = vec![excess; n];
    for i in 0..n {
        for j in i + 1..n {
            if offset[i] < offset[j] {
                rank[i] += 1;
            } else {
                rank[j] += 1;
            }
        }
    }
    let mut residual: Vec<f64> = offset.iter().map(|&x| f64::from(x)).collect();
    for i in 0..n {
        if rank[i] < 0 {
            rank[i] += n as i64;
            nearest[i] += 1;
            residual[i] -= n as f64;
        } else if rank[i] > d as i64 {
            rank[i] -= n as i64;
            nearest[i] -= 1;
            residual[i] += n as f64;
        }
    }
    let mut weights = vec![0.0; n + 1];
    for i in 0..n {
        let t = residual[i] / n as f64;
        let rank = rank[i] as usize;
        weights[d - rank] += t;
        weights[n - rank] -= t;
    }
    weights[0] += 1.0 + weights[n];
    let vertex = |r: usize| -> Vec<i64> {
        (0..d)
            .map(|i| {
                let step = if rank[i] <= (d - r) as i64 { r as i64 } else { r as i64 - n as i64 };
                nearest[i] * n as i64 + step
            })
            .collect()
    };
    (0..n).map(|r| (vertex(r), weights[r])).collect()
}

impl Lattice {
    /// Over `dimension` rows of features.
    pub fn new(features: &[f32], dimension: usize, with_origin: bool) -> Self {
        let points = features.len() / dimension;
        let mut index = HashMap::new();
        let mut number = |simplex: Simplex| -> Vec<(usize, f64)> {
            let one = |(key, weight)| {
                let next = index.len();
                (*index.entry(key).or_insert(next), weight)
            };
            simplex.into_iter().map(one).collect()
        };
        let feature =
            |p: usize| -> Vec<f32> { (0..dimension).map(|i| features[i * points + p]).collect() };
        let corners = (0..points).map(|p| number(simplex(&feature(p)))).collect();
        if with_origin {
            number(simplex(&vec![0.0; dimension]));
        }
        let mut neighbours = vec![vec![[None; 2]; index.len()]; dimension + 1];
        for (axis, neighbours) in neighbours.iter_mut().enumerate() {
            for (key, &vertex) in &index {
                for (side, sign) in [-1, 1].into_iter().enumerate() {
                    let mut key: Vec<i64> = key.iter().map(|c| c + sign).collect();
                    if axis < dimension {
                        key[axis] -= sign * (dimension as i64 + 1);
                    }
                    neighbours[vertex][side] = index.get(&key).copied();
                }
            }
        }
        Self { vertices: index.len(), dimension, corners, neighbours }
    }

    /// slice ∘ blur ∘ splat of one value for each point, times α.
    pub fn filter(&self, values: &[f64], transpose: bool) -> Vec<f64> {
        let mut rows = vec![0.0; self.vertices];
        for (corners, value) in self.corners.iter().zip(values) {
            for (vertex, weight) in corners {
                rows[*vertex] += weight * value;
            }
        }
        for step in 0..=self.dimension {
            let axis = if transpose { self.dimension - step } else { step };
            let at = |vertex: Option<usize>| vertex.map_or(0.0, |vertex| rows[vertex]);
            rows = (0..self.vertices)
                .map(|v| {
                    let [a, b] = self.neighbours[axis][v];
                    rows[v] + 0.5 * (at(a) + at(b))
                })
                .collect();
        }
        let alpha = 1.0 / (1.0 + 0.5f64.powi(self.dimension as i32));
        let gather = |corners: &Vec<(usize, f64)>| -> f64 {
            corners.iter().map(|(vertex, weight)| weight * rows[*vertex]).sum()
        };
        self.corners.iter().map(|corners| alpha * gather(corners)).collect()
    }
}

/// A lattice, the factors before and after it, and the penalty of each pair of labels.
pub struct Kernel {
    pub lattice: Lattice,
    pub before: Vec<f64>,
    pub after: Vec<f64>,
    pub penalty: Vec<f64>,
}

/// The messages, as energies, that `q` (`labels × points`) sends through all kernels.
pub fn messages(kernels: &[Kernel], q: &[f64], labels: usize) -> Vec<f64> {
    let points = q.len() / labels;
    let mut messages = vec![0.0; q.len()];
    for kernel in kernels {
        let scaled = |values: &[f64], factors: &[f64]| -> Vec<f64> {
            values.iter().zip(factors).map(|(x, factor)| x * factor).collect()
        };
        let filtered: Vec<Vec<f64>> = q
            .chunks_exact(points)
            .map(|q| {
                scaled(&kernel.lattice.filter(&scaled(q, &kernel.before), false), &kernel.after)
            })
            .collect();
        for l in 0..labels {
            for (m, filtered) in filtered.iter().enumerate() {
                let penalty = kernel.penalty[l * labels + m];
                for (to, from) in messages[l * points..(l + 1) * points].iter_mut().zip(filtered) {
                    *to += penalty * from;
                }
            }
        }
    }
    messages
}

/// exp(−energy) over the labels of each point, divided by its sum.
pub fn softmax(energies: &[f64], labels: usize) -> Vec<f64> {
    let points = energies.len() / labels;
    let mut q = vec![0.0; energies.len()];
    for p in 0..points {
        let least = (0..labels).map(|l| energies[l * points + p]).fold(f64::INFINITY, f64::min);
        let weights: Vec<f64> =
            (0..labels).map(|l| (least - energies[l * points + p]).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for l in 0..labels {
            q[l * points + p] = weights[l] / sum;
        }
    }
    q
}

/// Krähenbühl & Koltun 2011: mean-field updates from softmax(−U).
pub fn infer(kernels: &[Kernel], unary: &[f64], labels: usize, iterations: usize) -> Vec<f64> {
    let mut q = softmax(unary, labels);
    for _ in 0..iterations {
        let messages = messages(kernels, &q, labels);
        let energies: Vec<f64> = unary.iter().zip(&messages).map(|(u, m)| u + m).collect();
        q = softmax(&energies, labels);
    }
    q
}
