"""The sum of up to four maps, each enlarged to the first's size, and its transpose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.bilinear import enlarged, first_after, neighbours
from fastseg.kernels.launching import Key, Launch, choose
from fastseg.kernels.tokens import rows_of_channels, steps

MOST_MAPS = 4

CANDIDATES = [
    Launch({"TILE_Y": 16, "TILE_X": 16, "PART_Y": 4, "BLOCK_C": 32}, num_warps=4),
    Launch({"TILE_Y": 16, "TILE_X": 32, "PART_Y": 2, "BLOCK_C": 32}, num_warps=4),
]
# The others do not fit into the registers of every chip.
FLOAT32_CANDIDATES = [
    Launch({"TILE_Y": 16, "TILE_X": 32, "PART_Y": 2, "BLOCK_C": 32}, num_warps=8),
]
BACKWARD_CANDIDATES = [
    Launch({"ROWS": 16, "BLOCK_X": 16, "TAPS": 4, "BLOCK_C": 32}, num_warps=8),
    Launch({"ROWS": 16, "BLOCK_X": 16, "TAPS": 2, "BLOCK_C": 32}, num_warps=4),
]


@triton.jit
def tile_corner(height, width, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    """The sample, the first row and the first column of a program's tile."""
    across, down = tl.cdiv(width, TILE_X), tl.cdiv(height, TILE_Y)
    program = tl.program_id(0)
    sample = (program // across // down).to(tl.int64)
    return sample, program // across % down * TILE_Y, program % across * TILE_X


@triton.jit
def sum_of_maps(maps, layouts, bias, sample, y, x, c, inside_c, MAPS: tl.constexpr):
    """The sum at some places of some channels.

    Args:
        maps: four pointers; MAPS count.
        layouts: of each map its height, width, and steps from sample to sample, row to row and
            column to column. The first has the size of the result.
        bias: pointer.
        sample: which one; int64.
        y: rows; (P) int32, inside the picture.
        x: columns; (P) int32, inside.
        c: channels; (C) int32.
        inside_c: which of them there are; (C).
        MAPS: how many of the maps there are.

    Returns:
        (P, C) float32.
    """
    c, inside_c = c[None, :], inside_c[None, :]
    first = layouts[0]
    place = y.to(tl.int64) * first[3] + x.to(tl.int64) * first[4]
    at = maps[0] + (sample * first[2] + c) + place[:, None]
    total = tl.load(at, mask=inside_c, other=0).to(tl.float32)
    total += tl.load(bias + c, mask=inside_c, other=0).to(tl.float32)
    for i in tl.static_range(1, MAPS):
        total += enlarged(maps[i] + (sample * layouts[i][2] + c), layouts[i], first, y, x, inside_c)
    return total


@triton.jit
def _forward(
    first,
    second,
    third,
    fourth,
    bias,
    out,
    channels,
    height,
    width,
    first_b,
    first_y,
    first_x,
    second_height,
    second_width,
    second_b,
    second_y,
    second_x,
    third_height,
    third_width,
    third_b,
    third_y,
    third_x,
    fourth_height,
    fourth_width,
    fourth_b,
    fourth_y,
    fourth_x,
    MAPS: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    PART_Y: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    layouts = (
        (height, width, first_b, first_y, first_x),
        (second_height, second_width, second_b, second_y, second_x),
        (third_height, third_width, third_b, third_y, third_x),
        (fourth_height, fourth_width, fourth_b, fourth_y, fourth_x),
    )
    sample, top, left = tile_corner(height, width, TILE_Y, TILE_X)
    place = tl.arange(0, PART_Y * TILE_X)
    x = left + place % TILE_X
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    maps = (first, second, third, fourth)
    # A part of the tile at a time: what the parts share lies in the first-level cache.
    for part in range(tl.cdiv(tl.minimum(TILE_Y, height - top), PART_Y)):
        y = top + part * PART_Y + place // TILE_X
        inside = ((y < height) & (x < width))[:, None] & inside_c[None, :]
        at = out + ((sample * height + y) * width + x)[:, None] * channels + c[None, :]
        # Places behind the edges read what the last ones read.
        near_y, near_x = tl.minimum(y, height - 1), tl.minimum(x, width - 1)
        total = sum_of_maps(maps, layouts, bias, sample, near_y, near_x, c, inside_c, MAPS)
        tl.store(at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad,
    out,
    full_height,
    full_width,
    height,
    width,
    channels,
    grad_b,
    grad_y,
    grad_x,
    ROWS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Walks down the enlarged rows and adds each to the two rows that it was made of."""
    strips, segments = tl.cdiv(width, BLOCK_X), tl.cdiv(height, ROWS)
    program = tl.program_id(0)
    sample = (program // strips // segments).to(tl.int64)
    top = program // strips % segments * ROWS
    x = program % strips * BLOCK_X + tl.arange(0, BLOCK_X)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    grad += sample * grad_b + c[None, None, :]
    out += ((sample * height + top) * width + x)[:, None] * channels + c[None, :]
    inside = (x < width)[:, None] & inside_c[None, :]

    # The enlarged columns that a column is a neighbour of; TAPS of them at a time.
    begin, end = first_after(x - 1, width, full_width), first_after(x + 1, width, full_width)
    begin = begin[:, None] + tl.arange(0, TAPS)[None, :]
    end = tl.where(x < width, end, 0)[:, None]
    span = tl.max(tl.max(end - begin, 1), 0)
    zero = tl.zeros((BLOCK_X, TAPS, BLOCK_C), tl.float32)
    here = zero
    for step in range(-1, tl.minimum(ROWS, height - top)):
        below = zero
        first_row = first_after(top + step, height, full_height)
        last_row = first_after(top + step + 1, height, full_height)
        for offset in range(last_row - first_row):
            y = first_row + offset
            low, high, weight = neighbours(y, height, full_height)
            total = zero
            row = grad + y.to(tl.int64) * grad_y
            for tap in range(0, span, TAPS):
                column = begin + tap
                left, right, share = neighbours(column, width, full_width)
                factor = tl.where(left == x[:, None], 1 - share, 0.0)
                factor += tl.where(right == x[:, None], share, 0.0)
                at = row + column.to(tl.int64)[:, :, None] * grad_x
                mask = (column < end)[:, :, None] & inside_c[None, None, :]
                total += tl.load(at, mask=mask, other=0).to(tl.float32) * factor[:, :, None]
            # The last row is its own neighbour.
            here += total * tl.where(low == high, 1.0, 1 - weight)
            below += total * weight
        if step >= 0:
            tl.store(out, tl.sum(here, 1).to(out.dtype.element_ty), mask=inside)
            out += width.to(tl.int64) * channels
        here = below


def upsample_sum(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Launches the forward kernel: up to four (B, h, w, D), (D) to (B, H, W, D)."""
    out = maps[0].new_empty(maps[0].shape)
    if out.numel() == 0:
        return out
    maps, bias = [rows_of_channels(x) for x in maps], bias.contiguous()
    batch, height, width, channels = out.shape

    def launch(how: Launch) -> None:
        tiles = triton.cdiv(height, how.blocks["TILE_Y"]) * triton.cdiv(width, how.blocks["TILE_X"])
        grid = (batch * tiles, triton.cdiv(channels, how.blocks["BLOCK_C"]))
        wrap_triton(_forward)[grid](
            *(*four(maps), bias, out, channels, *layouts(maps)), MAPS=len(maps), **how.options()
        )

    sizes = [size for x in maps for size in x.shape[1:3]]
    key: Key = (batch, channels, *sizes, str(out.dtype))
    candidates = FLOAT32_CANDIDATES if out.dtype == torch.float32 else CANDIDATES
    launch(choose("upsample_sum", key, candidates, launch, out))
    return out


def four(maps: Sequence[Tensor]) -> list[Tensor]:
    """One to four maps, and the first in place of those that there are not."""
    return [*maps, *[maps[0]] * (MOST_MAPS - len(maps))]


def layouts(maps: Sequence[Tensor]) -> list[int]:
    """Height, width and steps of each of `four` maps, as the kernels take them."""
    return [n for x in four(maps) for n in (x.shape[1], x.shape[2], *steps(x))]


def upsample_sum_backward(grad: Tensor, height: int, width: int) -> Tensor:
    """Launches the backward kernel for one map: (B, H, W, D) to (B, height, width, D)."""
    batch, full_height, full_width, channels = grad.shape
    out = grad.new_empty(batch, height, width, channels)
    if out.numel() == 0:
        return out
    grad = rows_of_channels(grad)

    def launch(how: Launch) -> None:
        columns = triton.cdiv(height, how.blocks["ROWS"]) * triton.cdiv(
            width, how.blocks["BLOCK_X"]
        )
        grid = (batch * columns, triton.cdiv(channels, how.blocks["BLOCK_C"]))
        wrap_triton(_backward)[grid](
            *(grad, out, full_height, full_width, height, width, channels, *steps(grad)),
            **how.options(),
        )

    key = (*grad.shape, height, width, str(grad.dtype))
    launch(choose("upsample_sum_backward", key, BACKWARD_CANDIDATES, launch, grad))
    return out
