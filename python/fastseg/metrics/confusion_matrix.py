"""How often each class was predicted where each class is true."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import LabelError
from fastseg.metrics._label_maps import Classes, Image, count, images, label_error
from fastseg.metrics.accumulator import Accumulator, State


def confusion_matrix(
    pred: Any,
    target: Any,
    *,
    num_classes: int,
    ignore_index: int | None = None,
    out_of_range: str = "raise",
) -> Any:
    """Counts how often each class was predicted where each class is true.

    Labels are read as they are, in any integer type, without copies; both maps may have different
    ones. Counts are exact.

    Args:
        pred: labels of any integer type or bool, any shape: an image (H, W), a batch, a volume;
            or a list of such of differing shapes. NumPy or torch.
        target: the same shapes.
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out, whatever was predicted there.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are counted in a column of their own.

    Returns:
        (K, K) int64: rows are the target, columns the prediction. With `out_of_range="void"` it
        is (K, K + 1), the last column for predictions that are no class. A torch tensor where
        `pred` is one, on its device.

    Raises:
        LabelError: a label is no class. A prediction of `ignore_index` is none either, unless its
            target is to be left out: such predictions are errors of the model and need a column.
        ShapeError: the shapes disagree, or there is no pixel.
        DtypeError: labels are no integers.
        ParameterError: `num_classes` is not in 1 … 16384.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> target = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
        >>> pred = np.array([[0, 1, 1], [1, 2, 2]], np.uint8)
        >>> metrics.confusion_matrix(pred, target, num_classes=3, ignore_index=255)
        array([[1, 1, 0],
               [0, 2, 0],
               [0, 0, 1]])
    """
    classes = Classes.of(num_classes, ignore_index, out_of_range)
    given, restore = images(pred, target)
    total = np.zeros((classes.number, classes.number + 1), np.int64)
    for image in given:
        counts = count(image, classes)
        if classes.out_of_range == "raise":
            _refuse_void(image, counts, classes)
        total += counts
    return restore(total if classes.out_of_range == "void" else total[:, :-1].copy())


def _refuse_void(image: Image, counts: NDArray[np.int64], classes: Classes) -> None:
    if counts[:, -1].any():
        error: LabelError = label_error(
            image,
            classes,
            (image.pred == classes.ignore_index) & (image.target != classes.ignore_index),
        )
        raise error


class ConfusionAccumulator(Accumulator):
    """Base of the metrics that are computed from one confusion matrix of all images.

    A subclass says in `_score` what to make of it.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int | None,
        out_of_range: str,
        scoring: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self._classes = Classes.of(num_classes, ignore_index, out_of_range)
        number = self._classes.number
        super().__init__(
            {"confusion": State(np.zeros((number, number + 1), np.int64))},
            counting={
                "num_classes": number,
                "ignore_index": self._classes.ignore_index,
                "out_of_range": out_of_range,
            },
            scoring=scoring,
            options=options,
        )

    def update(self, pred: Any, target: Any) -> None:
        """Adds a batch.

        Args:
            pred: labels of any integer type, an image, a batch, a volume or a list of them.
            target: the same shapes.

        Raises:
            LabelError: a label is no class.
            ShapeError: the shapes disagree, or there is no pixel.
            DtypeError: labels are no integers.
        """
        # All images first: after an error nothing of the batch has been added.
        counts = [count(image, self._classes) for image in images(pred, target)[0]]
        self._accumulate(confusion=sum(counts[1:], start=counts[0]))

    def compute(self) -> Any:
        """The score of everything so far."""
        return self._result(self._score(self._states()["confusion"]))

    def _score(self, confusion: NDArray[np.int64]) -> Any:
        """The score of a (K, K + 1) confusion matrix."""
        raise NotImplementedError


class ConfusionMatrix(ConfusionAccumulator):
    """Accumulates the confusion matrix of many images.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        out_of_range: "raise", or "void": as for `confusion_matrix`.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Convention:
        `compute` gives what `confusion_matrix` returns, and raises its LabelError.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.ConfusionMatrix(num_classes=2)
        >>> m.update(np.array([[0, 1]]), np.array([[0, 0]]))
        >>> m.update(np.array([[1, 1]]), np.array([[1, 0]]))
        >>> m.compute()
        array([[1, 2],
               [0, 1]])
    """

    higher_is_better = None

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

    def _score(self, confusion: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._classes.out_of_range == "void":
            return confusion
        if confusion[:, -1].any():
            raise LabelError(
                f"pred had the label {self._classes.ignore_index} (ignore_index) where target is a "
                f'class, {confusion[:, -1].sum()} times: out_of_range="void" counts them in a '
                "column of their own"
            )
        return confusion[:, :-1]
