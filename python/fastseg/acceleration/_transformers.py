"""Fast versions of the layers of transformers' SegFormer, of both generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.acceleration._layers import (
    FastLayer,
    as_forward,
    depthwise_3x3,
    exact_gelu,
    folded,
    hooked,
    is_affine,
    linear,
    mixed,
    normalized,
    plain,
    reduced,
    tokens_of_maps,
)
from fastseg.ops.folded_decoder import folded_decoder
from fastseg.ops.sequence_reduced_attention import sequence_reduced_attention
from fastseg.ops.token_linear import token_linear
from fastseg.ops.upsample_sum import upsample_sum

_HOME = "transformers.models.segformer.modeling_segformer"


@as_forward
def _embed_patches(self: Any, pixel_values: Tensor) -> tuple[Tensor, int, int]:
    """Patches stay in token layout."""
    # A convolution of channels-last input gives tokens without a copy.
    patches = self.proj(pixel_values.contiguous(memory_format=torch.channels_last))
    height, width = patches.shape[2:]
    return self.layer_norm(patches.permute(0, 2, 3, 1).flatten(1, 2)), height, width


@as_forward
def _reduce_sequence(self: Any, hidden_states: Tensor, height: int, width: int) -> Tensor:
    """The reduction runs on tokens as they lie."""
    return reduced(self.sequence_reduction, self.layer_norm, hidden_states, height, width)


def _uses_sdpa(self: Any) -> bool:
    return _attention(self) == "sdpa"


def _attention(self: Any) -> str:
    return str(self.config._attn_implementation)


@as_forward
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
    kept = hidden_states
    if self.sequence_reduction_ratio > 1:
        kept = self.sequence_reduction(hidden_states, height, width)
    attended = sequence_reduced_attention(
        linear(self.q_proj, hidden_states),
        linear(self.k_proj, kept),
        linear(self.v_proj, kept),
        num_heads=self.num_attention_heads,
    )
    return linear(self.o_proj, attended), None


@as_forward
def _attend_before_5_9(
    self: Any, hidden_states: Tensor, height: int, width: int, output_attentions: bool = False
) -> tuple[Tensor, ...]:
    """Attention without moving heads."""
    if output_attentions or (self.training and self.dropout.p > 0):
        result: tuple[Tensor, ...] = type(self).forward(
            self, hidden_states, height, width, output_attentions
        )
        return result
    kept = hidden_states
    if self.sr_ratio > 1:
        kept = reduced(self.sr, self.layer_norm, hidden_states, height, width)
    attended = sequence_reduced_attention(
        linear(self.query, hidden_states),
        linear(self.key, kept),
        linear(self.value, kept),
        num_heads=self.num_attention_heads,
    )
    return (attended,)


@as_forward
def _project_attention(self: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:  # noqa: ARG001
    """The projection after attention, as a convolution where that is faster."""
    return cast("Tensor", self.dropout(linear(self.dense, hidden_states)))


def _fusible(self: Any) -> bool:
    activation = self.activation_fn if hasattr(self, "activation_fn") else self.intermediate_act_fn
    return exact_gelu(activation) and depthwise_3x3(self.dwconv)


@as_forward
def _mix(self: Any, hidden_states: Tensor, height: int, width: int) -> Tensor:
    """Depthwise convolution, bias and GELU in one step, on tokens."""
    if not _fusible(self):
        return cast("Tensor", type(self).forward(self, hidden_states, height, width))
    first, last = (self.fc1, self.fc2) if hasattr(self, "fc1") else (self.dense1, self.dense2)
    convolution = self.dwconv.dwconv
    return mixed(hidden_states, height, width, first, convolution, last, self.dropout)


def _projections(self: Any) -> Any:
    return self.linear_projections if hasattr(self, "linear_projections") else self.linear_c


def _foldable(self: Any) -> bool:
    layers = _projections(self)
    return (
        all(plain(each.proj, nn.Linear) for each in layers)
        and not any(map(hooked, layers))
        and plain(self.linear_fuse, nn.Conv2d)
        and self.linear_fuse.kernel_size == (1, 1)
        and self.linear_fuse.bias is None
        and type(self.batch_norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)
        and not hooked(self.batch_norm)
        and plain(self.activation, nn.ReLU)
        and plain(self.classifier, nn.Conv2d)
        and self.classifier.kernel_size == (1, 1)
    )


@as_forward
def _decode(self: Any, encoder_hidden_states: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Folded: maps are projected at their own resolution, summed and classified."""
    if not _foldable(self) or any(state.ndim != 4 for state in encoder_hidden_states):
        return cast("Tensor", type(self).forward(self, encoder_hidden_states, **kwargs))
    features = tokens_of_maps(encoder_hidden_states)
    # The fusion reads the last stage first.
    projections = [each.proj for each in _projections(self)][::-1]
    weights, bias = folded(self.linear_fuse.weight, projections)
    weights.reverse()
    classifier, offset = self.classifier.weight.flatten(1), self.classifier.bias
    norm = self.batch_norm
    if offset is None:
        offset = classifier.new_zeros(len(classifier))
    if not self.training and is_affine(norm):
        # There is no dropout.
        weights, bias = normalized(weights, bias, norm)
        return folded_decoder(features, weights, bias, classifier, offset)
    maps = [token_linear(x, w.to(x.dtype)) for x, w in zip(features, weights, strict=True)]
    hidden = upsample_sum(maps, bias).permute(0, 3, 1, 2)
    hidden = self.dropout(F.relu(norm(hidden))).permute(0, 2, 3, 1)
    logits = token_linear(hidden, classifier, offset)
    return logits.permute(0, 3, 1, 2)


def _attention_reason(self: Any) -> str | None:
    return None if _uses_sdpa(self) else f"attention is {_attention(self)!r}, not 'sdpa'"


def _mix_reason(self: Any) -> str | None:
    return None if _fusible(self) else "its convolution or activation is not the usual one"


def _decode_reason(self: Any) -> str | None:
    return None if _foldable(self) else "one of its layers was exchanged or has hooks"


def _is_attention(self: nn.Module) -> bool:
    """Before 5.9 a class of the same name only joined two that have fast versions."""
    return not hasattr(self, "self")


_FAST = {
    # All versions.
    "SegformerOverlapPatchEmbeddings": FastLayer(_embed_patches, ("proj", "layer_norm")),
    "SegformerDecodeHead": FastLayer(
        _decode,
        ("linear_fuse", "batch_norm", "activation", "dropout", "classifier"),
        _decode_reason,
    ),
    # Since 5.9.
    "SegformerSequenceReduction": FastLayer(_reduce_sequence, ("sequence_reduction", "layer_norm")),
    "SegformerAttention": FastLayer(
        _attend,
        (
            *("config", "q_proj", "k_proj", "v_proj", "o_proj"),
            *("attention_dropout", "num_attention_heads", "sequence_reduction_ratio"),
        ),
        _attention_reason,
        _is_attention,
    ),
    "SegformerMixMLP": FastLayer(
        _mix, ("fc1", "dwconv", "activation_fn", "fc2", "dropout"), _mix_reason
    ),
    # Before 5.9.
    "SegformerEfficientSelfAttention": FastLayer(
        _attend_before_5_9,
        ("query", "key", "value", "dropout", "sr_ratio", "num_attention_heads"),
    ),
    "SegformerSelfOutput": FastLayer(_project_attention, ("dense", "dropout")),
    "SegformerMixFFN": FastLayer(
        _mix, ("dense1", "dwconv", "intermediate_act_fn", "dense2", "dropout"), _mix_reason
    ),
}
LAYERS: Mapping[tuple[str, str], FastLayer] = {(_HOME, name): fast for name, fast in _FAST.items()}
