//! What is kept between calls.

use std::sync::Arc;

use fastseg_core::crf::KernelCache;
use fastseg_core::memory::{self, Buffer};
use numpy::PyArray2;
use numpy::ndarray::ArrayView2;
use pyo3::prelude::*;

/// Results of at least this many bytes are taken from the workspace, smaller ones from NumPy.
const LARGE: usize = 2 << 20;

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

/// What a result refers to: its memory goes back to the workspace when the last array over it goes.
#[pyclass(frozen, module = "fastseg._rust")]
struct Memory(#[allow(dead_code)] Buffer<f32>); // held, never read

impl Workspace {
    /// An array for a result, all of which is still to be written.
    pub fn result<'py>(
        &self,
        py: Python<'py>,
        shape: [usize; 2],
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let len = shape[0] * shape[1];
        if len * size_of::<f32>() < LARGE {
            return Ok(PyArray2::zeros(py, shape, false));
        }
        let buffer = self.0.take::<f32>(len);
        // SAFETY: the buffer has that many floats; the array keeps it alive, nothing else refers to
        // it, and moving it does not move what it points to.
        let view = unsafe { ArrayView2::from_shape_ptr(shape, buffer.as_ptr()) };
        let memory = Bound::new(py, Memory(buffer))?.into_any();
        // SAFETY: as above.
        Ok(unsafe { PyArray2::borrow_from_array(&view, memory) })
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
