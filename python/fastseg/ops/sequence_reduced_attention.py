"""Attention of many queries over few keys, without moving heads."""

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

# Channels of a head that the Triton kernels hold beside each other in registers.
WIDEST_HEAD = 128


def sequence_reduced_attention(
    query: Tensor, key: Tensor, value: Tensor, *, num_heads: int
) -> Tensor:
    """Computes `softmax(Q K^T / sqrt(d)) V` for each head.

    Args:
        query: (B, N, C) float, token layout: the heads share out the channels.
        key: (B, M, C) float. In SegFormer M is N over the square of the reduction ratio.
        value: (B, M, C) float.
        num_heads: heads; divides C.

    Returns:
        (B, N, C) float, contiguous.

    Raises:
        ShapeError: the shapes disagree, there are no keys, or `num_heads` does not divide C.
        DtypeError: the dtypes disagree, or are not floating point.
        BackendError: a backend that was asked for by name cannot run.

    Source:
        E. Xie et al.: SegFormer, 2021, eq. 1 and 2 (the reduction itself is a convolution).

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> q, kv = torch.randn(1, 64, 32), torch.randn(1, 4, 32)
        >>> ops.sequence_reduced_attention(q, kv, kv, num_heads=2).shape
        torch.Size([1, 64, 32])
    """
    query, key, value = lowered(query), lowered(key), lowered(value)
    _check(query, key, value, num_heads)
    if is_decomposed():
        q, k, v = (_split_heads(x, num_heads) for x in (query, key, value))
        return _heads_together(F.scaled_dot_product_attention(q, k, v))
    out: Tensor = _sequence_reduced_attention(query, key, value, num_heads, chosen_backend())[0]
    return out


def _check(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.ndim != 3:
            raise ShapeError(f"{name}: expected (B, tokens, C), got {tuple(x.shape)}")
    batch, _, channels = query.shape
    if key.shape != value.shape or key.shape[0] != batch or key.shape[2] != channels:
        raise ShapeError(
            f"key, value: expected ({batch}, M, {channels}) to fit the query, got "
            f"{tuple(key.shape)} and {tuple(value.shape)}"
        )
    if key.shape[1] == 0:
        raise ShapeError("key: expected at least one token, got none; the picture is too small")
    if num_heads < 1 or channels % num_heads:
        raise ShapeError(f"num_heads: expected a divisor of C = {channels}, got {num_heads}")
    if not (query.dtype == key.dtype == value.dtype and query.is_floating_point()):
        raise DtypeError(
            "query, key, value: expected one floating-point dtype, got "
            f"{query.dtype}, {key.dtype}, {value.dtype}"
        )


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


def _heads_together(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _reference(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    out = reference.sequence_reduced_attention(query, key, value, num_heads=num_heads)
    return out, _log_sum_exp(query, key, num_heads)


def _log_sum_exp(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    q, k = (_split_heads(x, num_heads) for x in (query, key))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    lse: Tensor = exact.logsumexp(dim=-1).transpose(1, 2).contiguous()
    return lse


def _torch(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    q, k, v = (_split_heads(x, num_heads) for x in (query, key, value))
    if query.device.type == "cpu":
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        return _heads_together(out).contiguous(), lse.transpose(1, 2).contiguous()
    out = F.scaled_dot_product_attention(q, k, v)
    return _heads_together(out).contiguous(), _log_sum_exp(query, key, num_heads)


def _rust(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    out = query.new_empty(query.shape)
    lse = query.new_empty(*query.shape[:2], num_heads)
    shape = _sizes(query, key, num_heads)
    engine.sequence_reduced_attention(
        flat(query), flat(key), flat(value), shape, flat(out), flat(lse)
    )
    return out, lse


def _sizes(query: Tensor, key: Tensor, num_heads: int) -> tuple[int, int, int, int, int]:
    batch, queries, channels = query.shape
    return batch, queries, key.shape[1], num_heads, channels // num_heads


def _triton(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    from fastseg.kernels import sequence_reduced_attention as kernels

    return kernels.sequence_reduced_attention(query, key, value, num_heads)


def _problem(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> str | None:
    width = query.shape[2] // num_heads
    if width > WIDEST_HEAD:
        return f"takes heads of at most {WIDEST_HEAD} channels, got {width}"
    return None


_FORWARD = {"reference": _reference, "torch": _torch, "rust": _rust, "triton": _triton}


@operation(_FORWARD, problem=_problem)
def _sequence_reduced_attention(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, backend: str
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    lse = query.new_empty((*query.shape[:2], num_heads), dtype=dtype)
    return query.new_empty(query.shape), lse


def _backward_plain(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    num_heads = lse.shape[2]
    g, q, k, v, o = (_split_heads(x, num_heads) for x in (grad, query, key, value, out))
    scale = q.shape[-1] ** -0.5
    p = (q @ k.transpose(-1, -2) * scale - lse.transpose(1, 2)[..., None].to(q.dtype)).exp()
    ds = p * (g @ v.transpose(-1, -2) - (g * o).sum(dim=-1, keepdim=True)) * scale
    dq, dk, dv = ds @ k, ds.transpose(-1, -2) @ q, p.transpose(-1, -2) @ g
    return _contiguous(dq, dk, dv)


def _backward_torch(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if query.device.type != "cpu":
        return _backward_plain(grad, query, key, value, out, lse)
    g, q, k, v, o = (_split_heads(x, lse.shape[2]) for x in (grad, query, key, value, out))
    lse = lse.transpose(1, 2).contiguous()
    return _contiguous(
        *_aten._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, o, lse, 0.0, False)
    )


def _contiguous(dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (_heads_together(x).contiguous() for x in (dq, dk, dv))
    return dq, dk, dv


def _backward_rust(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (query, key, value))
    engine.sequence_reduced_attention_backward(
        flats([grad, query, key, value, out, lse]),
        _sizes(query, key, lse.shape[2]),
        flat(dq),
        flat(dk),
        flat(dv),
    )
    return dq, dk, dv


def _backward_triton(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from fastseg.kernels import sequence_reduced_attention as kernels

    return kernels.sequence_reduced_attention_backward(grad, query, key, value, out, lse)


def _backward_problem(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> str | None:
    return _problem(query, key, value, lse.shape[2])


_BACKWARD = {
    "reference": _backward_plain,
    "torch": _backward_torch,
    "rust": _backward_rust,
    "triton": _backward_triton,
}


@operation(_BACKWARD, problem=_backward_problem)
def _sequence_reduced_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    query, key, value, _, ctx.backend = inputs
    out, lse = output
    ctx.save_for_backward(query, key, value, out, lse)
    ctx.mark_non_differentiable(lse)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
    gradients = _sequence_reduced_attention_backward(grad, *ctx.saved_tensors, ctx.backend)
    return *gradients, None, None


_sequence_reduced_attention.register_autograd(_backward, setup_context=_setup_context)
