"""Agreement beyond chance: Cohen's kappa and the Matthews correlation coefficient."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg._checks import one_of
from fastseg.metrics._scores import checked_confusion
from fastseg.metrics.confusion_matrix import ConfusionAccumulator

_WEIGHTS = ("linear", "quadratic")


def _kappa(confusion: NDArray[np.int64], weights: str | None) -> float:
    # Void predictions are one more category, which the target never has.
    rows, columns = confusion.sum(axis=1), confusion.sum(axis=0)
    total = int(rows.sum())
    i = np.arange(len(rows))[:, None]
    j = np.arange(len(columns))
    if weights is None:
        penalty = (i != j).astype(np.float64)
    else:
        penalty = np.abs(i - j).astype(np.float64) ** (1 if weights == "linear" else 2)
        penalty[:, len(rows) :] = penalty.max(initial=1)  # as far away as can be
    seen = float((penalty * confusion).sum())
    expected = float((penalty * np.outer(rows.astype(np.float64), columns)).sum())
    return 1 - seen * total / expected if expected else math.nan


def _matthews(confusion: NDArray[np.int64]) -> float:
    # Whole numbers of any size: the differences below cancel.
    rows = [int(n) for n in confusion.sum(axis=1)]
    columns = [int(n) for n in confusion.sum(axis=0)]
    total, hits = sum(rows), int(confusion.diagonal().sum())
    product = sum(r * c for r, c in zip(rows, columns, strict=False))
    spread = (total**2 - sum(r * r for r in rows)) * (total**2 - sum(c * c for c in columns))
    return (total * hits - product) / math.sqrt(spread) if spread else math.nan


def cohen_kappa(confusion: Any, *, weights: str | None = None) -> float:
    """Cohen's kappa, (p_o − p_e) / (1 − p_e): agreement beyond what chance gives.

    Args:
        confusion: (K, K) or (K, K + 1) counts, as `confusion_matrix` returns them.
        weights: None, or "linear" or "quadratic" in the distance of ordered classes.

    Returns:
        A float in [−1, 1]; NaN where chance alone agrees, as when there is one class only.

    Raises:
        DtypeError: `confusion` holds no integers.
        ShapeError: its shape is another.

    Source:
        Cohen (1960), "A coefficient of agreement for nominal scales"; weighted: Cohen (1968).

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> metrics.cohen_kappa(np.array([[4, 1], [1, 4]]))
        0.6
    """
    if weights is not None:
        one_of("weights", weights, _WEIGHTS)
    return _kappa(checked_confusion(confusion)[0], weights)


def matthews_corrcoef(confusion: Any) -> float:
    """Matthews correlation coefficient, for any number of classes.

    Args:
        confusion: (K, K) or (K, K + 1) counts, as `confusion_matrix` returns them.

    Returns:
        A float in [−1, 1]; NaN where target or prediction is constant.

    Raises:
        DtypeError: `confusion` holds no integers.
        ShapeError: its shape is another.

    Source:
        Gorodkin (2004), "Comparing two K-category assignments by a K-category correlation
        coefficient". scikit-learn and torchmetrics give 0 where this gives NaN.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> metrics.matthews_corrcoef(np.array([[4, 1], [1, 4]]))
        0.6
    """
    return _matthews(checked_confusion(confusion)[0])


class CohenKappa(ConfusionAccumulator):
    """Accumulates Cohen's kappa.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        weights: None, "linear" or "quadratic".
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.CohenKappa(num_classes=2)
        >>> m.update(np.array([[0, 1]]), np.array([[0, 1]]))
        >>> m.compute()
        1.0
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int | None = None,
        weights: str | None = None,
        out_of_range: str = "raise",
        **options: Any,
    ) -> None:
        self._weights = None if weights is None else one_of("weights", weights, _WEIGHTS)
        super().__init__(
            num_classes=num_classes,
            ignore_index=ignore_index,
            out_of_range=out_of_range,
            scoring={"weights": weights},
            options=options,
        )

    def _score(self, confusion: NDArray[np.int64]) -> float:
        return _kappa(confusion, self._weights)


class MatthewsCorrCoef(ConfusionAccumulator):
    """Accumulates the Matthews correlation coefficient.

    Args:
        num_classes: K; labels 0 … K − 1 are classes.
        ignore_index: pixels with this target are left out.
        out_of_range: "raise", or "void": targets that are no class are left out, and predictions
            that are none are wrong.
        options: torchmetrics' own, where this is a torchmetrics metric.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> m = metrics.MatthewsCorrCoef(num_classes=2)
        >>> m.update(np.array([[0, 1]]), np.array([[1, 0]]))
        >>> m.compute()
        -1.0
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

    def _score(self, confusion: NDArray[np.int64]) -> float:
        return _matthews(confusion)
