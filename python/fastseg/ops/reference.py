"""The plain version of every operation: slow, obvious, of any dtype, differentiable."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def sequence_reduced_attention(
    query: Tensor, key: Tensor, value: Tensor, *, num_heads: int
) -> Tensor:
    """`softmax(Q K^T / sqrt(d)) V` for each head, one after the other.

    Args:
        query: (B, N, C) float.
        key: (B, M, C) float.
        value: (B, M, C) float.
        num_heads: heads, which share out the channels.

    Returns:
        (B, N, C) float.
    """
    width = query.shape[-1] // num_heads
    heads = []
    for i in range(num_heads):
        q, k, v = (x[..., i * width : (i + 1) * width] for x in (query, key, value))
        scores = q @ k.transpose(1, 2) / width**0.5
        heads.append(scores.softmax(dim=-1) @ v)
    return torch.cat(heads, dim=-1)


def depthwise_conv_gelu(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A depthwise 3×3 convolution as nine shifted pictures, then the exact GELU.

    Args:
        tokens: (B, H, W, C) float.
        weight: (C, 1, 3, 3) float.
        bias: (C) float.

    Returns:
        (B, H, W, C) float.
    """
    height, width = tokens.shape[1:3]
    padded = F.pad(tokens, (0, 0, 1, 1, 1, 1))
    out = bias.expand_as(tokens)
    for i in range(3):
        for j in range(3):
            out = out + padded[:, i : i + height, j : j + width] * weight[:, 0, i, j]
    return out * 0.5 * (1 + torch.erf(out / 2**0.5))


def upsample_sum(maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    """The sum of maps, each enlarged bilinearly to the size of the first, and a bias.

    Args:
        maps: (B, h, w, D) float each.
        bias: (D) float.

    Returns:
        (B, H, W, D) float.
    """
    total = bias.expand_as(maps[0])
    size = maps[0].shape[1:3]
    for x in maps:
        total = total + F.interpolate(
            x.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False
        ).permute(0, 2, 3, 1)
    return total.contiguous()


def folded_decoder(
    features: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor,
    classifier_weight: Tensor,
    classifier_bias: Tensor,
) -> Tensor:
    """The classifier of the ReLU of the sum of enlarged projections.

    Args:
        features: (B, h, w, C) float each, the largest first.
        weights: (D, C) float each.
        bias: (D) float.
        classifier_weight: (K, D) float.
        classifier_bias: (K) float.

    Returns:
        (B, K, H, W) float, of the first map's size.
    """
    maps = [F.linear(x, weight) for x, weight in zip(features, weights, strict=True)]
    hidden = upsample_sum(maps, bias).relu()
    return F.linear(hidden, classifier_weight, classifier_bias).permute(0, 3, 1, 2).contiguous()


def upsample_argmax(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """The class with the largest of the bilinearly enlarged logits.

    Args:
        logits: (B, K, h, w) float.
        size: (H, W).
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        (B, H, W) int64.
    """
    full = F.interpolate(logits, size=list(size), mode="bilinear", align_corners=align_corners)
    return full.argmax(dim=1)


def upsample_cross_entropy(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, align_corners: bool = False
) -> Tensor:
    """The mean cross entropy of the bilinearly enlarged logits.

    Args:
        logits: (B, K, h, w) float.
        target: (B, H, W) int64.
        ignore_index: label of pixels that do not count.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        A scalar; NaN where no pixel counts.
    """
    size = list(target.shape[-2:])
    full = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(full, target, ignore_index=ignore_index)
