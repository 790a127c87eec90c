//! Lattices, kernels and mean-field inference.

use std::sync::Arc;

use fastseg_core::crf::{
    Compatibility, Model, Normalization, PairwiseKernel, SpatialKey, Target, Unary, UnaryError,
};
use fastseg_core::lattice::{self, Direction, Features, LatticeError, Pixels};
use numpy::{
    Element, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::door;
use crate::memory::{KERNEL_CACHE, Workspace};

/// A problem with features, as Python sees it: `fastseg.crf` knows what the features mean.
fn lattice_error(error: LatticeError) -> PyErr {
    match error {
        LatticeError::OutOfRange { feature, value, limit } => {
            PyValueError::new_err(("feature out of range", feature, value, limit))
        }
        LatticeError::NotFinite { feature } => {
            PyValueError::new_err(("feature not finite", feature))
        }
        LatticeError::Cancelled => PyRuntimeError::new_err("cancelled"),
        other => PyValueError::new_err(other.to_string()),
    }
}

fn unary_error(error: UnaryError) -> PyErr {
    match error {
        UnaryError::Value { label, point, value } => {
            PyValueError::new_err(("unary value", label, point, value))
        }
        UnaryError::Cancelled => PyRuntimeError::new_err("cancelled"),
    }
}

fn normalization(name: &str) -> PyResult<Normalization> {
    match name {
        "none" => Ok(Normalization::None),
        "before" => Ok(Normalization::Before),
        "after" => Ok(Normalization::After),
        "symmetric" => Ok(Normalization::Symmetric),
        other => Err(PyValueError::new_err(format!("unknown normalization {other:?}"))),
    }
}

/// An image, channels last: one row for each point.
#[derive(FromPyObject)]
pub enum Image<'py> {
    /// 8-bit.
    U8(PyReadonlyArray2<'py, u8>),
    /// 16-bit.
    U16(PyReadonlyArray2<'py, u16>),
    /// Floating point.
    F32(PyReadonlyArray2<'py, f32>),
}

impl Image<'_> {
    fn pixels(&self, points: usize, channels: usize) -> PyResult<Pixels<'_>> {
        let shape = [points, channels];
        Ok(match self {
            Self::U8(x) => Pixels::U8(values("image", x, shape)?),
            Self::U16(x) => Pixels::U16(values("image", x, shape)?),
            Self::F32(x) => Pixels::F32(values("image", x, shape)?),
        })
    }
}

/// A compatibility as Python passes it.
#[derive(FromPyObject)]
pub enum Compat<'py> {
    /// Potts weight.
    Potts(f32),
    /// A weight for each label.
    Labels(PyReadonlyArray1<'py, f32>),
    /// A penalty for each pair of labels.
    Matrix(PyReadonlyArray2<'py, f32>),
}

impl Compat<'_> {
    fn to_core(&self, labels: usize) -> PyResult<Compatibility> {
        Ok(match self {
            Self::Potts(weight) => Compatibility::Potts(*weight),
            Self::Labels(weights) => {
                require(weights.len() == labels, || {
                    format!("{} weights for {labels} labels", weights.len())
                })?;
                Compatibility::Labels(weights.as_slice()?.to_vec())
            }
            Self::Matrix(matrix) => {
                Compatibility::Matrix(values("matrix", matrix, [labels, labels])?.to_vec())
            }
        })
    }
}

/// A permutohedral lattice over given features.
#[pyclass(frozen, module = "fastseg._rust")]
pub struct Lattice {
    lattice: lattice::Lattice,
    workspace: Arc<fastseg_core::memory::Workspace>,
}

#[pymethods]
impl Lattice {
    /// Builds the lattice of `features`, one row for each feature.
    #[new]
    fn new(
        py: Python<'_>,
        features: PyReadonlyArray2<'_, f32>,
        shape: Vec<usize>,
        workspace: &Workspace,
    ) -> PyResult<Self> {
        let features = planar(&features, shape)?;
        let lattice = door::through(py, None, |control| {
            lattice::Lattice::build(&features, false, &workspace.0, control)
        })?
        .map_err(lattice_error)?;
        Ok(Self { lattice, workspace: workspace.0.clone() })
    }

    /// Filters every row of `values`; transposed, the exact adjoint of that.
    fn filter<'py>(
        &self,
        py: Python<'py>,
        values: PyReadonlyArray2<'_, f32>,
        transpose: bool,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let shape = [values.shape()[0], self.lattice.points()];
        let values = self::values("values", &values, shape)?;
        let out = PyArray2::<f32>::zeros(py, shape, false);
        let mut guard = out.readwrite();
        let slots = guard.as_slice_mut()?;
        let direction = if transpose { Direction::Transposed } else { Direction::Forward };
        door::through(py, None, |control| {
            self.lattice.filter(values, slots, direction, &self.workspace, control)
        })?
        .map_err(|error| lattice_error(error.into()))?;
        drop(guard);
        Ok(out)
    }

    /// How many features a point has.
    #[getter]
    fn dimension(&self) -> usize {
        self.lattice.dimension()
    }

    /// How many points there are.
    #[getter]
    fn num_points(&self) -> usize {
        self.lattice.points()
    }

    /// How many vertices the points touch.
    #[getter]
    fn num_vertices(&self) -> usize {
        self.lattice.vertices()
    }
}

/// A normalised Gaussian kernel over all points.
#[pyclass(frozen, module = "fastseg._rust")]
pub struct Kernel {
    kernel: Arc<PairwiseKernel>,
    /// The grid that the points form.
    shape: Vec<usize>,
}

#[pymethods]
impl Kernel {
    /// A kernel over the position in a grid, kept for the next image of that shape.
    #[staticmethod]
    #[pyo3(signature = (shape, sigmas, *, normalization, workspace))]
    fn spatial(
        py: Python<'_>,
        shape: Vec<usize>,
        sigmas: Vec<f32>,
        normalization: &str,
        workspace: &Workspace,
    ) -> PyResult<Self> {
        let normalization = self::normalization(normalization)?;
        check_grid(&shape, &sigmas, 0)?;
        require(!shape.is_empty(), || "a spatial kernel needs an axis".into())?;
        let features = Features::grid(&shape, &sigmas, None);
        let bits = sigmas.iter().map(|sigma| sigma.to_bits()).collect();
        let key = SpatialKey { shape: shape.clone(), sigmas: bits, normalization };
        door::through(py, None, |control| {
            KERNEL_CACHE.get_or_build(key, || {
                PairwiseKernel::build(&features, normalization, false, &workspace.0, control)
            })
        })?
        .map(|kernel| Self { kernel, shape })
        .map_err(lattice_error)
    }

    /// A kernel over the position in a grid and the channels of an image.
    #[staticmethod]
    #[pyo3(signature = (shape, sigmas, image, color_sigmas, *, normalization, workspace))]
    fn bilateral(
        py: Python<'_>,
        shape: Vec<usize>,
        sigmas: Vec<f32>,
        image: Image<'_>,
        color_sigmas: Vec<f32>,
        normalization: &str,
        workspace: &Workspace,
    ) -> PyResult<Self> {
        let normalization = self::normalization(normalization)?;
        let points = check_grid(&shape, &sigmas, color_sigmas.len())?;
        check_sigmas(&color_sigmas)?;
        require(!color_sigmas.is_empty(), || "a bilateral kernel needs a channel".into())?;
        let pixels = image.pixels(points, color_sigmas.len())?;
        let features = Features::grid(&shape, &sigmas, Some((pixels, color_sigmas)));
        Self::build(py, &features, shape, normalization, false, workspace)
    }

    /// A kernel over given features, one row for each.
    #[staticmethod]
    #[pyo3(signature = (features, shape, *, normalization, with_origin, workspace))]
    fn features(
        py: Python<'_>,
        features: PyReadonlyArray2<'_, f32>,
        shape: Vec<usize>,
        normalization: &str,
        with_origin: bool,
        workspace: &Workspace,
    ) -> PyResult<Self> {
        let normalization = self::normalization(normalization)?;
        let planar = planar(&features, shape.clone())?;
        Self::build(py, &planar, shape, normalization, with_origin, workspace)
    }

    /// How many vertices the points touch.
    #[getter]
    fn num_vertices(&self) -> usize {
        self.kernel.lattice().vertices()
    }

    /// How many points there are.
    #[getter]
    fn num_points(&self) -> usize {
        self.kernel.lattice().points()
    }
}

impl Kernel {
    fn build(
        py: Python<'_>,
        features: &Features<'_>,
        shape: Vec<usize>,
        normalization: Normalization,
        with_origin: bool,
        workspace: &Workspace,
    ) -> PyResult<Self> {
        door::through(py, None, |control| {
            PairwiseKernel::build(features, normalization, with_origin, &workspace.0, control)
        })?
        .map(|kernel| Self { kernel: Arc::new(kernel), shape })
        .map_err(lattice_error)
    }
}

fn planar<'a>(
    features: &'a PyReadonlyArray2<'_, f32>,
    shape: Vec<usize>,
) -> PyResult<Features<'a>> {
    let dimension = features.shape()[0];
    require(dimension > 0, || "features has no rows".into())?;
    let values = values("features", features, [dimension, points(&shape)?])?;
    Ok(Features::Planar { values, dimension, shape })
}

/// An error unless `holds`; `fastseg.crf` has checked before and says it better.
fn require(holds: bool, message: impl FnOnce() -> String) -> PyResult<()> {
    if holds { Ok(()) } else { Err(PyValueError::new_err(message())) }
}

/// The values of an array that has `shape` and lies in memory row by row.
fn values<'a, T: Element>(
    name: &str,
    array: &'a PyReadonlyArray2<'_, T>,
    shape: [usize; 2],
) -> PyResult<&'a [T]> {
    require(array.shape() == shape, || {
        format!("{name} has shape {:?} where {shape:?} was expected", array.shape())
    })?;
    // A slice could also be had of columns that follow each other.
    require(array.is_c_contiguous(), || format!("{name} is not contiguous"))?;
    Ok(array.as_slice()?)
}

/// How many points a grid has: at least one.
fn points(shape: &[usize]) -> PyResult<usize> {
    let points = shape.iter().try_fold(1usize, |points, &len| points.checked_mul(len));
    points.filter(|&points| points > 0).ok_or_else(|| {
        PyValueError::new_err(format!("shape {shape:?} has no points, or more than can be"))
    })
}

/// How many points a grid has, with a usable sigma for each axis, and few enough for a lattice.
fn check_grid(shape: &[usize], sigmas: &[f32], channels: usize) -> PyResult<usize> {
    let points = points(shape)?;
    require(sigmas.len() == shape.len(), || {
        format!("{} sigmas for {} axes", sigmas.len(), shape.len())
    })?;
    check_sigmas(sigmas)?;
    // The coordinates along an axis are written down before the lattice counts its points.
    let corners = points.checked_mul(shape.len() + channels + 1);
    require(corners.is_some_and(|corners| corners < 1 << 31), || {
        lattice::LatticeError::TooManyPoints { points }.to_string()
    })?;
    Ok(points)
}

/// Zero passes: `fastseg.crf` explains what becomes of the features then.
fn check_sigmas(sigmas: &[f32]) -> PyResult<()> {
    require(sigmas.iter().all(|&sigma| sigma >= 0.0), || {
        format!("sigmas must be positive, got {sigmas:?}")
    })
}

/// What every call of the model takes: kernels with their compatibilities.
type Kernels<'py> = Vec<(PyRef<'py, Kernel>, Compat<'py>)>;

/// Whether two shapes differ by nothing but axes of one point.
fn is_same_grid(a: &[usize], b: &[usize]) -> bool {
    let long = |shape: &[usize]| shape.iter().copied().filter(|&n| n > 1).collect::<Vec<_>>();
    long(a) == long(b)
}

fn core_kernels(
    kernels: &Kernels<'_>,
    labels: usize,
    shape: &[usize],
) -> PyResult<Vec<(Arc<PairwiseKernel>, Compatibility)>> {
    require(labels > 0, || "there are no labels".into())?;
    kernels
        .iter()
        .map(|(kernel, compat)| {
            require(is_same_grid(&kernel.shape, shape), || {
                format!("a kernel of shape {:?} where {shape:?} was expected", kernel.shape)
            })?;
            Ok((kernel.kernel.clone(), compat.to_core(labels)?))
        })
        .collect()
}

/// Runs mean-field updates from softmax(−U); returns the result, the number of iterations done and
/// the free energies measured. `unary` holds probabilities if `clip` is given, energies otherwise.
#[pyfunction]
#[pyo3(signature = (unary, shape, *, clip, kernels, iterations, tolerance, labels, progress, workspace))]
#[allow(clippy::too_many_arguments)] // keywords, spelt out in the stub
pub fn infer<'py>(
    py: Python<'py>,
    unary: PyReadonlyArray2<'_, f32>,
    shape: Vec<usize>,
    clip: Option<f32>,
    kernels: Kernels<'_>,
    iterations: usize,
    tolerance: Option<f64>,
    labels: bool,
    progress: Option<Py<PyAny>>,
    workspace: &Workspace,
) -> PyResult<(Bound<'py, PyAny>, usize, Vec<f64>)> {
    let (num_labels, points) = (unary.shape()[0], points(&shape)?);
    let kernels = core_kernels(&kernels, num_labels, &shape)?;
    let values = values("unary", &unary, [num_labels, points])?;
    let values = match clip {
        Some(clip) => {
            require((0.0..=1.0).contains(&clip), || format!("clip must be in 0..1, got {clip}"))?;
            Unary::Probs { values, clip }
        }
        None => Unary::Energies(values),
    };
    if let Some(least) = tolerance {
        require(least >= 0.0, || format!("tolerance must not be negative, got {least}"))?;
    }
    require(!labels || num_labels <= 1 << 16, || format!("{num_labels} labels exceed 16 bits"))?;
    let progress = progress.as_ref().map(|callback| (callback, iterations));
    let run = |target: Target<'_>| {
        door::through(py, progress, |control| {
            let model = Model::new(num_labels, &shape, kernels, &workspace.0, control);
            model.infer(values, iterations, tolerance, target)
        })?
        .map_err(unary_error)
    };
    let (out, report) = if !labels {
        let out = workspace.result(py, [num_labels, points])?;
        let report = run(Target::Probs(out.readwrite().as_slice_mut()?))?;
        (out.into_any(), report)
    } else if num_labels <= 256 {
        let out = PyArray1::<u8>::zeros(py, points, false);
        let report = run(Target::Labels8(out.readwrite().as_slice_mut()?))?;
        (out.into_any(), report)
    } else {
        let out = PyArray1::<u16>::zeros(py, points, false);
        let report = run(Target::Labels16(out.readwrite().as_slice_mut()?))?;
        (out.into_any(), report)
    };
    Ok((out, report.iterations, report.energies))
}

/// One mean-field update of the probabilities `q`.
#[pyfunction]
#[pyo3(signature = (unary, q, shape, *, kernels, workspace))]
pub fn update<'py>(
    py: Python<'py>,
    unary: PyReadonlyArray2<'_, f32>,
    q: PyReadonlyArray2<'_, f32>,
    shape: Vec<usize>,
    kernels: Kernels<'_>,
    workspace: &Workspace,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (labels, points) = (unary.shape()[0], points(&shape)?);
    let kernels = core_kernels(&kernels, labels, &shape)?;
    let energies = Unary::Energies(values("unary", &unary, [labels, points])?);
    let q = values("q", &q, [labels, points])?;
    let out = workspace.result(py, [labels, points])?;
    let mut guard = out.readwrite();
    let target = Target::Probs(guard.as_slice_mut()?);
    door::through(py, None, |control| {
        Model::new(labels, &shape, kernels, &workspace.0, control).update(energies, q, target)
    })?
    .map_err(unary_error)?;
    drop(guard);
    Ok(out)
}

/// The messages that the probabilities `q` send, as energies, summed over kernels.
#[pyfunction]
#[pyo3(signature = (q, shape, *, kernels, workspace))]
pub fn messages<'py>(
    py: Python<'py>,
    q: PyReadonlyArray2<'_, f32>,
    shape: Vec<usize>,
    kernels: Kernels<'_>,
    workspace: &Workspace,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (labels, points) = (q.shape()[0], points(&shape)?);
    let kernels = core_kernels(&kernels, labels, &shape)?;
    let q = values("q", &q, [labels, points])?;
    let out = workspace.result(py, [labels, points])?;
    let mut guard = out.readwrite();
    let slots = guard.as_slice_mut()?;
    door::through(py, None, |control| {
        Model::new(labels, &shape, kernels, &workspace.0, control).messages(q, slots)
    })?
    .map_err(|error| unary_error(error.into()))?;
    drop(guard);
    Ok(out)
}

/// The free energy of the probabilities `q`, in nats.
#[pyfunction]
#[pyo3(signature = (unary, q, shape, *, kernels, workspace))]
pub fn free_energy(
    py: Python<'_>,
    unary: PyReadonlyArray2<'_, f32>,
    q: PyReadonlyArray2<'_, f32>,
    shape: Vec<usize>,
    kernels: Kernels<'_>,
    workspace: &Workspace,
) -> PyResult<f64> {
    let (labels, points) = (unary.shape()[0], points(&shape)?);
    let kernels = core_kernels(&kernels, labels, &shape)?;
    let energies = Unary::Energies(values("unary", &unary, [labels, points])?);
    let q = values("q", &q, [labels, points])?;
    door::through(py, None, |control| {
        Model::new(labels, &shape, kernels, &workspace.0, control).free_energy(energies, q)
    })?
    .map_err(unary_error)
}
