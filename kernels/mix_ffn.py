"""Linear, depthwise 3×3 convolution, GELU, linear, residual: the hidden values stay on the chip.

A program walks down a column of rows, as that of `depthwise_conv_gelu` does. Tensor cores project
each row of tokens three times, shifted by a column each, which costs less than handing projected
values from thread to thread would; a rim of one row above and below is projected once more.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.depthwise_conv_gelu import column, factors_of_row, taps
from fastseg.kernels.launching import Key, Launch, choose
from fastseg.kernels.precision import input_precision
from fastseg.kernels.tokens import rows_of_channels, steps

CANDIDATES = [
    Launch({"ROWS": 8, "BLOCK_X": 16}, num_warps=8),
    Launch({"ROWS": 16, "BLOCK_X": 16}, num_warps=8),
]


@triton.jit
def _hidden_row(
    tokens,
    y,
    x,
    height,
    width,
    stride_y,
    stride_x,
    inside_c,
    project,
    bias,
    PRECISION: tl.constexpr,
):
    """The hidden values left of, at and right of the places of a row; zeros outside."""
    row = tokens + y.to(tl.int64) * stride_y
    end = tl.where((y >= 0) & (y < height), width, 0)
    return (
        _hidden(row - stride_x, (x >= 1) & (x <= end), inside_c, project, bias, PRECISION),
        _hidden(row, x < end, inside_c, project, bias, PRECISION),
        _hidden(row + stride_x, x + 1 < end, inside_c, project, bias, PRECISION),
    )


@triton.jit
def _hidden(tokens, inside, inside_c, project, bias, PRECISION: tl.constexpr):
    values = tl.load(tokens, mask=inside[:, None] & inside_c[None, :], other=0)
    offset = tl.where(inside[:, None], bias, 0.0)
    return tl.dot(values, project, offset, input_precision=PRECISION)


@triton.jit
def _forward(
    tokens,
    residual,
    project,
    project_bias,
    weight,
    bias,
    back,
    back_bias,
    out,
    height,
    width,
    channels,
    hidden_channels,
    stride_b,
    stride_y,
    stride_x,
    residual_b,
    residual_y,
    residual_x,
    RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    sample, top, x = column(height, width, ROWS, BLOCK_X)
    c, k = tl.arange(0, CHANNELS), tl.arange(0, HIDDEN)
    inside_c, inside_k = c < channels, k < hidden_channels
    matrix = inside_c[:, None] & inside_k[None, :]
    project = tl.load(project + k[None, :] * channels + c[:, None], mask=matrix, other=0)
    matrix = inside_k[:, None] & inside_c[None, :]
    back = tl.load(back + c[None, :] * hidden_channels + k[:, None], mask=matrix, other=0)
    project_bias = tl.load(project_bias + k, mask=inside_k, other=0).to(tl.float32)[None, :]
    back_bias = tl.load(back_bias + c, mask=inside_c, other=0).to(tl.float32)[None, :]
    start = tl.load(bias + k, mask=inside_k, other=0).to(tl.float32)[None, :]
    first = factors_of_row(weight, k, inside_k, 0, False)
    second = factors_of_row(weight, k, inside_k, 1, False)
    third = factors_of_row(weight, k, inside_k, 2, False)
    place = x.to(tl.int64)[:, None]
    tokens += sample * stride_b + place * stride_x + c[None, :]
    residual += sample * residual_b + top.to(tl.int64) * residual_y
    residual += place * residual_x + c[None, :]
    out += ((sample * height + top) * width + place) * channels + c[None, :]
    inside = (x < width)[:, None] & inside_c[None, :]

    row = _hidden_row(
        *(tokens, top - 1, x, height, width, stride_y, stride_x),
        *(inside_c, project, project_bias, PRECISION),
    )
    here = start + taps(row, first)
    row = _hidden_row(
        *(tokens, top, x, height, width, stride_y, stride_x),
        *(inside_c, project, project_bias, PRECISION),
    )
    here += taps(row, second)
    below = start + taps(row, first)
    for step in range(tl.minimum(ROWS, height - top)):
        row = _hidden_row(
            *(tokens, top + step + 1, x, height, width, stride_y, stride_x),
            *(inside_c, project, project_bias, PRECISION),
        )
        total = here + taps(row, third)
        here = below + taps(row, second)
        below = start + taps(row, first)
        total *= 0.5 + 0.5 * tl.erf(total * 0.7071067811865476)
        mixed = tl.dot(total.to(back.dtype), back, input_precision=PRECISION) + back_bias
        if RESIDUAL:
            mixed += tl.load(residual, mask=inside, other=0).to(tl.float32)
            residual += residual_y
        tl.store(out, mixed.to(out.dtype.element_ty), mask=inside)
        out += width.to(tl.int64) * channels


def mix_ffn(
    tokens: Tensor,
    project: Tensor,
    project_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    back: Tensor,
    back_bias: Tensor,
    residual: Tensor | None,
) -> Tensor:
    """Launches the kernel.

    Args:
        tokens: (B, H, W, C).
        project: (M, C), to the hidden channels.
        project_bias: (M).
        weight: (M, 1, 3, 3), of the depthwise convolution.
        bias: (M).
        back: (C, M).
        back_bias: (C).
        residual: (B, H, W, C) that is added, or None.

    Returns:
        (B, H, W, C).
    """
    dtype = tokens.dtype if residual is None else torch.promote_types(tokens.dtype, residual.dtype)
    out = tokens.new_empty(tokens.shape, dtype=dtype)
    if out.numel() == 0:
        return out
    tokens = rows_of_channels(tokens)
    added = tokens if residual is None else rows_of_channels(residual)
    batch, height, width, channels = tokens.shape
    hidden = project.shape[0]
    parameters = [x.contiguous() for x in (project, project_bias, weight, bias, back, back_bias)]

    def launch(how: Launch) -> None:
        rows, columns = how.blocks["ROWS"], how.blocks["BLOCK_X"]
        wrap_triton(_forward)[(batch * triton.cdiv(height, rows) * triton.cdiv(width, columns),)](
            *(tokens, added, *parameters, out),
            *(height, width, channels, hidden, *steps(tokens), *steps(added)),
            RESIDUAL=residual is not None,
            PRECISION=input_precision(tokens),
            CHANNELS=max(16, triton.next_power_of_2(channels)),
            HIDDEN=max(16, triton.next_power_of_2(hidden)),
            **how.options(),
        )

    key: Key = (batch, height, width, channels, hidden, str(tokens.dtype))
    launch(choose("mix_ffn", key, CANDIDATES, launch, tokens))
    return out
