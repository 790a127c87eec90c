//! The engine through its public interface, compared with slow and plain versions of itself.

mod counting;
mod crf;
mod distance;
mod kernel_cache;
mod lattice;
mod lovasz;
mod plain;
mod random;
mod threads;
mod upsample;
mod watching;
mod workspace;
