"""How much of two surfaces is as near to the other as a tolerance."""

from collections.abc import Sequence
from typing import Any, Literal

from fastseg.metrics._grids import Spacing
from fastseg.metrics.surface_distances import measure, per_label, scores


def surface_dice(
    pred: Any,
    target: Any,
    *,
    tolerance: float | Sequence[float],
    num_classes: int | None = None,
    ignore_index: int | None = None,
    spacing: Spacing | None = None,
    method: Literal["deepmind", "monai"] = "deepmind",
    spatial_dims: Literal[2, 3] | None = None,
) -> Any:
    """Normalised surface Dice (NSD): the share of both surfaces within a tolerance of the other.

    Args:
        pred: (H, W) or (D, H, W): a mask, or labels where `num_classes` is given. A batch has one
            axis more and needs `spatial_dims`; a list may hold images of different sizes.
        target: The same for the truth.
        tolerance: In the unit of the spacing, at least 0: one number, or one for each class.
        num_classes: How many labels there are, 0 … num_classes − 1. None: masks.
        ignore_index: Pixels that have this label in the target are left out of both.
        spacing: Distance between neighbouring pixels along each axis, in the order of the axes,
            or one number for all. Default 1.
        method: "deepmind" weighs by the length or area of the surface, "monai" counts pixels.
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
        Both masks empty: NaN. One empty: 0. An element exactly at the tolerance counts as near.

    Source:
        Nikolov et al. 2018 and the package surface-distance
        (`compute_surface_dice_at_tolerance`); MONAI (`compute_surface_dice`).

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> target = np.zeros((8, 8), bool)
        >>> target[2:6, 2:6] = True
        >>> metrics.surface_dice(np.roll(target, 1, axis=1), target, tolerance=1)
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
        methods=("deepmind", "monai"),
    )
    options = per_label(tolerance, images, "tolerance")
    return scores(images, measured, lambda found, near: found.surface_dice(near), options)
