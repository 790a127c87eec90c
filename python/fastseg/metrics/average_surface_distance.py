"""How far two surfaces are apart on average."""

from typing import Any, Literal

from fastseg.metrics._grids import Spacing
from fastseg.metrics.surface_distances import Method, measure, per_label, scores


def average_surface_distance(
    pred: Any,
    target: Any,
    *,
    symmetric: bool = True,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    spacing: Spacing | None = None,
    method: Method = "deepmind",
    spatial_dims: Literal[2, 3] | None = None,
) -> Any:
    """Average symmetric surface distance (ASSD), or that from the prediction alone (ASD).

    Args:
        pred: (H, W) or (D, H, W): a mask, or labels where `num_classes` is given. A batch has one
            axis more and needs `spatial_dims`; a list may hold images of different sizes.
        target: The same for the truth.
        symmetric: Whether both directions count, or only that from the prediction to the target.
        num_classes: How many labels there are, 0 … num_classes − 1. None: masks.
        ignore_index: Pixels that have this label in the target are left out of both.
        spacing: Distance between neighbouring pixels along each axis, in the order of the axes,
            or one number for all. Default 1.
        method: Whose definition: "deepmind", "monai" or "medpy".
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
        Both masks empty: NaN. One empty: infinite. Symmetric is the mean over all elements of both
        surfaces together: weighted by area for "deepmind", which itself only gives the two
        directions, and over border pixels for "monai" and "medpy", which agree.

    Source:
        The packages surface-distance (`compute_average_surface_distance`), MONAI (the function of
        that name) and medpy 0.5 (`assd`, `asd`).

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> target = np.zeros((8, 8), bool)
        >>> target[2:6, 2:6] = True
        >>> metrics.average_surface_distance(np.roll(target, 1, axis=1), target, method="monai")
        0.5
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
    options = per_label(0, images, "")
    return scores(images, measured, lambda found, _: found.average(symmetric=symmetric), options)
