//! `fastseg_core::control`.

use std::time::Duration;

use fastseg_core::control::{Cancelled, Control, State};
use fastseg_core::crf::UnaryError;
use fastseg_core::crf::{Compatibility, Model, Normalization, PairwiseKernel, Target, Unary};
use fastseg_core::lattice::{Direction, Features, Lattice, LatticeError};
use fastseg_core::memory::Workspace;

const POINTS: usize = 40 * 50;

fn features() -> Features<'static> {
    Features::grid(&[40, 50], &[2.0, 2.0], None)
}

#[test]
fn nothing_runs_once_cancelled() {
    let workspace = Workspace::new(0);
    let (calm, cancelled) = (Control::default(), Control::default());
    cancelled.cancel();
    assert_eq!(calm.check(), Ok(()));
    assert_eq!(cancelled.check(), Err(Cancelled));

    let build = |control| Lattice::build(&features(), false, &workspace, control);
    assert_eq!(build(&cancelled).expect_err("cancelled"), LatticeError::Cancelled);
    let lattice = build(&calm).expect("in range");
    for direction in [Direction::Forward, Direction::Transposed] {
        let mut out = vec![0.0; POINTS];
        let values = vec![1.0; POINTS];
        let result = lattice.filter(&values, &mut out, direction, &workspace, &cancelled);
        assert_eq!(result, Err(Cancelled));
    }

    for normalization in [Normalization::None, Normalization::Symmetric] {
        let build =
            |control| PairwiseKernel::build(&features(), normalization, false, &workspace, control);
        assert_eq!(build(&cancelled).expect_err("cancelled"), LatticeError::Cancelled);
    }

    for labels in [2, 3] {
        let kernel =
            PairwiseKernel::build(&features(), Normalization::Symmetric, false, &workspace, &calm);
        let kernels = vec![(kernel.expect("in range").into(), Compatibility::Potts(1.0))];
        let model = Model::new(labels, &[40, 50], kernels, &workspace, &cancelled);
        let values = vec![0.5; labels * POINTS];
        let mut out = vec![0.0; labels * POINTS];
        let unary = Unary::Energies(&values);
        for tolerance in [None, Some(0.0)] {
            let result = model.infer(unary, 3, tolerance, Target::Probs(&mut out));
            assert_eq!(result, Err(UnaryError::Cancelled));
        }
        let result = model.update(unary, &values, Target::Probs(&mut out));
        assert_eq!(result, Err(UnaryError::Cancelled));
        assert_eq!(model.messages(&values, &mut out), Err(Cancelled));
        assert_eq!(model.free_energy(unary, &values), Err(UnaryError::Cancelled));
    }
}

/// More iterations than anybody waits for, stopped while they run, from another thread.
#[test]
fn a_running_inference_stops() {
    for labels in [2, 5] {
        let (workspace, control) = (Workspace::new(1 << 24), Control::default());
        let kernel =
            PairwiseKernel::build(&features(), Normalization::After, false, &workspace, &control);
        let kernels = vec![(kernel.expect("in range").into(), Compatibility::Potts(1.0))];
        let model = Model::new(labels, &[40, 50], kernels, &workspace, &control);
        let values = vec![0.5; labels * POINTS];
        let mut out = vec![0.0; labels * POINTS];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut state = State::default();
                while state.steps < 3 {
                    state = control.wait(state, Duration::from_secs(60));
                }
                control.cancel();
            });
            let target = Target::Probs(&mut out);
            let result = model.infer(Unary::Energies(&values), usize::MAX, None, target);
            assert_eq!(result, Err(UnaryError::Cancelled));
        });
        assert!(control.wait(State::default(), Duration::ZERO).steps >= 3);
    }
}

#[test]
fn every_iteration_is_counted() {
    for (labels, tolerance) in [(2, None), (2, Some(0.0)), (3, None)] {
        let (workspace, control) = (Workspace::new(0), Control::default());
        let model = Model::new(labels, &[40, 50], Vec::new(), &workspace, &control);
        let values = vec![0.5; labels * POINTS];
        let mut out = vec![0.0; labels * POINTS];
        let report = model
            .infer(Unary::Energies(&values), 7, tolerance, Target::Probs(&mut out))
            .expect("nobody cancels");
        let state = control.wait(State::default(), Duration::ZERO);
        assert_eq!(state, State { steps: report.iterations, done: false });
        assert!(tolerance.is_some() || report.iterations == 7);
    }
}

#[test]
fn waiting_ends_with_the_work_or_the_time() {
    let control = Control::default();
    let begun = State::default();
    assert_eq!(control.wait(begun, Duration::from_millis(1)), begun);
    std::thread::scope(|scope| {
        scope.spawn(|| control.finish());
        assert_eq!(control.wait(begun, Duration::from_secs(60)), State { steps: 0, done: true });
    });
}
