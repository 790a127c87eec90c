//! `fastseg_core::upsample`.

use fastseg_core::control::Control;
use fastseg_core::upsample::{Logits, Target, UpsampleError, Values, argmax, confusion, top_k};
use proptest::prelude::*;

use crate::random::Random;

const ROUNDING: f64 = 2e-6;

/// What a case is: the shape (B, K, h, w), the size, and how corners lie.
#[derive(Clone, Copy, Debug)]
struct Case {
    shape: [usize; 4],
    size: (usize, usize),
    align_corners: bool,
}

impl Case {
    fn logits(self, random: &mut Random) -> Vec<f32> {
        let count = self.shape.iter().product();
        match random.below(3) {
            0 => random.values(count, -3.0, 3.0),
            // Many ties.
            1 => random.values(count, -2.0, 2.0).into_iter().map(f32::round).collect(),
            // Smooth along the rows, so that most cells have one candidate.
            _ => {
                let mut sum = 0.0;
                random
                    .values(count, -1.0, 1.0)
                    .into_iter()
                    .map(|x| {
                        sum += x;
                        sum
                    })
                    .collect()
            }
        }
    }

    fn pixels(self) -> usize {
        self.shape[0] * self.size.0 * self.size.1
    }

    fn position(self, pixel: usize, samples: usize, pixels: usize) -> (usize, usize, f64) {
        let position = if samples == pixels {
            pixel as f32
        } else if self.align_corners {
            let scale = if pixels > 1 { (samples - 1) as f32 / (pixels - 1) as f32 } else { 0.0 };
            scale * pixel as f32
        } else {
            (samples as f32 / pixels as f32 * (pixel as f32 + 0.5) - 0.5).max(0.0)
        };
        let first = (position as usize).min(samples - 1);
        let second = (first + 1).min(samples - 1);
        (first, second, f64::from(position - first as f32))
    }

    /// All logits of a pixel of the result.
    fn at(self, logits: &[f32], pixel: usize) -> Vec<f64> {
        let [_, classes, height, width] = self.shape;
        let (rows, columns) = self.size;
        let (item, y, x) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        let (top, bottom, down) = self.position(y, height, rows);
        let (left, right, along) = self.position(x, width, columns);
        (0..classes)
            .map(|class| {
                let value = |y: usize, x: usize| {
                    f64::from(logits[((item * classes + class) * height + y) * width + x])
                };
                let row = |y: usize| (1.0 - along) * value(y, left) + along * value(y, right);
                (1.0 - down) * row(top) + down * row(bottom)
            })
            .collect()
    }

    fn strides(self) -> [isize; 4] {
        let [_, k, h, w] = self.shape.map(|size| size as isize);
        [k * h * w, h * w, w, 1]
    }

    fn argmax(self, values: Values, strides: [isize; 4]) -> Vec<u16> {
        let logits = Logits::new(values, 0, self.shape, strides).expect("inside");
        let mut labels = vec![u16::MAX; self.pixels()];
        argmax(&logits, self.size, self.align_corners, &mut labels, &Control::default())
            .expect("nobody cancels");
        labels
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (1usize..3, 1usize..24, 1usize..20, 1usize..40);
    (shape, 1usize..60, 1usize..90, any::<bool>()).prop_map(
        |((b, k, h, w), height, width, aligned)| Case {
            shape: [b, k, h, w],
            size: (height, width),
            align_corners: aligned,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn labels_are_the_likeliest(case in cases(), seed in 0u64..1000) {
        let values = case.logits(&mut Random(seed));
        let labels = case.argmax(Values::F32(&values), case.strides());
        for (pixel, &label) in labels.iter().enumerate() {
            let logits = case.at(&values, pixel);
            let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let scale = logits.iter().fold(1.0, |scale, x| x.abs().max(scale));
            let chosen = logits[usize::from(label)];
            prop_assert!(best - chosen <= ROUNDING * scale, "{best} against {chosen} at {pixel}");
        }
    }

    #[test]
    fn the_order_of_axes_does_not_matter(case in cases(), seed in 0u64..1000) {
        let values = case.logits(&mut Random(seed));
        let [_, k, h, w] = case.shape;
        let mut last = vec![0.0; values.len()];
        for (i, x) in values.iter().enumerate() {
            let (item, class, pixel) = (i / (k * h * w), i / (h * w) % k, i % (h * w));
            last[(item * h * w + pixel) * k + class] = *x;
        }
        let tokens = [h * w * k, 1, w * k, k].map(|stride| stride as isize);
        prop_assert_eq!(
            case.argmax(Values::F32(&last), tokens),
            case.argmax(Values::F32(&values), case.strides())
        );
        let double: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
        prop_assert_eq!(
            case.argmax(Values::F64(&double), case.strides()),
            case.argmax(Values::F32(&values), case.strides())
        );
    }

    #[test]
    fn ranks_and_counts_go_with_the_labels(case in cases(), seed in 0u64..1000) {
        let mut random = Random(seed);
        let values = case.logits(&mut random);
        let logits =
            Logits::new(Values::F32(&values), 0, case.shape, case.strides()).expect("inside");
        let (classes, k) = (case.shape[1], case.shape[1].min(3));
        let labels = case.argmax(Values::F32(&values), case.strides());
        let mut ranked = vec![0u8; k * labels.len()];
        let mut probs = vec![f32::NAN; ranked.len()];
        let control = Control::default();
        top_k(&logits, case.size, case.align_corners, k, &mut ranked, &mut probs, &control)
            .expect("nobody cancels");
        let plane = case.size.0 * case.size.1;
        let target: Vec<i32> = labels.iter().map(|_| random.below(classes) as i32).collect();
        let mut counts = vec![0i64; classes * classes];
        for (pixel, &label) in labels.iter().enumerate() {
            counts[target[pixel] as usize * classes + usize::from(label)] += 1;
            let first = pixel / plane * k * plane + pixel % plane;
            prop_assert_eq!(u16::from(ranked[first]), label);
            let logits = case.at(&values, pixel);
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|x| (x - largest).exp()).sum();
            for place in 0..k {
                let at = first + place * plane;
                let exact = (logits[usize::from(ranked[at])] - largest).exp() / sum;
                prop_assert!((f64::from(probs[at]) - exact).abs() < 1e-4);
                prop_assert!(place == 0 || probs[at] <= probs[at - plane]);
            }
        }
        let mut counted = vec![0i64; classes * classes];
        let target = Target::I32(&target);
        confusion(&logits, case.size, case.align_corners, target, None, &mut counted, &control)
            .expect("nobody cancels");
        prop_assert_eq!(counted, counts);
    }
}

#[test]
fn threads_do_not_change_bits() {
    let case = Case { shape: [2, 30, 50, 70], size: (200, 290), align_corners: false };
    let values = Random(5).values(case.shape.iter().product(), -1.0, 1.0);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| case.argmax(Values::F32(&values), case.strides()))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn what_cannot_be_is_refused() {
    let values = [0.0; 24];
    let control = Control::default();
    let logits = Logits::new(Values::F32(&values), 0, [1, 2, 3, 4], [24, 12, 4, 1]).expect("24");
    let run = |labels: &mut [u8]| argmax(&logits, (6, 8), false, labels, &control);
    assert_eq!(run(&mut [0; 47]), Err(UpsampleError::Size));
    assert_eq!(run(&mut [0; 48]), Ok(()));
    for k in [0, 3] {
        let (mut labels, mut probs) = (vec![0u8; 48 * k], vec![0.0; 48 * k]);
        let refused = top_k(&logits, (6, 8), false, k, &mut labels, &mut probs, &control);
        assert_eq!(refused, Err(UpsampleError::Count));
    }
    let empty = Logits::new(Values::F32(&[]), 0, [1, 0, 3, 4], [0; 4]).expect("nothing");
    assert_eq!(argmax(&empty, (1, 1), false, &mut [0u8], &control), Err(UpsampleError::Empty));
    let mut counts = [0; 4];
    let target = [0u8, 1, 2, 1];
    let refused =
        confusion(&logits, (2, 2), false, Target::U8(&target), None, &mut counts, &control);
    assert_eq!(refused, Err(UpsampleError::Label { position: 2, value: 2 }));
    let fewer =
        confusion(&logits, (2, 2), false, Target::U8(&target[..3]), None, &mut counts, &control);
    assert_eq!(fewer, Err(UpsampleError::Size));
    control.cancel();
    assert_eq!(
        argmax(&logits, (6, 8), false, &mut [0u8; 48], &control),
        Err(UpsampleError::Cancelled)
    );
}
