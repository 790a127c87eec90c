"""SegFormer's decoder as the paper writes it, without the fold."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.layers import AllMLPDecoder, MMSegDecoder


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def all_mlp_decoder(layer: AllMLPDecoder, features: Sequence[Tensor]) -> Tensor:
    """(B, C, h, w) features to (B, K, H, W) logits, with the concatenation."""
    projected = [
        projection(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        for x, projection in zip(features, layer.projections, strict=True)
    ]
    stacked = torch.cat([_enlarged(x, features[0]) for x in projected][::-1], dim=1)
    return _fused(layer, stacked)


def mmseg_decoder(layer: MMSegDecoder, features: Sequence[Tensor]) -> Tensor:
    """The same with a BatchNorm and ReLU after each projection, first stage first."""
    layers = zip(features, layer.projections, layer.projection_norms, strict=True)
    projected = [F.relu(norm(projection(x))) for x, projection, norm in layers]
    stacked = torch.cat([_enlarged(x, features[0]) for x in projected], dim=1)
    return _fused(layer, stacked)


def _fused(layer: nn.Module, stacked: Tensor) -> Tensor:
    return layer.classifier(F.relu(layer.norm(layer.fuse(stacked))))
