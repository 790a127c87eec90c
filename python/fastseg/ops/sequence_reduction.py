"""What SegFormer's keys and values are made of: squares of tokens, reduced to one token each."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.errors import DtypeError, ShapeError
from fastseg.ops import reference
from fastseg.ops._autocast import lowered
from fastseg.ops._backends import check_tensors, chosen_backend, is_decomposed
from fastseg.ops._operation import operation
from fastseg.ops.layer_norm import layer_norm

_aten = torch.ops.aten

# Channels of an output that the Triton kernel holds beside each other in registers.
WIDEST = 512


def sequence_reduction(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Computes `layer_norm(conv(x) + b)`, the convolution's stride being its kernel's side.

    Args:
        tokens: (B, H, W, C) float.
        weight: (D, C, s, s) float, of the tokens' dtype; on a GPU of any, and converted.
        bias: (D) float, likewise.
        norm_weight: (D) float, likewise.
        norm_bias: (D) float, likewise.
        eps: of the LayerNorm.

    Returns:
        (B, ⌊H/s⌋, ⌊W/s⌋, D) float.

    Raises:
        ShapeError: the shapes disagree, or the tokens do not fill one square.
        DtypeError: `tokens` is not floating point.
        BackendError: a backend that was asked for by name cannot run.

    Convention:
        Rows and columns that do not fill a square are left out. On a GPU a weight in channels-last
        memory is read where it lies. On a CPU PyTorch's own operators are the fastest; the engine
        has no version of its own, and "rust" runs them.

    Source:
        E. Xie et al.: SegFormer, 2021, eq. 2 (sequence reduction).

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> x, w, one, zero = torch.randn(1, 9, 13, 8), torch.randn(8, 8, 4, 4), *torch.eye(2, 8)
        >>> ops.sequence_reduction(x, w, zero, one, zero).shape
        torch.Size([1, 2, 3, 8])
    """
    tokens = lowered(tokens)
    _check(tokens, weight, bias, norm_weight, norm_bias)
    backend = chosen_backend()
    if is_decomposed() or backend == "rust" or (backend == "" and tokens.device.type == "cpu"):
        return _plain(tokens, weight, bias, norm_weight, norm_bias, eps=eps)
    weight, bias = weight.to(tokens.dtype), bias.to(tokens.dtype)
    out: Tensor = _sequence_reduction(tokens, weight, bias, norm_weight, norm_bias, eps, backend)
    return out


def _check(
    tokens: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor
) -> None:
    if tokens.ndim != 4:
        raise ShapeError(f"tokens: expected (B, H, W, C), got {tuple(tokens.shape)}")
    if not tokens.is_floating_point():
        raise DtypeError(f"tokens: expected floating point, got {tokens.dtype}")
    channels = tokens.shape[3]
    if weight.ndim != 4 or weight.shape[1] != channels or weight.shape[2] != weight.shape[3]:
        raise ShapeError(
            f"weight: expected (D, {channels}, s, s) for tokens {tuple(tokens.shape)}, got "
            f"{tuple(weight.shape)}"
        )
    outputs, side = weight.shape[0], weight.shape[2]
    for name, x in (("bias", bias), ("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if tuple(x.shape) != (outputs,):
            raise ShapeError(f"{name}: expected ({outputs},), got {tuple(x.shape)}")
    check_tensors("sequence_reduction", [tokens, weight, bias, norm_weight, norm_bias])
    if not torch.compiler.is_exporting() and min(tokens.shape[1:3]) < side:
        raise ShapeError(
            f"tokens: expected at least {side}x{side} for the reduction of keys and values, got "
            f"{tokens.shape[1]}x{tokens.shape[2]}; enlarge or pad the picture"
        )


def _plain(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float,
) -> Tensor:
    side = weight.shape[2]
    hidden = F.conv2d(tokens.permute(0, 3, 1, 2), weight, bias, stride=side).permute(0, 2, 3, 1)
    return layer_norm(hidden, norm_weight, norm_bias, eps=eps)


def _reference(*inputs: Any) -> Tensor:
    *tensors, eps = inputs
    return reference.sequence_reduction(*_of_one_dtype(tensors), eps=eps).contiguous()


def _torch(*inputs: Any) -> Tensor:
    *tensors, eps = inputs
    return _plain(*_of_one_dtype(tensors), eps=eps).contiguous()


def _of_one_dtype(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.to(tensors[0].dtype) for tensor in tensors]


def _triton(*inputs: Any) -> Tensor:
    from fastseg.kernels import sequence_reduction as kernels

    return kernels.sequence_reduction(*inputs)


def _problem(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
) -> str | None:
    outputs = weight.shape[0]
    return f"takes at most {WIDEST} output channels, got {outputs}" if outputs > WIDEST else None


@operation({"reference": _reference, "torch": _torch, "triton": _triton}, problem=_problem)
def _sequence_reduction(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    backend: str,
) -> Tensor:
    batch, height, width, _ = tokens.shape
    outputs, _, side, _ = weight.shape
    return tokens.new_empty((batch, height // side, width // side, outputs))


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.eps, _ = inputs
    ctx.norm_dtypes = [tensor.dtype for tensor in tensors[3:]]
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> Any:
    """Matrix products of PyTorch, which are deterministic, after computing the first one again."""
    tokens, weight, bias, norm_weight, norm_bias = _of_one_dtype(ctx.saved_tensors)
    outputs, _, side, _ = weight.shape
    squares = _squares(tokens, side)
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    hidden = torch.addmm(bias, squares.flatten(0, 2).flatten(1), matrix.T)
    _, mean, deviation = _aten.native_layer_norm(hidden, [outputs], norm_weight, norm_bias, ctx.eps)
    d_hidden, d_norm_weight, d_norm_bias = _aten.native_layer_norm_backward(
        grad.reshape(hidden.shape),
        hidden,
        [outputs],
        mean,
        deviation,
        norm_weight,
        norm_bias,
        [True, True, True],
    )
    d_matrix = (d_hidden.T @ squares.flatten(0, 2).flatten(1)).view(outputs, side, side, -1)
    d_squares = (d_hidden @ matrix).view(squares.shape)
    return (
        _tokens(d_squares, tokens.shape),
        d_matrix.permute(0, 3, 1, 2),
        d_hidden.sum(dim=0),
        d_norm_weight.to(ctx.norm_dtypes[0]),
        d_norm_bias.to(ctx.norm_dtypes[1]),
        None,
        None,
    )


def _squares(tokens: Tensor, side: int) -> Tensor:
    """(B, H, W, C) as (B, ⌊H/s⌋, ⌊W/s⌋, s, s, C)."""
    batch, height, width, channels = tokens.shape
    rows, columns = height // side, width // side
    whole = tokens[:, : rows * side, : columns * side]
    return whole.reshape(batch, rows, side, columns, side, channels).transpose(2, 3)


def _tokens(squares: Tensor, shape: torch.Size) -> Tensor:
    """The reverse, with zeros in rows and columns that do not fill a square."""
    batch, rows, columns, side, _, channels = squares.shape
    whole = squares.transpose(2, 3).reshape(batch, rows * side, columns * side, channels)
    return F.pad(whole, (0, 0, 0, shape[2] - columns * side, 0, shape[1] - rows * side))


_sequence_reduction.register_autograd(_backward, setup_context=_setup_context)
