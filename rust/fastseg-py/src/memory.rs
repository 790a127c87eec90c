//! What is kept between calls.

use std::sync::Arc;

use fastseg_core::crf::KernelCache;
use fastseg_core::memory;
use pyo3::prelude::*;

/// Spatial kernels of the sizes of image seen last.
pub static KERNEL_CACHE: KernelCache = KernelCache::new(128 << 20);

/// Keeps up to `limit` bytes of large arrays from one call for the next.
#[pyclass(frozen, module = "fastseg._rust")]
pub struct Workspace(pub Arc<memory::Workspace>);

#[pymethods]
impl Workspace {
    #[new]
    fn new(limit: usize) -> Self {
        Self(memory::Workspace::new(limit))
    }

    /// Bytes kept and not in use.
    #[getter]
    fn nbytes(&self) -> usize {
        self.0.bytes()
    }

    /// The most bytes that are kept.
    #[getter]
    fn limit(&self) -> usize {
        self.0.limit()
    }

    #[setter]
    fn set_limit(&self, limit: usize) {
        self.0.set_limit(limit);
    }

    /// Gives all bytes that are not in use back to the system.
    fn clear(&self) {
        self.0.clear();
    }
}

/// Bytes of spatial kernels kept.
#[pyfunction]
pub fn kernel_cache_bytes() -> usize {
    KERNEL_CACHE.bytes()
}

/// The most bytes of spatial kernels that are kept.
#[pyfunction]
pub fn kernel_cache_limit() -> usize {
    KERNEL_CACHE.limit()
}

/// Sets the most bytes of spatial kernels that are kept; drops what exceeds it.
#[pyfunction]
pub fn set_kernel_cache_limit(limit: usize) {
    KERNEL_CACHE.set_limit(limit);
}
