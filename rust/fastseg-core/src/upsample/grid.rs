//! Where the output pixels lie between the low-resolution samples.

use std::ops::Range;

/// One axis of a bilinear resampling: output pixels sit in the cells between two neighbouring
/// samples.
///
/// Cell `i` lies between the samples `i` and `i + 1`; the last one repeats its sample. The positions
/// are computed in `f32`, step by step as PyTorch does, so that the weights have the same bits.
#[derive(Clone, Debug)]
pub struct Axis {
    starts: Vec<usize>,
    weights: Vec<f32>,
}

impl Axis {
    /// Positions of `output` pixels on `input` samples.
    pub fn new(input: usize, output: usize, align_corners: bool) -> Self {
        let mut starts = vec![0; input + 1];
        let mut weights = Vec::with_capacity(output);
        let last = input.saturating_sub(1);
        let scale = match (align_corners, output) {
            (true, 0 | 1) => 0.0,
            (true, _) => last as f32 / (output - 1) as f32,
            (false, _) => input as f32 / output as f32,
        };
        for pixel in 0..output {
            let position = if input == output {
                pixel as f32
            } else if align_corners {
                scale * pixel as f32
            } else {
                (scale * (pixel as f32 + 0.5) - 0.5).max(0.0)
            };
            let cell = (position as usize).min(last);
            weights.push((position - cell as f32).clamp(0.0, 1.0));
            if let Some(count) = starts.get_mut(cell + 1) {
                *count += 1;
            }
        }
        for cell in 0..input {
            starts[cell + 1] += starts[cell];
        }
        Self { starts, weights }
    }

    /// How many cells there are: as many as samples.
    pub fn cells(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many pixels there are.
    pub fn pixels(&self) -> usize {
        self.weights.len()
    }

    /// The pixels in a cell.
    pub fn inside(&self, cell: usize) -> Range<usize> {
        self.starts[cell]..self.starts[cell + 1]
    }

    /// The pixels in a range of cells.
    pub fn inside_all(&self, cells: &Range<usize>) -> Range<usize> {
        self.starts[cells.start]..self.starts[cells.end]
    }

    /// The cells that hold a range of pixels, which must not be empty.
    pub fn cells_of(&self, pixels: &Range<usize>) -> Range<usize> {
        let cell_of = |pixel: usize| self.starts.partition_point(|&start| start <= pixel) - 1;
        cell_of(pixels.start)..cell_of(pixels.end - 1) + 1
    }

    /// How far each pixel is from the first sample of its cell towards the second, in 0 … 1.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }
}

/// The pixels of a cell side by side in a vector: rows of `2^shift` lanes below each other.
///
/// A vector of 16 lanes holds the 4×4 pixels of a cell that is enlarged fourfold.
#[derive(Clone, Debug)]
pub struct Columns {
    lanes: usize,
    shifts: Vec<u8>,
    offsets: Vec<usize>,
    weights: Vec<f32>,
}

impl Columns {
    /// The weights of every cell column as vectors of `lanes`, a power of two up to 128.
    pub fn new(axis: &Axis, lanes: usize) -> Self {
        let (mut shifts, mut offsets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for cell in 0..axis.cells() {
            let pixels = axis.inside(cell);
            let width = pixels.len().max(1).next_power_of_two().min(lanes);
            shifts.push(width.trailing_zeros() as u8);
            offsets.push(weights.len());
            for first in pixels.clone().step_by(width) {
                // Lanes beyond the last pixel repeat it, so that they hold nothing unusual.
                weights.extend(
                    (0..lanes)
                        .map(|lane| axis.weights()[(first + lane % width).min(pixels.end - 1)]),
                );
            }
        }
        Self { lanes, shifts, offsets, weights }
    }

    /// Base-2 logarithm of the lanes that a row of the cell's pixels takes.
    pub fn shift(&self, cell: usize) -> usize {
        usize::from(self.shifts[cell])
    }

    /// The vectors of a cell's weights along x.
    pub fn weights(&self, cell: usize) -> &[f32] {
        let end = self.offsets.get(cell + 1).copied().unwrap_or(self.weights.len());
        &self.weights[self.offsets[cell]..end]
    }

    /// The shifts that occur.
    pub fn shifts(&self) -> impl Iterator<Item = usize> {
        let used = self.shifts.iter().fold(0u32, |used, shift| used | (1 << shift));
        (0..8).filter(move |shift| used >> shift & 1 == 1)
    }

    /// The vectors of weights along y of some rows of pixels, for cells of a `shift`.
    pub fn fill_rows(&self, rows: &[f32], shift: usize, to: &mut Vec<f32>) {
        to.clear();
        let per_vector = self.lanes >> shift;
        for first in (0..rows.len()).step_by(per_vector) {
            to.extend(
                (0..self.lanes).map(|lane| rows[(first + (lane >> shift)).min(rows.len() - 1)]),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fourfold_enlargement() {
        let axis = Axis::new(3, 12, false);
        assert_eq!((axis.inside(0), axis.inside(1), axis.inside(2)), (0..6, 6..10, 10..12));
        assert_eq!(axis.weights()[..6], [0.0, 0.0, 0.125, 0.375, 0.625, 0.875]);
        assert_eq!(axis.cells_of(&(5..7)), 0..2);
        assert_eq!(axis.cells_of(&(11..12)), 2..3);
    }

    #[test]
    fn aligned_corners_reach_the_last_sample() {
        let axis = Axis::new(3, 5, true);
        assert_eq!(axis.weights(), [0.0, 0.5, 0.0, 0.5, 0.0]);
        assert_eq!(axis.inside(2), 4..5);
        assert_eq!(Axis::new(7, 1, true).inside(0), 0..1);
    }

    #[test]
    fn every_pixel_is_in_one_cell() {
        for input in 1..9 {
            for output in 1..30 {
                for align in [false, true] {
                    let axis = Axis::new(input, output, align);
                    assert_eq!(axis.inside_all(&(0..input)), 0..output);
                    for cell in 0..input {
                        for pixel in axis.inside(cell) {
                            assert_eq!(axis.cells_of(&(pixel..pixel + 1)), cell..cell + 1);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn weights_fill_whole_vectors() {
        let axis = Axis::new(3, 12, false);
        let columns = Columns::new(&axis, 16);
        assert_eq!((columns.shift(0), columns.shift(1), columns.shift(2)), (3, 2, 1));
        assert_eq!(columns.weights(1).len(), 16);
        assert_eq!(columns.weights(1)[4..8], [0.125, 0.375, 0.625, 0.875]);
        assert_eq!(columns.shifts().collect::<Vec<_>>(), [1, 2, 3]);
        let mut rows = Vec::new();
        columns.fill_rows(&[0.25, 0.75], 3, &mut rows);
        assert_eq!((rows.len(), rows[7], rows[8]), (16, 0.25, 0.75));
    }
}
