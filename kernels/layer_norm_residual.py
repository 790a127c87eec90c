"""A residual connection and the LayerNorm after it: each row is read once and written twice.

The backward pass reads the sum, and computes its mean and deviation again: the row is at hand.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.launching import Launch, choose

# Programs of the backward pass: each sums the gradients of weight and bias over its share of rows.
PROGRAMS = 512


@triton.jit
def _at(row, rows, WIDTH: tl.constexpr, BLOCK_C: tl.constexpr):
    """Where the channels of rows lie, and which of them there are."""
    c = tl.arange(0, BLOCK_C)
    inside = (row < rows)[:, None] & (c < WIDTH)[None, :]
    return row.to(tl.int64)[:, None] * WIDTH + c[None, :], inside


@triton.jit
def _channels(x, WIDTH: tl.constexpr, BLOCK_C: tl.constexpr):
    c = tl.arange(0, BLOCK_C)
    return tl.load(x + c, mask=c < WIDTH, other=0).to(tl.float32)[None, :]


@triton.jit
def _normalized(total, inside, eps, WIDTH: tl.constexpr):
    """Rows less their mean by their deviation, and one by that."""
    mean = tl.sum(total, 1) / WIDTH
    centered = tl.where(inside, total - mean[:, None], 0)
    scale = tl.rsqrt(tl.sum(centered * centered, 1) / WIDTH + eps)[:, None]
    return centered * scale, scale


@triton.jit(do_not_specialize=["rows", "tokens"])
def _forward(
    x,
    branch,
    factor,
    weight,
    bias,
    total,
    normed,
    rows,
    tokens,
    eps,
    WIDTH: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    at, inside = _at(row, rows, WIDTH, BLOCK_C)
    added = tl.load(branch + at, mask=inside, other=0).to(tl.float32)
    if SCALED:
        share = tl.load(factor + row // tokens, mask=row < rows, other=0).to(tl.float32)
        added *= share[:, None]
    # Normalized is what is stored, as if the two were done one after the other.
    y = (tl.load(x + at, mask=inside, other=0).to(tl.float32) + added).to(total.dtype.element_ty)
    tl.store(total + at, y, mask=inside)
    y, _ = _normalized(y.to(tl.float32), inside, eps, WIDTH)
    y = y * _channels(weight, WIDTH, BLOCK_C) + _channels(bias, WIDTH, BLOCK_C)
    tl.store(normed + at, y, mask=inside)


@triton.jit(do_not_specialize=["rows", "tokens", "programs"])
def _backward(
    d_total,
    d_normed,
    total,
    factor,
    weight,
    d_x,
    d_branch,
    d_weight,
    d_bias,
    rows,
    tokens,
    programs,
    eps,
    WIDTH: tl.constexpr,
    SCALED: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients of rows, and a program's part in those of weight and bias, (programs, C)."""
    w = _channels(weight, WIDTH, BLOCK_C)
    dw = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    db = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(tl.program_id(0) * BLOCK_R, rows, programs * BLOCK_R):
        row = first + tl.arange(0, BLOCK_R)
        at, inside = _at(row, rows, WIDTH, BLOCK_C)
        y, scale = _normalized(
            tl.load(total + at, mask=inside, other=0).to(tl.float32), inside, eps, WIDTH
        )
        g = tl.load(d_normed + at, mask=inside, other=0).to(tl.float32)
        dw += g * y
        db += g
        g *= w
        along = tl.sum(g * y, 1)[:, None] / WIDTH
        g = (g - tl.sum(g, 1)[:, None] / WIDTH - y * along) * scale
        g += tl.load(d_total + at, mask=inside, other=0).to(tl.float32)
        tl.store(d_x + at, g, mask=inside)
        if not SHARED:
            if SCALED:
                share = tl.load(factor + row // tokens, mask=row < rows, other=0).to(tl.float32)
                g *= share[:, None]
            tl.store(d_branch + at, g, mask=inside)
    c = tl.arange(0, BLOCK_C)
    at = tl.program_id(0).to(tl.int64) * WIDTH + c
    tl.store(d_weight + at, tl.sum(dw, 0), mask=c < WIDTH)
    tl.store(d_bias + at, tl.sum(db, 0), mask=c < WIDTH)


def layer_norm_residual(
    x: Tensor,
    branch: Tensor,
    factor: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    total_dtype: torch.dtype,
    normed_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Launches the forward kernel.

    Args:
        x: (B, …, C).
        branch: (B, …, C).
        factor: (B), of the branch; None: one.
        weight: (C).
        bias: (C).
        eps: of the LayerNorm.
        total_dtype: of the first result.
        normed_dtype: of the second.

    Returns:
        The sum and its LayerNorm, (B, …, C) each.
    """
    x, branch, weight, bias = (t.contiguous() for t in (x, branch, weight, bias))
    total = x.new_empty(x.shape, dtype=total_dtype)
    normed = x.new_empty(x.shape, dtype=normed_dtype)
    if x.numel() == 0:
        return total, normed
    rows, width = x.numel() // x.shape[-1], x.shape[-1]

    def launch(how: Launch) -> None:
        wrap_triton(_forward)[(triton.cdiv(rows, how.blocks["BLOCK_R"]),)](
            x,
            branch,
            _given(factor, x),
            weight,
            bias,
            total,
            normed,
            rows,
            rows // x.shape[0],
            eps,
            WIDTH=width,
            SCALED=factor is not None,
            **how.options(),
        )

    candidates = [_launch(width, 2048), _launch(width, 4096)]
    launch(choose("layer_norm_residual", (rows, width, str(x.dtype)), candidates, launch, x))
    return total, normed


def layer_norm_residual_backward(
    d_total: Tensor,
    d_normed: Tensor,
    total: Tensor,
    factor: Tensor | None,
    weight: Tensor,
    eps: float,
    x_dtype: torch.dtype,
    branch_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launches the backward kernel.

    Args:
        d_total: (B, …, C), gradient of the sum.
        d_normed: (B, …, C), gradient of its LayerNorm.
        total: (B, …, C), the sum.
        factor: (B), or None.
        weight: (C).
        eps: of the LayerNorm.
        x_dtype: of x.
        branch_dtype: of the branch.

    Returns:
        The gradients of x, branch, weight and bias; that of the branch is empty where it is x's:
        without a factor and with the same dtype.
    """
    d_total, d_normed = d_total.contiguous(), d_normed.contiguous()
    shared = factor is None and x_dtype == branch_dtype
    d_x = total.new_empty(total.shape, dtype=x_dtype)
    d_branch = total.new_empty((0,) if shared else total.shape, dtype=branch_dtype)
    if total.numel() == 0:
        return d_x, d_branch, torch.zeros_like(weight), torch.zeros_like(weight)
    rows, width = total.numel() // total.shape[-1], total.shape[-1]
    how = _launch(width, 2048)
    programs = min(PROGRAMS, triton.cdiv(rows, how.blocks["BLOCK_R"]))
    parts = [total.new_empty((programs, width), dtype=torch.float32) for _ in range(2)]
    wrap_triton(_backward)[(programs,)](
        d_total,
        d_normed,
        total,
        _given(factor, total),
        weight.contiguous(),
        d_x,
        d_branch,
        *parts,
        rows,
        rows // total.shape[0],
        programs,
        eps,
        WIDTH=width,
        SCALED=factor is not None,
        SHARED=shared,
        **how.options(),
    )
    d_weight, d_bias = (part.sum(dim=0).to(weight.dtype) for part in parts)
    return d_x, d_branch, d_weight, d_bias


def _given(factor: Tensor | None, instead: Tensor) -> Tensor:
    """The factor, or another tensor as a pointer that is not followed."""
    return instead if factor is None else factor.contiguous()


def _launch(width: int, values: int) -> Launch:
    """As many rows as make about so many values."""
    block = triton.next_power_of_2(width)
    return Launch({"BLOCK_R": max(1, values // block), "BLOCK_C": block}, num_warps=4)
