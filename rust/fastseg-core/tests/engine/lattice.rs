//! `fastseg_core::lattice`.

use std::sync::Arc;

use fastseg_core::control::Control;
use fastseg_core::lattice::{
    Direction, Features, LARGEST_COORDINATE, Lattice, LatticeError, Pixels,
};
use fastseg_core::memory::Workspace;
use proptest::prelude::*;
use proptest::sample::select;

use crate::plain;
use crate::random::{Random, SHAPES};

fn planar<'a>(values: &'a [f32], shape: &[usize]) -> Features<'a> {
    let points: usize = shape.iter().product();
    Features::Planar { values, dimension: values.len() / points, shape: shape.to_vec() }
}

fn build(features: &Features) -> Result<Lattice, LatticeError> {
    Lattice::build(features, false, &Workspace::new(0), &Control::default())
}

fn filter(lattice: &Lattice, values: &[f32], direction: Direction) -> Vec<f32> {
    let workspace = Workspace::new(0);
    let mut out = vec![f32::NAN; values.len()];
    lattice
        .filter(values, &mut out, direction, &workspace, &Control::default())
        .expect("nobody cancels");
    out
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn assert_close(got: &[f32], expected: &[f64], tolerance: f64) {
    let largest = expected.iter().fold(1.0f64, |most, x| most.max(x.abs()));
    assert_eq!(got.len(), expected.len());
    for (i, (&got, expected)) in got.iter().zip(expected).enumerate() {
        let difference = (f64::from(got) - expected).abs();
        assert!(difference <= tolerance * largest, "[{i}]: {got} instead of {expected}");
    }
}

/// Builds both lattices of the same features and compares them, in both directions.
fn compare(features: &[f32], shape: &[usize], with_origin: bool, random: &mut Random) {
    let points: usize = shape.iter().product();
    let workspace = Workspace::new(0);
    let lattice =
        Lattice::build(&planar(features, shape), with_origin, &workspace, &Control::default())
            .expect("in range");
    let plain = plain::Lattice::new(features, lattice.dimension(), with_origin);
    assert_eq!(lattice.vertices(), plain.vertices);
    assert_eq!(lattice.points(), points);
    let values = random.values(points, -1.0, 1.0);
    for (direction, transpose) in [(Direction::Forward, false), (Direction::Transposed, true)] {
        let expected = plain.filter(&wide(&values), transpose);
        assert_close(&filter(&lattice, &values, direction), &expected, 1e-4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn filters_like_the_plain_lattice(
        seed: u64,
        d in 1usize..10,
        shape in select(&SHAPES[..]),
        scale in select(&[0.1f32, 1.0, 20.0, 1000.0][..]),
        with_origin: bool,
    ) {
        let random = &mut Random(seed);
        let features = random.features(d, shape.iter().product(), scale);
        compare(&features, shape, with_origin, random);
    }

    #[test]
    fn the_transpose_is_the_adjoint(
        seed: u64,
        d in 1usize..10,
        shape in select(&SHAPES[..]),
        scale in select(&[0.1f32, 1.0, 20.0][..]),
    ) {
        let random = &mut Random(seed);
        let points = shape.iter().product();
        let features = random.features(d, points, scale);
        let lattice = build(&planar(&features, shape)).expect("in range");
        let (x, y) = (random.values(points, -1.0, 1.0), random.values(points, -1.0, 1.0));
        let forward = filter(&lattice, &x, Direction::Forward);
        let back = filter(&lattice, &y, Direction::Transposed);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let (left, right) = (dot(&forward, &y), dot(&x, &back));
        // Values of both signs cancel, and rounding is in proportion to what they were.
        let positive = |values: &[f32]| values.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let size = dot(&filter(&lattice, &positive(&x), Direction::Forward), &positive(&y));
        prop_assert!((left - right).abs() <= 1e-5 * size.max(1e-3), "{left} and {right}");
    }

    #[test]
    fn a_grid_is_the_same_as_its_coordinates(
        seed: u64,
        shape in select(&SHAPES[..]),
        channels in 0usize..5,
        kind in 0usize..3,
    ) {
        let random = &mut Random(seed);
        let points: usize = shape.iter().product();
        let sigmas = random.values(shape.len(), 0.5, 9.0);
        let color_sigmas = random.values(channels, 2.0, 40.0);
        let image: Vec<u8> = (0..points * channels).map(|_| random.bits() as u8).collect();
        let shorts: Vec<u16> = image.iter().map(|&x| u16::from(x)).collect();
        let floats: Vec<f32> = image.iter().map(|&x| f32::from(x)).collect();
        let pixels = match kind {
            0 => Pixels::U8(&image),
            1 => Pixels::U16(&shorts),
            _ => Pixels::F32(&floats),
        };
        let color = (channels > 0).then(|| (pixels, color_sigmas.clone()));
        let grid = Features::grid(shape, &sigmas, color);
        prop_assert_eq!(grid.points(), points);
        prop_assert_eq!(grid.shape(), shape);
        let mut features = Vec::new();
        let mut step = 1;
        for (&len, &sigma) in shape.iter().zip(&sigmas).rev() {
            features.extend((0..points).map(|p| (p / step % len) as f32 / sigma));
            step *= len;
        }
        for (c, sigma) in color_sigmas.iter().enumerate() {
            features.extend((0..points).map(|p| floats[p * channels + c] / sigma));
        }
        let (grid, given) = (build(&grid), build(&planar(&features, shape)));
        let (grid, given) = (grid.expect("in range"), given.expect("in range"));
        prop_assert_eq!(grid.vertices(), given.vertices());
        prop_assert_eq!(grid.dimension(), shape.len() + channels);
        let values = random.values(points, 0.0, 1.0);
        prop_assert_eq!(
            filter(&grid, &values, Direction::Forward),
            filter(&given, &values, Direction::Forward)
        );
    }

    #[test]
    fn channels_do_not_mix(
        seed: u64,
        shape in select(&SHAPES[..]),
        channels in select(&[0usize, 1, 2, 3, 8, 17, 24, 64, 66][..]),
        direction in select(&[Direction::Forward, Direction::Transposed][..]),
    ) {
        let random = &mut Random(seed);
        let points: usize = shape.iter().product();
        let features = random.features(3, points, 2.0);
        let lattice = build(&planar(&features, shape)).expect("in range");
        let values = random.values(channels * points, -1.0, 1.0);
        let one_by_one: Vec<f64> = values
            .chunks_exact(points)
            .flat_map(|values| filter(&lattice, values, direction))
            .map(f64::from)
            .collect();
        assert_close(&filter(&lattice, &values, direction), &one_by_one, 1e-5);
    }
}

/// Keys of every width, up to the widest.
#[test]
fn filters_in_many_dimensions() {
    let random = &mut Random(1);
    for (d, scale) in [
        (12, 9.0),
        (14, 400.0),
        (15, 9.0),
        (16, 9.0),
        (17, 9.0),
        (20, 1.0),
        (20, 50.0),
        (27, 3.0),
        (33, 20.0),
        (40, 1.0),
        (40, 90.0),
    ] {
        for shape in [&[1][..], &[40], &[5, 9]] {
            let features = random.values(d * shape.iter().product::<usize>(), -scale, scale);
            compare(&features, shape, false, random);
            compare(&features, shape, true, random);
        }
    }
}

/// Ghosts: vertices that several bands touch.
#[test]
fn bands_filter_like_the_plain_lattice() {
    let random = &mut Random(2);
    for shape in [&[361, 370][..], &[3, 201, 230], &[140_001]] {
        let points: usize = shape.iter().product();
        let mut features: Vec<f32> = (0..points).map(|p| (p % 370) as f32 / 40.0).collect();
        features.extend((0..points).map(|p| (p / 370) as f32 / 40.0));
        features.extend((0..points).map(|p| ((p as f32 / 9000.0).sin() * 3.0) + random.unit()));
        compare(&features, shape, true, random);
    }
}

#[test]
fn features_out_of_range_are_refused() {
    for d in [1usize, 2, 5, 9, 25] {
        for feature in [0, d - 1] {
            for sign in [-1.0f32, 1.0] {
                let mut values = vec![0.5; d * 6];
                values[feature * 6 + 4] = sign * 3e7;
                let Err(LatticeError::OutOfRange { feature: named, value, limit }) =
                    build(&planar(&values, &[2, 3]))
                else {
                    panic!("3e7 sigmas passed at d = {d}");
                };
                assert_eq!((named, value), (feature, 3e7));
                assert!(limit < LARGEST_COORDINATE);
                // What is named as the limit can be used, a little more cannot.
                values[feature * 6 + 4] = sign * (limit * 0.9999) as f32;
                let lattice = build(&planar(&values, &[2, 3])).expect("below the limit");
                let ones = filter(&lattice, &[1.0; 6], Direction::Forward);
                assert!(ones.iter().all(|x| x.is_finite()));
                values[feature * 6 + 4] = sign * (limit * 1.0001) as f32;
                assert!(build(&planar(&values, &[2, 3])).is_err());
            }
        }
    }
}

#[test]
fn features_that_are_not_finite_are_refused() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 3, 5] {
            for feature in 0..3 {
                let mut values = vec![0.5; 18];
                values[feature * 6 + at] = bad;
                let error = build(&planar(&values, &[6])).expect_err("not finite");
                assert_eq!(error, LatticeError::NotFinite { feature });
            }
        }
        let image = [0.0, bad, 0.0, 0.0];
        let color = Some((Pixels::F32(&image), vec![1.0, 1.0]));
        let error = build(&Features::grid(&[2], &[1.0], color)).expect_err("not finite");
        assert_eq!(error, LatticeError::NotFinite { feature: 2 });
    }
}

#[test]
fn too_many_points_are_refused_before_anything_is_allocated() {
    let error = build(&Features::grid(&[40_000, 40_000], &[3.0, 3.0], None));
    assert_eq!(error.expect_err("too many"), LatticeError::TooManyPoints { points: 1_600_000_000 });
}

#[test]
fn keys_that_are_too_wide_are_refused() {
    let d = 150;
    let error = build(&planar(&vec![0.0; 3 * d], &[3])).expect_err("too wide");
    assert!(matches!(error, LatticeError::KeyTooWide { words, limit } if words > limit));
}

/// What a workspace hands out is left over from an earlier use.
#[test]
fn leftovers_in_a_workspace_change_nothing() {
    let random = &mut Random(3);
    let shape = [37, 70];
    let features = random.features(4, 37 * 70, 3.0);
    let values = random.values(2 * 37 * 70, -1.0, 1.0);
    let compute = |workspace: &Arc<Workspace>| {
        let control = Control::default();
        let lattice = Lattice::build(&planar(&features, &shape), true, workspace, &control)
            .expect("in range");
        let mut out = vec![0.0; values.len()];
        lattice
            .filter(&values, &mut out, Direction::Forward, workspace, &control)
            .expect("nobody cancels");
        out
    };
    let fresh = compute(&Workspace::new(0));
    let used = Workspace::new(1 << 30);
    for _ in 0..3 {
        let mut buffers: Vec<_> = (6..20).map(|bits| used.take::<f32>(3 << bits)).collect();
        buffers.iter_mut().for_each(|buffer| buffer.fill(f32::NAN));
        drop(buffers);
        assert_eq!(compute(&used), fresh);
    }
}
