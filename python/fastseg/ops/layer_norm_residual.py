"""A residual connection and the LayerNorm after it, in one step."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.errors import DtypeError, ParameterError, ShapeError
from fastseg.ops import reference
from fastseg.ops._autocast import lower_dtype
from fastseg.ops._backends import check_tensors, chosen_backend, is_decomposed
from fastseg.ops._operation import operation
from fastseg.ops.layer_norm import stays_whole

# Channels that the Triton kernels hold beside each other in registers.
WIDEST = 2048


def layer_norm_residual(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    factor: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Computes `s = x + f b` and `layer_norm(s)`.

    Args:
        x: (B, …, C) float.
        branch: (B, …, C) float, b.
        weight: (C) float; on a GPU of any float dtype, on a CPU of that of the sum.
        bias: (C) float, likewise.
        factor: (B) float, f: what stochastic depth multiplies each sample's branch with; None: one.
            It has no gradient.
        eps: of the LayerNorm.

    Returns:
        s, of the dtype that x and the branch promote to, and its LayerNorm, of the same dtype;
        (B, …, C) both.

    Raises:
        ShapeError: the shapes disagree.
        DtypeError: x or the branch is not floating point.
        ParameterError: a gradient is wanted for the factor.
        BackendError: a backend that was asked for by name cannot run.

    Convention:
        Under autocast on a GPU the LayerNorm has autocast's dtype, to which the linear layers and
        convolutions that read it would round it. On a CPU PyTorch's own operators are the
        fastest; the engine has no version of its own, and "rust" runs them. Under `torch.compile`
        they stay whole in inference, as in `fastseg.ops.layer_norm`.

    Source:
        G. Huang et al.: Deep Networks with Stochastic Depth, 2016, eq. 2 (the factor).

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> x, one, zero = torch.randn(2, 5, 8), *torch.eye(2, 8)
        >>> total, normed = ops.layer_norm_residual(x, x, one, zero, factor=torch.tensor([0, 2.0]))
        >>> torch.equal(total, torch.stack([x[0], 3 * x[1]]))
        True
    """
    _check(x, branch, weight, bias, factor)
    backend = chosen_backend()
    here = x.device.type == "cpu" and not stays_whole(x, branch, weight, bias)
    if is_decomposed() or backend == "rust" or (backend == "" and here):
        return _plain(x, branch, factor, weight, bias, eps)
    total: Tensor
    normed: Tensor
    dtype = lower_dtype(x) or _promoted(x, branch)
    total, normed = _layer_norm_residual(x, branch, factor, weight, bias, eps, dtype, backend)
    return total, normed


def _check(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, factor: Tensor | None) -> None:
    if x.ndim < 2 or x.shape != branch.shape:
        raise ShapeError(
            f"x, branch: expected (B, …, C) both, got {tuple(x.shape)} and {tuple(branch.shape)}"
        )
    if not (x.is_floating_point() and branch.is_floating_point()):
        raise DtypeError(f"x, branch: expected floating point, got {x.dtype} and {branch.dtype}")
    if tuple(weight.shape) != x.shape[-1:] or tuple(bias.shape) != x.shape[-1:]:
        raise ShapeError(
            f"weight, bias: expected ({x.shape[-1]},) for x {tuple(x.shape)}, got "
            f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    given = [x, branch, weight, bias, *([] if factor is None else [factor])]
    check_tensors("layer_norm_residual", given)
    if factor is None:
        return
    if tuple(factor.shape) != x.shape[:1]:
        raise ShapeError(f"factor: expected ({x.shape[0]},), got {tuple(factor.shape)}")
    if factor.requires_grad:
        raise ParameterError("factor: expected a tensor without a gradient; call .detach() on it")


def _promoted(x: Tensor, branch: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, branch.dtype)


def _plain(
    x: Tensor, branch: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    if factor is not None:
        branch = (branch * factor.view(-1, *[1] * (x.ndim - 1))).to(branch.dtype)
    total = x + branch
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def _torch(
    x: Tensor,
    branch: Tensor,
    factor: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    weight, bias = (t.to(_promoted(x, branch)) for t in (weight, bias))
    total, normed = _plain(x, branch, factor, weight, bias, eps)
    return total.contiguous(), normed.contiguous().to(dtype)


def _reference(
    x: Tensor,
    branch: Tensor,
    factor: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    total, normed = reference.layer_norm_residual(x, branch, weight, bias, factor=factor, eps=eps)
    return total.contiguous(), normed.contiguous().to(dtype)


def _triton(
    x: Tensor,
    branch: Tensor,
    factor: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    from fastseg.kernels import layer_norm_residual as kernels

    return kernels.layer_norm_residual(
        x, branch, factor, weight, bias, eps, _promoted(x, branch), dtype
    )


def _problem(x: Tensor, *_: Any) -> str | None:
    channels = x.shape[-1]
    return f"takes at most {WIDEST} channels, got {channels}" if channels > WIDEST else None


@operation({"reference": _reference, "torch": _torch, "triton": _triton}, problem=_problem)
def _layer_norm_residual(
    x: Tensor,
    branch: Tensor,
    factor: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return (
        x.new_empty(x.shape, dtype=_promoted(x, branch)),
        x.new_empty(x.shape, dtype=dtype),
    )


def _backward_torch(
    d_total: Tensor,
    d_normed: Tensor,
    total: Tensor,
    factor: Tensor | None,
    weight: Tensor,
    eps: float,
    x_dtype: torch.dtype,
    branch_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = list(weight.shape)
    scale = weight.to(total.dtype)
    _, mean, deviation = torch.ops.aten.native_layer_norm(total, shape, scale, None, eps)
    d, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
        d_normed.to(total.dtype).contiguous(),
        total,
        shape,
        mean,
        deviation,
        scale,
        torch.zeros_like(scale),
        [True, True, True],
    )
    d = (d + d_total).contiguous()
    if _shared(factor, x_dtype, branch_dtype):
        d_branch = d.new_empty((0,))
    else:
        d_branch = d if factor is None else d * factor.view(-1, *[1] * (d.ndim - 1))
    return (
        d.to(x_dtype),
        d_branch.to(branch_dtype, copy=True),
        d_weight.to(weight.dtype),
        d_bias.to(weight.dtype),
    )


def _shared(factor: Tensor | None, x_dtype: torch.dtype, branch_dtype: torch.dtype) -> bool:
    """Whether the gradient of x is that of the branch too."""
    return factor is None and x_dtype == branch_dtype


def _backward_triton(
    d_total: Tensor,
    d_normed: Tensor,
    total: Tensor,
    factor: Tensor | None,
    weight: Tensor,
    eps: float,
    x_dtype: torch.dtype,
    branch_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from fastseg.kernels import layer_norm_residual as kernels

    return kernels.layer_norm_residual_backward(
        d_total, d_normed, total, factor, weight, eps, x_dtype, branch_dtype
    )


_BACKWARD = {
    "reference": _backward_torch,
    "torch": _backward_torch,
    "triton": _backward_triton,
}


@operation(_BACKWARD, problem=_problem)
def _layer_norm_residual_backward(
    d_total: Tensor,
    d_normed: Tensor,
    total: Tensor,
    factor: Tensor | None,
    weight: Tensor,
    eps: float,
    x_dtype: torch.dtype,
    branch_dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shared = _shared(factor, x_dtype, branch_dtype)
    return (
        total.new_empty(total.shape, dtype=x_dtype),
        total.new_empty((0,) if shared else total.shape, dtype=branch_dtype),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape),
    )


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, branch, factor, weight, bias, ctx.eps, _, ctx.backend = inputs
    ctx.dtypes, ctx.bias_dtype = (x.dtype, branch.dtype), bias.dtype
    ctx.save_for_backward(output[0], factor, weight)


def _backward(ctx: Any, d_total: Tensor, d_normed: Tensor) -> Any:
    total, factor, weight = ctx.saved_tensors
    d_x, d_branch, d_weight, d_bias = _layer_norm_residual_backward(
        d_total, d_normed, total, factor, weight, ctx.eps, *ctx.dtypes, ctx.backend
    )
    if _shared(factor, *ctx.dtypes):
        d_branch = d_x
    return d_x, d_branch, None, d_weight, d_bias.to(ctx.bias_dtype), None, None, None


_layer_norm_residual.register_autograd(_backward, setup_context=_setup_context)
