//! `fastseg_core::crf`.

use std::sync::Arc;

use fastseg_core::control::Control;
use fastseg_core::crf::{
    Compatibility, Model, Normalization, PairwiseKernel, Report, Target, Unary, UnaryError,
};
use fastseg_core::lattice::{Features, Pixels};
use fastseg_core::memory::Workspace;
use proptest::prelude::*;
use proptest::sample::select;
use rayon::ThreadPoolBuilder;

use crate::plain;
use crate::random::{Random, SHAPES};

type Kernels = Vec<(Arc<PairwiseKernel>, Compatibility)>;

const NORMALIZATIONS: [Normalization; 4] =
    [Normalization::None, Normalization::Before, Normalization::After, Normalization::Symmetric];

fn kernel(features: &Features, normalization: Normalization) -> Arc<PairwiseKernel> {
    let (workspace, control) = (Workspace::new(0), Control::default());
    let kernel = PairwiseKernel::build(features, normalization, false, &workspace, &control);
    Arc::new(kernel.expect("in range"))
}

fn given_kernel(
    values: &[f32],
    shape: &[usize],
    normalization: Normalization,
) -> Arc<PairwiseKernel> {
    let dimension = values.len() / shape.iter().product::<usize>();
    kernel(&Features::Planar { values, dimension, shape: shape.to_vec() }, normalization)
}

/// A model that is made, used once, and dropped.
struct Run<'a> {
    labels: usize,
    shape: &'a [usize],
    kernels: Kernels,
    workspace: Arc<Workspace>,
}

impl<'a> Run<'a> {
    fn new(labels: usize, shape: &'a [usize], kernels: Kernels) -> Self {
        Self { labels, shape, kernels, workspace: Workspace::new(0) }
    }

    fn with<T>(&self, use_model: impl FnOnce(&Model) -> T) -> T {
        let control = Control::default();
        let kernels = self.kernels.clone();
        use_model(&Model::new(self.labels, self.shape, kernels, &self.workspace, &control))
    }

    fn values(&self) -> usize {
        self.labels * self.shape.iter().product::<usize>()
    }

    fn try_infer(&self, unary: Unary, iterations: usize) -> Result<Vec<f32>, UnaryError> {
        let mut q = vec![f32::NAN; self.values()];
        self.with(|model| model.infer(unary, iterations, None, Target::Probs(&mut q)))?;
        Ok(q)
    }

    fn infer(&self, unary: Unary, iterations: usize) -> Vec<f32> {
        self.try_infer(unary, iterations).expect("a usable unary term")
    }

    fn infer_to(&self, unary: Unary, tolerance: f64) -> (Vec<f32>, Report) {
        let mut q = vec![f32::NAN; self.values()];
        let target = Target::Probs(&mut q);
        let report = self.with(|model| model.infer(unary, 30, Some(tolerance), target));
        (q, report.expect("a usable unary term"))
    }

    fn update(&self, unary: Unary, q: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.values()];
        let target = Target::Probs(&mut out);
        self.with(|model| model.update(unary, q, target)).expect("a usable unary term");
        out
    }

    fn messages(&self, q: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.values()];
        self.with(|model| model.messages(q, &mut out)).expect("nobody cancels");
        out
    }

    fn free_energy(&self, unary: Unary, q: &[f32]) -> f64 {
        self.with(|model| model.free_energy(unary, q)).expect("a usable unary term")
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (&got, expected)) in got.iter().zip(expected).enumerate() {
        let difference = (f64::from(got) - expected).abs();
        assert!(difference <= tolerance, "[{i}]: {got} instead of {expected}");
    }
}

fn compatibility(kind: usize, labels: usize, random: &mut Random) -> Compatibility {
    match kind {
        0 => Compatibility::Potts(random.between(-1.0, 4.0)),
        1 => Compatibility::Labels(random.values(labels, -1.0, 4.0)),
        _ => Compatibility::Matrix(random.values(labels * labels, -1.0, 3.0)),
    }
}

/// The penalty of each pair of labels that a compatibility means.
fn penalty(compatibility: &Compatibility, labels: usize) -> Vec<f64> {
    let mut penalty = vec![0.0; labels * labels];
    for l in 0..labels {
        match compatibility {
            Compatibility::Potts(weight) => penalty[l * labels + l] = -f64::from(*weight),
            Compatibility::Labels(weights) => penalty[l * labels + l] = -f64::from(weights[l]),
            Compatibility::Matrix(matrix) => {
                for m in 0..labels {
                    let (a, b) = (matrix[l * labels + m], matrix[m * labels + l]);
                    penalty[l * labels + m] = 0.5 * (f64::from(a) + f64::from(b));
                }
            }
        }
    }
    penalty
}

fn plain_kernel(
    features: &[f32],
    points: usize,
    normalization: Normalization,
    penalty: Vec<f64>,
) -> plain::Kernel {
    let lattice = plain::Lattice::new(features, features.len() / points, false);
    let norm = lattice.filter(&vec![1.0; points], false);
    let one = vec![1.0; points];
    let inverse: Vec<f64> = norm.iter().map(|n| 1.0 / (n + 1e-20)).collect();
    let root: Vec<f64> = inverse.iter().map(|x| x.sqrt()).collect();
    let (before, after) = match normalization {
        Normalization::None => (one.clone(), one),
        Normalization::Before => (inverse, one),
        Normalization::After => (one, inverse),
        Normalization::Symmetric => (root.clone(), root),
    };
    plain::Kernel { lattice, before, after, penalty }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn infers_like_the_plain_mean_field(
        seed: u64,
        labels in select(&[1usize, 2, 3, 4, 7, 8, 9, 15, 16, 17, 21, 24, 33, 65][..]),
        shape in select(&SHAPES[..]),
        dimensions in prop::collection::vec(1usize..6, 0..3),
        iterations in 0usize..4,
    ) {
        let random = &mut Random(seed);
        let points: usize = shape.iter().product();
        let unary = random.values(labels * points, -2.0, 4.0);
        let (mut kernels, mut plain) = (Kernels::new(), Vec::new());
        for d in dimensions {
            let features = random.features(d, points, 2.0);
            let normalization = NORMALIZATIONS[random.below(4)];
            // An unnormalised filter adds up hundreds of neighbours.
            let normalization = match normalization {
                Normalization::None if points > 20 => Normalization::Symmetric,
                other => other,
            };
            let compatibility = compatibility(random.below(3), labels, random);
            let penalty = penalty(&compatibility, labels);
            plain.push(plain_kernel(&features, points, normalization, penalty));
            kernels.push((given_kernel(&features, shape, normalization), compatibility));
        }
        let run = Run::new(labels, shape, kernels);
        let energies = Unary::Energies(&unary);
        let q = run.infer(energies, iterations);
        assert_close(&q, &plain::infer(&plain, &wide(&unary), labels, iterations), 1e-4);
        // Every point's probabilities sum to one, to the bits that a sum of floats keeps.
        for p in 0..points {
            let sum: f64 = (0..labels).map(|l| f64::from(q[l * points + p])).sum();
            prop_assert!((sum - 1.0).abs() < 1e-5, "point {p}: {sum}");
        }

        let messages = run.messages(&q);
        let expected = plain::messages(&plain, &wide(&q), labels);
        let largest = expected.iter().fold(1.0f64, |most, x| most.max(x.abs()));
        assert_close(&messages, &expected, 1e-4 * largest);

        let updated = run.update(energies, &q);
        let energy: Vec<f64> = unary.iter().zip(&expected).map(|(&u, m)| f64::from(u) + m).collect();
        assert_close(&updated, &plain::softmax(&energy, labels), 1e-4);

        let free_energy: f64 = (0..q.len())
            .map(|i| {
                let q = f64::from(q[i]);
                let entropy = if q > 0.0 { q * q.ln() } else { 0.0 };
                entropy + q * f64::from(unary[i]) + 0.5 * q * expected[i]
            })
            .sum();
        let got = run.free_energy(energies, &q);
        let allowed = 1e-4 * points as f64 * largest;
        prop_assert!((got - free_energy).abs() <= allowed, "{got} instead of {free_energy}");
    }

    #[test]
    fn labels_are_the_most_probable(
        seed: u64,
        labels in select(&[1usize, 2, 3, 21, 256][..]),
        shape in select(&SHAPES[..]),
    ) {
        let random = &mut Random(seed);
        let points: usize = shape.iter().product();
        let probs = random.probs(labels, points);
        let unary = Unary::Probs { values: &probs, clip: 1e-5 };
        let features = random.features(2, points, 2.0);
        let kernel = given_kernel(&features, shape, Normalization::Symmetric);
        let run = Run::new(labels, shape, vec![(kernel, Compatibility::Potts(2.0))]);
        let q = run.infer(unary, 2);
        let (mut bytes, mut shorts) = (vec![255u8; points], vec![9999u16; points]);
        for target in [Target::Labels8(&mut bytes), Target::Labels16(&mut shorts)] {
            run.with(|model| model.infer(unary, 2, None, target)).expect("usable");
        }
        for p in 0..points {
            let most = (0..labels).map(|l| q[l * points + p]).fold(0.0, f32::max);
            let label = usize::from(bytes[p]);
            prop_assert_eq!(u16::from(bytes[p]), shorts[p]);
            prop_assert!(label < labels && q[label * points + p] >= most - 1e-6);
        }
    }

    #[test]
    fn permuted_labels_give_permuted_results(
        seed: u64,
        labels in 2usize..20,
        shape in select(&SHAPES[..]),
        kind in 0usize..3,
    ) {
        let random = &mut Random(seed);
        let points: usize = shape.iter().product();
        let probs = random.probs(labels, points);
        let features = random.features(3, points, 2.0);
        let kernel = given_kernel(&features, shape, Normalization::Symmetric);
        let compatibility = compatibility(kind, labels, random);
        let mut order: Vec<usize> = (0..labels).collect();
        for i in (1..labels).rev() {
            order.swap(i, random.below(i + 1));
        }
        let rows = |values: &[f32]| -> Vec<f32> {
            order.iter().flat_map(|&l| &values[l * points..(l + 1) * points]).copied().collect()
        };
        let permuted = match &compatibility {
            Compatibility::Potts(weight) => Compatibility::Potts(*weight),
            Compatibility::Labels(w) => Compatibility::Labels(order.iter().map(|&l| w[l]).collect()),
            Compatibility::Matrix(m) => {
                let pairs = order.iter().flat_map(|&a| order.iter().map(move |&b| (a, b)));
                Compatibility::Matrix(pairs.map(|(a, b)| m[a * labels + b]).collect())
            }
        };
        let infer = |probs: &[f32], compatibility| {
            let run = Run::new(labels, shape, vec![(kernel.clone(), compatibility)]);
            run.infer(Unary::Probs { values: probs, clip: 1e-5 }, 3)
        };
        let (q, other) = (infer(&probs, compatibility), infer(&rows(&probs), permuted));
        assert_close(&other, &wide(&rows(&q)), 1e-5);
    }

    /// Two labels with a Potts weight take a way of their own.
    #[test]
    fn two_labels_give_the_same_on_both_ways(
        seed: u64,
        shape in select(&SHAPES[..]),
        iterations in 0usize..5,
        weights in prop::collection::vec(0.0f32..3.0, 1..3),
    ) {
        let random = &mut Random(seed);
        let points: usize = shape.iter().product();
        let probs = random.probs(2, points);
        let unary = Unary::Probs { values: &probs, clip: 1e-5 };
        let kernels: Vec<_> = weights
            .iter()
            .map(|_| {
                let features = random.features(2, points, 2.0);
                given_kernel(&features, shape, NORMALIZATIONS[1 + random.below(3)])
            })
            .collect();
        let run = |compatibility: fn(f32) -> Compatibility| {
            let weights = weights.iter().map(|&weight| compatibility(weight));
            let kernels = kernels.iter().cloned().zip(weights).collect();
            Run::new(2, shape, kernels).infer(unary, iterations)
        };
        let (binary, labelled) =
            (run(Compatibility::Potts), run(|weight| Compatibility::Labels(vec![weight, weight])));
        assert_close(&binary, &wide(&labelled), 1e-5);
    }

    #[test]
    fn probabilities_are_normalised_and_clipped(
        seed: u64,
        labels in 1usize..20,
        shape in select(&SHAPES[..]),
        clip in select(&[0.0f32, 1e-5, 1e-2][..]),
    ) {
        let random = &mut Random(seed);
        let points: usize = shape.iter().product();
        let probs = random.probs(labels, points);
        // Scores that sum to less than one are shares of their sum.
        let scaled: Vec<f32> = probs.iter().map(|p| p * 0.5).collect();
        let run = Run::new(labels, shape, Kernels::new());
        let q = run.infer(Unary::Probs { values: &probs, clip }, 0);
        let clipped: Vec<f64> =
            probs.iter().map(|&p| f64::from(p).max(f64::from(clip)).max(1e-38)).collect();
        let expected: Vec<f64> = (0..clipped.len())
            .map(|i| {
                let all = (0..labels).map(|l| clipped[l * points + i % points]);
                clipped[i] / all.sum::<f64>()
            })
            .collect();
        assert_close(&q, &expected, 2e-6);
        let halved = run.infer(Unary::Probs { values: &scaled, clip }, 0);
        assert_close(&halved, &expected, 2e-6);
    }

    #[test]
    fn what_is_no_probability_is_named(
        seed: u64,
        labels in 1usize..6,
        shape in select(&SHAPES[..]),
        bad in select(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e-3, 1.5][..]),
    ) {
        let random = &mut Random(seed);
        let points: usize = shape.iter().product();
        let mut values = random.probs(labels, points);
        let (label, point) = (random.below(labels), random.below(points));
        values[label * points + point] = bad;
        let run = Run::new(labels, shape, Kernels::new());
        let Err(UnaryError::Value { label: l, point: p, value }) =
            run.try_infer(Unary::Probs { values: &values, clip: 1e-5 }, 1)
        else {
            panic!("{bad} passed");
        };
        prop_assert_eq!((l, p, value.to_bits()), (label, point, bad.to_bits()));
        // As an energy, +inf forbids the label, unless none is left.
        let refused = run.try_infer(Unary::Energies(&values), 1);
        if bad == f32::INFINITY && labels > 1 {
            // What a vanishing probability is, so that nothing becomes denormal.
            prop_assert!(refused.expect("another is possible")[label * points + point] < 1e-24);
        } else if bad.is_finite() {
            prop_assert!(refused.is_ok());
        } else {
            let Err(UnaryError::Value { label: l, point: p, value }) = refused else {
                panic!("{bad} passed");
            };
            prop_assert_eq!((l, p, value.to_bits()), (label, point, bad.to_bits()));
        }
    }

    #[test]
    fn a_tolerance_stops_where_the_energy_stands(
        seed: u64,
        labels in 2usize..5,
        shape in select(&SHAPES[..]),
    ) {
        let random = &mut Random(seed);
        let points: usize = shape.iter().product();
        let probs = random.probs(labels, points);
        let unary = Unary::Probs { values: &probs, clip: 1e-5 };
        let features = random.features(2, points, 2.0);
        let kernel = given_kernel(&features, shape, Normalization::Symmetric);
        let run = Run::new(labels, shape, vec![(kernel, Compatibility::Potts(1.0))]);
        let (q, report) = run.infer_to(unary, 1e-3);
        prop_assert_eq!(report.energies.len(), report.iterations);
        let steps = report.energies.windows(2).map(|pair| (pair[1] - pair[0]).abs());
        let small: Vec<bool> = steps.map(|step| step <= 1e-3 * points as f64).collect();
        // The energy is known one iteration late: the last step came after the decision.
        let decisive = &small[..small.len() - 1];
        prop_assert!(decisive[..decisive.len() - 1].iter().all(|small| !small));
        prop_assert!(report.iterations == 30 || decisive.last() == Some(&true));
        assert_close(&q, &wide(&run.infer(unary, report.iterations)), 1e-5);
        let before_the_last = run.infer(unary, report.iterations - 1);
        let energies: Vec<f32> = run.infer(unary, 0).iter().map(|p| -p.max(1e-30).ln()).collect();
        let measured = run.free_energy(Unary::Energies(&energies), &before_the_last);
        let last = report.energies[report.iterations - 1];
        prop_assert!((measured - last).abs() <= 1e-3 * points as f64, "{measured}, {last}");
    }
}

/// Images of several bands, from one thread to more than there are bands.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let random = &mut Random(5);
    for (shape, labels) in [(&[555, 580][..], 3), (&[601, 503], 2), (&[5, 250, 251], 5)] {
        let points: usize = shape.iter().product();
        let image: Vec<u8> = (0..points)
            .map(|p| ((p / 5000 * 40 + p % 80) as u8).wrapping_add((random.bits() % 8) as u8))
            .collect();
        let probs = random.probs(labels, points);
        let unary = Unary::Probs { values: &probs, clip: 1e-5 };
        let matrix = random.values(labels * labels, 0.0, 1.0);
        let sigmas = vec![3.0; shape.len()];
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let compute = || {
            let color = Some((Pixels::U8(&image), vec![20.0]));
            let spatial = kernel(&Features::grid(shape, &sigmas, None), Normalization::Symmetric);
            let wide = vec![40.0; shape.len()];
            let bilateral = kernel(&Features::grid(shape, &wide, color), Normalization::After);
            let potts = vec![
                (spatial.clone(), Compatibility::Potts(3.0)),
                (bilateral.clone(), Compatibility::Potts(5.0)),
            ];
            let q = Run::new(labels, shape, potts).infer(unary, 2);
            let others = vec![
                (spatial, Compatibility::Labels(vec![1.0; labels])),
                (bilateral, Compatibility::Matrix(matrix.clone())),
            ];
            let run = Run::new(labels, shape, others);
            let messages = run.messages(&q);
            let energy = run.free_energy(unary, &q);
            (bits(q), bits(messages), energy.to_bits())
        };
        let with = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(compute)
        };
        let one = with(1);
        for threads in [2, 3, 7] {
            assert!(with(threads) == one, "{threads} threads, {shape:?}");
        }
    }
}

/// Several calls at a time in one pool, with one workspace.
#[test]
fn calls_do_not_disturb_each_other() {
    let random = &mut Random(6);
    let shape = [33, 70];
    let workspace = Workspace::new(1 << 26);
    let cases: Vec<_> = (2..10)
        .map(|labels| (labels, random.probs(labels, 33 * 70), random.values(2 * 33 * 70, 0.0, 9.0)))
        .collect();
    let infer = |(labels, probs, features): &(usize, Vec<f32>, Vec<f32>)| {
        let kernel = given_kernel(features, &shape, Normalization::Symmetric);
        let mut run = Run::new(*labels, &shape, vec![(kernel, Compatibility::Potts(3.0))]);
        run.workspace = workspace.clone();
        run.infer(Unary::Probs { values: probs, clip: 1e-5 }, 4)
    };
    let alone: Vec<_> = cases.iter().map(infer).collect();
    for _ in 0..4 {
        std::thread::scope(|scope| {
            let all: Vec<_> = cases.iter().map(|case| scope.spawn(|| infer(case))).collect();
            for (thread, alone) in all.into_iter().zip(&alone) {
                assert!(thread.join().expect("no panic") == *alone);
            }
        });
    }
}

#[test]
fn what_does_not_fit_the_model_is_refused() {
    let kernel = given_kernel(&[0.0; 12], &[3, 4], Normalization::None);
    let refused = |labels: usize, shape: &[usize], compatibility: Compatibility| {
        let kernels = vec![(kernel.clone(), compatibility)];
        std::panic::catch_unwind(|| Run::new(labels, shape, kernels).with(|_| ())).is_err()
    };
    assert!(!refused(2, &[3, 4], Compatibility::Potts(1.0)));
    assert!(refused(0, &[3, 4], Compatibility::Potts(1.0)));
    assert!(refused(2, &[4, 3], Compatibility::Potts(1.0)));
    assert!(refused(2, &[3, 5], Compatibility::Potts(1.0)));
    assert!(refused(2, &[0, 4], Compatibility::Potts(1.0)));
    assert!(refused(2, &[3, 4], Compatibility::Labels(vec![1.0; 3])));
    assert!(refused(2, &[3, 4], Compatibility::Matrix(vec![1.0; 6])));
}
