//! Mean-field inference in a fully connected CRF.
//!
//! Krähenbühl & Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge
//! Potentials*, 2011. Every iteration filters the probabilities with each kernel, turns the result
//! into messages by the compatibility, and takes the softmax of scores plus messages.

mod binary;
mod cache;
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
use crate::lattice::{Band, Direction, Rows, Shared, stride};
use crate::memory::Workspace;
use crate::simd::dispatch;

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
    points: usize,
    kernels: Vec<(Arc<PairwiseKernel>, Compatibility)>,
    workspace: &'a Arc<Workspace>,
    control: &'a Control,
}

/// The rows of each kernel.
type AllRows = Vec<Rows>;

impl<'a> Model<'a> {
    /// A model.
    ///
    /// # Panics
    /// When there are no labels or points, or a kernel or compatibility is of another size.
    pub fn new(
        labels: usize,
        points: usize,
        kernels: Vec<(Arc<PairwiseKernel>, Compatibility)>,
        workspace: &'a Arc<Workspace>,
        control: &'a Control,
    ) -> Self {
        assert!(labels > 0 && points > 0, "a model needs labels and points");
        for (kernel, compatibility) in &kernels {
            assert_eq!(
                kernel.lattice().points(),
                points,
                "a kernel of another size"
            );
            match compatibility {
                Compatibility::Potts(_) => {}
                Compatibility::Labels(weights) => assert_eq!(weights.len(), labels),
                Compatibility::Matrix(matrix) => assert_eq!(matrix.len(), labels * labels),
            }
        }
        Self {
            labels,
            points,
            kernels,
            workspace,
            control,
        }
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
            return Ok(Report {
                iterations,
                energies: Vec::new(),
            });
        }
        let mut scores = self.workspace.take::<f32>(self.points * self.labels);
        let constant = unary.scores(self.labels, &mut scores, self.control)?;
        let mut last = tolerance.map(|_| self.workspace.take::<f32>(scores.len()));
        let mut from = self.rows(0);
        let mut to = self.rows(self.labels);
        let mut energies = Vec::new();
        for done in 0..=iterations {
            let change = match energies[..] {
                [.., a, b] if done >= 2 => f64::abs(a - b) / self.points as f64,
                _ => f64::INFINITY,
            };
            let is_last = done == iterations || tolerance.is_some_and(|t| change <= t);
            if is_last {
                to = self.rows(0);
            }
            let source = Source::Scores(&scores);
            let output = if is_last { output } else { Output::Nothing };
            let energy = self.pass(
                source,
                &from,
                &mut to,
                |band, last| {
                    let _ = band;
                    Then::Update { output, last }
                },
                last.as_deref_mut(),
            )?;
            if tolerance.is_some() && done > 0 {
                energies.push(energy + constant);
            }
            if done > 0 {
                self.control.step();
            }
            if is_last {
                return Ok(Report {
                    iterations: done,
                    energies,
                });
            }
            self.blur(&mut to)?;
            std::mem::swap(&mut from, &mut to);
            if done == 0 {
                to = self.rows(self.labels);
            }
        }
        unreachable!("the last pass returns")
    }

    /// One update of the given probabilities `q` (`labels × points`, row by row).
    pub fn update(&self, unary: Unary, q: &[f32], mut target: Target) -> Result<(), UnaryError> {
        let mut scores = self.workspace.take::<f32>(self.points * self.labels);
        unary.scores(self.labels, &mut scores, self.control)?;
        let from = self.filtered(q)?;
        let output = target.output();
        let then = |_: &Band, last| Then::Update { output, last };
        self.pass(
            Source::Scores(&scores),
            &from,
            &mut self.rows(0),
            then,
            None,
        )?;
        Ok(())
    }

    /// The messages that the probabilities `q` send, summed over kernels, as energies into `out`.
    pub fn messages(&self, q: &[f32], out: &mut [f32]) -> Result<(), Cancelled> {
        assert_eq!(out.len(), self.labels * self.points);
        let mut scores = self.workspace.take::<f32>(self.points * self.labels);
        scores.fill(0.0);
        let from = self.filtered(q)?;
        let out = Shared(out.as_mut_ptr());
        let then = |_: &Band, _| Then::Messages(out);
        self.pass(
            Source::Scores(&scores),
            &from,
            &mut self.rows(0),
            then,
            None,
        )?;
        Ok(())
    }

    /// The free energy of the probabilities `q`, in nats: ΣQ·ln Q + ΣQ·U + ½ΣQ·message.
    pub fn free_energy(&self, unary: Unary, q: &[f32]) -> Result<f64, UnaryError> {
        let mut scores = self.workspace.take::<f32>(self.points * self.labels);
        let constant = unary.scores(self.labels, &mut scores, self.control)?;
        let from = self.filtered(q)?;
        let mut last = self.workspace.take::<f32>(scores.len());
        let none = &self.rows(0);
        let then = |_: &Band, last| Then::Update {
            output: Output::Nothing,
            last,
        };
        self.pass(
            Source::Given(q),
            none,
            &mut self.rows(0),
            then,
            Some(&mut last),
        )?;
        let then = |_: &Band, last| Then::Update {
            output: Output::Nothing,
            last,
        };
        let source = Source::Scores(&scores);
        let energy = self.pass(source, &from, &mut self.rows(0), then, Some(&mut last))?;
        Ok(energy + constant)
    }

    /// Rows for every kernel: of `channels` values, or none at all.
    fn rows(&self, channels: usize) -> AllRows {
        if channels == 0 {
            return Vec::new();
        }
        let new = |(kernel, _): &(Arc<PairwiseKernel>, _)| {
            Rows::new(kernel.lattice(), self.channels(channels), self.workspace)
        };
        self.kernels.iter().map(new).collect()
    }

    /// A single label still gets a whole vector: one-channel rows belong to the binary update.
    fn channels(&self, labels: usize) -> usize {
        if self.labels == 1 { 2 } else { labels }
    }

    /// The blurred rows of given probabilities.
    fn filtered(&self, q: &[f32]) -> Result<AllRows, Cancelled> {
        assert_eq!(q.len(), self.labels * self.points);
        let mut to = self.rows(self.labels);
        let then = |_: &Band, last| Then::Update {
            output: Output::Nothing,
            last,
        };
        self.pass(Source::Given(q), &self.rows(0), &mut to, then, None)?;
        self.blur(&mut to)?;
        Ok(to)
    }

    /// One pass over all points: gathers from `from`, spreads to `to`, either of which may be empty.
    fn pass<'t>(
        &self,
        source: Source,
        from: &AllRows,
        to: &mut AllRows,
        then: impl Fn(&Band, Option<&'t mut [f32]>) -> Then<'t>,
        last: Option<&'t mut [f32]>,
    ) -> Result<f64, Cancelled> {
        let labels = self.labels;
        let mut last = last;
        let bands = self.bands();
        let mut kernels = self.band_kernels(from, to);
        let tasks: Vec<_> = bands
            .iter()
            .zip(kernels.drain(..))
            .map(|(band, kernels)| {
                let count = band.points.len();
                let last = last
                    .as_mut()
                    .map(|last| last.split_off_mut(..count * labels).unwrap_or_default());
                UpdateBand {
                    labels,
                    stride: stride(self.channels(labels)),
                    points: self.points,
                    start: band.points.start,
                    count,
                    source: match source {
                        Source::Scores(scores) => {
                            let range = band.points.start * labels..band.points.end * labels;
                            Source::Scores(&scores[range])
                        }
                        given => given,
                    },
                    kernels,
                    then: then(band, last),
                    control: self.control,
                }
            })
            .collect();
        let energies: Vec<f64> = tasks
            .into_par_iter()
            .with_max_len(1)
            .map(dispatch)
            .collect::<Result<_, _>>()?;
        Ok(energies.into_iter().sum())
    }

    fn infer_binary(
        &self,
        unary: Unary,
        iterations: usize,
        output: Output,
    ) -> Result<(), UnaryError> {
        let mut differences = self.workspace.take::<f32>(self.points);
        unary.differences(&mut differences, self.control)?;
        let mut from = self.rows(0);
        let mut to = if iterations == 0 {
            self.rows(0)
        } else {
            self.rows(1)
        };
        for done in 0..=iterations {
            let is_last = done == iterations;
            if is_last {
                to = self.rows(0);
            }
            let bands = self.bands();
            let tasks: Vec<_> = bands
                .iter()
                .zip(self.band_kernels(&from, &mut to))
                .map(|(band, kernels)| BinaryBand {
                    points: self.points,
                    start: band.points.start,
                    differences: &differences[band.points.clone()],
                    kernels,
                    output: if is_last { output } else { Output::Nothing },
                    control: self.control,
                })
                .collect();
            tasks
                .into_par_iter()
                .with_max_len(1)
                .map(dispatch)
                .collect::<Result<(), _>>()?;
            if done > 0 {
                self.control.step();
            }
            if !is_last {
                self.blur(&mut to)?;
                std::mem::swap(&mut from, &mut to);
                if done == 0 {
                    to = self.rows(1);
                }
            }
        }
        Ok(())
    }

    /// The bands, the same for every kernel; without kernels the points are one band.
    fn bands(&self) -> Vec<Band> {
        match self.kernels.first() {
            Some((kernel, _)) => kernel.lattice().bands().to_vec(),
            None => vec![Band {
                points: 0..self.points,
                rows: 0..0,
            }],
        }
    }

    /// For each band what every kernel holds for it.
    fn band_kernels<'r>(
        &'r self,
        from: &'r AllRows,
        to: &'r mut AllRows,
    ) -> Vec<Vec<BandKernel<'r>>> {
        let bands = self.bands();
        let mut to: Vec<_> = self
            .kernels
            .iter()
            .zip(to.iter_mut())
            .map(|((kernel, _), rows)| rows.split(kernel.lattice().bands()).into_iter())
            .collect();
        (0..bands.len())
            .map(|b| {
                self.kernels
                    .iter()
                    .enumerate()
                    .map(|(k, (kernel, _))| {
                        let lattice = kernel.lattice();
                        let band = &lattice.bands()[b];
                        let n = lattice.dimension() + 1;
                        let range = band.points.start * n..band.points.end * n;
                        BandKernel {
                            corners_per_point: n,
                            corners: lattice.corners_of(band),
                            slice: &kernel.slice_weights()[range.clone()],
                            splat: &kernel.splat_weights()[range],
                            from: from.get(k).map_or(&[], |rows| rows.of(band)),
                            to: to.get_mut(k).and_then(Iterator::next).unwrap_or_default(),
                        }
                    })
                    .collect()
            })
            .collect()
    }

    /// Blurs the rows of every kernel and turns them into messages, as scores.
    fn blur(&self, rows: &mut AllRows) -> Result<(), Cancelled> {
        for ((kernel, compatibility), rows) in self.kernels.iter().zip(rows) {
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
        }
        Ok(())
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
    rows.values_mut()
        .par_chunks_mut(stride * 256)
        .for_each(|rows| {
            let mut sum = vec![0.0; stride];
            for row in rows.chunks_exact_mut(stride) {
                sum.fill(0.0);
                for (says, &x) in says.chunks_exact(stride).zip(row.iter()) {
                    sum.iter_mut()
                        .zip(says)
                        .for_each(|(sum, says)| *sum += says * x);
                }
                row.copy_from_slice(&sum);
            }
        });
}
