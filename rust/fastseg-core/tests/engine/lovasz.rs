//! Slopes of the Lovász extension against differences of the Jaccard loss.

use fastseg_core::control::Control;
use fastseg_core::lovasz::{LovaszError, jaccard_slopes};

use crate::random::Random;

/// Sorts all pixels, and takes the loss of the first n from that of the first n + 1.
fn plain(errors: &[f32], truth: &[bool]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..errors.len()).collect();
    order.sort_by(|&a, &b| errors[b].total_cmp(&errors[a]));
    let total = truth.iter().filter(|&&hit| hit).count() as f64;
    let (mut hits, mut misses, mut before) = (0.0, 0.0, 0.0);
    let mut slopes = vec![0.0; errors.len()];
    for i in order {
        if truth[i] {
            hits += 1.0
        } else {
            misses += 1.0
        }
        let loss = 1.0 - (total - hits) / (total + misses);
        slopes[i] = loss - before;
        before = loss;
    }
    slopes
}

fn slopes_of(errors: &[f32], truth: &[bool], row: usize) -> Vec<f32> {
    let mut slopes = vec![f32::NAN; errors.len()];
    let done = jaccard_slopes(errors, truth, row, &mut slopes, &Control::default());
    assert_eq!(done, Ok(()));
    slopes
}

fn assert_slopes(errors: &[f32], truth: &[bool], row: usize) {
    let slopes = slopes_of(errors, truth, row);
    for ((errors, truth), slopes) in
        errors.chunks(row).zip(truth.chunks(row)).zip(slopes.chunks(row))
    {
        for (i, (slope, expected)) in slopes.iter().zip(plain(errors, truth)).enumerate() {
            assert!((f64::from(*slope) - expected).abs() < 1e-7, "{i}: {slope}, not {expected}");
        }
    }
}

#[test]
fn rows_of_all_kinds() {
    let mut random = Random(3);
    for row in [1, 2, 7, 100, 5000] {
        for share in [0, 1, 30, 100] {
            // Few values, many of them level, zero and one among them; and many values.
            for steps in [1, 4, 1 << 24] {
                let size = 3 * row;
                let truth: Vec<bool> = (0..size).map(|_| random.below(100) < share).collect();
                let errors: Vec<f32> =
                    (0..size).map(|_| random.below(steps + 1) as f32 / steps as f32).collect();
                assert_slopes(&errors, &truth, row);
            }
        }
    }
}

#[test]
fn all_levels_of_a_float_are_sorted() {
    let mut random = Random(4);
    let errors: Vec<f32> = (0..4000).map(|_| 2f32.powf(random.between(-149.0, 0.0))).collect();
    let truth: Vec<bool> = (0..4000).map(|_| random.below(2) == 0).collect();
    assert_slopes(&errors, &truth, 4000);
}

#[test]
fn an_absent_class_has_the_first_of_its_largest_errors() {
    let slopes = slopes_of(&[0.1, 0.7, 0.7, 0.2], &[false; 4], 4);
    assert_eq!(slopes, [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn errors_that_are_none_lose_nothing_else() {
    let errors = [f32::NAN, -1e-7, 0.5, -f32::NAN];
    let slopes = slopes_of(&errors, &[true, false, true, false], 4);
    assert_eq!(slopes[2], 0.5);
    assert!(slopes.iter().all(|slope| slope.is_finite()));
}

#[test]
fn sizes_that_disagree_and_cancelled_work() {
    let control = Control::default();
    let (errors, truth) = ([0.0; 6], [false; 6]);
    let run = |truth: &[bool], row, slopes: &mut [f32]| {
        jaccard_slopes(&errors, truth, row, slopes, &control)
    };
    assert_eq!(run(&truth[..5], 6, &mut [0.0; 6]), Err(LovaszError::Size));
    assert_eq!(run(&truth, 6, &mut [0.0; 5]), Err(LovaszError::Size));
    assert_eq!(run(&truth, 4, &mut [0.0; 6]), Err(LovaszError::Size));
    assert_eq!(run(&truth, 0, &mut [0.0; 6]), Err(LovaszError::Size));
    assert_eq!(run(&truth, 1 << 31, &mut [0.0; 6]), Err(LovaszError::Size));
    assert_eq!(jaccard_slopes(&[], &[], 0, &mut [], &control), Ok(()));
    control.cancel();
    assert_eq!(run(&truth, 6, &mut [0.0; 6]), Err(LovaszError::Cancelled));
}
