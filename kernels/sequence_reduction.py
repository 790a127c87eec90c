"""The reduction of keys and values: squares of tokens, a matrix product, bias and LayerNorm.

A program gathers the squares of a few outputs straight from the tokens, a part of a square at a
time, and multiplies them with that part of the weight. It has all channels of its outputs in
registers then, which is what LayerNorm needs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.launching import Launch, choose
from fastseg.kernels.precision import input_precision
from fastseg.kernels.tokens import rows_of_channels, steps


@triton.jit(do_not_specialize=["outputs"])
def _forward(
    tokens,
    weight,
    bias,
    norm_weight,
    norm_bias,
    out,
    token_sample,
    token_row,
    token_column,
    outputs,
    rows,
    columns,
    eps,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    inside_m, inside_n = m < outputs, n < WIDTH
    sample, place = (m // (rows * columns)).to(tl.int64), m % (rows * columns)
    corner = sample * token_sample + (place // columns * SIDE).to(tl.int64) * token_row
    corner += (place % columns * SIDE).to(tl.int64) * token_column
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    chunks: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
    for step in range(SIDE * SIDE * chunks):
        within, chunk = step // chunks, step % chunks
        c = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
        inside_c = c < CHANNELS
        at = corner + (within // SIDE * token_row + within % SIDE * token_column)
        mask = inside_m[:, None] & inside_c[None, :]
        x = tl.load(tokens + at[:, None] + c[None, :], mask=mask, other=0)
        at = n[None, :] * (SIDE * SIDE * CHANNELS) + within * CHANNELS + c[:, None]
        w = tl.load(weight + at, mask=inside_n[None, :] & inside_c[:, None], other=0)
        total = tl.dot(x, w, acc=total, input_precision=PRECISION)
    total += tl.load(bias + n, mask=inside_n, other=0).to(tl.float32)[None, :]
    at = m.to(tl.int64)[:, None] * WIDTH + n[None, :]
    mask = inside_m[:, None] & inside_n[None, :]
    mean = tl.sum(total, 1) / WIDTH
    centered = tl.where(inside_n[None, :], total - mean[:, None], 0)
    deviation = tl.rsqrt(tl.sum(centered * centered, 1) / WIDTH + eps)
    factor = tl.load(norm_weight + n, mask=inside_n, other=0).to(tl.float32)
    offset = tl.load(norm_bias + n, mask=inside_n, other=0).to(tl.float32)
    tl.store(out + at, centered * deviation[:, None] * factor[None, :] + offset[None, :], mask=mask)


def sequence_reduction(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
) -> Tensor:
    """Launches the forward kernel.

    Args:
        tokens: (B, H, W, C).
        weight: (D, C, s, s); read where it lies if that is channels-last memory.
        bias: (D).
        norm_weight: (D).
        norm_bias: (D).
        eps: of the LayerNorm.

    Returns:
        (B, ⌊H/s⌋, ⌊W/s⌋, D).
    """
    tokens = rows_of_channels(tokens)
    bias, norm_weight, norm_bias = (x.contiguous() for x in (bias, norm_weight, norm_bias))
    batch, height, width, channels = tokens.shape
    outputs, side = weight.shape[0], weight.shape[2]
    rows, columns = height // side, width // side
    out = tokens.new_empty((batch, rows, columns, outputs))
    if out.numel() == 0:
        return out
    matrix = weight.permute(0, 2, 3, 1).contiguous()

    def launch(how: Launch) -> None:
        wrap_triton(_forward)[(triton.cdiv(batch * rows * columns, how.blocks["BLOCK_M"]),)](
            tokens,
            matrix,
            bias,
            norm_weight,
            norm_bias,
            out,
            *steps(tokens),
            batch * rows * columns,
            rows,
            columns,
            eps,
            CHANNELS=channels,
            WIDTH=outputs,
            SIDE=side,
            PRECISION=input_precision(tokens),
            BLOCK_N=max(16, triton.next_power_of_2(outputs)),
            **how.options(),
        )

    key = (batch, height, width, channels, outputs, side, str(tokens.dtype))
    launch(choose("sequence_reduction", key, _candidates(tokens, outputs), launch, tokens))
    return out


def _candidates(tokens: Tensor, outputs: int) -> list[Launch]:
    """Few outputs at a time: the reduction leaves few, and all their channels are in registers."""
    if tokens.dtype == torch.float32:
        return [Launch({"BLOCK_M": 16, "BLOCK_K": 16}, num_warps=8, num_stages=2)]
    if outputs > 128:
        return [Launch({"BLOCK_M": 16, "BLOCK_K": 32}, num_warps=4, num_stages=2)]
    return [Launch({"BLOCK_M": 16, "BLOCK_K": 64}, num_warps=4, num_stages=3)]
