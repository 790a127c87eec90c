//! Confusion matrices against counting label by label.

use fastseg_core::control::Control;
use fastseg_core::counting::{Confusion, CountError, Labels, Which};
use proptest::prelude::*;

use crate::random::Random;

/// Labels in runs of about `run`.
fn runs(random: &mut Random, len: usize, classes: usize, run: usize) -> Vec<i64> {
    let mut labels = Vec::with_capacity(len + run);
    while labels.len() < len {
        let label = random.below(classes) as i64;
        labels.extend(std::iter::repeat_n(label, 1 + random.below(2 * run)));
    }
    labels.truncate(len);
    labels
}

fn plain(what: &Confusion, pred: &[i64], target: &[i64]) -> Vec<i64> {
    let mut counts = vec![0; what.classes * what.columns()];
    let is_class = |x: i64| (0..what.classes as i64).contains(&x);
    for (&p, &t) in pred.iter().zip(target) {
        if Some(t) != what.ignore && is_class(t) {
            let column = if is_class(p) { p as usize } else { what.classes };
            counts[t as usize * what.columns() + column] += 1;
        }
    }
    counts
}

fn count(what: &Confusion, pred: Labels<'_>, target: Labels<'_>) -> Result<Vec<i64>, CountError> {
    let mut counts = vec![0; what.classes * what.columns()];
    what.count(pred, target, &mut counts, &Control::default())?;
    Ok(counts)
}

fn confusion(classes: usize) -> Confusion {
    Confusion { classes, ignore: None, strict: true, void: true }
}

#[test]
fn all_types_count_the_same() {
    let mut random = Random(1);
    let what = Confusion { ignore: Some(6), ..confusion(6) };
    for run in [1, 4, 40] {
        let pred = runs(&mut random, 1000, 6, run);
        let target = runs(&mut random, 1000, 7, run);
        let expected = plain(&what, &pred, &target);
        macro_rules! of_type {
            ($($t:ty)*) => {$(
                let narrow: Vec<$t> = target.iter().map(|&x| x as $t).collect();
                let other: Vec<$t> = pred.iter().map(|&x| x as $t).collect();
                let (p, t) = (Labels::from(&pred[..]), Labels::from(&narrow[..]));
                assert_eq!(count(&what, p, t), Ok(expected.clone()));
                assert_eq!(count(&what, Labels::from(&other[..]), t), Ok(expected.clone()));
            )*};
        }
        of_type!(u8 i8 u16 i16 u32 i32 u64 i64);
    }
}

#[test]
fn the_first_label_that_is_no_class_is_told() {
    let (good, mut bad) = (vec![0i8; 500], vec![0i8; 500]);
    bad[300] = -1;
    bad[400] = 7;
    let (good, bad) = (Labels::from(&good[..]), Labels::from(&bad[..]));
    for (pred, target, which) in [(good, bad, Which::Target), (bad, good, Which::Pred)] {
        let error = CountError::Label { which, index: 300, value: -1 };
        assert_eq!(count(&confusion(200), pred, target), Err(error));
    }
    // The ignored label is found in targets only.
    let ignoring = Confusion { ignore: Some(-1), ..confusion(200) };
    assert_eq!(count(&ignoring, good, bad).map(|counts| counts.iter().sum::<i64>()), Ok(499));
    assert_eq!(count(&ignoring, bad, good).map(|counts| counts[200]), Ok(1));
    let without_void = Confusion { void: false, ..ignoring };
    assert!(matches!(count(&without_void, bad, good), Err(CountError::Label { index: 300, .. })));
}

#[test]
fn counts_of_the_wrong_size_are_refused() {
    let labels = [0u8; 10];
    let (all, some) = (Labels::from(&labels[..]), Labels::from(&labels[..9]));
    assert_eq!(count(&confusion(2), all, some), Err(CountError::Size));
    let mut counts = [0; 5];
    let result = confusion(2).count(all, all, &mut counts, &Control::default());
    assert_eq!(result, Err(CountError::Size));
    assert_eq!(
        count(&confusion(2), Labels::from(&labels[..0]), Labels::from(&labels[..0])),
        Ok(vec![0; 6])
    );
}

#[test]
fn a_cancelled_count_says_so() {
    let labels = vec![0u8; 1 << 20];
    let control = Control::default();
    control.cancel();
    let labels = Labels::from(&labels[..]);
    let mut counts = [0; 6];
    let result = confusion(2).count(labels, labels, &mut counts, &control);
    assert_eq!(result, Err(CountError::Cancelled));
    assert_eq!(counts, [0; 6]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_labels(
        seed in any::<u64>(),
        len in 0usize..3000,
        classes in 1usize..300,
        run in 1usize..100,
        ignore in proptest::option::of(0i64..300),
        strict in any::<bool>(),
    ) {
        let mut random = Random(seed);
        let what = Confusion { classes, ignore, strict, void: true };
        let extra = usize::from(!strict) * 3;
        let pred = runs(&mut random, len, classes + extra, run);
        let target = runs(&mut random, len, classes + extra, run);
        let narrow: Vec<u16> = target.iter().map(|&x| x as u16).collect();
        let found = count(&what, Labels::from(&pred[..]), Labels::from(&narrow[..]));
        prop_assert_eq!(found, Ok(plain(&what, &pred, &target)));
    }
}
