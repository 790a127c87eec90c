"""Enlarge, sum, ReLU and classify maps that were projected at their own resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.launching import Key, Launch, choose
from fastseg.kernels.precision import input_precision
from fastseg.kernels.tokens import rows_of_channels
from fastseg.kernels.upsample_sum import four, layouts, sum_of_maps, tile_corner

# One stage: loads of neighbours that wait in shared memory for their turn would fill it. What else
# bounds a tile is registers: logits of all of a program's classes stay in them.
CANDIDATES = [
    Launch({"TILE_Y": 8, "TILE_X": 16, "BLOCK_C": 16}, num_warps=8, num_stages=1),
    Launch({"TILE_Y": 4, "TILE_X": 16, "BLOCK_C": 16}, num_warps=4, num_stages=1),
]
FLOAT32_CANDIDATES = [
    Launch({"TILE_Y": 4, "TILE_X": 16, "BLOCK_C": 16}, num_warps=8, num_stages=1),
]
# How many classes a program takes; more go to several programs.
MOST_CLASSES = 160


@triton.jit
def _factors(classifier, k, c, classes, channels):
    """The classifier's factors of some channels for some classes; (C, K)."""
    inside = (c < channels)[:, None] & (k < classes)[None, :]
    return tl.load(classifier + k.to(tl.int64)[None, :] * channels + c[:, None], inside, other=0)


@triton.jit
def _write(out, logits, bias, sample, y, x, k, classes, height, width):
    logits += tl.load(bias + k, mask=k < classes, other=0).to(tl.float32)[None, :]
    at = ((sample * classes + k)[None, :] * height + y[:, None]) * width + x[:, None]
    inside = ((y < height) & (x < width))[:, None] & (k < classes)[None, :]
    tl.store(out + at, logits.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _forward(
    first,
    second,
    third,
    fourth,
    bias,
    classifier,
    classifier_bias,
    out,
    classes,
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
    MOST: tl.constexpr,
    REST: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Classifies a tile, a slice of channels at a time.

    MOST + REST classes, two powers of two, come closer to a number of classes than one does: 150
    are 128 and 32.
    """
    layouts = (
        (height, width, first_b, first_y, first_x),
        (second_height, second_width, second_b, second_y, second_x),
        (third_height, third_width, third_b, third_y, third_x),
        (fourth_height, fourth_width, fourth_b, fourth_y, fourth_x),
    )
    maps = (first, second, third, fourth)
    sample, top, left = tile_corner(height, width, TILE_Y, TILE_X)
    place = tl.arange(0, TILE_Y * TILE_X)
    y, x = top + place // TILE_X, left + place % TILE_X
    # Places behind the edges read what the last ones read.
    near_y, near_x = tl.minimum(y, height - 1), tl.minimum(x, width - 1)
    k = tl.program_id(1) * (MOST + REST) + tl.arange(0, MOST)
    logits = tl.zeros((TILE_Y * TILE_X, MOST), tl.float32)
    if REST > 0:
        rest_k = tl.program_id(1) * (MOST + REST) + MOST + tl.arange(0, REST)
        rest_logits = tl.zeros((TILE_Y * TILE_X, REST), tl.float32)
    for start in range(0, channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        total = sum_of_maps(maps, layouts, bias, sample, near_y, near_x, c, c < channels, MAPS)
        # Not a maximum, which would hide what is no number.
        hidden = tl.where(total < 0, 0.0, total).to(first.dtype.element_ty)
        factors = _factors(classifier, k, c, classes, channels)
        logits = tl.dot(hidden, factors, logits, input_precision=PRECISION)
        if REST > 0:
            factors = _factors(classifier, rest_k, c, classes, channels)
            rest_logits = tl.dot(hidden, factors, rest_logits, input_precision=PRECISION)
    _write(out, logits, classifier_bias, sample, y, x, k, classes, height, width)
    if REST > 0:
        _write(out, rest_logits, classifier_bias, sample, y, x, rest_k, classes, height, width)


def folded_decoder(
    maps: Sequence[Tensor], bias: Tensor, classifier_weight: Tensor, classifier_bias: Tensor
) -> Tensor:
    """Launches the kernel.

    Args:
        maps: up to four (B, h, w, D), the projections of the features.
        bias: (D).
        classifier_weight: (K, D).
        classifier_bias: (K).

    Returns:
        (B, K, H, W) logits.
    """
    batch, height, width, channels = maps[0].shape
    classes = classifier_weight.shape[0]
    out = maps[0].new_empty(batch, classes, height, width)
    if out.numel() == 0:
        return out
    maps, bias = [rows_of_channels(x) for x in maps], bias.contiguous()
    classifier, classifier_bias = classifier_weight.contiguous(), classifier_bias.contiguous()
    most, rest = _two_powers(triton.cdiv(classes, triton.cdiv(classes, MOST_CLASSES)))
    candidates = FLOAT32_CANDIDATES if out.dtype == torch.float32 else CANDIDATES

    def launch(how: Launch) -> None:
        tiles = triton.cdiv(height, how.blocks["TILE_Y"]) * triton.cdiv(width, how.blocks["TILE_X"])
        wrap_triton(_forward)[(batch * tiles, triton.cdiv(classes, most + rest))](
            *(*four(maps), bias, classifier, classifier_bias, out),
            *(classes, channels, *layouts(maps)),
            MAPS=len(maps),
            MOST=most,
            REST=rest,
            PRECISION=input_precision(maps[0]),
            **how.options(),
        )

    sizes = [size for x in maps for size in x.shape[1:3]]
    key: Key = (batch, classes, channels, *sizes, str(out.dtype))
    launch(choose("folded_decoder", key, candidates, launch, out))
    return out


def _two_powers(count: int) -> tuple[int, int]:
    """The two powers of two, 16 at least and the second maybe 0, that hold `count` most closely."""
    whole = max(16, triton.next_power_of_2(count))
    rest = count - whole // 2
    if whole == 16 or rest > whole // 4:
        return whole, 0
    return whole // 2, max(16, triton.next_power_of_2(rest))
