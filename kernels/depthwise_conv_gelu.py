"""Depthwise 3×3 convolution, bias and GELU on tokens: one read, one write.

A program walks down a column of rows. Of each row it reads three shifted copies, which lie in the
first-level cache after the first, and adds them to the sums of the three rows that they touch, so
memory sees each token once and a rim of one token around the column.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.launching import Launch, choose
from fastseg.kernels.tokens import rows_of_channels, steps

CANDIDATES = [
    Launch({"ROWS": 16, "BLOCK_X": 32, "BLOCK_C": 32}, num_warps=4),
    Launch({"ROWS": 32, "BLOCK_X": 16, "BLOCK_C": 64}, num_warps=4),
]
# Nine products and nine factors for each channel of a thread: half as many channels fit.
BACKWARD_CANDIDATES = [
    Launch({"ROWS": 16, "BLOCK_X": 32, "BLOCK_C": 32}, num_warps=8),
    Launch({"ROWS": 32, "BLOCK_X": 32, "BLOCK_C": 16}, num_warps=4),
]


@triton.jit
def column(height, width, ROWS: tl.constexpr, BLOCK_X: tl.constexpr):
    """The sample, the first row and the columns that a program works on."""
    strips, segments = tl.cdiv(width, BLOCK_X), tl.cdiv(height, ROWS)
    program = tl.program_id(0)
    x = program % strips * BLOCK_X + tl.arange(0, BLOCK_X)
    top = program // strips % segments * ROWS
    return (program // strips // segments).to(tl.int64), top, x


@triton.jit
def factors_of_row(weight, c, inside_c, ROW: tl.constexpr, FLIP: tl.constexpr):
    """Row ROW of the windows of all channels, left to right."""
    first: tl.constexpr = 8 - 3 * ROW if FLIP else 3 * ROW
    step: tl.constexpr = -1 if FLIP else 1
    return (
        tl.load(weight + c * 9 + first, mask=inside_c, other=0).to(tl.float32)[None, :],
        tl.load(weight + c * 9 + first + step, mask=inside_c, other=0).to(tl.float32)[None, :],
        tl.load(weight + c * 9 + first + 2 * step, mask=inside_c, other=0).to(tl.float32)[None, :],
    )


@triton.jit
def _row(tokens, y, x, height, width, stride_y, stride_x, inside_c):
    """What lies left of, at and right of each place of a row; zeros outside of the picture."""
    row = tokens + y.to(tl.int64) * stride_y
    end = tl.where((y >= 0) & (y < height), width, 0)
    left = ((x >= 1) & (x <= end))[:, None] & inside_c[None, :]
    here = (x < end)[:, None] & inside_c[None, :]
    right = (x + 1 < end)[:, None] & inside_c[None, :]
    return (
        tl.load(row - stride_x, mask=left, other=0),
        tl.load(row, mask=here, other=0),
        tl.load(row + stride_x, mask=right, other=0),
    )


@triton.jit
def taps(row, factors):
    """What a row adds to the convolution at a row of places."""
    total = row[0].to(tl.float32) * factors[0]
    total += row[1].to(tl.float32) * factors[1]
    return total + row[2].to(tl.float32) * factors[2]


@triton.jit
def _products(sums, row, values):
    """Adds the products of values with the three neighbours of a row."""
    return (
        sums[0] + row[0].to(tl.float32) * values,
        sums[1] + row[1].to(tl.float32) * values,
        sums[2] + row[2].to(tl.float32) * values,
    )


@triton.jit
def _convolve(
    tokens,
    weight,
    bias,
    out,
    height,
    width,
    channels,
    stride_b,
    stride_y,
    stride_x,
    FORWARD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Forward: `gelu(convolution + bias)`. Else the convolution with the windows turned around."""
    sample, top, x = column(height, width, ROWS, BLOCK_X)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    start = tl.zeros((1, BLOCK_C), tl.float32)
    if FORWARD:
        start += tl.load(bias + c, mask=inside_c, other=0).to(tl.float32)[None, :]
    first = factors_of_row(weight, c, inside_c, 0, not FORWARD)
    second = factors_of_row(weight, c, inside_c, 1, not FORWARD)
    third = factors_of_row(weight, c, inside_c, 2, not FORWARD)
    tokens += sample * stride_b + x.to(tl.int64)[:, None] * stride_x + c[None, :]
    out += ((sample * height + top) * width + x)[:, None] * channels + c[None, :]
    inside = (x < width)[:, None] & inside_c[None, :]

    above = _row(tokens, top - 1, x, height, width, stride_y, stride_x, inside_c)
    row = _row(tokens, top, x, height, width, stride_y, stride_x, inside_c)
    # Sums of the row at hand and of the next, as far as their rows of tokens were read.
    here = start + taps(above, first) + taps(row, second)
    below = start + taps(row, first)
    for step in range(tl.minimum(ROWS, height - top)):
        row = _row(tokens, top + step + 1, x, height, width, stride_y, stride_x, inside_c)
        total = here + taps(row, third)
        here = below + taps(row, second)
        below = start + taps(row, first)
        if FORWARD:
            total *= 0.5 + 0.5 * tl.erf(total * 0.7071067811865476)
        tl.store(out, total.to(out.dtype.element_ty), mask=inside)
        out += width.to(tl.int64) * channels


@triton.jit
def _backward_inner(
    grad,
    tokens,
    weight,
    bias,
    inner,
    partials,
    height,
    width,
    channels,
    grad_b,
    grad_y,
    grad_x,
    stride_b,
    stride_y,
    stride_x,
    ROWS: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The gradient before the GELU, and each program's share of those of weight and bias."""
    sample, top, x = column(height, width, ROWS, BLOCK_X)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = c < channels
    start = tl.load(bias + c, mask=inside_c, other=0).to(tl.float32)[None, :]
    first = factors_of_row(weight, c, inside_c, 0, False)
    second = factors_of_row(weight, c, inside_c, 1, False)
    third = factors_of_row(weight, c, inside_c, 2, False)
    place = x.to(tl.int64)[:, None]
    tokens += sample * stride_b + place * stride_x + c[None, :]
    grad += sample * grad_b + top.to(tl.int64) * grad_y + place * grad_x + c[None, :]
    inner += ((sample * height + top) * width + x)[:, None] * channels + c[None, :]
    inside = (x < width)[:, None] & inside_c[None, :]

    zero = tl.zeros((BLOCK_X, BLOCK_C), tl.float32)
    d_bias = zero
    d_first, d_second, d_third = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)
    above = _row(tokens, top - 1, x, height, width, stride_y, stride_x, inside_c)
    row = _row(tokens, top, x, height, width, stride_y, stride_x, inside_c)
    for step in range(tl.minimum(ROWS, height - top)):
        below = _row(tokens, top + step + 1, x, height, width, stride_y, stride_x, inside_c)
        hidden = start + taps(above, first) + taps(row, second) + taps(below, third)
        slope = 0.5 + 0.5 * tl.erf(hidden * 0.7071067811865476)
        slope += hidden * 0.3989422804014327 * tl.exp(-0.5 * hidden * hidden)
        values = tl.load(grad, mask=inside, other=0).to(tl.float32) * slope
        tl.store(inner, values.to(inner.dtype.element_ty), mask=inside)
        d_first = _products(d_first, above, values)
        d_second = _products(d_second, row, values)
        d_third = _products(d_third, below, values)
        d_bias += values
        above = row
        row = below
        grad += grad_y
        inner += width.to(tl.int64) * channels

    partials += tl.program_id(0).to(tl.int64) * 10 * channels + c
    for j in tl.static_range(3):
        tl.store(partials + j * channels, tl.sum(d_first[j], 0), mask=inside_c)
        tl.store(partials + (3 + j) * channels, tl.sum(d_second[j], 0), mask=inside_c)
        tl.store(partials + (6 + j) * channels, tl.sum(d_third[j], 0), mask=inside_c)
    tl.store(partials + 9 * channels, tl.sum(d_bias, 0), mask=inside_c)


def depthwise_conv_gelu(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Launches the forward kernel: (B, H, W, C), (C, 1, 3, 3), (C) to (B, H, W, C)."""
    return _convolved("depthwise_conv_gelu", tokens, weight, bias, forward=True)


def depthwise_conv_gelu_backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the backward kernels.

    The first reads tokens and gradient, convolves again and writes the gradient before the GELU;
    the second convolves that with the windows turned around.

    Args:
        grad: (B, H, W, C), of the result.
        tokens: (B, H, W, C).
        weight: (C, 1, 3, 3).
        bias: (C).

    Returns:
        The gradients of tokens, weight and bias.
    """
    if tokens.numel() == 0:
        return tokens.new_empty(tokens.shape), torch.zeros_like(weight), torch.zeros_like(bias)
    grad, tokens = rows_of_channels(grad), rows_of_channels(tokens)
    weight, bias = weight.contiguous(), bias.contiguous()
    _, height, width, channels = tokens.shape
    inner = tokens.new_empty(tokens.shape)

    def launch(how: Launch) -> Tensor:
        grid = _grid(tokens, how)
        partials = tokens.new_empty(grid[0], 10, channels, dtype=torch.float32)
        wrap_triton(_backward_inner)[grid](
            *(grad, tokens, weight, bias, inner, partials),
            *(height, width, channels, *steps(grad), *steps(tokens)),
            **how.options(),
        )
        return partials

    name = "depthwise_conv_gelu_backward"
    partials = launch(choose(name, _key(tokens), BACKWARD_CANDIDATES, launch, tokens))
    d_weight = partials[:, :9].sum(0).T.contiguous().view(weight.shape)
    d_bias = partials[:, 9].sum(0)
    d_tokens = _convolved("depthwise_conv_gelu_transposed", inner, weight, bias, forward=False)
    return d_tokens, d_weight.to(weight.dtype), d_bias.to(bias.dtype)


def _convolved(name: str, tokens: Tensor, weight: Tensor, bias: Tensor, *, forward: bool) -> Tensor:
    out = tokens.new_empty(tokens.shape)
    if out.numel() == 0:
        return out
    tokens, weight, bias = rows_of_channels(tokens), weight.contiguous(), bias.contiguous()
    _, height, width, channels = tokens.shape

    def launch(how: Launch) -> None:
        wrap_triton(_convolve)[_grid(tokens, how)](
            *(tokens, weight, bias, out, height, width, channels, *steps(tokens)),
            FORWARD=forward,
            **how.options(),
        )

    launch(choose(name, _key(tokens), CANDIDATES, launch, tokens))
    return out


def _grid(tokens: Tensor, how: Launch) -> tuple[int, int]:
    batch, height, width, channels = tokens.shape
    columns = triton.cdiv(height, how.blocks["ROWS"]) * triton.cdiv(width, how.blocks["BLOCK_X"])
    return batch * columns, triton.cdiv(channels, how.blocks["BLOCK_C"])


def _key(tokens: Tensor) -> tuple[int | str, ...]:
    return (*tokens.shape, str(tokens.dtype))
