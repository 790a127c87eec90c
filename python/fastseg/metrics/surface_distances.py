"""How far two surfaces are apart, and the scores that are made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg._checks import number, one_of
from fastseg.errors import ParameterError
from fastseg.metrics._grids import Spacing, spacing_per_axis, three_axes
from fastseg.metrics._pairs import Pair, Pairs, each_label, label_error, pairs
from fastseg.metrics._surface_elements import cell_weights

Method: TypeAlias = Literal["deepmind", "monai", "medpy"]
METHODS = ("deepmind", "monai", "medpy")


@dataclass(frozen=True)
class SurfaceDistances:
    """The distances between the surfaces of a prediction and its target.

    Attributes:
        target_to_pred: (N,) float64, from each element of the target's surface to the nearest of
            the prediction's, in the unit of the spacing, ascending; infinite where there is none.
        pred_to_target: (M,) float64, the same from the prediction's.
        target_weights: (N,) float64, length or area of each element; all one where pixels count.
        pred_weights: (M,) float64.
        method: whose definitions the scores follow.
    """

    target_to_pred: NDArray[np.float64]
    pred_to_target: NDArray[np.float64]
    target_weights: NDArray[np.float64]
    pred_weights: NDArray[np.float64]
    method: Method = "deepmind"

    @property
    def is_empty(self) -> bool:
        """Whether there is neither surface: every score is NaN then."""
        return not len(self.target_to_pred) and not len(self.pred_to_target)

    @property
    def is_one_sided(self) -> bool:
        """Whether one surface is missing: distances are infinite then, and overlaps 0."""
        return bool(len(self.target_to_pred)) != bool(len(self.pred_to_target))

    def hausdorff(self, percentile: float = 100) -> float:
        """The Hausdorff distance, or a percentile of it; see `hausdorff_distance`."""
        percentile = _percentile(percentile)
        if self.is_empty:
            return float("nan")
        if self.is_one_sided:
            return float("inf")
        if percentile == 100:
            return float(max(self.target_to_pred[-1], self.pred_to_target[-1]))
        if self.method == "medpy":
            both = np.concatenate([self.pred_to_target, self.target_to_pred])
            return float(np.percentile(both, percentile))
        if self.method == "monai":
            return float(
                max(
                    np.percentile(self.pred_to_target, percentile),
                    np.percentile(self.target_to_pred, percentile),
                )
            )
        return max(
            _weighted_percentile(self.target_to_pred, self.target_weights, percentile),
            _weighted_percentile(self.pred_to_target, self.pred_weights, percentile),
        )

    def average(self, *, symmetric: bool = True) -> float:
        """The average surface distance; see `average_surface_distance`."""
        if self.is_empty:
            return float("nan")
        if self.is_one_sided:
            return float("inf")
        back, weights = self.pred_to_target, self.pred_weights
        if not symmetric:
            return float(np.average(back, weights=weights))
        total = np.sum(back * weights) + np.sum(self.target_to_pred * self.target_weights)
        return float(total / (np.sum(weights) + np.sum(self.target_weights)))

    def surface_dice(self, tolerance: float) -> float:
        """The share of both surfaces that is near the other; see `surface_dice`."""
        if self.is_empty:
            return float("nan")
        within = self._within(tolerance)
        return float(sum(within) / (np.sum(self.target_weights) + np.sum(self.pred_weights)))

    def f_score(self, tolerance: float) -> float:
        """The harmonic mean of both surfaces' shares near the other; see `boundary_f_score`."""
        if self.is_empty:
            return float("nan")
        if self.is_one_sided:
            return 0.0
        near_target, near_pred = self._within(tolerance)
        recall = near_target / np.sum(self.target_weights)
        precision = near_pred / np.sum(self.pred_weights)
        both = precision + recall
        return float(2 * precision * recall / both) if both else 0.0

    def _within(self, tolerance: float) -> tuple[float, float]:
        """How much of the target's surface, and of the prediction's, is near the other."""
        near = []
        for distances, weights in (
            (self.target_to_pred, self.target_weights),
            (self.pred_to_target, self.pred_weights),
        ):
            finite = min(tolerance, np.finfo(np.float64).max)
            near.append(np.sum(weights[: np.searchsorted(distances, finite, side="right")]))
        return float(near[0]), float(near[1])


def surface_distances(
    pred: Any,
    target: Any,
    *,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    spacing: Spacing | None = None,
    method: Method = "deepmind",
    spatial_dims: Literal[2, 3] | None = None,
) -> Any:
    """Measure once, and take several scores from it.

    Args:
        pred: (H, W) or (D, H, W): a mask, or labels where `num_classes` is given. A batch has one
            axis more and needs `spatial_dims`; a list may hold images of different sizes.
        target: The same for the truth.
        num_classes: How many labels there are, 0 … num_classes − 1. None: masks.
        ignore_index: Pixels that have this label in the target are left out of both.
        spacing: Distance between neighbouring pixels along each axis, in the order of the axes,
            or one number for all. Default 1.
        method: Whose definitions to follow: "deepmind", "monai" or "medpy".
        spatial_dims: 2 or 3: how many axes an image has. None: all of an array's.

    Returns:
        `SurfaceDistances` of a pair of masks; a list with those of each label where `num_classes`
        is given; for a batch a list with one of that for each image.

    Raises:
        ShapeError: Shapes disagree, or are none of images.
        DtypeError: Values are no integers.
        DataError: A mask has other values than 0 and 1.
        LabelError: A label is out of range.
        ParameterError: A parameter is out of range.

    Convention:
        "deepmind" looks at what marching squares or cubes put between the pixels, weighted by its
        length or area; "monai" and "medpy" at the pixels of a mask that have a neighbour outside
        along an axis. Nothing is inside beyond the edge of the image. A pixel that is ignored
        belongs to no mask, so a surface may run along it.

    Source:
        Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and
        neck anatomy for radiotherapy", 2018, and the package surface-distance; MONAI 1.x; medpy
        0.5. Where those fail or drop an image because a mask is empty, the rules of
        `hausdorff_distance` hold here.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> target = np.zeros((8, 8), bool)
        >>> target[2:6, 2:6] = True
        >>> found = metrics.surface_distances(np.roll(target, 1, axis=1), target, method="monai")
        >>> found.hausdorff(), found.surface_dice(0)
        (1.0, 0.5)
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
    found = [labels[0] if num_classes is None else labels for labels in measured]
    return found if images.is_batch else found[0]


def measure(
    pred: Any,
    target: Any,
    *,
    num_classes: int | None,
    ignore_index: int | None,
    spacing: Spacing | None,
    method: Method,
    spatial_dims: int | None,
    methods: Sequence[str] = METHODS,
) -> tuple[Pairs, list[list[SurfaceDistances]]]:
    """The surface distances of each label of each image."""
    one_of("method", method, methods)
    images = pairs(
        pred,
        target,
        num_classes=num_classes,
        ignore_index=ignore_index,
        spatial_dims=spatial_dims,
    )
    return images, [_one_image(pair, images.num_classes, spacing, method) for pair in images.images]


def scores(
    images: Pairs, measured: list[list[SurfaceDistances]], score: Any, per_label: Any
) -> Any:
    """`score(distances, option)` of each label of each image, arranged."""
    return images.arrange(
        [
            [score(found, option) for found, option in zip(labels, per_label, strict=True)]
            for labels in measured
        ]
    )


def per_label(values: Any, images: Pairs, name: str) -> list[float]:
    """An option as a number for each label."""
    count = 1 if images.num_classes is None else images.num_classes
    return list(each_label(values, count, name))


def _one_image(
    pair: Pair, num_classes: int | None, spacing: Spacing | None, method: Method
) -> list[SurfaceDistances]:
    per_axis = spacing_per_axis(spacing, len(pair.shape))
    pair = _thickened(pair, num_classes)
    cells = method == "deepmind"
    weights = cell_weights(per_axis) if cells else np.ones(256)
    try:
        found = _rust.surface_distances(
            pair.pred.reshape(-1),
            pair.target.reshape(-1),
            three_axes(pair.shape, 1),
            three_axes(per_axis, 1.0),
            labels=[1] if num_classes is None else range(num_classes),
            count=pair.count,
            ignored=pair.ignored,
            cells=cells,
            weights=weights,
        )
    except ValueError as error:
        raise label_error(error, pair.count) from None
    return [
        SurfaceDistances(forth, back, forth_weights, back_weights, method)
        for forth, forth_weights, back, back_weights in found
    ]


def _thickened(pair: Pair, num_classes: int | None) -> Pair:
    """A volume of one row with an empty one beside it: the engine takes it for a picture else."""
    if len(pair.shape) != 3 or pair.shape[1] != 1:
        return pair
    empty = 0
    if num_classes is not None:
        empty = num_classes if pair.ignored is None else pair.ignored
    widths = ((0, 0), (0, 1), (0, 0))
    pred, target = (
        np.pad(labels.astype(np.int64), widths, constant_values=empty)
        for labels in (pair.pred, pair.target)
    )
    return Pair(pred, target, pair.count, None if num_classes is None else empty)


def _percentile(percentile: float) -> float:
    percentile = number("percentile", percentile, least=0)
    if percentile > 100:
        raise ParameterError(f"percentile must be at most 100, got {percentile}")
    return percentile


def _weighted_percentile(
    distances: NDArray[np.float64], weights: NDArray[np.float64], percentile: float
) -> float:
    """The least distance up to which the elements make up a percentage of the surface."""
    share = np.cumsum(weights) / np.sum(weights)
    place = int(np.searchsorted(share, percentile / 100))
    return float(distances[min(place, len(distances) - 1)])
