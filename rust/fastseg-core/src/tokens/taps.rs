//! Bilinear enlargement along one axis.

/// The two places that a place of the enlarged axis lies between, and how far it is from the first.
#[derive(Clone, Copy, Debug)]
pub struct Tap {
    /// The place before.
    pub low: usize,
    /// The place behind.
    pub high: usize,
    /// The weight of the place behind, in [0, 1].
    pub weight: f32,
}

/// The taps of an axis of `size` places enlarged to `full`, as PyTorch has them.
pub fn taps(size: usize, full: usize, align_corners: bool) -> Vec<Tap> {
    let scale = match (align_corners, full) {
        (true, 0 | 1) => 0.0,
        (true, _) => (size - 1) as f32 / (full - 1) as f32,
        (false, _) => size as f32 / full as f32,
    };
    (0..full)
        .map(|i| {
            let at = if align_corners {
                i as f32 * scale
            } else {
                ((i as f32 + 0.5) * scale - 0.5).max(0.0)
            };
            let low = (at as usize).min(size - 1);
            let weight = (at - low as f32).clamp(0.0, 1.0);
            Tap { low, high: (low + 1).min(size - 1), weight }
        })
        .collect()
}
