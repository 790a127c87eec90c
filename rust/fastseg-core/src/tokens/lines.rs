//! Scratch memory that starts where a cache line does.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

/// Sixteen floats, a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats, zero at first, that start at a cache line.
pub struct Lines(Vec<Line>);

impl Lines {
    /// At least `len` zeros.
    ///
    /// The system has zeros at hand for much memory; the threads that write first then fetch it, at
    /// the same time.
    pub fn new(len: usize) -> Self {
        let count = len.div_ceil(16);
        if count == 0 {
            return Self(Vec::new());
        }
        // A length that no slice has ends as it does in `Vec`.
        let layout = Layout::array::<Line>(count).unwrap_or_else(|_| panic!("capacity overflow"));
        // SAFETY: the layout is not empty. Zeros are a value of `Line`, and the memory is what a
        // `Vec` of them with this capacity frees.
        unsafe {
            let memory = alloc_zeroed(layout);
            if memory.is_null() {
                handle_alloc_error(layout);
            }
            Self(Vec::from_raw_parts(memory.cast(), count, count))
        }
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
