"""The likeliest classes of low-resolution logits at every pixel, and their probabilities."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastseg import _rust
from fastseg._checks import integer
from fastseg.labelmaps._logits import as_logits, as_size


class TopK(NamedTuple):
    """The likeliest classes of every pixel, the likeliest first.

    Attributes:
        labels: (k, H, W) or (B, k, H, W), the smallest unsigned integers that fit.
        probs: (k, H, W) or (B, k, H, W) float32 in [0, 1], by the softmax over all classes.
    """

    labels: Any
    probs: Any


def upsample_top_k(
    logits: Any, size: tuple[int, int], *, k: int, align_corners: bool = False
) -> TopK:
    """Return the k likeliest classes of every pixel of bilinearly resampled logits.

    The probabilities are those of the resampled logits, p_c = exp(l_c) / Σ exp(l_j), not resampled
    probabilities. Nothing of the size K·H·W is made.

    Args:
        logits: (K, h, w) or (B, K, h, w) float16, bfloat16 (a torch tensor), float32 or float64.
        size: (H, W) of the result in pixels.
        k: How many classes, from 1 to K.
        align_corners: Whether the centres of the corner pixels coincide, rather than their outer
            edges.

    Returns:
        Labels (k, H, W) or (B, k, H, W) of the same integer types as `upsample_argmax` gives, and
        their probabilities, float32. Tensors for a tensor.

    Raises:
        ShapeError: The logits are not (K, h, w) or (B, K, h, w), or have no class or pixel.
        DtypeError: The logits are not floating point.
        ParameterError: The size is below 1, or `k` not from 1 to K.

    Convention:
        Of equal values the lower class comes first, and NaN before all others; so `labels[0]` is
        `upsample_argmax`. Where a logit is NaN or +inf the probabilities are NaN, as in torch.

    Source:
        Equal to `interpolate(logits, size, mode="bilinear").softmax(1).topk(k, dim=1)` of torch
        within rounding; torch does not say which of equal values it takes.

    Example:
        >>> import numpy as np
        >>> from fastseg import labelmaps
        >>> logits = np.log(np.array([0.1, 0.6, 0.3])).reshape(3, 1, 1)
        >>> best = labelmaps.upsample_top_k(logits, (1, 2), k=2)
        >>> best.labels[:, 0, 0].tolist(), best.probs[:, 0, 0].round(3).tolist()
        ([1, 2], [0.6000000238418579, 0.30000001192092896])
    """
    given = as_logits(logits)
    height, width = as_size(size)
    k = integer("k", k, least=1, most=given.num_classes)
    labels, probs = _rust.upsample_top_k(
        given.values,
        height=height,
        width=width,
        align_corners=bool(align_corners),
        brain=given.brain,
        k=k,
    )
    return TopK(given.unbatched(labels), given.unbatched(probs))
