//! Made-up data, the same on every machine.

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub fn values(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        (0..count).map(|_| self.between(low, high)).collect()
    }

    /// Features of several kinds: spread out, in clumps, on a grid (where points lie on the borders
    /// of simplices), and all the same.
    pub fn features(&mut self, dimension: usize, points: usize, scale: f32) -> Vec<f32> {
        let kind = self.below(4);
        let constant = self.between(-scale, scale);
        (0..dimension * points)
            .map(|i| match kind {
                0 => self.between(-scale, scale),
                1 => (self.below(3) as f32 - 1.0) * scale + self.between(-0.3, 0.3),
                2 => (self.between(-scale, scale)).round(),
                _ => constant + (i / points) as f32 * 0.1,
            })
            .collect()
    }

    /// Probabilities of `labels × points`, each point's summing to one, some of them zero or one.
    pub fn probs(&mut self, labels: usize, points: usize) -> Vec<f32> {
        let mut probs = vec![0.0; labels * points];
        for p in 0..points {
            let sharpness = self.between(0.0, 8.0);
            let scores: Vec<f32> = (0..labels).map(|_| (sharpness * self.unit()).exp()).collect();
            let sum: f32 = scores.iter().sum();
            let certain = (self.below(20) == 0).then(|| self.below(labels));
            for (l, score) in scores.iter().enumerate() {
                probs[l * points + p] = match certain {
                    Some(label) => f32::from(u8::from(label == l)),
                    None => score / sum,
                };
            }
        }
        probs
    }
}

/// Grids around the sizes of tiles, vectors and blocks.
pub const SHAPES: [&[usize]; 22] = [
    &[1],
    &[2],
    &[7],
    &[63],
    &[64],
    &[65],
    &[66],
    &[511],
    &[513],
    &[1, 1],
    &[1, 66],
    &[66, 1],
    &[7, 63],
    &[8, 64],
    &[9, 65],
    &[9, 7],
    &[17, 15],
    &[1, 9, 65],
    &[3, 8, 9],
    &[2, 1, 66],
    &[2, 7, 63],
    &[2, 2, 3, 5],
];
