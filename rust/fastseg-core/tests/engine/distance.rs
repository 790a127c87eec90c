//! `fastseg_core::distance`, `surface`, `border_weights`, `boundary` and `components`, compared with
//! every pair of places.

use fastseg_core::border_weights::{Border, Cell, border_weights};
use fastseg_core::boundary::{Map, near_boundary};
use fastseg_core::components::Regions;
use fastseg_core::control::Control;
use fastseg_core::distance::{Grid, nearest_features, squares, transform, wide_squares};
use fastseg_core::surface::{Elements, LabelOutside, Maps, SurfaceError, surface_distances};

use crate::random::Random;

/// Grids around the sixteen places that are worked on together, and the strips of 256.
const SHAPES: [[usize; 3]; 12] = [
    [1, 1, 1],
    [1, 1, 33],
    [33, 1, 1],
    [1, 33, 1],
    [15, 1, 17],
    [16, 1, 16],
    [2, 1, 300],
    [17, 1, 48],
    [3, 16, 17],
    [5, 9, 31],
    [9, 33, 2],
    [4, 5, 65],
];
const SPACINGS: [[f64; 3]; 3] = [[1.0; 3], [3.0, 2.0, 1.0], [0.7, 1.3, 2.1]];

fn mask(random: &mut Random, len: usize) -> Vec<u8> {
    let share = [0.0, 0.05, 0.5, 0.95][random.below(4)];
    (0..len).map(|_| u8::from(random.unit() > share)).collect()
}

fn coordinates([_, rows, width]: [usize; 3], i: usize) -> [usize; 3] {
    [i / (rows * width), i / width % rows, i % width]
}

fn square(grid: &Grid, a: usize, b: usize) -> f64 {
    let (a, b) = (coordinates(grid.shape, a), coordinates(grid.shape, b));
    (0..3).map(|i| (a[i].abs_diff(b[i]) as f64 * grid.spacing[i]).powi(2)).sum()
}

fn least_square(grid: &Grid, to: &[u8], from: usize, wanted: u8) -> f64 {
    let places = (0..to.len()).filter(|&i| to[i] == wanted);
    places.map(|i| square(grid, i, from)).fold(f64::INFINITY, f64::min)
}

#[test]
fn distances_are_those_to_the_nearest_feature() {
    let mut random = Random(1);
    let control = Control::default();
    for shape in SHAPES {
        for spacing in SPACINGS {
            let grid = Grid { shape, spacing };
            let mask = mask(&mut random, grid.len());
            let mut out = vec![0.0; grid.len()];
            transform(&mask, &grid, &mut out, &control).expect("not cancelled");
            let mut nearest = vec![0; 3 * grid.len()];
            nearest_features(&mask, &grid, &mut nearest, &control).expect("not cancelled");
            for (i, &far) in out.iter().enumerate() {
                let expected = least_square(&grid, &mask, i, 0).sqrt();
                let close = (f64::from(far) - expected).abs() <= 1e-6 * expected;
                assert!(
                    close || f64::from(far) == expected,
                    "{shape:?} {spacing:?}: {far} {expected}"
                );
                let [z, y, x] = [0, 1, 2].map(|axis| nearest[axis * grid.len() + i]);
                if expected.is_infinite() {
                    assert_eq!([z, y, x], [-1; 3]);
                    continue;
                }
                let at = (z as usize * shape[1] + y as usize) * shape[2] + x as usize;
                assert_eq!(mask[at], 0);
                assert!((square(&grid, at, i).sqrt() - expected).abs() <= 1e-9 * expected);
            }
            if let Some(scales) = grid.integer_scales() {
                let mut exact = vec![0; grid.len()];
                squares(&mask, &grid, scales, &mut exact, &control).expect("not cancelled");
                let mut wide = vec![0; grid.len()];
                wide_squares(&mask, &grid, &mut wide, &control).expect("not cancelled");
                for (i, (&exact, &wide)) in exact.iter().zip(&wide).enumerate() {
                    let expected = least_square(&grid, &mask, i, 0);
                    let far = expected.is_infinite();
                    assert_eq!(exact, if far { i32::MAX } else { expected as i32 });
                    assert_eq!(wide, if far { i64::MAX } else { expected as i64 });
                }
            }
        }
    }
}

#[test]
fn distances_between_border_pixels_are_the_least() {
    let mut random = Random(2);
    let control = Control::default();
    for shape in SHAPES {
        for spacing in SPACINGS {
            let grid = Grid { shape, spacing };
            let (pred, target) = (mask(&mut random, grid.len()), mask(&mut random, grid.len()));
            let maps = Maps { pred: &pred, target: &target, grid };
            let found =
                surface_distances(maps, &[1], 2, None, Elements::Pixels, &[1.0; 256], &control)
                    .expect("labels in range");
            let (pred, target) = (border(&grid, &pred), border(&grid, &target));
            for (side, from, to) in [(0, &target, &pred), (1, &pred, &target)] {
                let mut expected: Vec<f64> = (0..grid.len())
                    .filter(|&i| from[i] == 1)
                    .map(|i| least_square(&grid, to, i, 1).sqrt())
                    .collect();
                expected.sort_by(f64::total_cmp);
                let ours = &found[0][side].distances;
                assert_eq!(ours.len(), expected.len(), "{shape:?}");
                for (ours, expected) in ours.iter().zip(&expected) {
                    assert!(ours == expected || (ours - expected).abs() < 1e-9);
                }
            }
        }
    }
    let grid = Grid { shape: [1, 1, 2], spacing: [1.0; 3] };
    let maps = Maps { pred: &[0u8, 1], target: &[0, 7], grid };
    let error = surface_distances(maps, &[1], 2, None, Elements::Cells, &[1.0; 256], &control);
    assert_eq!(error, Err(SurfaceError::Label(LabelOutside { in_target: true, label: 7 })));
}

fn border(grid: &Grid, mask: &[u8]) -> Vec<u8> {
    let at = |z: usize, y: usize, x: usize| {
        let [planes, rows, width] = grid.shape;
        let inside =
            (1..=planes).contains(&z) && (1..=rows).contains(&y) && (1..=width).contains(&x);
        if inside { mask[((z - 1) * rows + y - 1) * width + x - 1] } else { 0 }
    };
    // A picture has no neighbours along its axis of one place.
    let flat = grid.shape[1] == 1;
    (0..mask.len())
        .map(|i| {
            let [z, y, x] = coordinates(grid.shape, i).map(|c| c + 1);
            let mut around = at(z - 1, y, x) & at(z + 1, y, x) & at(z, y, x - 1) & at(z, y, x + 1);
            if !flat {
                around &= at(z, y - 1, x) & at(z, y + 1, x);
            }
            mask[i] & (1 - around)
        })
        .collect()
}

fn check_weights<T: Cell + From<u16>>(border: &Border) {
    let mut random = Random(3);
    for [height, width] in [[1, 1], [1, 70], [70, 1], [66, 65], [9, 130]] {
        let cells: Vec<u16> = (0..height * width)
            .map(|_| if random.below(30) == 0 { random.below(7) as u16 } else { 0 })
            .collect();
        let given: Vec<T> = cells.iter().map(|&cell| cell.into()).collect();
        let mut out = vec![0.0; cells.len()];
        border_weights(&given, width, border, &mut out, &Control::default())
            .expect("not cancelled");
        for (i, &weight) in out.iter().enumerate() {
            let mut far = [f64::INFINITY; 7];
            for (j, &cell) in cells.iter().enumerate().filter(|&(_, &cell)| cell > 0) {
                let (dy, dx) = ((i / width).abs_diff(j / width), (i % width).abs_diff(j % width));
                let square = (dy * dy + dx * dx) as f64;
                far[usize::from(cell)] = far[usize::from(cell)].min(square.sqrt());
            }
            far.sort_by(f64::total_cmp);
            let sum = far[0] + far[1];
            let term = border.w0 * (-sum * sum / (2.0 * border.sigma * border.sigma)).exp();
            let asked = cells[i] == 0 || border.everywhere;
            let expected =
                f64::from(border.class[usize::from(cells[i] > 0)]) + if asked { term } else { 0.0 };
            assert!((f64::from(weight) - expected).abs() < 2e-6, "{weight} {expected}");
        }
    }
}

#[test]
fn border_weights_follow_the_formula() {
    for everywhere in [false, true] {
        let border = Border { w0: 10.0, sigma: 5.0, class: [1.0, 0.5], everywhere };
        check_weights::<u16>(&border);
        check_weights::<u32>(&border);
        check_weights::<u32>(&Border { sigma: 60.0, ..border });
    }
    let none = Border { w0: 0.0, sigma: 5.0, class: [1.0, 2.0], everywhere: true };
    assert_eq!(none.reach(), 0);
    check_weights::<u16>(&none);
}

#[test]
fn boundaries_are_what_a_square_reaches() {
    let mut random = Random(4);
    for [height, width] in [[1usize, 1usize], [1, 9], [9, 1], [13, 17], [140, 5]] {
        let labels: Vec<u16> =
            (0..height * width).map(|_| u16::from(random.below(40) == 0)).collect();
        for depth in [1, 2, 5, 300] {
            for edge in [false, true] {
                let mut out = vec![9; labels.len()];
                let map = Map { labels: &labels, width, depth, edge };
                near_boundary(map, &mut out, &Control::default()).expect("not cancelled");
                for (i, &near) in out.iter().enumerate() {
                    let (y, x) = (i / width, i % width);
                    let beyond =
                        y < depth || x < depth || y + depth >= height || x + depth >= width;
                    let other = (0..labels.len()).any(|j| {
                        let (dy, dx) = ((j / width).abs_diff(y), (j % width).abs_diff(x));
                        labels[j] != labels[i] && dy <= depth && dx <= depth
                    });
                    assert_eq!(
                        near,
                        u8::from(other || (edge && beyond)),
                        "{height} {width} {depth}"
                    );
                }
            }
        }
    }
}

#[test]
fn regions_hold_equal_neighbours_together() {
    let mut random = Random(5);
    let control = Control::default();
    for shape in SHAPES {
        let len: usize = shape.iter().product();
        let values: Vec<u8> = (0..len).map(|_| random.below(3) as u8).collect();
        for connectivity in 1..=3 {
            let found = Regions::find(&values, shape, Some(0), connectivity, &control);
            let found = found.expect("not cancelled");
            let mut region = vec![usize::MAX; len];
            found.for_runs(|places, value, of| {
                for i in places {
                    assert_eq!(values[i], value);
                    region[i] = of;
                }
            });
            let mut sizes = vec![0; found.sizes().len()];
            for i in 0..len {
                assert_eq!(region[i] == usize::MAX, values[i] == 0);
                if values[i] == 0 {
                    continue;
                }
                sizes[region[i]] += 1;
                for j in 0..i {
                    let (a, b) = (coordinates(shape, i), coordinates(shape, j));
                    let steps: [usize; 3] = std::array::from_fn(|k| a[k].abs_diff(b[k]));
                    let near = steps.iter().all(|&s| s <= 1)
                        && steps.iter().sum::<usize>() <= connectivity;
                    if near && values[i] == values[j] {
                        assert_eq!(region[i], region[j]);
                    }
                }
            }
            assert_eq!(sizes, found.sizes());
        }
    }
}
