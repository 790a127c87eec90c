"""How far the worst part of one surface is from the other."""

from typing import Any, Literal

from fastseg.metrics._grids import Spacing
from fastseg.metrics.surface_distances import Method, measure, per_label, scores


def hausdorff_distance(
    pred: Any,
    target: Any,
    *,
    percentile: float = 100,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    spacing: Spacing | None = None,
    method: Method = "deepmind",
    spatial_dims: Literal[2, 3] | None = None,
) -> Any:
    """Hausdorff distance between the surfaces of two segmentations, or a percentile of it (HD95).

    Args:
        pred: (H, W) or (D, H, W): a mask, or labels where `num_classes` is given. A batch has one
            axis more and needs `spatial_dims`; a list may hold images of different sizes.
        target: The same for the truth.
        percentile: 0 … 100; 100 for the Hausdorff distance itself, 95 for HD95.
        num_classes: How many labels there are, 0 … num_classes − 1. None: masks.
        ignore_index: Pixels that have this label in the target are left out of both.
        spacing: Distance between neighbouring pixels along each axis, in the order of the axes,
            or one number for all. Default 1.
        method: Whose definition of the percentile and of surfaces: "deepmind", "monai", "medpy".
        spatial_dims: 2 or 3: how many axes an image has. None: all of an array's.

    Returns:
        A float for a pair of masks, (num_classes,) float64 for labels, and one of that for each
        image of a batch along a first axis.

    Raises:
        ShapeError: Shapes disagree, or are none of images.
        DtypeError: Values are no integers.
        DataError: A mask has other values than 0 and 1.
        LabelError: A label is out of range.
        ParameterError: A parameter is out of range.

    Convention:
        Both masks empty: NaN. One empty: infinite, so that a structure that was missed shows.
        "deepmind": percentile of each direction weighted by the area of the surface, then the
        larger of both. "monai": percentile of each direction over border pixels, then the larger.
        "medpy": percentile of both directions together. At 100 the last two agree.

    Source:
        The packages surface-distance (`compute_robust_hausdorff`), MONAI
        (`compute_hausdorff_distance`) and medpy (`hd95`), to whose numbers it is equal. MONAI gives
        NaN, which its mean leaves out, where a prediction is empty (its issue 9095).

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> target = np.zeros((8, 8), bool)
        >>> target[2:6, 2:6] = True
        >>> metrics.hausdorff_distance(np.roll(target, 2, axis=1), target, spacing=(1, 0.5))
        1.0
    """
    images, measured = measure(
        pred,
        target,
        num_classes=num_classes,
        ignore_index=ignore_index,
        spacing=spacing,
        method=method,
        spatial_dims=spatial_dims,
    )
    options = per_label(percentile, images, "percentile")
    return scores(images, measured, lambda found, at: found.hausdorff(at), options)
