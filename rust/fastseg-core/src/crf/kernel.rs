//! One pairwise kernel: a lattice whose weights carry the normalisation.

use std::sync::Arc;

use crate::control::Control;
use crate::lattice::{Direction, Features, Lattice, LatticeError, Rows};
use crate::memory::{Buffer, Workspace};

/// Keeps the normalisation finite where a point has no neighbour at all; pydensecrf's value.
const TINY: f32 = 1e-20;

/// How the filter is normalised by n = K·1, the sum of each point's neighbours' weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Normalization {
    /// K.
    None,
    /// K·diag(1/n).
    Before,
    /// diag(1/n)·K.
    After,
    /// diag(1/√n)·K·diag(1/√n).
    Symmetric,
}

/// How the filtered probabilities of one label speak for or against another.
#[derive(Clone, Debug, PartialEq)]
pub enum Compatibility {
    /// Every label speaks for itself with this weight.
    Potts(f32),
    /// Every label speaks for itself with a weight of its own.
    Labels(Vec<f32>),
    /// A penalty for each pair of labels, row by row; its symmetric part counts.
    Matrix(Vec<f32>),
}

/// A normalised Gaussian filter over all points.
///
/// The normalisation is folded into the weights of splat and slice, so it costs nothing later.
#[derive(Debug)]
pub struct PairwiseKernel {
    lattice: Lattice,
    /// Weights of the slice where they differ from those of the splat, which the lattice holds.
    slice: Option<Buffer<f32>>,
}

impl PairwiseKernel {
    /// Builds the lattice of `features` and normalises it.
    pub fn build(
        features: &Features,
        normalization: Normalization,
        with_origin: bool,
        workspace: &Arc<Workspace>,
        control: &Control,
    ) -> Result<Self, LatticeError> {
        let mut lattice = Lattice::build(features, with_origin, workspace, control)?;
        let mut slice = None;
        if normalization != Normalization::None {
            // n = K·1 is what the sliced rows of all ones are, times α.
            let mut rows = Rows::single(&lattice, workspace);
            lattice.splat_channel(|_, block| block.fill(1.0), &mut rows, control)?;
            lattice.blur(&mut rows, Direction::Forward, None, control)?;
            let alpha = lattice.alpha();
            if normalization == Normalization::Symmetric {
                let factor = move |sum: f32| 1.0 / (alpha * sum + TINY).sqrt();
                lattice.scale_weights(&rows, factor, workspace, control)?;
            } else {
                let mut plain = workspace.take::<f32>(lattice.weights().len());
                plain.copy_from_slice(lattice.weights());
                let factor = move |sum: f32| 1.0 / (alpha * sum + TINY);
                lattice.scale_weights(&rows, factor, workspace, control)?;
                if normalization == Normalization::After {
                    lattice.swap_weights(&mut plain);
                }
                slice = Some(plain);
            }
        }
        Ok(Self { lattice, slice })
    }

    /// The lattice.
    pub fn lattice(&self) -> &Lattice {
        &self.lattice
    }

    /// How many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.lattice.bytes() + self.slice.as_ref().map_or(0, |slice| 4 * slice.len())
    }

    pub(super) fn splat_weights(&self) -> &[f32] {
        self.lattice.weights()
    }

    pub(super) fn slice_weights(&self) -> &[f32] {
        self.slice.as_deref().unwrap_or(self.lattice.weights())
    }
}
