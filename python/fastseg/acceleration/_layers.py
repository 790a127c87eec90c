"""What fast layers are, and what those of several libraries share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.ops.depthwise_conv_gelu import depthwise_conv_gelu
from fastseg.ops.sequence_reduction import sequence_reduction
from fastseg.ops.token_linear import token_linear

# What calls something other than the module's own computation when it is called.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _all(module: nn.Module) -> bool:  # noqa: ARG001
    return True


def _never(module: nn.Module) -> str | None:  # noqa: ARG001
    return None


@dataclass(frozen=True)
class FastLayer:
    """The fast version of a class of layers.

    Attributes:
        forward: what becomes the `forward` of an instance; the first line of its docstring says
            what it does. Called for something it cannot do, it does what the class does.
        needed: attributes that it reads, so that a rewritten layer is left alone rather than
            misread.
        slow_reason: why an accelerated layer takes its own way in any case, or None.
        concerns: whether an instance of the class is a layer that the version is for.
    """

    forward: FunctionType
    needed: Sequence[str]
    slow_reason: Callable[[nn.Module], str | None] = _never
    concerns: Callable[[nn.Module], bool] = _all


def as_forward(function: Callable[..., Any]) -> FunctionType:
    """Gives a function the name that finds the class's own method where a model is unpickled."""
    function.__name__ = "forward"
    return cast("FunctionType", function)


def has_own_forward(module: nn.Module) -> bool:
    """Whether the instance has a forward other than its class's."""
    forward = module.__dict__.get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(module).forward


def hooked(module: nn.Module) -> bool:
    """Whether a call of a module calls something else, too."""
    return any(getattr(module, hooks) for hooks in _HOOKS)


def plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer does what its class does: not exchanged, wrapped, hooked or parametrized."""
    return type(layer) is kind and not has_own_forward(layer) and not hooked(layer)


def linear(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Applies a linear layer to (B, N, C) or (B, H, W, C) tokens."""
    if plain(layer, nn.Linear):
        exact = cast("nn.Linear", layer)
        return token_linear(tokens, exact.weight, exact.bias)
    return cast("Tensor", layer(tokens))


def reduced(
    convolution: nn.Module, norm: nn.Module, tokens: Tensor, height: int, width: int
) -> Tensor:
    """(B, N, C) tokens of a map through a strided convolution and a LayerNorm: (B, M, C)."""
    picture = as_map(tokens, height, width)
    if _reducible(convolution, norm):
        conv, layer_norm = cast("nn.Conv2d", convolution), cast("nn.LayerNorm", norm)
        factors = conv.weight, cast("Tensor", conv.bias), layer_norm.weight, layer_norm.bias
        return sequence_reduction(picture, *factors, eps=layer_norm.eps).flatten(1, 2)
    result: Tensor = convolution(picture.permute(0, 3, 1, 2))
    return cast("Tensor", norm(result.permute(0, 2, 3, 1).flatten(1, 2)))


def _reducible(convolution: Any, norm: Any) -> bool:
    """Whether the two are what `sequence_reduction` computes."""
    return (
        plain(convolution, nn.Conv2d)
        and plain(norm, nn.LayerNorm)
        and convolution.kernel_size == convolution.stride
        and convolution.kernel_size[0] == convolution.kernel_size[1]
        and convolution.padding == (0, 0)
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.bias is not None
        and norm.weight is not None
        and norm.bias is not None
    )


def as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, N, C) tokens as (B, H, W, C)."""
    return tokens.reshape(tokens.shape[0], height, width, tokens.shape[2])


def exact_gelu(activation: nn.Module) -> bool:
    """Whether an activation is the GELU that `depthwise_conv_gelu` computes."""
    exact = type(activation).__name__ == "GELUActivation" and (
        getattr(activation, "act", F.gelu) is F.gelu
    )
    exact = exact or (type(activation) is nn.GELU and activation.approximate == "none")
    return exact and not hooked(activation)


def depthwise_3x3(layer: nn.Module) -> bool:
    """Whether `layer.dwconv` is the convolution that `depthwise_conv_gelu` computes."""
    convolution = cast("nn.Conv2d", layer.dwconv)
    return (
        plain(convolution, nn.Conv2d)
        and not hooked(layer)
        and convolution.kernel_size == (3, 3)
        and convolution.stride == convolution.dilation == (1, 1)
        and convolution.padding == (1, 1)
        and convolution.bias is not None
        and convolution.groups == convolution.in_channels == convolution.out_channels
    )


def mixed(
    tokens: Tensor,
    height: int,
    width: int,
    first: nn.Module,
    convolution: nn.Conv2d,
    last: nn.Module,
    dropout: nn.Module,
) -> Tensor:
    """Mix-FFN on (B, N, C) tokens of a map."""
    bias = cast("Tensor", convolution.bias)
    hidden = as_map(linear(first, tokens), height, width)
    hidden = depthwise_conv_gelu(hidden, convolution.weight, bias).flatten(1, 2)
    return cast("Tensor", dropout(linear(last, dropout(hidden))))


def tokens_of_maps(maps: Sequence[Tensor]) -> list[Tensor]:
    """(B, C, h, w) maps as (B, h, w, C), in autocast's dtype under autocast."""
    device = maps[0].device.type
    tokens = [x.permute(0, 2, 3, 1) for x in maps]
    if torch.is_autocast_enabled(device):
        # On a CPU, operators of fastseg do not follow autocast.
        tokens = [x.to(torch.get_autocast_dtype(device)) for x in tokens]
    return tokens


def folded(fusion: Tensor, projections: Sequence[nn.Linear]) -> tuple[list[Tensor], Tensor]:
    """Multiplies a fusion's matrix into projections.

    Args:
        fusion: (D, n × D, 1, 1) float.
        projections: n layers, in the order of the concatenation.

    Returns:
        For each projection (D, C), and the sum of biases, (D).
    """
    parts = fusion.flatten(1).chunk(len(projections), dim=1)
    weights, bias = [], fusion.new_zeros(len(fusion))
    for part, projection in zip(parts, projections, strict=True):
        weights.append(token_linear(projection.weight.T[None], part)[0].T)
        if projection.bias is not None:
            bias = bias + part @ projection.bias
    return weights, bias


def is_affine(norm: nn.BatchNorm2d) -> bool:
    """Whether a BatchNorm is a factor and an offset now."""
    return not norm.training and norm.running_mean is not None and norm.running_var is not None


def normalized(
    weights: list[Tensor], bias: Tensor, norm: nn.BatchNorm2d
) -> tuple[list[Tensor], Tensor]:
    """Multiplies a BatchNorm that is affine into what is before it."""
    mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    bias = (bias - mean) * scale
    bias = bias if norm.bias is None else bias + norm.bias
    return [weight * scale[:, None] for weight in weights], bias
