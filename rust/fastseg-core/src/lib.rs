//! The algorithms of fastseg: plain Rust, no Python.
