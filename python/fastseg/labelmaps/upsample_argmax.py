"""The label map of low-resolution logits, without the logits of its pixels."""

from __future__ import annotations

from typing import Any

from fastseg import _rust
from fastseg.labelmaps._logits import as_logits, as_size


def upsample_argmax(logits: Any, size: tuple[int, int], *, align_corners: bool = False) -> Any:
    """Return the likeliest class of every pixel of bilinearly resampled logits.

    The result is that of interpolating and taking the argmax, but nothing of the size K·H·W is
    made: in most cells between four neighbouring samples only one class can win, and the others are
    evaluated for the classes that can. The memory used beyond the result does not grow with it.

    Args:
        logits: (K, h, w) or (B, K, h, w) float16, bfloat16 (a torch tensor), float32 or float64;
            channels may come first or last in memory.
        size: (H, W) of the result in pixels, larger or smaller than (h, w).
        align_corners: Whether the centres of the corner pixels coincide, rather than their outer
            edges.

    Returns:
        (H, W) or (B, H, W) of the smallest of uint8 (up to 256 classes), uint16 (up to 65536) and
        uint32. A torch tensor for a torch tensor, on its device, with int32 in place of uint16 and
        int64 in place of uint32, which few torch operations take.

    Raises:
        ShapeError: The logits are not (K, h, w) or (B, K, h, w), or have no class or pixel.
        DtypeError: The logits are not floating point.
        ParameterError: The size is below 1.

    Convention:
        Half-pixel centres unless `align_corners`, as in `torch.nn.functional.interpolate`.
        Computed in float32 whatever the dtype; of equal values the lowest class wins. NaN counts
        as the largest value, and spreads to every pixel between its sample and the next ones.
        An infinite logit that has no weight at a pixel does not count there.

    Source:
        Equal to `interpolate(logits, size, mode="bilinear").argmax(1)` of torch in float32,
        wherever the two best logits differ by more than rounding. On purpose different: torch
        multiplies infinite logits by a weight of zero, so that a class masked with −inf becomes
        NaN and wins along two borders.

    Example:
        >>> import numpy as np
        >>> from fastseg import labelmaps
        >>> logits = np.array([[[2.0, 0.0]], [[0.0, 1.0]]], np.float32)
        >>> labelmaps.upsample_argmax(logits, (1, 8))
        array([[0, 0, 0, 0, 0, 1, 1, 1]], dtype=uint8)
    """
    given = as_logits(logits)
    height, width = as_size(size)
    ids = _rust.upsample_argmax(
        given.values,
        height=height,
        width=width,
        align_corners=bool(align_corners),
        brain=given.brain,
    )
    return given.unbatched(ids)
