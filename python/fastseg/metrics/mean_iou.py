"""Mean intersection over union: of a dataset, of its images, and of the images of each class."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg._checks import number, one_of
from fastseg.errors import ParameterError
from fastseg.metrics._label_maps import Classes, count, images, separate
from fastseg.metrics._scores import Overlaps, Scores, checked_absent, mean, ratios
from fastseg.metrics.accumulator import Accumulator, State

_OVER = ("dataset", "image", "class")


def mean_iou(
    pred: Any,
    target: Any,
    *,
    num_classes: int,
    ignore_index: int | None = None,
    over: str | Sequence[str] = "dataset",
    worst: float | None = None,
    absent: float | str = "nan",
    out_of_range: str = "raise",
) -> Any:
    """Mean intersection over union (mIoU), in one of the three meanings that the name has.

    Args:
        pred: labels of any integer type: an image (H, W), a batch (B, H, W), or a list of images
            or volumes of any shapes. NumPy or torch.
        target: the same shapes.
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out. If it is a class, that class has no
            score.
        over: "dataset": one confusion matrix of all images, IoU of each class, mean over classes.
            "image": in each image the mean over the classes in its target, then the mean over
            images. "class": for each class the mean over the images that have it in their target,
            then the mean over classes. Or several of these, from one pass.
        worst: for "image" and "class": only the worst share of the images counts, in (0, 1]: of n
            images the ⌈worst · n⌉ with the lowest scores (for "class", of each class).
        absent: the score of a class that does not occur (of an image without any class for
            "image"). "nan" leaves it out of the mean.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.

    Returns:
        A float, or a dict of floats by the names in `over` if that is a sequence. NaN where
        nothing is left to average.

    Raises:
        LabelError: a label is no class. A prediction of `ignore_index` is no error: where the
            target is a class, that class was missed.
        ShapeError: the shapes disagree, or there is no pixel.
        DtypeError: labels are no integers.
        ParameterError: a parameter is out of range.

    Convention:
        The first axis of an array with three axes or more counts images. A single volume is
        `[volume]`. "dataset" is what mmsegmentation, Hugging Face and the benchmarks report;
        "image" and "class" are mIoU^I and mIoU^C of Wang et al., with `worst` their quantiles.

    Source:
        Wang, Berman, Rannen-Triki, Torr, Tuia, Tuytelaars, Van Gool, Yu & Blaschko (2023),
        "Revisiting Evaluation Metrics for Semantic Segmentation".

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> target = np.array([[[0, 0], [0, 0]], [[0, 0], [1, 1]]])
        >>> pred = np.array([[[0, 0], [0, 0]], [[0, 1], [1, 1]]])
        >>> metrics.mean_iou(pred, target, num_classes=2)
        0.75
        >>> metrics.mean_iou(pred, target, num_classes=2, over=("image", "class"))
        {'image': 0.7916666666666666, 'class': 0.7083333333333333}
    """
    metric = _Plan.of(num_classes, ignore_index, over, worst, absent, out_of_range)
    totals = {name: state.default for name, state in metric.states().items()}
    for one in metric.measured(pred, target):
        totals = {name: metric.joined(name, totals[name], one[name]) for name in totals}
    scores = metric.scores(totals)
    return float(scores[over]) if isinstance(over, str) else scores


class _Plan:
    """Checked arguments, and what follows from them.

    Attributes:
        classes: which labels are classes.
        over: the means that are wanted.
        worst: the share of the images that counts, or None for all.
        absent: the score of what does not occur.
    """

    def __init__(
        self, classes: Classes, over: tuple[str, ...], worst: float | None, absent: float
    ) -> None:
        self.classes = classes
        self.over = over
        self.worst = worst
        self.absent = absent

    @classmethod
    def of(
        cls,
        num_classes: Any,
        ignore_index: Any,
        over: Any,
        worst: Any,
        absent: Any,
        out_of_range: Any,
    ) -> "_Plan":
        classes = Classes.of(num_classes, ignore_index, out_of_range)
        names = (over,) if isinstance(over, str) else tuple(over)
        if not names:
            raise ParameterError(f"over must name at least one of {', '.join(_OVER)}")
        for name in names:
            one_of("over", name, _OVER)
        if worst is not None:
            worst = number("worst", worst)
            if not 0 < worst <= 1:
                raise ParameterError(f"worst must be in (0, 1], got {worst}")
            if names == ("dataset",):
                raise ParameterError('worst needs images to choose from: over="image" or "class"')
        return cls(classes, names, worst, checked_absent(absent))

    @property
    def by_image(self) -> bool:
        return self.over != ("dataset",)

    def states(self) -> Mapping[str, State]:
        """What is added up: counts, and where images matter, their scores or the sums of these."""
        number_of = self.classes.number
        states = {"confusion": State(np.zeros((number_of, number_of + 1), np.int64))}
        if self.by_image and self.worst is not None:
            states["ious"] = State(np.zeros((0, number_of)), "rows")
        elif self.by_image:
            states["class_sums"] = State(np.zeros(number_of))
            states["class_images"] = State(np.zeros(number_of, np.int64))
            states["image_sum"] = State(np.zeros(1))
            states["images"] = State(np.zeros(1, np.int64))
        return states

    @staticmethod
    def joined(name: str, total: NDArray[Any], added: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([total, added]) if name == "ious" else total + added

    def measured(self, pred: Any, target: Any) -> list[dict[str, NDArray[Any]]]:
        """What each image gives to the states."""
        given, _ = images(pred, target)
        if not self.by_image:
            return [{"confusion": count(image, self.classes)} for image in given]
        return [self._of_image(count(image, self.classes)) for image in separate(given)]

    def _of_image(self, confusion: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        overlaps = Overlaps.of(confusion)
        ious = ratios(overlaps.hits, overlaps.union, math.nan, overlaps.target == 0)
        if self.worst is not None:
            return {"confusion": confusion, "ious": ious[None]}
        present = ~np.isnan(ious)
        image = mean(ious)
        return {
            "confusion": confusion,
            "class_sums": np.where(present, ious, 0.0),
            "class_images": present.astype(np.int64),
            "image_sum": np.array([image if present.any() else 0.0]),
            "images": np.array([int(present.any())]),
        }

    def scores(self, states: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        return {name: float(getattr(self, f"_over_{name}")(states)) for name in self.over}

    def _over_dataset(self, states: Mapping[str, NDArray[Any]]) -> Any:
        overlaps = Overlaps.of(states["confusion"])
        ious = ratios(overlaps.hits, overlaps.union, self.absent, overlaps.union == 0)
        return mean(self._without_ignored(ious))

    def _over_image(self, states: Mapping[str, NDArray[Any]]) -> Any:
        if self.worst is None:
            total, number_of = states["image_sum"][0], states["images"][0]
            return total / number_of if number_of else self.absent
        scores = mean(states["ious"], axis=1)
        scores = np.where(np.isnan(scores), self.absent, scores)
        return self._mean_of_worst(scores)

    def _over_class(self, states: Mapping[str, NDArray[Any]]) -> Any:
        if self.worst is None:
            images_of = states["class_images"]
            scores = ratios(states["class_sums"], images_of, self.absent, images_of == 0)
        else:
            scores = np.array([self._mean_of_worst(column) for column in states["ious"].T])
            scores = np.where(np.isnan(scores), self.absent, scores)
        return mean(self._without_ignored(scores))

    def _without_ignored(self, scores: Scores) -> Scores:
        """Leaves out the class that is ignored in the target, if it is one."""
        ignored = self.classes.ignore_index
        if ignored is not None and 0 <= ignored < self.classes.number:
            scores = np.delete(scores, ignored)
        return scores

    def _mean_of_worst(self, scores: Scores) -> float:
        present = np.sort(scores[~np.isnan(scores)])
        share = 1.0 if self.worst is None else self.worst
        # The product of 0.07 and 100 is a little more than 7.
        kept = math.ceil(share * len(present) - 1e-9)
        return float(present[:kept].mean()) if kept else math.nan


class MeanIoU(Accumulator):
    """Accumulates the mean intersection over union of many images.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        over: "dataset", "image" or "class", or several of these: as for `mean_iou`.
        worst: for "image" and "class", the share of the worst images that counts, in (0, 1].
            Keeps K numbers of every image; without it the memory needed does not grow.
        absent: the score of what does not occur, "nan" or a number.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Convention:
        As for `mean_iou`. For several means `compute` gives a dict.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.MeanIoU(num_classes=2, ignore_index=255)
        >>> m.update(np.array([[0, 0]]), np.array([[0, 255]]))
        >>> m.update(np.array([[0, 1]]), np.array([[0, 1]]))
        >>> m.compute()
        1.0
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int | None = None,
        over: str | Sequence[str] = "dataset",
        worst: float | None = None,
        absent: float | str = "nan",
        out_of_range: str = "raise",
        **options: Any,
    ) -> None:
        self._plan = _Plan.of(num_classes, ignore_index, over, worst, absent, out_of_range)
        over = over if isinstance(over, str) else list(self._plan.over)
        super().__init__(
            self._plan.states(),
            counting={
                "num_classes": self._plan.classes.number,
                "ignore_index": self._plan.classes.ignore_index,
                "out_of_range": out_of_range,
            },
            scoring={"over": over, "worst": worst, "absent": absent},
            options=options,
        )

    def update(self, pred: Any, target: Any) -> None:
        """Adds images.

        Args:
            pred: labels of any integer type: (H, W), (B, H, W), or a list of any shapes.
            target: the same shapes.

        Raises:
            LabelError: a label is no class.
            ShapeError: the shapes disagree, or there is no pixel.
            DtypeError: labels are no integers.
        """
        # All images first: after an error nothing of the batch has been added.
        measured = self._plan.measured(pred, target)
        joined = measured[0]
        for one in measured[1:]:
            joined = {name: self._plan.joined(name, joined[name], one[name]) for name in joined}
        self._accumulate(**joined)

    def compute(self) -> Any:
        """The mean of everything so far: a float, or a dict of floats by their names."""
        scores = self._plan.scores(self._states())
        if isinstance(self._scoring["over"], str):
            return self._result(scores[self._scoring["over"]])
        return {name: self._result(score) for name, score in scores.items()}
