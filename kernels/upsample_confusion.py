"""The confusion matrix of enlarged logits, counted with integer atomics: any order, one result."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.enlarged_logits import CANDIDATES, likeliest, taps, tile, tiles
from fastseg.kernels.launching import Launch, choose

NOTHING = -(2**63)


@triton.jit
def _forward(
    logits,
    target,
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
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    sample, y, x = tile(full_height, full_width, BLOCK_Y, BLOCK_X)
    sizes = (height, width, full_height, full_width)
    where = taps(y, x, sizes, (stride_y, stride_x), ALIGNED)
    step = tl.cast(stride_k, tl.int64)
    label = likeliest(logits + sample * stride_b, step, classes, where)
    inside = (y < full_height) & (x < full_width)
    at = (sample * full_height + y) * full_width + x
    wanted = tl.load(target + at, mask=inside, other=0)
    inside = inside & (wanted != ignored)
    known = (wanted >= 0) & (wanted < classes)
    cells = classes * classes
    # The cell behind the matrix counts labels that are none; those that do not count come last.
    cell = tl.where(known, wanted.to(tl.int32) * classes + label, cells)
    cell = tl.where(inside, cell, cells + 1)
    # A tile has few pairs of labels: one atomic for each of them, and not for each pixel.
    least = tl.min(cell)
    while least <= cells:
        same = cell == least
        tl.atomic_add(counts + least, tl.sum(same.to(tl.int32)).to(tl.int64))
        cell = tl.where(same, cells + 1, cell)
        least = tl.min(cell)


def upsample_confusion(
    logits: Tensor, target: Tensor, ignore_index: int | None, align_corners: bool
) -> Tensor:
    """Launches the kernel: (B, K, h, w) of any strides, (B, H, W) int64 to (K, K) int64.

    Every number is -1 where a label is neither in [0, K) nor `ignore_index`.
    """
    batch, classes, height, width = logits.shape
    target = target.contiguous()
    size = target.shape[1:]
    counts = logits.new_zeros(classes * classes + 1, dtype=torch.int64)
    if target.numel() == 0:
        return counts[:-1].view(classes, classes)
    # A number that no kind of label has but int64, which hardly counts classes from there.
    ignored = NOTHING if ignore_index is None else ignore_index

    def launch(how: Launch, into: Tensor) -> None:
        wrap_triton(_forward)[(batch * tiles(size, how),)](
            *(logits, target, into, ignored, classes, height, width, *size, *logits.stride()),
            ALIGNED=int(align_corners),
            **how.options(),
        )

    def try_out(how: Launch) -> None:
        launch(how, torch.zeros_like(counts))

    key = (*logits.shape, *size, str(logits.dtype))
    launch(choose("upsample_confusion", key, CANDIDATES, try_out, logits), counts)
    return counts[:-1].view(classes, classes).where(counts[-1] == 0, -1)
