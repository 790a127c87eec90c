"""Cross entropy of enlarged logits, and its gradient, gathered: no atomics, the same bits always.

The gradient of a logit is a sum over the pixels that it is a neighbour of. A program walks down
enlarged rows and computes their probabilities again from the logits and the log of their sum, which
the forward pass leaves behind.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.bilinear import first_after, neighbours
from fastseg.kernels.enlarged_logits import CANDIDATES, taps, tile, tiles, value
from fastseg.kernels.launching import Key, Launch, choose

BACKWARD_CANDIDATES = [
    Launch({"ROWS": 16, "BLOCK_X": 32, "BLOCK_K": 16}, num_warps=4),
    Launch({"ROWS": 8, "BLOCK_X": 16, "BLOCK_K": 32}, num_warps=4),
]


@triton.jit
def _forward(
    logits,
    target,
    log_sums,
    losses,
    counts,
    ignored,
    classes,
    height,
    width,
    full_height,
    full_width,
    stride_b,
    stride_k,
    stride_y,
    stride_x,
    ALIGNED: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    sample, y, x = tile(full_height, full_width, BLOCK_Y, BLOCK_X)
    sizes = (height, width, full_height, full_width)
    where = taps(y, x, sizes, (stride_y, stride_x), ALIGNED)
    inside = (y < full_height) & (x < full_width)
    at = (sample * full_height + y) * full_width + x
    wanted = tl.load(target + at, mask=inside, other=0)

    plane, step = logits + sample * stride_b, tl.cast(stride_k, tl.int64)
    largest = value(plane, where)
    total = tl.full(largest.shape, 1, tl.float32)
    picked = largest
    for k in range(1, classes):
        plane += step
        score = value(plane, where)
        picked = tl.where(wanted == k, score, picked)
        ahead = score - largest
        power = tl.exp(-tl.abs(ahead))
        total = tl.where(ahead > 0, total * power + 1, total + power)
        largest = tl.maximum(largest, score)
    log_sum = largest + tl.log(total)
    if KEEP:
        tl.store(log_sums + at, log_sum, mask=inside)

    inside = inside & (wanted != ignored)
    known = (wanted >= 0) & (wanted < classes)
    count = tl.sum(inside.to(tl.float32))
    # A label that is none makes the mean NaN, and every gradient with it.
    wrong = tl.sum((inside & (known == 0)).to(tl.int32))
    program = tl.program_id(0)
    tl.store(losses + program, tl.sum(tl.where(inside, log_sum - picked, 0.0)))
    tl.store(counts + program, tl.where(wrong > 0, float("nan"), count))


@triton.jit
def _backward(
    logits,
    target,
    log_sums,
    count,
    out,
    ignored,
    classes,
    height,
    width,
    full_height,
    full_width,
    stride_b,
    stride_k,
    stride_y,
    stride_x,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Walks down the enlarged rows and adds each to the two rows that it was made of."""
    strips, segments = tl.cdiv(width, BLOCK_X), tl.cdiv(height, ROWS)
    # The classes of a place are neighbours: the same labels are read for all of them.
    slices = tl.cdiv(classes, BLOCK_K)
    program = tl.program_id(0) // slices
    sample = (program // strips // segments).to(tl.int64)
    top = program // strips % segments * ROWS
    x = program % strips * BLOCK_X + tl.arange(0, BLOCK_X)
    k = tl.program_id(0) % slices * BLOCK_K + tl.arange(0, BLOCK_K)
    inside_x, inside_k = x < width, k < classes
    inside = inside_x[:, None] & inside_k[None, :]
    plane = logits + sample * stride_b + k.to(tl.int64)[None, :] * stride_k
    out += ((sample * classes + k)[None, :] * height + top) * width + x[:, None]

    # The enlarged columns that a column is a neighbour of.
    begin = first_after(x - 1, width, full_width, ALIGNED)
    end = tl.where(inside_x, first_after(x + 1, width, full_width, ALIGNED), 0)
    span = tl.max(end - begin, 0)
    zero = tl.zeros((BLOCK_X, BLOCK_K), tl.float32)
    here = zero
    for step in range(-1, tl.minimum(ROWS, height - top)):
        below = zero
        first_row = first_after(top + step, height, full_height, ALIGNED)
        last_row = first_after(top + step + 1, height, full_height, ALIGNED)
        for y in range(first_row, last_row):
            low, high, weight_y = neighbours(y, height, full_height, ALIGNED)
            line = (sample * full_height + y) * full_width
            rows = (low * stride_y, high * stride_y)
            total = zero
            for tap in range(span):
                column = begin + tap
                here_x = column < end
                wanted = tl.load(target + line + column, mask=here_x, other=ignored)
                log_sum = tl.load(log_sums + line + column, mask=here_x, other=0)
                near = tl.minimum(column, full_width - 1)
                left, right, weight_x = neighbours(near, width, full_width, ALIGNED)
                factor = tl.where(left == x, 1 - weight_x, 0.0)
                factor += tl.where(right == x, weight_x, 0.0)
                factor = tl.where(wanted != ignored, factor, 0.0)
                columns = (left * stride_x)[:, None], (right * stride_x)[:, None]
                score = _value(plane, rows, columns, weight_y, weight_x[:, None], inside_k[None, :])
                share = tl.exp(score - log_sum[:, None])
                share -= (wanted[:, None] == k[None, :]).to(tl.float32)
                # What does not count must not spread its infinities.
                total += tl.where(factor[:, None] != 0, share * factor[:, None], 0.0)
            # The last row is its own neighbour.
            here += total * tl.where(low == high, 1.0, 1 - weight_y)
            below += total * weight_y
        if step >= 0:
            weight = 1 / tl.load(count).to(tl.float32)
            tl.store(out, (here * weight).to(out.dtype.element_ty), mask=inside)
            out += width
        here = below


@triton.jit
def _value(plane, rows, columns, weight_y, weight_x, inside):
    """As `enlarged_logits.value`, of several classes in one row."""
    upper = tl.load(plane + (rows[0] + columns[0]), mask=inside, other=0).to(tl.float32)
    beside = tl.load(plane + (rows[0] + columns[1]), mask=inside, other=0).to(tl.float32)
    upper = upper * (1 - weight_x) + beside * weight_x
    lower = tl.load(plane + (rows[1] + columns[0]), mask=inside, other=0).to(tl.float32)
    beside = tl.load(plane + (rows[1] + columns[1]), mask=inside, other=0).to(tl.float32)
    lower = lower * (1 - weight_x) + beside * weight_x
    return upper * (1 - weight_y) + lower * weight_y


def upsample_cross_entropy(
    logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    """Launches the kernels: (B, K, h, w) of any strides, (B, H, W) int64 to a scalar.

    The second result is the gradient of the logits if it was asked for, else empty. Both are NaN
    where a label is neither in [0, K) nor `ignore_index`.
    """
    target = target.contiguous()
    batch, size = logits.shape[0], target.shape[1:]
    if target.numel() == 0:
        d_logits = logits.new_zeros(logits.shape if gradient else 0)
        return logits.new_full((), float("nan")), d_logits
    log_sums = logits.new_empty(target.shape if gradient else 1, dtype=torch.float32)

    def launch(how: Launch) -> Tensor:
        programs = batch * tiles(size, how)
        sums = logits.new_empty((2, programs), dtype=torch.float32)
        wrap_triton(_forward)[(programs,)](
            *(logits, target, log_sums, sums[0], sums[1], ignore_index),
            *(*logits.shape[1:], *size, *logits.stride()),
            ALIGNED=int(align_corners),
            KEEP=gradient,
            **how.options(),
        )
        return sums

    how = choose("upsample_cross_entropy", _key(logits, target), CANDIDATES, launch, logits)
    loss, count = launch(how).sum(dim=1, dtype=torch.float64).unbind()
    mean = (loss / count).to(logits.dtype)
    if not gradient:
        return mean, logits.new_empty(0)
    return mean, _gradient(logits, target, log_sums, count, ignore_index, align_corners)


def _gradient(
    logits: Tensor,
    target: Tensor,
    log_sums: Tensor,
    count: Tensor,
    ignore_index: int,
    align_corners: bool,
) -> Tensor:
    out = logits.new_empty(logits.shape)
    batch, classes, height, width = logits.shape

    def launch(how: Launch) -> None:
        programs = batch * triton.cdiv(height, how.blocks["ROWS"])
        programs *= triton.cdiv(width, how.blocks["BLOCK_X"])
        programs *= triton.cdiv(classes, how.blocks["BLOCK_K"])
        wrap_triton(_backward)[(programs,)](
            *(logits, target, log_sums, count, out, ignore_index),
            *(*logits.shape[1:], *target.shape[1:], *logits.stride()),
            ALIGNED=int(align_corners),
            **how.options(),
        )

    key = _key(logits, target)
    name = "upsample_cross_entropy_backward"
    launch(choose(name, key, BACKWARD_CANDIDATES, launch, logits))
    return out


def _key(logits: Tensor, target: Tensor) -> Key:
    return *logits.shape, *target.shape[1:], str(logits.dtype)
