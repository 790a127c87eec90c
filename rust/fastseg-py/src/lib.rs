//! The Python module `fastseg._rust`: converts, releases the GIL, maps errors; no loops.

mod counting;
mod crf;
mod distance;
mod door;
mod labels;
mod lovasz;
mod memory;
mod openmp;
mod regions;
mod surface;
mod tokens;
mod upsample;

use pyo3::prelude::*;

/// The compiled engine of fastseg.
// Free-threaded Python has no stable ABI yet, so this wheel cannot be imported there; until one can
// be built and tested, nothing is claimed for it.
#[pymodule(gil_used = true)]
mod _rust {
    use fastseg_core::{simd::Level, threads};
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    #[pymodule_export]
    use crate::counting::confusion_matrix;
    #[pymodule_export]
    use crate::crf::{Kernel, Lattice, free_energy, infer, messages, update};
    #[pymodule_export]
    use crate::distance::{distance_transform, nearest_features, squared_distance_transform};
    #[pymodule_export]
    use crate::lovasz::jaccard_slopes;
    #[pymodule_export]
    use crate::memory::{
        Workspace, kernel_cache_bytes, kernel_cache_limit, set_kernel_cache_limit,
    };

    #[pymodule_export]
    use crate::regions::{border_reach, border_weights, connected_components, small_regions};
    #[pymodule_export]
    use crate::surface::{boundary_counts, near_boundary, surface_distances};
    #[pymodule_export]
    use crate::tokens::{
        conv3x3, depthwise_conv_gelu, depthwise_conv_gelu_backward, folded_decoder,
        sequence_reduced_attention, sequence_reduced_attention_backward, upsample_cross_entropy,
        upsample_sum, upsample_sum_backward,
    };
    #[pymodule_export]
    use crate::upsample::{upsample_argmax, upsample_confusion, upsample_top_k};

    /// What this engine was built as and what it found.
    #[pyfunction]
    fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        let info = PyDict::new(py);
        info.set_item("version", env!("CARGO_PKG_VERSION"))?;
        info.set_item("instruction_set", Level::detect().name())?;
        info.set_item("num_threads", threads::num_threads())?;
        info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
        Ok(info)
    }

    /// How many threads the shared pool has.
    #[pyfunction]
    fn num_threads() -> usize {
        threads::num_threads()
    }

    /// Gives the shared pool another number of threads.
    #[pyfunction]
    fn set_num_threads(py: Python<'_>, threads: usize) -> PyResult<()> {
        py.detach(|| threads::set_num_threads(threads)).map_err(crate::door::threads_error)
    }

    /// The most threads that `set_num_threads` takes.
    #[pymodule_export]
    const MAX_THREADS: usize = threads::MAX_THREADS;

    /// The most classes that a confusion matrix takes.
    #[pymodule_export]
    const MAX_CLASSES: usize = crate::counting::MAX_CLASSES;
}
