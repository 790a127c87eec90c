"""The Mix-FFN of SegFormer in one step, for inference."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastseg.errors import DtypeError, ShapeError
from fastseg.ops import reference
from fastseg.ops._autocast import lowered
from fastseg.ops._backends import check_tensors, chosen_backend, is_decomposed
from fastseg.ops._operation import Implementations, operation
from fastseg.ops.depthwise_conv_gelu import depthwise_conv_gelu
from fastseg.ops.token_linear import token_linear


def mix_ffn(
    tokens: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    residual: Tensor | None = None,
) -> Tensor:
    """Computes `fc2(gelu(depthwise_conv3x3(fc1(x)))) + residual`.

    On a GPU and where no gradient is needed, one kernel does it and the hidden tensor, four times
    as wide as the tokens, is never in memory. It takes the narrow stages of SegFormer, where that
    pays; everything else runs `token_linear`, `depthwise_conv_gelu` and `token_linear`.

    Args:
        tokens: (B, H, W, C) float.
        fc1_weight: (M, C) float; weights are converted to the dtype of the tokens.
        fc1_bias: (M) float.
        conv_weight: (M, 1, 3, 3) float.
        conv_bias: (M) float.
        fc2_weight: (C, M) float.
        fc2_bias: (C) float.
        residual: (B, H, W, C) float that is added at the end, or None.

    Returns:
        (B, H, W, C) float.

    Raises:
        ShapeError: the shapes disagree.
        DtypeError: `tokens` is not floating point.
        BackendError: a backend that was asked for by name cannot run.

    Convention:
        The kernel takes up to 64 channels and 256 hidden ones in float16 and bfloat16, half of that
        in float32 and only where `torch.backends.cuda.matmul.allow_tf32` is on, and no AMD GPU.

    Source:
        E. Xie et al.: SegFormer, 2021, eq. 3.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> x, conv = torch.randn(1, 5, 7, 8), torch.randn(32, 1, 3, 3)
        >>> fc1, fc2 = torch.randn(32, 8), torch.randn(8, 32)
        >>> ops.mix_ffn(x, fc1, torch.zeros(32), conv, torch.zeros(32), fc2, torch.zeros(8)).shape
        torch.Size([1, 5, 7, 8])
    """
    if tokens.ndim != 4:
        raise ShapeError(f"tokens: expected (B, H, W, C), got {tuple(tokens.shape)}")
    if not tokens.is_floating_point():
        raise DtypeError(f"tokens: expected floating point, got {tokens.dtype}")
    channels, hidden = tokens.shape[3], fc1_weight.shape[0]
    parameters = [fc1_weight, fc1_bias, conv_weight, conv_bias, fc2_weight, fc2_bias]
    wanted = [(hidden, channels), (hidden,), (hidden, 1, 3, 3), (hidden,), (channels, hidden)]
    wanted += [(channels,)]
    if [tuple(x.shape) for x in parameters] != wanted:
        raise ShapeError(
            f"weights and biases of fc1, conv and fc2: expected {wanted} for tokens "
            f"{tuple(tokens.shape)}, got {[tuple(x.shape) for x in parameters]}"
        )
    if residual is not None and residual.shape != tokens.shape:
        raise ShapeError(
            f"residual: expected {tuple(tokens.shape)} as the tokens, got {tuple(residual.shape)}"
        )
    check_tensors("mix_ffn", [tokens, *parameters, *([] if residual is None else [residual])])
    tokens = lowered(tokens)
    inputs: list[Any] = [tokens, *(x.to(tokens.dtype) for x in parameters), residual]
    if _runs_as_one(inputs):
        out: Tensor = _mix_ffn(*inputs, chosen_backend())
        return out
    return _in_parts(depthwise_conv_gelu, *inputs)


def _runs_as_one(inputs: list[Any]) -> bool:
    if is_decomposed() or chosen_backend() not in ("", "triton"):
        return False
    if chosen_backend() == "" and inputs[0].device.type != "cuda":
        return False
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return False
    return _problem(*inputs) is None


def _in_parts(
    middle: Callable[[Tensor, Tensor, Tensor], Tensor],
    tokens: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    residual: Tensor | None,
) -> Tensor:
    hidden = middle(token_linear(tokens, fc1_weight, fc1_bias), conv_weight, conv_bias)
    out = token_linear(hidden, fc2_weight, fc2_bias)
    return out if residual is None else residual + out


def _middle(backend: str, tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out: Tensor = torch.ops.fastseg.depthwise_conv_gelu(tokens, weight, bias, backend)
    return out


def _triton(
    tokens: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    residual: Tensor | None,
) -> Tensor:
    from fastseg.kernels import mix_ffn as kernels

    parameters = fc1_weight, fc1_bias, conv_weight, conv_bias, fc2_weight, fc2_bias
    return kernels.mix_ffn(tokens, *parameters, residual)


def _problem(
    tokens: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    residual: Tensor | None,
) -> str | None:
    if torch.version.hip is not None:
        return "keeps more in registers here than AMD's GPUs have"
    single = tokens.dtype == torch.float32
    if single and not torch.backends.cuda.matmul.allow_tf32:
        return "takes float32 only where torch.backends.cuda.matmul.allow_tf32 is on"
    # What fits into registers: all hidden channels of a row of tokens, three rows of them.
    channels, hidden = (32, 128) if single else (64, 256)
    if tokens.shape[3] > channels or fc1_weight.shape[0] > hidden:
        return (
            f"takes up to {channels} channels and {hidden} hidden ones of {tokens.dtype}, got "
            f"{tokens.shape[3]} and {fc1_weight.shape[0]}"
        )
    return None


_FORWARD: Implementations = {
    "reference": reference.mix_ffn,
    "torch": partial(_in_parts, partial(_middle, "torch")),
    "rust": partial(_in_parts, partial(_middle, "rust")),
    "triton": _triton,
}


@operation(_FORWARD, problem=_problem)
def _mix_ffn(
    tokens: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    residual: Tensor | None,
    backend: str,
) -> Tensor:
    dtype = tokens.dtype if residual is None else torch.promote_types(tokens.dtype, residual.dtype)
    return tokens.new_empty(tokens.shape, dtype=dtype)
