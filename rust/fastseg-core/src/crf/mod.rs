//! Mean-field inference in a fully connected CRF.
//!
//! Krähenbühl & Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge
//! Potentials*, 2011. Every iteration filters the probabilities with each kernel, turns the result
//! into messages by the compatibility, and takes the softmax of scores plus messages.

mod binary;
mod cache;
mod channels;
mod kernel;
mod unary;
mod update;

pub use cache::{KernelCache, SpatialKey};
pub use kernel::{Compatibility, Normalization, PairwiseKernel};
pub use unary::{Unary, UnaryError};

use std::sync::Arc;

use rayon::prelude::*;

use self::binary::BinaryBand;
use self::unary::NATS;
use self::update::{BandKernel, Output, Source, Then, UpdateBand};
use crate::control::{Cancelled, Control};
use crate::lattice::{Band, Direction, Rows, Shared, Tiling, padded};
use crate::memory::{Buffer, Workspace};
use crate::simd::{dispatch, dispatch_rows};

/// Where the result of [`Model::infer`] goes.
#[derive(Debug)]
pub enum Target<'a> {
    /// Probabilities, `labels × points`, row by row.
    Probs(&'a mut [f32]),
    /// The most probable label of each point, of at most 256.
    Labels8(&'a mut [u8]),
    /// The most probable label of each point.
    Labels16(&'a mut [u16]),
}

impl Target<'_> {
    fn output(&mut self) -> Output {
        match self {
            Self::Probs(out) => Output::Probs(Shared(out.as_mut_ptr())),
            Self::Labels8(out) => Output::Labels8(Shared(out.as_mut_ptr())),
            Self::Labels16(out) => Output::Labels16(Shared(out.as_mut_ptr())),
        }
    }
}

/// What [`Model::infer`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How many iterations were done.
    pub iterations: usize,
    /// The free energy, in nats, before each iteration, if it was measured.
    pub energies: Vec<f64>,
}

/// Labels, points, and the kernels that connect them.
pub struct Model<'a> {
    labels: usize,
    tiling: Tiling,
    /// Without their rows, of which each kernel has its own.
    bands: Vec<Band>,
    kernels: Vec<(Arc<PairwiseKernel>, Compatibility)>,
    workspace: &'a Arc<Workspace>,
    control: &'a Control,
}

/// The rows of each kernel; empty where nothing is gathered or spread.
type AllRows = Vec<Rows>;

impl<'a> Model<'a> {
    /// A model of the points of a grid of `shape`, slowest axis first.
    ///
    /// # Panics
    /// When there are no labels or points, or a kernel or compatibility is of another shape.
    pub fn new(
        labels: usize,
        shape: &[usize],
        kernels: Vec<(Arc<PairwiseKernel>, Compatibility)>,
        workspace: &'a Arc<Workspace>,
        control: &'a Control,
    ) -> Self {
        let tiling = Tiling::new(shape);
        assert!(labels > 0 && tiling.points() > 0, "a model needs labels and points");
        for (kernel, compatibility) in &kernels {
            assert!(*kernel.lattice().tiling() == tiling, "a kernel of another shape");
            match compatibility {
                Compatibility::Potts(_) => {}
                Compatibility::Labels(weights) => assert_eq!(weights.len(), labels),
                Compatibility::Matrix(matrix) => assert_eq!(matrix.len(), labels * labels),
            }
        }
        let band = |tiles| Band { points: tiling.points_of(&tiles), tiles, rows: 0..0 };
        let bands = tiling.bands().into_iter().map(band).collect();
        Self { labels, tiling, bands, kernels, workspace, control }
    }

    /// Runs at most `iterations` updates from softmax(−U).
    ///
    /// With a `tolerance` it stops once an update changes the free energy by no more than that, in
    /// nats a point.
    pub fn infer(
        &self,
        unary: Unary,
        iterations: usize,
        tolerance: Option<f64>,
        mut target: Target,
    ) -> Result<Report, UnaryError> {
        let output = target.output();
        let potts = |(_, c): &(_, Compatibility)| matches!(c, Compatibility::Potts(_));
        if self.labels == 2 && tolerance.is_none() && self.kernels.iter().all(potts) {
            self.infer_binary(unary, iterations, output)?;
            return Ok(Report { iterations, energies: Vec::new() });
        }
        let (scores, constant) = self.scores(unary)?;
        let measure = tolerance.is_some();
        // Where vertices outnumber points, keeping the probabilities takes less memory than a
        // second set of rows.
        let rows = self.kernels.iter().map(|(kernel, _)| kernel.lattice().rows()).sum::<usize>();
        let separate = rows * padded(self.labels) > scores.len();
        let mut kept = (measure || separate).then(|| self.workspace.take::<f32>(scores.len()));
        let (mut from, mut to) = (AllRows::new(), AllRows::new());
        let mut energies = Vec::new();
        for done in 0..=iterations {
            let change = match energies[..] {
                [.., a, b] => f64::abs(a - b) / self.tiling.points() as f64,
                _ => f64::INFINITY,
            };
            let is_last = done == iterations || tolerance.is_some_and(|least| change <= least);
            if is_last || separate {
                to.clear();
            } else if to.is_empty() {
                to = self.rows();
            }
            let output = if is_last { output } else { Output::Nothing };
            let measure = measure && done > 0;
            let then = |keep| Then::Update { output, keep, measure };
            let source = Source::Scores(&scores);
            let energy = self.pass(source, &from, &mut to, then, kept.as_deref_mut())?;
            if done > 0 {
                energies.extend(measure.then_some(energy + constant));
                self.control.step();
            }
            if is_last {
                return Ok(Report { iterations: done, energies });
            }
            std::mem::swap(&mut from, &mut to);
            if let Some(kept) = kept.as_deref().filter(|_| separate) {
                from = if to.is_empty() { self.rows() } else { std::mem::take(&mut to) };
                let then = |keep| Then::Update { output: Output::Nothing, keep, measure: false };
                self.pass(Source::Kept(kept), &AllRows::new(), &mut from, then, None)?;
            }
            self.blur(&mut from)?;
        }
        unreachable!("the last pass returns")
    }

    /// [`Self::infer`] for two labels and Potts compatibility.
    fn infer_binary(
        &self,
        unary: Unary,
        iterations: usize,
        output: Output,
    ) -> Result<(), UnaryError> {
        let mut differences = self.workspace.take::<f32>(self.tiling.points());
        unary.differences(&self.tiling, &mut differences, self.control)?;
        let (mut from, mut to) = (AllRows::new(), AllRows::new());
        for done in 0..=iterations {
            let is_last = done == iterations;
            if is_last {
                to.clear();
            } else if to.is_empty() {
                let kernels = self.kernels.iter();
                to = kernels.map(|(k, _)| Rows::single(k.lattice(), self.workspace)).collect();
            }
            let tasks: Vec<_> = self
                .bands
                .iter()
                .zip(self.band_kernels(&from, &mut to))
                .map(|(band, kernels)| BinaryBand {
                    tiling: &self.tiling,
                    band,
                    differences: &differences,
                    kernels,
                    output: if is_last { output } else { Output::Nothing },
                    control: self.control,
                })
                .collect();
            tasks.into_par_iter().with_max_len(1).map(dispatch).collect::<Result<(), _>>()?;
            if done > 0 {
                self.control.step();
            }
            if !is_last {
                self.blur(&mut to)?;
                std::mem::swap(&mut from, &mut to);
            }
        }
        Ok(())
    }

    /// One update of the given probabilities `q` (`labels × points`, row by row).
    pub fn update(&self, unary: Unary, q: &[f32], mut target: Target) -> Result<(), UnaryError> {
        let (scores, _) = self.scores(unary)?;
        let from = self.filtered(q)?;
        let output = target.output();
        let then = |keep| Then::Update { output, keep, measure: false };
        self.pass(Source::Scores(&scores), &from, &mut AllRows::new(), then, None)?;
        Ok(())
    }

    /// The messages that the probabilities `q` send, summed over kernels, as energies into `out`.
    pub fn messages(&self, q: &[f32], out: &mut [f32]) -> Result<(), Cancelled> {
        assert_eq!(out.len(), self.labels * self.tiling.points());
        if self.kernels.is_empty() {
            out.fill(0.0);
            return Ok(());
        }
        let from = self.filtered(q)?;
        let out = Shared(out.as_mut_ptr());
        let then = |_| Then::Messages(out, -NATS);
        self.pass(Source::Nothing, &from, &mut AllRows::new(), then, None)?;
        Ok(())
    }

    /// The free energy of the probabilities `q`, in nats: ΣQ·ln Q + ΣQ·U + ½ΣQ·message.
    pub fn free_energy(&self, unary: Unary, q: &[f32]) -> Result<f64, UnaryError> {
        let (scores, constant) = self.scores(unary)?;
        let mut last = self.workspace.take::<f32>(scores.len());
        let mut rows = self.rows();
        let then = |keep| Then::Update { output: Output::Nothing, keep, measure: false };
        self.pass(Source::Given(q), &AllRows::new(), &mut rows, then, Some(&mut last))?;
        self.blur(&mut rows)?;
        let then = |keep| Then::Update { output: Output::Nothing, keep, measure: true };
        let source = Source::Scores(&scores);
        let energy = self.pass(source, &rows, &mut AllRows::new(), then, Some(&mut last))?;
        Ok(energy + constant)
    }

    /// The scores of all points in tile order, and what was taken off them.
    fn scores(&self, unary: Unary) -> Result<(Buffer<f32>, f64), UnaryError> {
        let mut scores = self.workspace.take::<f32>(self.tiling.points() * self.labels);
        let constant = unary.scores(self.labels, &self.tiling, &mut scores, self.control)?;
        Ok((scores, constant))
    }

    /// The blurred rows of given probabilities.
    fn filtered(&self, q: &[f32]) -> Result<AllRows, Cancelled> {
        assert_eq!(q.len(), self.labels * self.tiling.points());
        let mut rows = self.rows();
        let then = |keep| Then::Update { output: Output::Nothing, keep, measure: false };
        self.pass(Source::Given(q), &AllRows::new(), &mut rows, then, None)?;
        self.blur(&mut rows)?;
        Ok(rows)
    }

    /// Rows of all labels for every kernel.
    fn rows(&self) -> AllRows {
        let rows = |(kernel, _): &(Arc<PairwiseKernel>, _)| {
            Rows::padded(kernel.lattice(), self.labels, self.workspace)
        };
        self.kernels.iter().map(rows).collect()
    }

    /// One pass over all points: gathers from `from`, spreads to `to`.
    fn pass<'t>(
        &self,
        source: Source,
        from: &AllRows,
        to: &mut AllRows,
        then: impl Fn(Option<&'t mut [f32]>) -> Then<'t>,
        mut last: Option<&'t mut [f32]>,
    ) -> Result<f64, Cancelled> {
        let labels = self.labels;
        let tasks: Vec<_> = self
            .bands
            .iter()
            .zip(self.band_kernels(from, to))
            .map(|(band, kernels)| {
                let floats = band.points.len() * labels;
                let last = last.as_mut().and_then(|last| last.split_off_mut(..floats));
                UpdateBand {
                    labels,
                    stride: padded(labels),
                    tiling: &self.tiling,
                    band,
                    source,
                    kernels,
                    then: then(last),
                    control: self.control,
                }
            })
            .collect();
        let run = |task: UpdateBand| dispatch_rows(task.stride, task);
        let energies: Vec<f64> =
            tasks.into_par_iter().with_max_len(1).map(run).collect::<Result<_, _>>()?;
        Ok(energies.into_iter().sum())
    }

    /// For each band what every kernel holds for it.
    fn band_kernels<'r>(
        &'r self,
        from: &'r AllRows,
        to: &'r mut AllRows,
    ) -> Vec<Vec<BandKernel<'r>>> {
        let mut to: Vec<_> = self
            .kernels
            .iter()
            .zip(to.iter_mut())
            .map(|((kernel, _), rows)| rows.split(kernel.lattice().bands()).into_iter())
            .collect();
        let mut band_kernel = |band: usize, k: usize, kernel: &'r PairwiseKernel| {
            let lattice = kernel.lattice();
            BandKernel {
                lattice,
                slice: kernel.slice_weights(),
                splat: kernel.splat_weights(),
                from: from.get(k).map_or(&[], |rows| rows.of(&lattice.bands()[band])),
                to: to.get_mut(k).and_then(Iterator::next).unwrap_or_default(),
            }
        };
        let kernels = || self.kernels.iter().enumerate();
        (0..self.bands.len())
            .map(|band| kernels().map(|(k, (kernel, _))| band_kernel(band, k, kernel)).collect())
            .collect()
    }

    /// Blurs the rows of every kernel and turns them into messages, as scores.
    fn blur(&self, rows: &mut AllRows) -> Result<(), Cancelled> {
        // All kernels at a time: where a lattice is small, its axes are too short to be shared out.
        let kernels = self.kernels.par_iter().zip(rows).with_max_len(1);
        kernels.try_for_each(|((kernel, compatibility), rows)| {
            let lattice = kernel.lattice();
            let unit = lattice.alpha() / NATS;
            let scale: Vec<f32> = match compatibility {
                Compatibility::Potts(weight) => vec![weight * unit; rows.stride()],
                Compatibility::Labels(weights) => {
                    let mut scale: Vec<f32> = weights.iter().map(|weight| weight * unit).collect();
                    scale.resize(rows.stride(), 0.0);
                    scale
                }
                Compatibility::Matrix(_) => vec![unit; rows.stride()],
            };
            lattice.blur(rows, Direction::Forward, Some(&scale), self.control)?;
            if let Compatibility::Matrix(matrix) = compatibility {
                penalize(matrix, self.labels, rows);
            }
            Ok(())
        })
    }
}

/// Multiplies every row by −½(M + Mᵀ).
fn penalize(matrix: &[f32], labels: usize, rows: &mut Rows) {
    let stride = rows.stride();
    // Row l of the symmetric matrix, padded: what label l says to every other.
    let mut says = vec![0.0; labels * stride];
    for l in 0..labels {
        for m in 0..labels {
            says[l * stride + m] = -0.5 * (matrix[l * labels + m] + matrix[m * labels + l]);
        }
    }
    rows.values_mut().par_chunks_mut(stride * 256).for_each(|rows| {
        let mut sum = vec![0.0; stride];
        for row in rows.chunks_exact_mut(stride) {
            sum.fill(0.0);
            for (says, &x) in says.chunks_exact(stride).zip(row.iter()) {
                sum.iter_mut().zip(says).for_each(|(sum, says)| *sum += says * x);
            }
            row.copy_from_slice(&sum);
        }
    });
}
