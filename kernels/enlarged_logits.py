"""Planar logits, enlarged on the fly: what the kernels for label maps share."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from fastseg.kernels.bilinear import neighbours
from fastseg.kernels.launching import Launch

# Tiles of the enlarged picture.
CANDIDATES = [
    Launch({"BLOCK_Y": 32, "BLOCK_X": 32}, num_warps=4),
    Launch({"BLOCK_Y": 32, "BLOCK_X": 64}, num_warps=8),
]


def tiles(size: Sequence[int], how: Launch) -> int:
    """How many tiles cover a picture."""
    # Not `int(…)`, which would compile a graph for each size.
    count: int = triton.cdiv(size[0], how.blocks["BLOCK_Y"])
    count *= triton.cdiv(size[1], how.blocks["BLOCK_X"])
    return count


@triton.jit
def tile(full_height, full_width, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """A program's tile of the enlarged picture.

    Returns:
        The sample, int64; rows (BLOCK_Y, 1) and columns (1, BLOCK_X), which may lie outside.
    """
    across, down = tl.cdiv(full_width, BLOCK_X), tl.cdiv(full_height, BLOCK_Y)
    program = tl.program_id(0)
    y = program // across % down * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x = program % across * BLOCK_X + tl.arange(0, BLOCK_X)
    return (program // across // down).to(tl.int64), y[:, None], x[None, :]


@triton.jit
def taps(y, x, sizes, strides, ALIGNED: tl.constexpr):
    """Where a tile's four neighbours lie in the plane of a class, and their weights.

    Args:
        y: enlarged rows; outside, those of the last row are taken.
        x: enlarged columns, likewise.
        sizes: height and width of the logits, and of the enlarged picture.
        strides: from row to row and from column to column of the logits.
        ALIGNED: 1 for `align_corners`, else 0.
    """
    y, x = tl.minimum(y, sizes[2] - 1), tl.minimum(x, sizes[3] - 1)
    low_y, high_y, weight_y = neighbours(y, sizes[0], sizes[2], ALIGNED)
    low_x, high_x, weight_x = neighbours(x, sizes[1], sizes[3], ALIGNED)
    rows, columns = (
        (low_y * strides[0], high_y * strides[0]),
        (low_x * strides[1], high_x * strides[1]),
    )
    return rows, columns, weight_y, weight_x


@triton.jit
def value(plane, where):
    """Enlarged logits of a class at the places of `taps`, in float32, as PyTorch rounds them."""
    rows, columns, weight_y, weight_x = where
    upper = tl.load(plane + (rows[0] + columns[0])).to(tl.float32) * (1 - weight_x)
    upper += tl.load(plane + (rows[0] + columns[1])).to(tl.float32) * weight_x
    lower = tl.load(plane + (rows[1] + columns[0])).to(tl.float32) * (1 - weight_x)
    lower += tl.load(plane + (rows[1] + columns[1])).to(tl.float32) * weight_x
    return upper * (1 - weight_y) + lower * weight_y


@triton.jit
def likeliest(plane, step, classes, where):
    """The first class of the largest enlarged logit; NaN is the largest of all.

    Args:
        plane: pointer to the first class of a sample.
        step: from class to class; int64.
        classes: how many there are.
        where: of `taps`.
    """
    best = value(plane, where)
    label = tl.zeros(best.shape, tl.int32)
    for k in range(1, classes):
        plane += step
        other = value(plane, where)
        better = (other > best) | ((other != other) & (best == best))
        best = tl.where(better, other, best)
        label = tl.where(better, k, label)
    return label
