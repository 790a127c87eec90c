"""Windows over a large picture: the scores of one band of rows at a time are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Progress = Callable[[int, int], None]

# Deep models halve the size five times.
_COARSEST = 32


class Band(NamedTuple):
    """Finished rows of the scores.

    Attributes:
        first: The first row, in cells of the model's resolution.
        scores: (K, rows, columns) float32.
        cell: Pixels along a side of a cell.
    """

    first: int
    scores: Tensor
    cell: int


def bands(
    pixels: Tensor,
    *,
    score: Callable[[Tensor], Tensor],
    prepare: Callable[[Tensor], Tensor],
    window: tuple[int, int],
    stride: tuple[int, int],
    align_corners: bool = False,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> Iterator[Band]:
    """Move a window over a picture and average the scores where windows overlap.

    Args:
        pixels: (C, H, W), any dtype.
        score: (B, C, h, w) float32 to (B, K, h', w') float32.
        prepare: (C, h, w) pixels to normalised float32.
        window: Height and width of the window in pixels.
        stride: Steps between windows, down and right, in pixels.
        align_corners: How scores are enlarged, where they have to be.
        batch_size: Windows at a time.
        progress: Called with (done, total) windows.

    Yields:
        Bands of rows from the top to the bottom, each once and without gaps.

    Convention:
        Where the model's cells divide the window, scores are averaged in cells, and windows begin
        at whole cells; otherwise they are enlarged to the window first, and a cell is a pixel. The
        last windows end at the picture's edge, rounded up to whole cells; beyond the edge, and
        where the picture is smaller than the window, the normalised picture is zero.
    """
    height, width = (int(size) for size in pixels.shape[1:])
    # A window need not be larger than the picture.
    window = (
        min(window[0], _rounded_up(height, _COARSEST)),
        min(window[1], _rounded_up(width, _COARSEST)),
    )

    def cut(top: int, left: int) -> Tensor:
        part = prepare(pixels[:, top : top + window[0], left : left + window[1]])
        missing = (window[1] - part.shape[2], window[0] - part.shape[1])
        return F.pad(part, (0, missing[0], 0, missing[1])) if any(missing) else part

    def scored(places: list[tuple[int, int]]) -> Tensor:
        result = score(torch.stack([cut(top, left) for top, left in places]))
        if cell == 1 and result.shape[2:] != window:
            return F.interpolate(result, window, mode="bilinear", align_corners=align_corners)
        return result

    first = score(cut(0, 0)[None])
    cell = _cell(window, (int(first.shape[2]), int(first.shape[3])), align_corners=align_corners)
    if cell == 1 and first.shape[2:] != window:
        first = F.interpolate(first, window, mode="bilinear", align_corners=align_corners)
    rows, columns = (
        _starts(_rounded_up(size, cell), length, step, cell)
        for size, length, step in zip((height, width), window, stride, strict=True)
    )
    inside = -(-width // cell)
    total, done = len(rows) * len(columns), 0
    cells = (window[0] // cell, window[1] // cell)
    across = torch.zeros(columns[-1] // cell + cells[1])
    for left in columns:
        across[left // cell : left // cell + cells[1]] += 1
    # Sums of scores of the rows from `top` on that a later window may still add to.
    sums = first.new_zeros((first.shape[1], cells[0], len(across)))
    down = torch.zeros(cells[0])
    for index, top in enumerate(rows):
        for start in range(0, len(columns), batch_size):
            places = [(top, left) for left in columns[start : start + batch_size]]
            if top == 0 and start == 0:
                rest = places[1:]
                result = torch.cat([first, scored(rest)]) if rest else first
            else:
                result = scored(places)
            for one, (_, left) in zip(result, places, strict=True):
                sums[:, :, left // cell : left // cell + cells[1]] += one
            done += len(places)
            if progress is not None:
                progress(done, total)
        down += 1
        following = rows[index + 1] if index + 1 < len(rows) else top + window[0]
        finished = (following - top) // cell
        weight = (down[:finished, None] * across).to(sums.device)
        scores = sums[:, :finished] / weight
        # Cells of nothing but padding would mix into the last pixels.
        yield Band(top // cell, scores[:, : -(-height // cell) - top // cell, :inside], cell)
        sums[:, : cells[0] - finished] = sums[:, finished:].clone()
        sums[:, cells[0] - finished :] = 0
        down = torch.cat([down[finished:], torch.zeros(finished)])


def _cell(window: tuple[int, int], scores: tuple[int, int], *, align_corners: bool) -> int:
    """Pixels per cell; 1 where the cells do not divide the window evenly."""
    (height, width), (rows, columns) = window, scores
    exact = height % rows == 0 and width % columns == 0 and height // rows == width // columns
    return height // rows if exact and not align_corners else 1


def _starts(size: int, length: int, step: int, cell: int) -> list[int]:
    """Where windows begin: every step, and last so that the end is reached."""
    last = max(0, size - length)
    step = max(cell, step // cell * cell)
    return [*range(0, last, step), last]


def _rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
