//! Spatial kernels kept between images: they depend on the size of the image and sigma alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Normalization, PairwiseKernel};

/// What a spatial kernel depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpatialKey {
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// The bits of the sigma of each axis.
    pub sigmas: Vec<u32>,
    /// How it is normalised.
    pub normalization: Normalization,
}

/// Kernels by key, the least recently used dropped first.
#[derive(Debug)]
pub struct KernelCache {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Least recently used first.
    kernels: Vec<(SpatialKey, Arc<PairwiseKernel>)>,
}

impl State {
    fn bytes(&self) -> usize {
        self.kernels.iter().map(|(_, kernel)| kernel.bytes()).sum()
    }

    fn trim(&mut self) {
        while self.bytes() > self.limit {
            self.kernels.remove(0);
        }
    }
}

impl KernelCache {
    /// A cache of at most `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self { state: Mutex::new(State { limit, kernels: Vec::new() }) }
    }

    /// The kernel of `key`, built by `build` if it is not kept.
    pub fn get_or_build<E>(
        &self,
        key: SpatialKey,
        build: impl FnOnce() -> Result<PairwiseKernel, E>,
    ) -> Result<Arc<PairwiseKernel>, E> {
        let found = {
            let mut state = self.lock();
            let at = state.kernels.iter().position(|(k, _)| *k == key);
            at.map(|at| {
                let entry = state.kernels.remove(at);
                let kernel = entry.1.clone();
                state.kernels.push(entry);
                kernel
            })
        };
        if let Some(kernel) = found {
            return Ok(kernel);
        }
        let kernel = Arc::new(build()?);
        let mut state = self.lock();
        if kernel.bytes() <= state.limit && state.kernels.iter().all(|(k, _)| *k != key) {
            state.kernels.push((key, kernel.clone()));
            state.trim();
        }
        Ok(kernel)
    }

    /// Drops all kernels.
    pub fn clear(&self) {
        self.lock().kernels.clear();
    }

    /// How many bytes are kept.
    pub fn bytes(&self) -> usize {
        self.lock().bytes()
    }

    /// The most bytes that are kept.
    pub fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Sets the most bytes that are kept; drops what exceeds it.
    pub fn set_limit(&self, limit: usize) {
        let mut state = self.lock();
        state.limit = limit;
        state.trim();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
