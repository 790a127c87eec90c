"""The label of each pixel of enlarged logits: logits are read once, labels written once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.enlarged_logits import CANDIDATES, likeliest, taps, tile, tiles
from fastseg.kernels.launching import Launch, choose


@triton.jit
def _forward(
    logits,
    out,
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
    at = (sample * full_height + y) * full_width + x
    tl.store(out + at, label.to(tl.int64), mask=(y < full_height) & (x < full_width))


def upsample_argmax(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Launches the kernel: (B, K, h, w) of any strides to (B, H, W) int64."""
    batch, classes, height, width = logits.shape
    out = logits.new_empty((batch, *size), dtype=torch.int64)
    if out.numel() == 0:
        return out

    def launch(how: Launch) -> None:
        wrap_triton(_forward)[(batch * tiles(size, how),)](
            *(logits, out, classes, height, width, *size, *logits.stride()),
            ALIGNED=int(align_corners),
            **how.options(),
        )

    key = (*logits.shape, *size, str(logits.dtype))
    launch(choose("upsample_argmax", key, CANDIDATES, launch, logits))
    return out
