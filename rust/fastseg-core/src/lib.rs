//! The algorithms of fastseg: plain Rust, no Python.

pub mod control;
pub mod crf;
pub mod lattice;
pub mod memory;
pub mod simd;
pub mod threads;
pub mod upsample;
