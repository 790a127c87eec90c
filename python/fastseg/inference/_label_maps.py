"""From scores at a model's resolution to labels or probabilities at the picture's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg import labelmaps, ops

_EIGHT_BITS = 256


def labels_of(
    scores: Tensor, size: tuple[int, int], *, threshold: float, align_corners: bool
) -> Tensor:
    """Enlarge scores and take the best class, without scores at the size of the result.

    Args:
        scores: (K, h, w) float32; of one class, the label is 1 above the threshold.
        size: Height and width of the result.
        threshold: 0 for logits, ½ for probabilities.
        align_corners: How scores are enlarged.

    Returns:
        (H, W) uint8, or int32 for more than 256 classes.
    """
    if len(scores) == 1:
        return (enlarged(scores, size, align_corners=align_corners)[0] > threshold).to(torch.uint8)
    if scores.device.type == "cpu":
        labels: Tensor = labelmaps.upsample_argmax(scores, size, align_corners=align_corners)
        return labels
    labels = ops.upsample_argmax(scores[None], size, align_corners=align_corners)[0]
    return labels.to(torch.uint8 if len(scores) <= _EIGHT_BITS else torch.int32)


def enlarged(scores: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """(K, h, w) scores bilinearly at another size."""
    if tuple(scores.shape[1:]) == size:
        return scores
    result = F.interpolate(scores[None], size, mode="bilinear", align_corners=align_corners)
    return result[0]


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes of (…, K, h, w) logits; the sigmoid of a single one."""
    return logits.sigmoid() if logits.shape[-3] == 1 else logits.softmax(dim=-3)
