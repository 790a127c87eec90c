//! Scratch memory that starts where a cache line does.

/// Sixteen floats, a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats, zero at first, that start at a cache line.
pub struct Lines(Vec<Line>);

impl Lines {
    /// At least `len` zeros.
    pub fn new(len: usize) -> Self {
        Self(vec![Line([0.0; 16]); len.div_ceil(16)])
    }

    /// All of them.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: a line is sixteen floats without padding, and lines lie one behind the other.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }

    /// All of them, to write to.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

/// `len` rounded up to whole cache lines.
pub fn padded(len: usize) -> usize {
    len.div_ceil(16) * 16
}
