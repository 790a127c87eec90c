"""From counts to scores: hits, averages, and classes that do not occur."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastseg._arrays import Restore, to_numpy
from fastseg._checks import number, one_of
from fastseg.errors import DataError, DtypeError, ShapeError

Average = Literal["micro", "macro", "weighted"]
Counts = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Overlaps:
    """What the overlap scores of each class are made of, (…, K) int64 each.

    Attributes:
        hits: pixels of the class predicted as it (TP).
        target: pixels of the class (TP + FN).
        predicted: pixels predicted as the class (TP + FP).
    """

    hits: Counts
    target: Counts
    predicted: Counts

    @classmethod
    def of(cls, confusion: Counts) -> "Overlaps":
        """Of a confusion matrix (K, K), or (K, K + 1) with a column for void predictions."""
        classes = confusion[:, : len(confusion)]
        return cls(classes.diagonal(), confusion.sum(axis=1), classes.sum(axis=0))

    @property
    def union(self) -> Counts:
        """Pixels of the class or predicted as it (TP + FP + FN)."""
        return self.target + self.predicted - self.hits


def checked_confusion(confusion: Any) -> tuple[Counts, Restore]:
    """`confusion` as counts, and what turns a result into its kind.

    Raises:
        DtypeError: it holds no integers.
        ShapeError: it is neither (K, K) nor (K, K + 1).
        DataError: a count is negative.
    """
    array, restore = to_numpy("confusion", confusion)
    if array.dtype.kind not in "ui":
        raise DtypeError(
            f"confusion must hold counts of an integer type, got {array.dtype}: it is what "
            "confusion_matrix returns, not normalized"
        )
    rows, columns = array.shape if array.ndim == 2 else (0, 0)
    if rows == 0 or columns not in (rows, rows + 1):
        raise ShapeError(
            f"confusion must be (K, K), or (K, K + 1) with void predictions, got {array.shape}"
        )
    counts = array.astype(np.int64, copy=False)
    if counts.min() < 0:
        raise DataError(f"confusion must not be negative, got {counts.min()}")
    return counts, restore


def checked_average(average: Any) -> Average | None:
    """`average`, if there is such."""
    if average is None:
        return None
    checked: Average = one_of("average", average, ("micro", "macro", "weighted"))  # type: ignore[assignment]
    return checked


def checked_absent(absent: Any) -> float:
    """The score of what does not occur, as a number."""
    if isinstance(absent, str):
        one_of("absent", absent, ("nan",))
        return float("nan")
    return number("absent", absent)


def ratios(numerators: Counts, denominators: Counts, absent: float, is_absent: Any) -> Scores:
    """Numerators over denominators; `absent` where that is said, else 0 where both are 0."""
    scores = np.zeros(np.shape(numerators))
    np.divide(numerators, denominators, out=scores, where=denominators != 0)
    scores[is_absent] = absent
    return scores


def averaged(
    average: Average | None,
    numerators: Counts,
    denominators: Counts,
    weights: Counts,
    *,
    absent: float,
    is_absent: NDArray[np.bool_],
) -> Any:
    """The scores of each class (K,), or their average."""
    if average == "micro":
        numerators, denominators = np.atleast_1d(numerators.sum(), denominators.sum())
        return ratios(numerators, denominators, absent, denominators == 0)[0]
    scores = ratios(numerators, denominators, absent, is_absent)
    if average == "macro":
        return mean(scores)
    if average == "weighted":
        total = weights.sum()
        # A class without weight counts nothing, whatever it scored.
        return (weights * np.nan_to_num(scores)).sum() / total if total else absent
    return scores


def mean(scores: Scores, axis: int | None = None) -> Any:
    """The mean of what is not NaN; NaN where nothing is left."""
    present = ~np.isnan(scores)
    number_present = present.sum(axis=axis)
    total = np.where(present, scores, 0.0).sum(axis=axis)
    with np.errstate(invalid="ignore"):
        return total / number_present
