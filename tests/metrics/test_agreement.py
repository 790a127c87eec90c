"""Cohen's kappa and the Matthews correlation coefficient."""

import math

import numpy as np
import pytest

from fastseg import metrics
from fastseg.errors import ParameterError

TABLES = [
    np.array([[20, 5], [10, 15]]),
    np.array([[5, 1, 0], [2, 7, 3], [0, 0, 9]]),
    np.array([[4, 0, 0], [3, 2, 0], [0, 1, 0]]),
]


def labels(table):
    pairs = np.argwhere(table).repeat(table[table > 0], axis=0)
    return pairs[:, 1], pairs[:, 0]


def plain_kappa(table, weights):
    n = len(table)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    penalty = {None: distance > 0, "linear": distance, "quadratic": distance**2}[weights]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return 1 - (penalty * table).sum() / (penalty * expected).sum()


def plain_matthews(table):
    pred, target = labels(table)
    p, t = (np.eye(len(table))[x] - np.eye(len(table))[x].mean(axis=0) for x in (pred, target))
    return (p * t).sum() / math.sqrt((p * p).sum() * (t * t).sum())


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@pytest.mark.parametrize("table", TABLES)
def test_kappa(table, weights):
    expected = plain_kappa(table, weights)
    assert metrics.cohen_kappa(table, weights=weights) == pytest.approx(expected, rel=1e-13)
    m = metrics.CohenKappa(num_classes=len(table), weights=weights)
    m.update(*labels(table))
    assert float(m.compute()) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("table", TABLES)
def test_matthews(table):
    expected = plain_matthews(table)
    assert metrics.matthews_corrcoef(table) == pytest.approx(expected, rel=1e-13)
    m = metrics.MatthewsCorrCoef(num_classes=len(table))
    m.update(*labels(table))
    assert float(m.compute()) == pytest.approx(expected, rel=1e-13)


def test_void_predictions_are_a_category_of_their_own():
    void = np.array([[3, 0, 1], [1, 2, 1]])
    full = np.vstack([void, [0, 0, 0]])
    assert metrics.cohen_kappa(void) == pytest.approx(plain_kappa(full, None), rel=1e-13)
    assert metrics.matthews_corrcoef(void) == pytest.approx(plain_matthews(full), rel=1e-13)


@pytest.mark.parametrize("table", [np.array([[5, 0], [0, 0]]), np.zeros((2, 2), int)])
def test_constant_labels_are_nan(table):
    assert math.isnan(metrics.cohen_kappa(table))
    assert math.isnan(metrics.matthews_corrcoef(table))


def test_large_counts_do_not_cancel():
    # Nearly no correlation: the numerator is 2·10¹² of terms near 10²⁵, beyond float64's digits.
    n = 10**12
    table = np.array([[n, n - 1], [n, n]])
    total, hits, a, b = 4 * n - 1, 2 * n, 2 * n - 1, 2 * n
    expected = (total * hits - 2 * a * b) / (total**2 - a**2 - b**2)
    assert metrics.matthews_corrcoef(table) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_torchmetrics(weights):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    for table in TABLES:
        pred, target = map(torch.from_numpy, labels(table))
        expected = functional.multiclass_cohen_kappa(pred, target, len(table), weights=weights)
        found = metrics.cohen_kappa(table, weights=weights)
        assert found == pytest.approx(float(expected), abs=1e-6)
        expected = functional.multiclass_matthews_corrcoef(pred, target, len(table))
        assert metrics.matthews_corrcoef(table) == pytest.approx(float(expected), abs=1e-6)


def test_unknown_weights():
    with pytest.raises(ParameterError, match="weights must be one of 'linear', 'quadratic'"):
        metrics.cohen_kappa(TABLES[0], weights="cubic")
    with pytest.raises(ParameterError, match="weights"):
        metrics.CohenKappa(num_classes=2, weights="cubic")
