//! The algorithms of fastseg: plain Rust, no Python.

pub mod border_weights;
pub mod boundary;
pub mod components;
pub mod control;
pub mod counting;
pub mod crf;
pub mod distance;
pub mod lattice;
pub mod lovasz;
pub mod memory;
pub mod simd;
pub mod surface;
pub mod threads;
pub mod tokens;
pub mod upsample;
