"""Fast versions of the layers of segmentation_models.pytorch's SegFormer.

Written from what its layers are called, take and return, and from the paper; its code is not under
a permissive licence and was not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

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
from fastseg.ops.sequence_reduced_attention import sequence_reduced_attention
from fastseg.ops.token_linear import token_linear
from fastseg.ops.upsample_sum import upsample_sum

_ENCODER = "segmentation_models_pytorch.encoders.mix_transformer"
_DECODER = "segmentation_models_pytorch.decoders.segformer.decoder"


def _usual_scale(self: Any) -> bool:
    return bool(abs(self.scale * (self.q.out_features / self.num_heads) ** 0.5 - 1) < 1e-6)


@as_forward
def _attend(self: Any, x: Tensor, height: int, width: int) -> Tensor:
    """Attention without moving heads."""
    if not _usual_scale(self) or (self.training and self.attn_drop.p > 0):
        return cast("Tensor", type(self).forward(self, x, height, width))
    kept = reduced(self.sr, self.norm, x, height, width) if self.sr_ratio > 1 else x
    key, value = linear(self.kv, kept).chunk(2, dim=-1)
    query = linear(self.q, x)
    attended = sequence_reduced_attention(query, key, value, num_heads=self.num_heads)
    return cast("Tensor", self.proj_drop(linear(self.proj, attended)))


def _attention_reason(self: Any) -> str | None:
    return None if _usual_scale(self) else "its scores are scaled by another factor"


def _fusible(self: Any) -> bool:
    return exact_gelu(self.act) and depthwise_3x3(self.dwconv)


@as_forward
def _mix(self: Any, x: Tensor, height: int, width: int) -> Tensor:
    """Depthwise convolution, bias and GELU in one step, on tokens."""
    if not _fusible(self):
        return cast("Tensor", type(self).forward(self, x, height, width))
    return mixed(x, height, width, self.fc1, self.dwconv.dwconv, self.fc2, self.drop)


def _mix_reason(self: Any) -> str | None:
    return None if _fusible(self) else "its convolution or activation is not the usual one"


def _foldable(self: Any) -> bool:
    fusion = list(self.fuse_stage)
    return (
        all(plain(stage.linear, nn.Linear) and not hooked(stage) for stage in self.mlp_stage)
        and not hooked(self.fuse_stage)
        and len(fusion) == 3
        and plain(fusion[0], nn.Conv2d)
        and fusion[0].kernel_size == (1, 1)
        and fusion[0].bias is None
        and type(fusion[1]) in (nn.BatchNorm2d, nn.SyncBatchNorm)
        and not hooked(fusion[1])
        and plain(fusion[2], nn.ReLU)
    )


@as_forward
def _decode(self: Any, features: Sequence[Tensor]) -> Tensor:
    """Folded: maps are projected at their own resolution and summed."""
    if not _foldable(self):
        return cast("Tensor", type(self).forward(self, features))
    # Stages come from the last to the first, in the decoder and in the fusion.
    tokens = tokens_of_maps(features[-len(self.mlp_stage) :])
    fusion, norm = self.fuse_stage[0], self.fuse_stage[1]
    weights, bias = folded(fusion.weight, [stage.linear for stage in self.mlp_stage])
    affine = is_affine(norm)
    if affine:
        weights, bias = normalized(weights, bias, norm)
    weights.reverse()
    maps = [token_linear(x, w.to(x.dtype)) for x, w in zip(tokens, weights, strict=True)]
    hidden = upsample_sum(maps, bias).permute(0, 3, 1, 2)
    return F.relu(hidden if affine else norm(hidden))


def _decode_reason(self: Any) -> str | None:
    return None if _foldable(self) else "one of its layers was exchanged or has hooks"


LAYERS: Mapping[tuple[str, str], FastLayer] = {
    (_ENCODER, "Attention"): FastLayer(
        _attend,
        ("q", "kv", "proj", "attn_drop", "proj_drop", "num_heads", "scale", "sr_ratio"),
        _attention_reason,
    ),
    (_ENCODER, "Mlp"): FastLayer(_mix, ("fc1", "dwconv", "act", "fc2", "drop"), _mix_reason),
    (_DECODER, "SegformerDecoder"): FastLayer(_decode, ("mlp_stage", "fuse_stage"), _decode_reason),
}
