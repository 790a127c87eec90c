//! The order in which points are worked through.
//!
//! An image is cut into tiles so that points that follow each other are close in both directions:
//! they share rows of values in the cache and often the very simplex. The order depends on the
//! shape of the grid alone, so all kernels over one image agree on it. Callers see points in
//! memory order; everything inside is in *tile order*.

use std::ops::Range;

/// Points along a row of a tile.
const TILE_WIDTH: usize = 64;
/// Rows of a tile.
const TILE_HEIGHT: usize = 16;
/// The most points in a tile.
pub(crate) const TILE: usize = TILE_WIDTH * TILE_HEIGHT;

/// Points in a band when there are enough of them; fewer would leave more ghosts.
const BAND_POINTS: usize = 1 << 16;
/// Fewer points than these are one band: sharing them out would take longer than it saves.
const SMALL: usize = 1 << 14;
/// The most bands, and so the most threads that are of use.
const MAX_BANDS: usize = 16;

/// Points that follow each other both in memory and in tile order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where it starts in memory order.
    pub memory: usize,
    /// Where it starts within its tile.
    pub local: usize,
    /// How many points it has.
    pub len: usize,
}

/// A tile: some segments, and the points they are in tile order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    segments: Range<usize>,
    pub points: Range<usize>,
}

/// All tiles of a grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tiling {
    points: usize,
    segments: Vec<Segment>,
    tiles: Vec<Tile>,
}

impl Tiling {
    /// The tiling of a grid of `shape`, slowest axis first.
    pub fn new(shape: &[usize]) -> Self {
        // Axes of one point change nothing; missing ones count as such.
        let axes: Vec<usize> = shape.iter().copied().filter(|&n| n != 1).collect();
        let (planes, height, width) = match axes[..] {
            [] => (1, 1, 1),
            [width] => (1, 1, width),
            [ref planes @ .., height, width] => (planes.iter().product(), height, width),
        };
        let points = planes * height * width;
        // A long line is cut as if it were tiles of many short rows.
        let rows_per_tile = if height == 1 { 1 } else { TILE_HEIGHT };
        let tile_width = if height == 1 { TILE } else { TILE_WIDTH };
        let mut tiling = Self { points, segments: Vec::new(), tiles: Vec::new() };
        let mut point = 0;
        for plane in 0..planes {
            for y in (0..height).step_by(rows_per_tile) {
                for x in (0..width).step_by(tile_width) {
                    let len = tile_width.min(width - x);
                    let rows = rows_per_tile.min(height - y);
                    let first = tiling.segments.len();
                    for row in 0..rows {
                        let memory = (plane * height + y + row) * width + x;
                        for start in (0..len).step_by(TILE_WIDTH) {
                            tiling.segments.push(Segment {
                                memory: memory + start,
                                local: row * len + start,
                                len: TILE_WIDTH.min(len - start),
                            });
                        }
                    }
                    let points = point..point + rows * len;
                    point = points.end;
                    tiling.tiles.push(Tile { segments: first..tiling.segments.len(), points });
                }
            }
        }
        tiling
    }

    pub fn points(&self) -> usize {
        self.points
    }

    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    pub fn segments(&self, tile: &Tile) -> &[Segment] {
        &self.segments[tile.segments.clone()]
    }

    /// The segments of a range of tiles.
    pub fn segments_of(&self, tiles: &Range<usize>) -> &[Segment] {
        match &self.tiles[tiles.clone()] {
            [] => &[],
            [first, .., last] => &self.segments[first.segments.start..last.segments.end],
            [only] => self.segments(only),
        }
    }

    /// Cuts the tiles into bands, the same for any number of threads.
    pub fn bands(&self) -> Vec<Range<usize>> {
        // A power of two shares the work evenly between two threads.
        let count = match self.points {
            ..SMALL => 1,
            points => (points / BAND_POINTS).clamp(2, MAX_BANDS).next_power_of_two(),
        };
        let count = count.min(self.tiles.len().max(1));
        (0..count)
            .map(|b| self.tiles.len() * b / count..self.tiles.len() * (b + 1) / count)
            .collect()
    }

    /// The points of a range of tiles, in tile order.
    pub fn points_of(&self, tiles: &Range<usize>) -> Range<usize> {
        match &self.tiles[tiles.clone()] {
            [] => 0..0,
            [first, .., last] => first.points.start..last.points.end,
            [only] => only.points.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_in_one_segment() {
        for shape in
            [&[1][..], &[5], &[5000], &[3, 7], &[33, 130], &[1, 70], &[2, 17, 65], &[2, 1, 3]]
        {
            let tiling = Tiling::new(shape);
            let mut seen = vec![0; shape.iter().product()];
            assert_eq!(tiling.points(), seen.len());
            let mut point = 0;
            for tile in tiling.tiles() {
                assert_eq!(tile.points.start, point);
                assert!(tile.points.len() <= TILE);
                let mut local = 0;
                for segment in tiling.segments(tile) {
                    assert_eq!(segment.local, local);
                    local += segment.len;
                    seen[segment.memory..segment.memory + segment.len]
                        .iter_mut()
                        .for_each(|n| *n += 1);
                }
                point += local;
                assert_eq!(tile.points.end, point);
            }
            assert!(seen.iter().all(|&n| n == 1), "{shape:?}");
        }
    }

    #[test]
    fn bands_cover_all_tiles() {
        for shape in [&[10, 10][..], &[375, 500], &[2000, 3000]] {
            let tiling = Tiling::new(shape);
            let bands = tiling.bands();
            assert_eq!(bands[0].start, 0);
            assert!(bands.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!(bands.last().map(|band| band.end), Some(tiling.tiles().len()));
        }
    }
}
