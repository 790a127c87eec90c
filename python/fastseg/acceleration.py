"""Faster layers under an existing SegFormer of transformers: in place, reversible, same function.

Nothing is replaced but the `forward` of single modules, as an attribute of the instance: classes,
parameters, names and hooks stay what they are, and `restore` deletes the attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.errors import DtypeError
from fastseg.ops.depthwise_conv_gelu import depthwise_conv_gelu
from fastseg.ops.folded_decoder import folded_decoder
from fastseg.ops.sequence_reduced_attention import sequence_reduced_attention
from fastseg.ops.token_linear import token_linear
from fastseg.ops.upsample_sum import upsample_sum

_Model = TypeVar("_Model", bound=nn.Module)

_HOME = "transformers.models.segformer.modeling_segformer"
# What calls something other than the module's own computation when it is called.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def accelerate(model: _Model) -> _Model:
    """Makes a SegFormer of transformers faster, in place.

    Args:
        model: a `SegformerForSemanticSegmentation`, `SegformerModel` or
            `SegformerForImageClassification` of transformers, before or after its version 5.9; or
            a module that has one inside.

    Returns:
        The model.

    Raises:
        DtypeError: there is no SegFormer of transformers in it.

    Convention:
        Outputs differ by rounding only. Parameters, their names, hooks and classes stay as they
        are, so `state_dict`, `save_pretrained`, Trainer, gradient checkpointing,
        `output_hidden_states`, autocast and `torch.compile` work as before. What a layer cannot do
        in the fast way (attention weights as output, attention dropout in training, layers that
        were exchanged or have hooks) it does in its own way, call by call. A pickled or copied
        model is the plain one and the accelerated one, respectively.

    Source:
        The function is transformers'; see `fastseg.ops.folded_decoder` for what makes it faster.

    Example:
        >>> import fastseg
        >>> from transformers import SegformerConfig, SegformerForSemanticSegmentation
        >>> model = SegformerForSemanticSegmentation(SegformerConfig()).eval()
        >>> model = fastseg.accelerate(model)
        >>> print(fastseg.acceleration_report(model).summary())
        42 of 42 layers accelerated
        >>> model = fastseg.restore(model)
    """
    found = False
    for _, module, kind in _candidates(model):
        found = True
        if _obstacle(module, kind) is None:
            # Set past nn.Module's own __setattr__, which would look for parameters in it.
            module.__dict__["forward"] = MethodType(_FAST[kind], module)
    if not found:
        raise DtypeError(
            f"model: expected a SegFormer of transformers, got {type(model).__name__}; models of "
            "fastseg are fast without this"
        )
    return model


def restore(model: _Model) -> _Model:
    """Takes back what `accelerate` did.

    Args:
        model: the model; one that was not accelerated stays as it is.

    Returns:
        The model.
    """
    for module in model.modules():
        if _is_accelerated(module):
            del module.__dict__["forward"]
    return model


@dataclass(frozen=True)
class AcceleratedLayer:
    """What became of one layer.

    Attributes:
        name: its name in the model.
        kind: its class.
        status: "accelerated"; "left", where it could not be; or "original", where nobody asked.
        detail: what runs now, or why the layer was left.
    """

    name: str
    kind: str
    status: Literal["accelerated", "left", "original"]
    detail: str


@dataclass(frozen=True)
class AccelerationReport:
    """What `accelerate` replaced in a model, and what it left and why.

    Attributes:
        layers: every layer that could be replaced, in the model's order.
    """

    layers: tuple[AcceleratedLayer, ...]

    def summary(self) -> str:
        """One line: how many layers are accelerated."""
        count = sum(layer.status == "accelerated" for layer in self.layers)
        return f"{count} of {len(self.layers)} layers accelerated"

    def __str__(self) -> str:
        """A line for each kind of layer and what became of it."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for layer in self.layers:
            groups.setdefault((layer.kind, layer.status, layer.detail), []).append(layer.name)
        lines = [self.summary()]
        for (kind, status, detail), names in groups.items():
            where = names[0] if len(names) == 1 else f"{len(names)}, such as {names[0]}"
            lines.append(f"  {status}: {kind} ({where}): {detail}")
        return "\n".join(lines)


def acceleration_report(model: nn.Module) -> AccelerationReport:
    """Says what `accelerate` replaced in a model, what it left, and why.

    Args:
        model: any module.

    Returns:
        A report that prints as text; without layers where there is no SegFormer of transformers.
    """
    layers = []
    for name, module, kind in _candidates(model):
        obstacle = _obstacle(module, kind)
        status: Literal["accelerated", "left", "original"]
        if _is_accelerated(module):
            status, detail = "accelerated", _detail(module, _FAST[kind])
        elif obstacle is not None:
            status, detail = "left", obstacle
        else:
            status, detail = "original", "accelerate was not called for it"
        layers.append(AcceleratedLayer(name, type(module).__name__, status, detail))
    return AccelerationReport(tuple(layers))


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every module that has a fast version: its name, it, and its class in transformers."""
    for name, module in model.named_modules():
        for base in type(module).__mro__:
            if base.__module__ != _HOME or base.__name__ not in _FAST:
                continue
            # Before 5.9 the class of this name only joined two that have fast versions.
            if base.__name__ != "SegformerAttention" or not hasattr(module, "self"):
                yield name, module, base.__name__
            break


def _forward(function: Callable[..., Any]) -> FunctionType:
    # A bound method is pickled by its name: where it is loaded, that finds the class's own.
    function.__name__ = "forward"
    return cast("FunctionType", function)


def _is_accelerated(module: nn.Module) -> bool:
    forward = module.__dict__.get("forward")
    return isinstance(forward, MethodType) and forward.__func__ in _ALL


def _obstacle(module: nn.Module, kind: str) -> str | None:
    """Why a module cannot be accelerated, or None."""
    if _has_own_forward(module) and not _is_accelerated(module):
        return "its forward was replaced by other code"
    if type(module).forward.__module__ != _HOME:
        return f"{type(module).__name__} has a forward of its own"
    missing = [name for name in _NEEDED[kind] if not hasattr(module, name)]
    if missing:
        return f"it has no {', '.join(missing)}: this version of transformers is not known"
    return None


def _detail(module: nn.Module, fast: FunctionType) -> str:
    text = (fast.__doc__ or "").split("\n")[0].rstrip(".")
    slow = _slow_reason(module)
    return text if slow is None else f"{text}, but runs its own way: {slow}"


def _slow_reason(module: nn.Module) -> str | None:
    """Why an accelerated layer takes its own way in any case, or None."""
    if hasattr(module, "q_proj") and not _uses_sdpa(module):
        return f"attention is {_attention(module)!r}, not 'sdpa'"
    if hasattr(module, "dwconv") and hasattr(module, "dropout") and not _fusible(module):
        return "its convolution or activation is not the usual one"
    if hasattr(module, "linear_fuse") and not _foldable(module):
        return "one of its layers was exchanged or has hooks"
    return None


def _has_own_forward(module: nn.Module) -> bool:
    """Whether the instance has a forward other than its class's."""
    forward = module.__dict__.get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(module).forward


def _plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer does what its class does: not exchanged, wrapped, hooked or parametrized."""
    return (
        type(layer) is kind
        and not _has_own_forward(layer)
        and not any(getattr(layer, hooks) for hooks in _HOOKS)
    )


def _linear(layer: nn.Module, tokens: Tensor) -> Tensor:
    if _plain(layer, nn.Linear):
        linear = cast("nn.Linear", layer)
        return token_linear(tokens, linear.weight, linear.bias)
    return cast("Tensor", layer(tokens))


@_forward
def _embed_patches(self: Any, pixel_values: Tensor) -> tuple[Tensor, int, int]:
    """Patches stay in token layout."""
    # A convolution of channels-last input gives tokens without a copy.
    patches = self.proj(pixel_values.contiguous(memory_format=torch.channels_last))
    height, width = patches.shape[2:]
    return self.layer_norm(patches.permute(0, 2, 3, 1).flatten(1, 2)), height, width


@_forward
def _reduce_sequence(self: Any, hidden_states: Tensor, height: int, width: int) -> Tensor:
    """The reduction runs on tokens as they lie."""
    reduced = _reduced(self.sequence_reduction, hidden_states, height, width)
    return cast("Tensor", self.layer_norm(reduced))


def _reduced(convolution: nn.Module, tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, N, C) tokens of a map through a strided convolution: (B, M, C)."""
    result: Tensor = convolution(_as_map(tokens, height, width).permute(0, 3, 1, 2))
    return result.permute(0, 2, 3, 1).flatten(1, 2)


def _as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, N, C) tokens as (B, H, W, C)."""
    return tokens.reshape(tokens.shape[0], height, width, tokens.shape[2])


def _uses_sdpa(self: Any) -> bool:
    return _attention(self) == "sdpa"


def _attention(self: Any) -> str:
    return str(self.config._attn_implementation)


@_forward
def _attend(
    self: Any,
    hidden_states: Tensor,
    height: int,
    width: int,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention without moving heads."""
    drops = self.training and self.attention_dropout > 0
    if attention_mask is not None or drops or not _uses_sdpa(self):
        result: tuple[Tensor, Tensor | None] = type(self).forward(
            self, hidden_states, height, width, attention_mask, **kwargs
        )
        return result
    reduced = hidden_states
    if self.sequence_reduction_ratio > 1:
        reduced = self.sequence_reduction(hidden_states, height, width)
    mixed = sequence_reduced_attention(
        _linear(self.q_proj, hidden_states),
        _linear(self.k_proj, reduced),
        _linear(self.v_proj, reduced),
        num_heads=self.num_attention_heads,
    )
    return _linear(self.o_proj, mixed), None


@_forward
def _attend_before_5_9(
    self: Any, hidden_states: Tensor, height: int, width: int, output_attentions: bool = False
) -> tuple[Tensor, ...]:
    """Attention without moving heads."""
    if output_attentions or (self.training and self.dropout.p > 0):
        result: tuple[Tensor, ...] = type(self).forward(
            self, hidden_states, height, width, output_attentions
        )
        return result
    reduced = hidden_states
    if self.sr_ratio > 1:
        reduced = self.layer_norm(_reduced(self.sr, hidden_states, height, width))
    mixed = sequence_reduced_attention(
        _linear(self.query, hidden_states),
        _linear(self.key, reduced),
        _linear(self.value, reduced),
        num_heads=self.num_attention_heads,
    )
    return (mixed,)


@_forward
def _project_attention(self: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:  # noqa: ARG001
    """The projection after attention, as a convolution where that is faster."""
    return cast("Tensor", self.dropout(_linear(self.dense, hidden_states)))


def _fusible(self: Any) -> bool:
    convolution = self.dwconv.dwconv
    activation = self.activation_fn if hasattr(self, "activation_fn") else self.intermediate_act_fn
    exact = type(activation).__name__ == "GELUActivation" and (
        getattr(activation, "act", F.gelu) is F.gelu
    )
    exact = exact or (type(activation) is nn.GELU and activation.approximate == "none")
    return (
        exact
        and _plain(convolution, nn.Conv2d)
        and not any(getattr(self.dwconv, hooks) for hooks in _HOOKS)
        and not any(getattr(activation, hooks) for hooks in _HOOKS)
        and convolution.kernel_size == (3, 3)
        and convolution.stride == convolution.dilation == (1, 1)
        and convolution.padding == (1, 1)
        and convolution.bias is not None
        and convolution.groups == convolution.in_channels == convolution.out_channels
    )


@_forward
def _mix(self: Any, hidden_states: Tensor, height: int, width: int) -> Tensor:
    """Depthwise convolution, bias and GELU in one step, on tokens."""
    if not _fusible(self):
        return cast("Tensor", type(self).forward(self, hidden_states, height, width))
    first, last = (self.fc1, self.fc2) if hasattr(self, "fc1") else (self.dense1, self.dense2)
    convolution = self.dwconv.dwconv
    hidden = _as_map(_linear(first, hidden_states), height, width)
    hidden = depthwise_conv_gelu(hidden, convolution.weight, convolution.bias).flatten(1, 2)
    hidden = _linear(last, self.dropout(hidden))
    return cast("Tensor", self.dropout(hidden))


def _projections(self: Any) -> list[Any]:
    layers = self.linear_projections if hasattr(self, "linear_projections") else self.linear_c
    return [layer.proj for layer in layers]


def _foldable(self: Any) -> bool:
    layers = self.linear_projections if hasattr(self, "linear_projections") else self.linear_c
    return (
        all(_plain(each.proj, nn.Linear) for each in layers)
        and not any(getattr(each, hooks) for each in layers for hooks in _HOOKS)
        and _plain(self.linear_fuse, nn.Conv2d)
        and self.linear_fuse.kernel_size == (1, 1)
        and self.linear_fuse.bias is None
        and type(self.batch_norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)
        and not any(getattr(self.batch_norm, hooks) for hooks in _HOOKS)
        and _plain(self.activation, nn.ReLU)
        and _plain(self.classifier, nn.Conv2d)
        and self.classifier.kernel_size == (1, 1)
    )


@_forward
def _decode(self: Any, encoder_hidden_states: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Folded: maps are projected at their own resolution, summed and classified."""
    if not _foldable(self) or any(state.ndim != 4 for state in encoder_hidden_states):
        return cast("Tensor", type(self).forward(self, encoder_hidden_states, **kwargs))
    device = encoder_hidden_states[0].device.type
    features = [state.permute(0, 2, 3, 1) for state in encoder_hidden_states]
    if torch.is_autocast_enabled(device):
        # Operators of fastseg are not on autocast's list.
        features = [feature.to(torch.get_autocast_dtype(device)) for feature in features]
    weights, bias = _folded(self.linear_fuse.weight, _projections(self))
    classifier, offset = self.classifier.weight.flatten(1), self.classifier.bias
    norm = self.batch_norm
    if offset is None:
        offset = classifier.new_zeros(len(classifier))
    if not self.training and not norm.training and norm.running_mean is not None:
        # BatchNorm is a factor and an offset here, and there is no dropout.
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        bias = (bias - norm.running_mean) * scale
        bias = bias if norm.bias is None else bias + norm.bias
        weights = [weight * scale[:, None] for weight in weights]
        return folded_decoder(features, weights, bias, classifier, offset)
    maps = [token_linear(x, w.to(x.dtype)) for x, w in zip(features, weights, strict=True)]
    hidden = upsample_sum(maps, bias).permute(0, 3, 1, 2)
    hidden = self.dropout(F.relu(norm(hidden))).permute(0, 2, 3, 1)
    logits = token_linear(hidden, classifier, offset)
    return logits.permute(0, 3, 1, 2)


def _folded(fusion: Tensor, projections: Sequence[nn.Linear]) -> tuple[list[Tensor], Tensor]:
    """For each stage (D, C), the fusion's matrix times the projection's, and the sum of biases."""
    # The fusion reads the last stage first.
    parts = fusion.flatten(1).chunk(len(projections), dim=1)[::-1]
    weights, bias = [], fusion.new_zeros(len(fusion))
    for part, projection in zip(parts, projections, strict=True):
        weights.append(token_linear(projection.weight.T[None], part)[0].T)
        if projection.bias is not None:
            bias = bias + part @ projection.bias
    return weights, bias


_FAST: Mapping[str, FunctionType] = {
    # All versions.
    "SegformerOverlapPatchEmbeddings": _embed_patches,
    "SegformerDecodeHead": _decode,
    # Since 5.9.
    "SegformerSequenceReduction": _reduce_sequence,
    "SegformerAttention": _attend,
    "SegformerMixMLP": _mix,
    # Before 5.9.
    "SegformerEfficientSelfAttention": _attend_before_5_9,
    "SegformerSelfOutput": _project_attention,
    "SegformerMixFFN": _mix,
}
_ALL: frozenset[Callable[..., Any]] = frozenset(_FAST.values())
# What the fast versions read, so that a rewritten layer is left alone rather than misread.
_NEEDED: Mapping[str, Sequence[str]] = {
    "SegformerOverlapPatchEmbeddings": ("proj", "layer_norm"),
    "SegformerSequenceReduction": ("sequence_reduction", "layer_norm"),
    "SegformerAttention": (
        *("config", "q_proj", "k_proj", "v_proj", "o_proj"),
        *("attention_dropout", "num_attention_heads", "sequence_reduction_ratio"),
    ),
    "SegformerMixMLP": ("fc1", "dwconv", "activation_fn", "fc2", "dropout"),
    "SegformerEfficientSelfAttention": (
        *("query", "key", "value", "dropout", "sr_ratio", "num_attention_heads"),
    ),
    "SegformerSelfOutput": ("dense", "dropout"),
    "SegformerMixFFN": ("dense1", "dwconv", "intermediate_act_fn", "dense2", "dropout"),
    "SegformerDecodeHead": ("linear_fuse", "batch_norm", "activation", "dropout", "classifier"),
}
