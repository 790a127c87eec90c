//! Connected components, and the weights between cells.

use fastseg_core::border_weights::{self as weights, Border, Cell};
use fastseg_core::components::Regions;
use fastseg_core::surface::Label;
use numpy::{Element, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::distance::{cancelled, filled, grid};
use crate::door;
use crate::labels::{Labels, with_labels};

/// Instance ids in the smaller of two types.
#[derive(FromPyObject)]
pub enum Cells<'py> {
    /// Up to 65535 cells.
    U16(PyReadonlyArray1<'py, u16>),
    /// More.
    U32(PyReadonlyArray1<'py, u32>),
}

/// The weight of each pixel of an instance map.
#[pyfunction]
#[pyo3(signature = (cells, width, *, w0, sigma, class_weights, everywhere))]
pub fn border_weights<'py>(
    py: Python<'py>,
    cells: Cells<'py>,
    width: usize,
    w0: f64,
    sigma: f64,
    class_weights: [f32; 2],
    everywhere: bool,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let border = Border { w0, sigma, class: class_weights, everywhere };
    match &cells {
        Cells::U16(cells) => weigh(py, cells.as_slice()?, width, &border),
        Cells::U32(cells) => weigh(py, cells.as_slice()?, width, &border),
    }
}

fn weigh<'py, T: Cell>(
    py: Python<'py>,
    cells: &[T],
    width: usize,
    border: &Border,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    if width == 0 || cells.is_empty() || !cells.len().is_multiple_of(width) {
        let message = format!("{} pixels in rows of {width}", cells.len());
        return Err(PyValueError::new_err(message));
    }
    if border.reach() > T::REACH {
        let message = format!("reach {} beyond {}", border.reach(), T::REACH);
        return Err(PyValueError::new_err(message));
    }
    filled(py, cells.len(), |out| {
        door::through(py, None, |control| {
            weights::border_weights(cells, width, border, out, control)
        })?
        .map_err(cancelled)
    })
}

/// How far apart cells may be, in pixels, for the border term not to be negligible.
#[pyfunction]
pub fn border_reach(w0: f64, sigma: f64) -> usize {
    Border { w0, sigma, class: [0.0; 2], everywhere: false }.reach()
}

/// The region of each place, and the size of each region.
type Components<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<i64>>);

/// The region of each place, counted from one, zero for the background; and the size of each.
#[pyfunction]
pub fn connected_components<'py>(
    py: Python<'py>,
    values: Labels<'py>,
    shape: [usize; 3],
    background: Option<i64>,
    connectivity: usize,
) -> PyResult<Components<'py>> {
    with_labels!(&values, values => {
        let mut sizes = Vec::new();
        let out = filled(py, values.len(), |out| {
            let found = find(py, values, shape, background, connectivity, |regions| {
                regions.for_runs(|places, _, region| out[places].fill(region as i32 + 1));
                regions.sizes().iter().map(|&size| size as i64).collect::<Vec<_>>()
            })?;
            sizes = found;
            Ok(())
        })?;
        Ok((out, PyArray1::from_vec(py, sizes)))
    })
}

/// One for each place of a region of fewer than `least` places.
#[pyfunction]
pub fn small_regions<'py>(
    py: Python<'py>,
    values: Labels<'py>,
    shape: [usize; 3],
    background: Option<i64>,
    connectivity: usize,
    least: u64,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    with_labels!(&values, values => filled(py, values.len(), |out| {
        find(py, values, shape, background, connectivity, |regions| {
            let sizes = regions.sizes();
            regions.for_runs(|places, _, region| {
                out[places].fill(u8::from(sizes[region] < least));
            });
        })
    }))
}

fn find<L: Label + Element, T: Send>(
    py: Python<'_>,
    values: &[L],
    shape: [usize; 3],
    background: Option<i64>,
    connectivity: usize,
    then: impl FnOnce(&Regions<L>) -> T + Send,
) -> PyResult<T> {
    grid(shape, [1.0; 3], values.len())?;
    // A background that the type cannot hold is nowhere.
    let background = background.and_then(|wanted| {
        let label = L::from_index(wanted as usize);
        (label.number() == wanted).then_some(label)
    });
    door::through(py, None, |control| {
        Regions::find(values, shape, background, connectivity, control).map(|found| then(&found))
    })?
    .map_err(cancelled)
}
