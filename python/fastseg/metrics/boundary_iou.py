"""How well two segmentations overlap near their boundaries."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg._checks import positive
from fastseg.metrics._pairs import Pair, Pairs, label_error, pairs


def boundary_iou(
    pred: Any,
    target: Any,
    *,
    ratio: float = 0.02,
    num_classes: int | None = None,
    ignore_index: int | None = None,
) -> Any:
    """Boundary IoU: intersection over union of what lies near the boundary of each mask.

    Args:
        pred: (H, W) or (B, H, W): masks, or labels where `num_classes` is given. A list may hold
            images of different sizes.
        target: The same for the truth.
        ratio: How deep a boundary is, as a share of the image's diagonal.
        num_classes: How many labels there are, 0 … num_classes − 1. None: masks.
        ignore_index: Pixels that have this label in the target are not counted.

    Returns:
        A float for a pair of masks, (num_classes,) float64 for labels, and one of that for each
        image of a batch along a first axis. NaN where neither mask has a boundary.

    Raises:
        ShapeError: Shapes disagree, or are none of images.
        DtypeError: Values are no integers.
        DataError: A mask has other values than 0 and 1.
        LabelError: A label is out of range.
        ParameterError: A parameter is out of range.

    Convention:
        A pixel of a mask is on its boundary if one outside lies within d pixels along both axes
        (Chebyshev distance), d = max(1, round(ratio · diagonal)); beyond the edge of the image is
        outside. A region that is ignored is another label like any: what borders on it is a
        boundary. For a whole dataset take `BoundaryIoU`, which sums before it divides.

    Source:
        Cheng et al., "Boundary IoU: Improving object-centric image segmentation evaluation",
        CVPR 2021. Its ratio is 0.02 for COCO and LVIS; its tool for Cityscapes takes 0.005.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> target = np.zeros((40, 40), bool)
        >>> target[10:30, 10:30] = True
        >>> metrics.boundary_iou(target, target)
        1.0
        >>> metrics.boundary_iou(np.roll(target, 1, axis=1), target) < 0.4
        True
    """
    images, counts = boundary_counts(
        pred, target, ratio=ratio, num_classes=num_classes, ignore_index=ignore_index
    )
    shares = [ratio_of(count) for count in counts]
    return images.arrange([[share[1]] if num_classes is None else list(share) for share in shares])


def boundary_counts(
    pred: Any, target: Any, *, ratio: float, num_classes: int | None, ignore_index: int | None
) -> tuple[Pairs, list[NDArray[np.int64]]]:
    """For each image and label, boundary pixels of both, of the prediction, of the target."""
    ratio = positive("ratio", ratio)
    images = pairs(pred, target, num_classes=num_classes, ignore_index=ignore_index, spatial_dims=2)
    return images, [_count(pair, ratio) for pair in images.images]


def ratio_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of counts of both, the prediction and the target."""
    both, pred, target = counts.T.astype(np.float64)
    union = pred + target - both
    share: NDArray[np.float64] = np.divide(
        both, union, out=np.full(len(counts), np.nan), where=union > 0
    )
    return share


def _count(pair: Pair, ratio: float) -> NDArray[np.int64]:
    height, width = pair.shape
    depth = max(1, round(ratio * math.hypot(height, width)))
    try:
        return _rust.boundary_counts(
            pair.pred.reshape(-1),
            pair.target.reshape(-1),
            width,
            min(depth, max(height, width)),
            count=pair.count,
            ignored=pair.ignored,
        )
    except ValueError as error:
        raise label_error(error, pair.count) from None
