"""Intersection over union and Dice, precision and recall, and accuracy."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.metrics._scores import (
    Average,
    Overlaps,
    averaged,
    checked_absent,
    checked_average,
    checked_confusion,
)
from fastseg.metrics.confusion_matrix import ConfusionAccumulator

_Formula = Callable[[Overlaps, Average | None, float], Any]


def _iou(o: Overlaps, average: Average | None, absent: float) -> Any:
    return averaged(average, o.hits, o.union, o.target, absent=absent, is_absent=o.union == 0)


def _dice(o: Overlaps, average: Average | None, absent: float) -> Any:
    both = o.target + o.predicted
    return averaged(average, 2 * o.hits, both, o.target, absent=absent, is_absent=both == 0)


def _precision(o: Overlaps, average: Average | None, absent: float) -> Any:
    return averaged(average, o.hits, o.predicted, o.target, absent=absent, is_absent=o.union == 0)


def _recall(o: Overlaps, average: Average | None, absent: float) -> Any:
    return averaged(average, o.hits, o.target, o.target, absent=absent, is_absent=o.union == 0)


def _accuracy(o: Overlaps, average: Average | None, absent: float) -> Any:
    return averaged(average, o.hits, o.target, o.target, absent=absent, is_absent=o.target == 0)


def _of_confusion(formula: _Formula, confusion: Any, average: Any, absent: Any) -> Any:
    counts, restore = checked_confusion(confusion)
    scores = formula(Overlaps.of(counts), checked_average(average), checked_absent(absent))
    return restore(scores) if average is None else float(scores)


def iou(confusion: Any, *, average: str | None = None, absent: float | str = "nan") -> Any:
    """Intersection over union of each class, TP / (TP + FP + FN); the Jaccard index.

    Args:
        confusion: (K, K) or (K, K + 1) counts, as `confusion_matrix` returns them.
        average: None for each class. "macro": the mean over classes that occur. "micro":
            ΣTP / Σ(TP + FP + FN). "weighted": the mean weighted by the pixels of each class in
            the target, which is the frequency-weighted IoU.
        absent: the score of a class in neither target nor prediction. "nan" leaves it out of the
            mean.

    Returns:
        (K,) float64, an array or a tensor as `confusion` is; a float with `average`.

    Raises:
        DtypeError: `confusion` holds no integers.
        ShapeError: its shape is another.

    Convention:
        Void predictions (the last column of (K, K + 1)) are false negatives of their class, and
        false positives of none.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
        >>> metrics.iou(confusion)
        array([0.75, 0.8 ,  nan])
        >>> metrics.iou(confusion, average="macro")
        0.775
    """
    return _of_confusion(_iou, confusion, average, absent)


def dice(confusion: Any, *, average: str | None = None, absent: float | str = "nan") -> Any:
    """Dice of each class, 2TP / (2TP + FP + FN); the F1 score.

    Args:
        confusion: (K, K) or (K, K + 1) counts, as `confusion_matrix` returns them.
        average: None for each class. "macro": the mean over classes that occur. "micro":
            Σ2TP / Σ(2TP + FP + FN). "weighted": weighted by the pixels of each class in the target.
        absent: the score of a class in neither target nor prediction. "nan" leaves it out of the
            mean.

    Returns:
        (K,) float64, an array or a tensor as `confusion` is; a float with `average`.

    Raises:
        DtypeError: `confusion` holds no integers.
        ShapeError: its shape is another.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> metrics.dice(np.array([[3, 1], [1, 3]]))
        array([0.75, 0.75])
    """
    return _of_confusion(_dice, confusion, average, absent)


def precision(confusion: Any, *, average: str | None = None, absent: float | str = "nan") -> Any:
    """Precision of each class, TP / (TP + FP).

    Args:
        confusion: (K, K) or (K, K + 1) counts, as `confusion_matrix` returns them.
        average: None for each class. "macro": the mean over classes that occur. "micro":
            ΣTP / Σ(TP + FP). "weighted": weighted by the pixels of each class in the target.
        absent: the score of a class in neither target nor prediction. "nan" leaves it out of the
            mean.

    Returns:
        (K,) float64, an array or a tensor as `confusion` is; a float with `average`.

    Raises:
        DtypeError: `confusion` holds no integers.
        ShapeError: its shape is another.

    Convention:
        A class that is in the target and was never predicted has precision 0: leaving it out
        would raise the mean because a class was missed.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> metrics.precision(np.array([[3, 1, 0], [1, 3, 0], [2, 0, 0]]))
        array([0.5 , 0.75, 0.  ])
    """
    return _of_confusion(_precision, confusion, average, absent)


def recall(confusion: Any, *, average: str | None = None, absent: float | str = "nan") -> Any:
    """Recall of each class, TP / (TP + FN); the sensitivity.

    Args:
        confusion: (K, K) or (K, K + 1) counts, as `confusion_matrix` returns them.
        average: None for each class. "macro": the mean over classes that occur. "micro":
            ΣTP / Σ(TP + FN). "weighted": weighted by the pixels of each class in the target.
        absent: the score of a class in neither target nor prediction. "nan" leaves it out of the
            mean.

    Returns:
        (K,) float64, an array or a tensor as `confusion` is; a float with `average`.

    Raises:
        DtypeError: `confusion` holds no integers.
        ShapeError: its shape is another.

    Convention:
        A class that was predicted and is not in the target has recall 0, as in scikit-learn and
        torchmetrics. `accuracy` leaves it out, as the segmentation toolboxes do.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> metrics.recall(np.array([[3, 1], [0, 4]]))
        array([0.75, 1.  ])
    """
    return _of_confusion(_recall, confusion, average, absent)


def accuracy(confusion: Any, *, average: str | None = None, absent: float | str = "nan") -> Any:
    """Accuracy of each class, TP / (TP + FN), or of all pixels.

    Args:
        confusion: (K, K) or (K, K + 1) counts, as `confusion_matrix` returns them.
        average: None for each class. "micro": the pixel accuracy, ΣTP / Σ(TP + FN). "macro": the
            mean over classes in the target (mAcc). "weighted": weighted by the pixels of each
            class in the target, which is the pixel accuracy again.
        absent: the score of a class that is not in the target. "nan" leaves it out of the mean.

    Returns:
        (K,) float64, an array or a tensor as `confusion` is; a float with `average`.

    Raises:
        DtypeError: `confusion` holds no integers.
        ShapeError: its shape is another.

    Convention:
        Differs from `recall` in classes that were only predicted: they are absent here, 0 there.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> confusion = np.array([[3, 1, 0], [0, 2, 2], [0, 0, 0]])
        >>> metrics.accuracy(confusion)
        array([0.75, 0.5 ,  nan])
        >>> metrics.accuracy(confusion, average="micro")
        0.625
    """
    return _of_confusion(_accuracy, confusion, average, absent)


def frequency_weighted_iou(confusion: Any) -> float:
    """IoU weighted by how often each class occurs in the target: `iou(…, average="weighted")`.

    Args:
        confusion: (K, K) or (K, K + 1) counts, as `confusion_matrix` returns them.

    Returns:
        A float; NaN where the target is empty.

    Raises:
        DtypeError: `confusion` holds no integers.
        ShapeError: its shape is another.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> metrics.frequency_weighted_iou(np.array([[6, 2], [0, 2]]))
        0.7
    """
    return float(_of_confusion(_iou, confusion, "weighted", "nan"))


f1 = dice


class _OverlapAccumulator(ConfusionAccumulator):
    """Accumulates an overlap score."""

    _formula: _Formula

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int | None = None,
        average: str | None = None,
        absent: float | str = "nan",
        out_of_range: str = "raise",
        **options: Any,
    ) -> None:
        self._average = checked_average(average)
        self._absent = checked_absent(absent)
        super().__init__(
            num_classes=num_classes,
            ignore_index=ignore_index,
            out_of_range=out_of_range,
            scoring={"average": average, "absent": absent},
            options=options,
        )

    def _score(self, confusion: NDArray[np.int64]) -> Any:
        return type(self)._formula(Overlaps.of(confusion), self._average, self._absent)


class IoU(_OverlapAccumulator):
    """Accumulates the intersection over union of each class, or an average of it.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        average: None for each class, "micro", "macro" or "weighted", as for `iou`.
        absent: the score of a class that does not occur, "nan" or a number.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.IoU(num_classes=2)
        >>> m.update(np.array([[0, 1]]), np.array([[0, 0]]))
        >>> m.update(np.array([[1, 1]]), np.array([[1, 0]]))
        >>> m.compute()
        array([0.33333333, 0.33333333])
    """

    _formula = staticmethod(_iou)


class Dice(_OverlapAccumulator):
    """Accumulates the Dice score (F1) of each class, or an average of it.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        average: None for each class, "micro", "macro" or "weighted", as for `dice`.
        absent: the score of a class that does not occur, "nan" or a number.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.Dice(num_classes=2, average="macro")
        >>> m.update(np.array([[0, 1]]), np.array([[0, 0]]))
        >>> m.update(np.array([[1, 1]]), np.array([[1, 0]]))
        >>> m.compute()
        0.5
    """

    _formula = staticmethod(_dice)


F1 = Dice


class Precision(_OverlapAccumulator):
    """Accumulates the precision of each class, or an average of it.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        average: None for each class, "micro", "macro" or "weighted", as for `precision`.
        absent: the score of a class that does not occur, "nan" or a number.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.Precision(num_classes=2)
        >>> m.update(np.array([[0, 1]]), np.array([[0, 0]]))
        >>> m.compute()
        array([1., 0.])
    """

    _formula = staticmethod(_precision)


class Recall(_OverlapAccumulator):
    """Accumulates the recall of each class, or an average of it.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        average: None for each class, "micro", "macro" or "weighted", as for `recall`.
        absent: the score of a class that does not occur, "nan" or a number.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.Recall(num_classes=2, average="macro")
        >>> m.update(np.array([[0, 1, 1]]), np.array([[0, 0, 1]]))
        >>> m.compute()
        0.75
    """

    _formula = staticmethod(_recall)


class Accuracy(_OverlapAccumulator):
    """Accumulates the accuracy of all pixels ("micro"), or of each class.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        average: None for each class, "micro", "macro" or "weighted", as for `accuracy`.
        absent: the score of a class that is not in the target, "nan" or a number.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.Accuracy(num_classes=2, average="micro")
        >>> m.update(np.array([[0, 1, 1, 1]]), np.array([[0, 0, 1, 1]]))
        >>> m.compute()
        0.75
    """

    _formula = staticmethod(_accuracy)


class FrequencyWeightedIoU(ConfusionAccumulator):
    """Accumulates the IoU weighted by how often each class occurs in the target.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.FrequencyWeightedIoU(num_classes=2)
        >>> m.update(np.array([[0, 0, 1]]), np.array([[0, 0, 1]]))
        >>> m.compute()
        1.0
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int | None = None,
        out_of_range: str = "raise",
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            ignore_index=ignore_index,
            out_of_range=out_of_range,
            scoring={},
            options=options,
        )

    def _score(self, confusion: NDArray[np.int64]) -> Any:
        return _iou(Overlaps.of(confusion), "weighted", float("nan"))
