"""Surface scores over a dataset: one for each image and label, averaged at the end."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastseg._checks import integer, number, one_of
from fastseg.metrics._grids import Spacing
from fastseg.metrics.accumulator import Accumulator, State
from fastseg.metrics.average_surface_distance import average_surface_distance
from fastseg.metrics.boundary_f_score import boundary_f_score
from fastseg.metrics.boundary_iou import boundary_counts, ratio_of
from fastseg.metrics.hausdorff_distance import hausdorff_distance
from fastseg.metrics.surface_dice import surface_dice
from fastseg.metrics.surface_distances import Method

Average: TypeAlias = Literal["macro", "none"]


class _ImageScores(Accumulator):
    """A score for each image and label, as rows.

    Labels that are in neither map of an image have no score there: they are left out of the mean,
    and counted in `left_out`. A label that only one of both maps has is a miss: it has the worst
    score (0, or `missing` in place of an infinite distance), and is counted in `missed`.
    """

    _rows: ClassVar[str]
    _worst: ClassVar[float]

    def __init__(
        self,
        counting: dict[str, Any],
        *,
        missing: float | None,
        average: Average,
        options: dict[str, Any],
    ) -> None:
        self._average = one_of("average", average, ("macro", "none"))
        self._missing = None if missing is None else number("missing", missing, least=0)
        if counting["num_classes"] is not None:
            integer("num_classes", counting["num_classes"], least=1)
        labels = counting["num_classes"] or 1
        super().__init__(
            {
                f"{self._rows}_scores": State(np.zeros((0, labels)), reduce="rows"),
                f"{self._rows}_missed": State(np.zeros((0, labels), np.int64), reduce="rows"),
            },
            counting=counting,
            scoring={"average": average}
            if self._worst == 0
            else {"missing": missing, "average": average},
            options=options,
        )

    def update(self, pred: Any, target: Any, *, spacing: Spacing | None = None) -> None:
        """Adds one image or a batch.

        Args:
            pred: as the function of this name takes it.
            target: the same.
            spacing: of these images; None: the one that the metric was made with.
        """
        given = self._counting["spacing"] if spacing is None else spacing
        scores = np.asarray(self._measure(pred, target, given), np.float64)
        rows = scores.reshape(-1, self._declared[f"{self._rows}_scores"].default.shape[1])
        # A miss is what one map has and the other has not, however far that is.
        missed = (rows == self._worst).astype(np.int64)
        self._accumulate(**{f"{self._rows}_scores": rows, f"{self._rows}_missed": missed})

    def compute(self) -> Any:
        """The mean over the images that have a label, then over the labels ("macro").

        NaN where no image has it. Infinite where a label was missed and `missing` is None.
        """
        scores = self._states()[f"{self._rows}_scores"]
        if self._missing is not None:
            scores = np.where(np.isposinf(scores), self._missing, scores)
        per_label = _mean(scores, axis=0)
        return self._result(_mean(per_label) if self._average == "macro" else per_label)

    @property
    def left_out(self) -> NDArray[np.int64]:
        """For each label, the images that have no score because neither map has it."""
        count: NDArray[np.int64] = np.isnan(self._states()[f"{self._rows}_scores"]).sum(0)
        return count

    @property
    def missed(self) -> NDArray[np.int64]:
        """For each label, the images with the worst score: above all, where one map lacks it."""
        count: NDArray[np.int64] = self._states()[f"{self._rows}_missed"].sum(0)
        return count

    def _measure(self, pred: Any, target: Any, spacing: Any) -> Any:
        raise NotImplementedError


class HausdorffDistance(_ImageScores):
    """`hausdorff_distance` over a dataset: the mean over images, then over labels.

    Args:
        percentile: 0 … 100; 95 for HD95.
        num_classes: How many labels there are; None: masks.
        ignore_index: Pixels that have this label in the target are left out.
        spacing: Of every image, unless `update` says otherwise.
        method: "deepmind", "monai" or "medpy".
        spatial_dims: 2 or 3, needed where updates are batches.
        missing: What an infinite distance (one mask empty) counts as. None: infinite, so that the
            mean is.
        average: "macro" for one number, "none" for one for each label.
        options: torchmetrics' own.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> mask = np.zeros((8, 8), bool)
        >>> mask[2:6, 2:6] = True
        >>> metric = metrics.HausdorffDistance(missing=10)
        >>> metric.update(np.roll(mask, 1, axis=0), mask)
        >>> metric.update(np.zeros_like(mask), mask)
        >>> metric.compute(), metric.missed.tolist()
        (5.5, [1])
    """

    higher_is_better: ClassVar[bool | None] = False
    _rows = "hausdorff"
    _worst = float("inf")

    def __init__(
        self,
        *,
        percentile: float = 100,
        num_classes: int | None = None,
        ignore_index: int | None = None,
        spacing: Spacing | None = None,
        method: Method = "deepmind",
        spatial_dims: Literal[2, 3] | None = None,
        missing: float | None = None,
        average: Average = "macro",
        **options: Any,
    ) -> None:
        super().__init__(
            {
                "percentile": percentile,
                "num_classes": num_classes,
                "ignore_index": ignore_index,
                "spacing": _plain(spacing),
                "method": method,
                "spatial_dims": spatial_dims,
            },
            missing=missing,
            average=average,
            options=options,
        )

    def _measure(self, pred: Any, target: Any, spacing: Any) -> Any:
        return hausdorff_distance(pred, target, **{**self._counting, "spacing": spacing})


class AverageSurfaceDistance(_ImageScores):
    """`average_surface_distance` over a dataset: the mean over images, then over labels.

    Args:
        symmetric: Whether both directions count.
        num_classes: How many labels there are; None: masks.
        ignore_index: Pixels that have this label in the target are left out.
        spacing: Of every image, unless `update` says otherwise.
        method: "deepmind", "monai" or "medpy".
        spatial_dims: 2 or 3, needed where updates are batches.
        missing: What an infinite distance (one mask empty) counts as. None: infinite.
        average: "macro" for one number, "none" for one for each label.
        options: torchmetrics' own.
    """

    higher_is_better: ClassVar[bool | None] = False
    _rows = "average_distance"
    _worst = float("inf")

    def __init__(
        self,
        *,
        symmetric: bool = True,
        num_classes: int | None = None,
        ignore_index: int | None = None,
        spacing: Spacing | None = None,
        method: Method = "deepmind",
        spatial_dims: Literal[2, 3] | None = None,
        missing: float | None = None,
        average: Average = "macro",
        **options: Any,
    ) -> None:
        super().__init__(
            {
                "symmetric": symmetric,
                "num_classes": num_classes,
                "ignore_index": ignore_index,
                "spacing": _plain(spacing),
                "method": method,
                "spatial_dims": spatial_dims,
            },
            missing=missing,
            average=average,
            options=options,
        )

    def _measure(self, pred: Any, target: Any, spacing: Any) -> Any:
        return average_surface_distance(pred, target, **{**self._counting, "spacing": spacing})


class SurfaceDice(_ImageScores):
    """`surface_dice` over a dataset: the mean over images, then over labels.

    Args:
        tolerance: In the unit of the spacing: one number, or one for each class.
        num_classes: How many labels there are; None: masks.
        ignore_index: Pixels that have this label in the target are left out.
        spacing: Of every image, unless `update` says otherwise.
        method: "deepmind" or "monai".
        spatial_dims: 2 or 3, needed where updates are batches.
        average: "macro" for one number, "none" for one for each label.
        options: torchmetrics' own.
    """

    _rows = "surface_dice"
    _worst = 0.0

    def __init__(
        self,
        *,
        tolerance: float | Sequence[float],
        num_classes: int | None = None,
        ignore_index: int | None = None,
        spacing: Spacing | None = None,
        method: Literal["deepmind", "monai"] = "deepmind",
        spatial_dims: Literal[2, 3] | None = None,
        average: Average = "macro",
        **options: Any,
    ) -> None:
        super().__init__(
            {
                "tolerance": _plain(tolerance),
                "num_classes": num_classes,
                "ignore_index": ignore_index,
                "spacing": _plain(spacing),
                "method": method,
                "spatial_dims": spatial_dims,
            },
            missing=None,
            average=average,
            options=options,
        )

    def _measure(self, pred: Any, target: Any, spacing: Any) -> Any:
        return surface_dice(pred, target, **{**self._counting, "spacing": spacing})


class BoundaryFScore(_ImageScores):
    """`boundary_f_score` over a dataset: the mean over images, then over labels.

    Args:
        tolerance: In the unit of the spacing. None: 0.75 % of each image's diagonal.
        num_classes: How many labels there are; None: masks.
        ignore_index: Pixels that have this label in the target are left out.
        spacing: Of every image, unless `update` says otherwise.
        spatial_dims: 2 or 3, needed where updates are batches.
        average: "macro" for one number, "none" for one for each label.
        options: torchmetrics' own.
    """

    _rows = "boundary_f"
    _worst = 0.0

    def __init__(
        self,
        *,
        tolerance: float | None = None,
        num_classes: int | None = None,
        ignore_index: int | None = None,
        spacing: Spacing | None = None,
        spatial_dims: Literal[2, 3] | None = None,
        average: Average = "macro",
        **options: Any,
    ) -> None:
        super().__init__(
            {
                "tolerance": tolerance,
                "num_classes": num_classes,
                "ignore_index": ignore_index,
                "spacing": _plain(spacing),
                "spatial_dims": spatial_dims,
            },
            missing=None,
            average=average,
            options=options,
        )

    def _measure(self, pred: Any, target: Any, spacing: Any) -> Any:
        return boundary_f_score(pred, target, **{**self._counting, "spacing": spacing})


class BoundaryIoU(Accumulator):
    """Boundary IoU of a dataset: boundary pixels are summed over all images, then divided.

    Args:
        ratio: How deep a boundary is, as a share of each image's diagonal.
        num_classes: How many labels there are; None: masks.
        ignore_index: Pixels that have this label in the target are not counted.
        average: "macro" for the mean over the labels that have a boundary, "none" for one for each
            label.
        options: torchmetrics' own.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> mask = np.zeros((40, 40), bool)
        >>> mask[10:30, 10:30] = True
        >>> metric = metrics.BoundaryIoU()
        >>> metric.update(mask, mask)
        >>> metric.compute()
        1.0
    """

    def __init__(
        self,
        *,
        ratio: float = 0.02,
        num_classes: int | None = None,
        ignore_index: int | None = None,
        average: Average = "macro",
        **options: Any,
    ) -> None:
        self._average = one_of("average", average, ("macro", "none"))
        if num_classes is not None:
            integer("num_classes", num_classes, least=1)
        super().__init__(
            {"boundary_pixels": State(np.zeros((num_classes or 2, 3), np.int64))},
            counting={"ratio": ratio, "num_classes": num_classes, "ignore_index": ignore_index},
            scoring={"average": average},
            options=options,
        )

    def update(self, pred: Any, target: Any) -> None:
        """Adds one image or a batch, as `boundary_iou` takes it."""
        _, counts = boundary_counts(pred, target, **self._counting)
        self._accumulate(boundary_pixels=np.sum(counts, axis=0))

    def compute(self) -> Any:
        """Intersection over union; NaN where there was no boundary."""
        shares = ratio_of(self._states()["boundary_pixels"])
        if self._counting["num_classes"] is None:
            shares = shares[1:]
        return self._result(_mean(shares) if self._average == "macro" else shares)


def _mean(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """The mean of what is not NaN; NaN of nothing."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis)
    count = known.sum(axis)
    mean: NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def _plain(values: Any) -> Any:
    """Numbers as JSON knows them."""
    return values.tolist() if hasattr(values, "tolist") else values
