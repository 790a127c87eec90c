//! A lattice as a filter of several channels: the passes of the mean field do them side by side.

use std::sync::Arc;

use rayon::prelude::*;

use super::update::{BandKernel, Output, Source, Then, UpdateBand};
use crate::control::{Cancelled, Control};
use crate::lattice::{Band, Direction, Lattice, Rows, Shared};
use crate::memory::Workspace;
use crate::simd::dispatch_rows;

/// Channels that are filtered side by side, so that memory is bounded.
const TOGETHER: usize = 64;
/// As many channels are faster one by one: a row is a vector at least.
const FEW: usize = 2;

impl Lattice {
    /// Filters `values` (`channels × points`, row by row) into `out`: slice ∘ blur ∘ splat, times α.
    ///
    /// # Panics
    /// When a slice does not hold `channels × points` floats.
    pub fn filter(
        &self,
        values: &[f32],
        out: &mut [f32],
        direction: Direction,
        workspace: &Arc<Workspace>,
        control: &Control,
    ) -> Result<(), Cancelled> {
        let points = self.points().max(1);
        assert!(values.len() == out.len() && values.len().is_multiple_of(points));
        let size = TOGETHER * points;
        for (values, out) in values.chunks(size).zip(out.chunks_mut(size)) {
            if values.len() > FEW * points {
                self.filter_rows(values, out, direction, workspace, control)?;
                continue;
            }
            for (values, out) in values.chunks(points).zip(out.chunks_mut(points)) {
                self.filter_channel(values, out, direction, workspace, control)?;
            }
        }
        Ok(())
    }

    /// [`Self::filter`] of all channels side by side.
    fn filter_rows(
        &self,
        values: &[f32],
        out: &mut [f32],
        direction: Direction,
        workspace: &Arc<Workspace>,
        control: &Control,
    ) -> Result<(), Cancelled> {
        let channels = values.len() / self.points();
        let mut rows = Rows::padded(self, channels, workspace);
        let pass = Pass { lattice: self, channels, stride: rows.stride(), control };
        let parts = self.bands().par_iter().zip(rows.split(self.bands()));
        parts.with_max_len(1).try_for_each(|(band, to)| {
            let then = Then::Update { output: Output::Nothing, keep: None, measure: false };
            pass.run(band, Source::Given(values), &[], to, then)
        })?;
        self.blur(&mut rows, direction, None, control)?;
        let out = Shared(out.as_mut_ptr());
        self.bands().par_iter().with_max_len(1).try_for_each(|band| {
            let then = Then::Messages(out, self.alpha());
            pass.run(band, Source::Nothing, rows.of(band), &mut [], then)
        })
    }
}

/// What passes over the points of all bands share.
struct Pass<'a> {
    lattice: &'a Lattice,
    channels: usize,
    stride: usize,
    control: &'a Control,
}

impl Pass<'_> {
    fn run<'t>(
        &self,
        band: &'t Band,
        source: Source<'t>,
        from: &'t [f32],
        to: &'t mut [f32],
        then: Then<'t>,
    ) -> Result<(), Cancelled> {
        let &Self { lattice, channels, stride, control } = self;
        let (slice, splat) = (lattice.weights(), lattice.weights());
        let task = UpdateBand {
            labels: channels,
            stride,
            tiling: lattice.tiling(),
            band,
            source,
            kernels: vec![BandKernel { lattice, slice, splat, from, to }],
            then,
            control,
        };
        dispatch_rows(stride, task).map(|_| ())
    }
}
