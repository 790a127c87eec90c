"""Depthwise 3×3 convolution, bias and GELU on tokens, in one step."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg._engine import engine, flat, flats
from fastseg.errors import DtypeError, ShapeError
from fastseg.ops import reference
from fastseg.ops._autocast import lowered
from fastseg.ops._backends import chosen_backend, is_decomposed
from fastseg.ops._operation import operation

_aten = torch.ops.aten


def depthwise_conv_gelu(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes `gelu(depthwise_conv3x3(x) + b)` with zero padding, on tokens as they lie.

    The backward pass computes the convolution again instead of keeping its result.

    Args:
        tokens: (B, H, W, C) float.
        weight: (C, 1, 3, 3) float, of any float dtype: it is converted to that of the tokens.
        bias: (C) float, likewise.

    Returns:
        (B, H, W, C) float, contiguous.

    Raises:
        ShapeError: the shapes disagree.
        DtypeError: `tokens` is not floating point.
        BackendError: a backend that was asked for by name cannot run.

    Convention:
        The GELU is the exact one, `x Φ(x)`, not the tanh approximation. Under CUDA's autocast the
        tokens are converted to its dtype, as those of a convolution are.

    Source:
        E. Xie et al.: SegFormer, 2021, eq. 3 (Mix-FFN).

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> x = torch.randn(1, 5, 7, 8)
        >>> ops.depthwise_conv_gelu(x, torch.randn(8, 1, 3, 3), torch.zeros(8)).shape
        torch.Size([1, 5, 7, 8])
    """
    if tokens.ndim != 4:
        raise ShapeError(f"tokens: expected (B, H, W, C), got {tuple(tokens.shape)}")
    if not tokens.is_floating_point():
        raise DtypeError(f"tokens: expected floating point, got {tokens.dtype}")
    channels = tokens.shape[3]
    if tuple(weight.shape) != (channels, 1, 3, 3) or tuple(bias.shape) != (channels,):
        raise ShapeError(
            f"weight, bias: expected ({channels}, 1, 3, 3) and ({channels},) for tokens "
            f"{tuple(tokens.shape)}, got {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    tokens = lowered(tokens)
    weight, bias = weight.to(tokens.dtype), bias.to(tokens.dtype)
    if is_decomposed():
        return F.gelu(_convolution(tokens, weight, bias).permute(0, 2, 3, 1))
    out: Tensor = _depthwise_conv_gelu(tokens, weight, bias, chosen_backend())
    return out


def _convolution(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    picture = tokens.permute(0, 3, 1, 2)
    return F.conv2d(picture, weight, bias, padding=1, groups=weight.shape[0])


def _torch(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    hidden = _convolution(tokens, weight, bias).permute(0, 2, 3, 1)
    return F.gelu(hidden).contiguous()


def _rust(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = tokens.new_empty(tokens.shape)
    if out.numel():
        engine.depthwise_conv_gelu(
            flat(tokens), flat(weight), flat(bias), _sizes(tokens), flat(out)
        )
    return out


def _sizes(tokens: Tensor) -> tuple[int, int, int, int]:
    batch, height, width, channels = tokens.shape
    return batch, height, width, channels


def _triton(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from fastseg.kernels import depthwise_conv_gelu as kernels

    return kernels.depthwise_conv_gelu(tokens, weight, bias)


_FORWARD = {
    "reference": reference.depthwise_conv_gelu,
    "torch": _torch,
    "rust": _rust,
    "triton": _triton,
}


@operation(_FORWARD)
def _depthwise_conv_gelu(tokens: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
    return tokens.new_empty(tokens.shape)


def _backward_torch(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    hidden = _convolution(tokens, weight, bias)
    inner = _aten.gelu_backward(grad.permute(0, 3, 1, 2), hidden)
    ones, zeros = [1, 1], [0, 0]
    dx, dw, db = _aten.convolution_backward(
        inner,
        tokens.permute(0, 3, 1, 2),
        weight,
        list(bias.shape),
        ones,
        ones,
        ones,
        False,
        zeros,
        weight.shape[0],
        [True, True, True],
    )
    return dx.permute(0, 2, 3, 1).contiguous(), dw.contiguous(), db


def _backward_reference(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    hidden = bias.expand_as(tokens)
    height, width = tokens.shape[1:3]
    padded = F.pad(tokens, (0, 0, 1, 1, 1, 1))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    for i, j in shifts:
        hidden = hidden + padded[:, i : i + height, j : j + width] * weight[:, 0, i, j]
    density = torch.exp(-hidden * hidden / 2) / (2 * torch.pi) ** 0.5
    inner = grad * (0.5 * (1 + torch.erf(hidden / 2**0.5)) + hidden * density)
    d_padded, d_weight = torch.zeros_like(padded), torch.zeros_like(weight)
    for i, j in shifts:
        window = padded[:, i : i + height, j : j + width]
        d_padded[:, i : i + height, j : j + width] += inner * weight[:, 0, i, j]
        d_weight[:, 0, i, j] = (inner * window).sum(dim=(0, 1, 2))
    return d_padded[:, 1:-1, 1:-1].contiguous(), d_weight, inner.sum(dim=(0, 1, 2))


def _backward_rust(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dw, db = (x.new_zeros(x.shape) for x in (tokens, weight, bias))
    if dx.numel():
        engine.depthwise_conv_gelu_backward(
            flats([grad, tokens, weight, bias]), _sizes(tokens), flat(dx), flat(dw), flat(db)
        )
    return dx, dw, db


def _backward_triton(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from fastseg.kernels import depthwise_conv_gelu as kernels

    return kernels.depthwise_conv_gelu_backward(grad, tokens, weight, bias)


_BACKWARD = {
    "reference": _backward_reference,
    "torch": _backward_torch,
    "rust": _backward_rust,
    "triton": _backward_triton,
}


@operation(_BACKWARD)
def _depthwise_conv_gelu_backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        tokens.new_empty(tokens.shape),
        weight.new_empty(weight.shape),
        bias.new_empty(bias.shape),
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    tokens, weight, bias, ctx.backend = inputs
    ctx.save_for_backward(tokens, weight, bias)


def _backward(ctx: Any, grad: Tensor) -> Any:
    return *_depthwise_conv_gelu_backward(grad, *ctx.saved_tensors, ctx.backend), None


_depthwise_conv_gelu.register_autograd(_backward, setup_context=_setup_context)
