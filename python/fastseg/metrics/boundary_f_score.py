"""How well the contours of two segmentations match within a tolerance."""

import math
from typing import Any, Literal

from fastseg._checks import number
from fastseg.metrics._grids import Spacing, spacing_per_axis
from fastseg.metrics.surface_distances import measure

# Of the image's diagonal: Csurka et al. and what followed them.
DIAGONAL_SHARE = 0.0075


def boundary_f_score(
    pred: Any,
    target: Any,
    *,
    tolerance: float | None = None,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    spacing: Spacing | None = None,
    spatial_dims: Literal[2, 3] | None = None,
) -> Any:
    """Boundary F-score (BF): how well contours match, 2·precision·recall / (precision + recall).

    Precision is the share of the prediction's border pixels that are within the tolerance of one
    of the target's, recall the reverse.

    Args:
        pred: (H, W) or (D, H, W): a mask, or labels where `num_classes` is given. A batch has one
            axis more and needs `spatial_dims`; a list may hold images of different sizes.
        target: The same for the truth.
        tolerance: In the unit of the spacing. None: 0.75 % of each image's diagonal.
        num_classes: How many labels there are, 0 … num_classes − 1. None: masks.
        ignore_index: Pixels that have this label in the target are left out of both.
        spacing: Distance between neighbouring pixels along each axis, in the order of the axes,
            or one number for all. Default 1.
        spatial_dims: 2 or 3: how many axes an image has. None: all of an array's.

    Returns:
        A float in [0, 1] for a pair of masks, (num_classes,) float64 for labels, and one of that
        for each image of a batch along a first axis.

    Raises:
        ShapeError: Shapes disagree, or are none of images.
        DtypeError: Values are no integers.
        DataError: A mask has other values than 0 and 1.
        LabelError: A label is out of range.
        ParameterError: A parameter is out of range.

    Convention:
        A border pixel is in the mask and has a neighbour outside along an axis; nothing is inside
        beyond the edge of the image. Both masks empty: NaN. One empty, or no pixel near: 0.

    Source:
        Csurka et al., "What is a good evaluation measure for semantic segmentation?", 2013. Border
        pixels as in `hausdorff_distance(method="monai")`, exact Euclidean distances.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> target = np.zeros((8, 8), bool)
        >>> target[2:6, 2:6] = True
        >>> metrics.boundary_f_score(np.roll(target, 1, axis=1), target, tolerance=0)
        0.5
    """
    if tolerance is not None:
        tolerance = number("tolerance", tolerance, least=0)
    images, measured = measure(
        pred,
        target,
        num_classes=num_classes,
        ignore_index=ignore_index,
        spacing=spacing,
        method="monai",
        spatial_dims=spatial_dims,
    )
    found = []
    for pair, labels in zip(images.images, measured, strict=True):
        near = _default(pair.shape, spacing) if tolerance is None else tolerance
        found.append([distances.f_score(near) for distances in labels])
    return images.arrange(found)


def _default(shape: tuple[int, ...], spacing: Spacing | None) -> float:
    steps = spacing_per_axis(spacing, len(shape))
    return DIAGONAL_SHARE * math.hypot(*(n * step for n, step in zip(shape, steps, strict=True)))
