"""The label map of low-resolution logits, and how sure each of its labels is."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastseg.labelmaps.upsample_top_k import upsample_top_k


class Confidence(NamedTuple):
    """Labels and their probabilities.

    Attributes:
        labels: (H, W) or (B, H, W), the smallest unsigned integers that fit.
        confidence: (H, W) or (B, H, W) float32 in [0, 1].
    """

    labels: Any
    confidence: Any


def upsample_confidence(
    logits: Any, size: tuple[int, int], *, align_corners: bool = False
) -> Confidence:
    """Return the likeliest class of every pixel of resampled logits, and its probability.

    Args:
        logits: (K, h, w) or (B, K, h, w) float16, bfloat16 (a torch tensor), float32 or float64.
        size: (H, W) of the result in pixels.
        align_corners: Whether the centres of the corner pixels coincide, rather than their outer
            edges.

    Returns:
        Labels (H, W) or (B, H, W) as `upsample_argmax` gives them, and their probabilities by the
        softmax over all classes, float32. Tensors for a tensor.

    Raises:
        ShapeError: The logits are not (K, h, w) or (B, K, h, w), or have no class or pixel.
        DtypeError: The logits are not floating point.
        ParameterError: The size is below 1.

    Convention:
        As for `upsample_top_k`, whose first place this is.

    Example:
        >>> import numpy as np
        >>> from fastseg import labelmaps
        >>> logits = np.array([[[4.0, 0.0]], [[0.0, 0.0]]], np.float32)
        >>> ids, confidence = labelmaps.upsample_confidence(logits, (1, 4))
        >>> confidence.round(2)
        array([[0.98, 0.95, 0.73, 0.5 ]], dtype=float32)
    """
    labels, probs = upsample_top_k(logits, size, k=1, align_corners=align_corners)
    return Confidence(labels[..., 0, :, :], probs[..., 0, :, :])
