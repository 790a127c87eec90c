"""Depthwise 3×3 convolution, bias and GELU on tokens: one read, one write."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.launching import Launch, choose

CANDIDATES = [
    Launch({"BLOCK_Y": 4, "BLOCK_X": 16, "BLOCK_C": 32}, num_warps=4),
    Launch({"BLOCK_Y": 8, "BLOCK_X": 8, "BLOCK_C": 32}, num_warps=4),
]


@triton.jit
def _forward(
    tokens,
    weight,
    bias,
    out,
    height,
    width,
    channels,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    tile, sample = tl.program_id(0), tl.program_id(2).to(tl.int64)
    across = tl.cdiv(width, BLOCK_X)
    place = tl.arange(0, BLOCK_Y * BLOCK_X)
    y = tile // across * BLOCK_Y + place // BLOCK_X
    x = tile % across * BLOCK_X + place % BLOCK_X
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    total = tl.zeros((BLOCK_Y * BLOCK_X, BLOCK_C), tl.float32)
    total += tl.load(bias + c, mask=inside_c, other=0).to(tl.float32)[None, :]
    start = sample * height * width * channels
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            yy, xx = y + i - 1, x + j - 1
            inside = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
            at = start + (yy.to(tl.int64) * width + xx)[:, None] * channels + c[None, :]
            value = tl.load(tokens + at, mask=inside[:, None] & inside_c[None, :], other=0)
            factor = tl.load(weight + c * 9 + i * 3 + j, mask=inside_c, other=0)
            total += value.to(tl.float32) * factor.to(tl.float32)[None, :]
    result = 0.5 * total * (1 + tl.erf(total * 0.7071067811865476))
    at = start + (y.to(tl.int64) * width + x)[:, None] * channels + c[None, :]
    inside = (y < height) & (x < width)
    tl.store(out + at, result, mask=inside[:, None] & inside_c[None, :])


def depthwise_conv_gelu(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Launches the forward kernel: (B, H, W, C), (C, 1, 3, 3), (C) to (B, H, W, C)."""
    tokens, weight, bias = tokens.contiguous(), weight.contiguous(), bias.contiguous()
    out = torch.empty_like(tokens)
    batch, height, width, channels = tokens.shape
    if out.numel() == 0:
        return out

    def launch(how: Launch) -> None:
        tiles = triton.cdiv(height, how.blocks["BLOCK_Y"]) * triton.cdiv(
            width, how.blocks["BLOCK_X"]
        )
        grid = (tiles, triton.cdiv(channels, how.blocks["BLOCK_C"]), batch)
        wrap_triton(_forward)[grid](
            tokens, weight, bias, out, height, width, channels, **how.options()
        )

    key = (height, width, channels, str(tokens.dtype))
    launch(choose("depthwise_conv_gelu", key, CANDIDATES, launch, tokens))
    return out
