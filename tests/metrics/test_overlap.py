"""IoU, Dice, precision, recall, accuracy: per class, averaged, and with classes that are absent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastseg import metrics
from fastseg.errors import DataError, DtypeError, ParameterError, ShapeError
from references import plain_confusion

# Class 3 is in neither, class 2 only in the target, class 4 only predicted.
CONFUSION = np.array(
    [[5, 1, 0, 0, 2], [1, 7, 0, 0, 0], [2, 2, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
)
NAN = float("nan")
PER_CLASS = ["iou", "dice", "precision", "recall", "accuracy"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("iou", [5 / 11, 7 / 11, 0, NAN, 0]),
        ("dice", [10 / 16, 14 / 18, 0, NAN, 0]),
        ("precision", [5 / 8, 7 / 10, 0, NAN, 0]),
        ("recall", [5 / 8, 7 / 8, 0, NAN, 0]),
        ("accuracy", [5 / 8, 7 / 8, 0, NAN, NAN]),
    ],
)
class TestValues:
    def test_of_each_class(self, name, expected):
        found = getattr(metrics, name)(CONFUSION)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-15)

    def test_macro_leaves_out_what_is_absent(self, name, expected):
        found = getattr(metrics, name)(CONFUSION, average="macro")
        assert isinstance(found, float)
        assert found == pytest.approx(np.nanmean(expected), rel=1e-15)

    @pytest.mark.parametrize("absent", [0, 1])
    def test_absent_classes_may_count(self, name, expected, absent):
        filled = np.nan_to_num(expected, nan=absent)
        found = getattr(metrics, name)(CONFUSION, absent=absent)
        np.testing.assert_allclose(found, filled, rtol=1e-15)
        found = getattr(metrics, name)(CONFUSION, absent=absent, average="macro")
        assert found == pytest.approx(filled.mean(), rel=1e-15)

    def test_weighted_by_the_target(self, name, expected):
        found = getattr(metrics, name)(CONFUSION, average="weighted")
        assert found == pytest.approx(np.average(np.nan_to_num(expected), weights=[8, 8, 4, 0, 0]))

    def test_torch(self, name, expected):
        torch = pytest.importorskip("torch")
        found = getattr(metrics, name)(torch.from_numpy(CONFUSION))
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-15)

    def test_accumulated(self, name, expected):
        pairs = np.argwhere(CONFUSION).repeat(CONFUSION[CONFUSION > 0], axis=0)
        cls = {"iou": "IoU"}.get(name, name.capitalize())
        m = getattr(metrics, cls)(num_classes=5)
        for half in np.array_split(pairs, 2):
            m.update(half[:, 1], half[:, 0])
        np.testing.assert_allclose(np.asarray(m.compute()), expected, rtol=1e-15)
        m = getattr(metrics, cls)(num_classes=5, average="micro")
        m.update(pairs[:, 1], pairs[:, 0])
        assert float(m.compute()) == getattr(metrics, name)(CONFUSION, average="micro")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("iou", 12 / 28),
        ("dice", 24 / 40),
        ("precision", 12 / 20),
        ("recall", 12 / 20),
        ("accuracy", 12 / 20),
    ],
)
def test_micro(name, expected):
    assert getattr(metrics, name)(CONFUSION, average="micro") == expected


def test_frequency_weighted_iou():
    expected = (8 * 5 / 11 + 8 * 7 / 11) / 20
    assert metrics.frequency_weighted_iou(CONFUSION) == pytest.approx(expected, rel=1e-15)
    pairs = np.argwhere(CONFUSION).repeat(CONFUSION[CONFUSION > 0], axis=0)
    m = metrics.FrequencyWeightedIoU(num_classes=5)
    m.update(pairs[:, 1], pairs[:, 0])
    assert float(m.compute()) == pytest.approx(expected, rel=1e-15)


def test_void_predictions_are_false_negatives_and_no_false_positives():
    void = np.array([[3, 0, 1], [0, 2, 2]])
    np.testing.assert_allclose(metrics.iou(void), [3 / 4, 2 / 4])
    np.testing.assert_allclose(metrics.precision(void), [1, 1])
    np.testing.assert_allclose(metrics.recall(void), [3 / 4, 2 / 4])
    assert metrics.accuracy(void, average="micro") == 5 / 8


@pytest.mark.parametrize("average", [None, "micro", "macro", "weighted"])
@pytest.mark.parametrize("name", PER_CLASS)
def test_nothing_at_all_is_nan(name, average):
    nothing = np.zeros((3, 3), int)
    assert np.isnan(getattr(metrics, name)(nothing, average=average)).all()
    found = getattr(metrics, name)(nothing, average=average, absent=1)
    np.testing.assert_array_equal(found, np.ones(() if average else 3))


def test_a_missed_class_never_raises_a_mean():
    """The score without the class in the prediction is no better than with half of it right."""
    target = np.repeat([0, 1, 2], 10)
    half = target.copy()
    half[25:] = 0
    missed = np.where(target == 2, 0, target)
    for name in PER_CLASS:
        scores = [
            getattr(metrics, name)(
                metrics.confusion_matrix(p, target, num_classes=3), average="macro"
            )
            for p in (half, missed)
        ]
        assert scores[1] < scores[0]


def test_counts_beyond_float32_are_exact():
    # 2²⁴ + 1 has no float32: counters in it stop counting there.
    big = 2**24 + 1
    found = metrics.accuracy(np.array([[big, 0], [1, 0]]), average="micro")
    assert found == big / (big + 1)
    m = metrics.ConfusionMatrix(num_classes=1)
    m.load_state_dict({"confusion": np.array([[2**53 + 1, 0]])})
    m.update([0], [0])
    assert int(m.compute()) == 2**53 + 2


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.int64, (2, 40), elements=st.integers(0, 4)))
def test_any_labels_against_the_formulas(labels):
    pred, target = labels
    confusion = metrics.confusion_matrix(pred, target, num_classes=5)
    parts = [plain_confusion.parts(pred, target, k) for k in range(5)]
    with np.errstate(invalid="ignore", divide="ignore"):
        tp, fp, fn = np.array(parts, float).T
        np.testing.assert_allclose(metrics.iou(confusion), tp / (tp + fp + fn))
        np.testing.assert_allclose(metrics.dice(confusion), 2 * tp / (2 * tp + fp + fn))
        np.testing.assert_allclose(metrics.f1(confusion), 2 * tp / (2 * tp + fp + fn))
        np.testing.assert_allclose(metrics.accuracy(confusion), tp / (tp + fn))


class TestRivals:
    @pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
    def test_torchmetrics(self, average):
        torch = pytest.importorskip("torch")
        functional = pytest.importorskip("torchmetrics.functional.classification")
        rng = np.random.default_rng(0)
        pred, target = torch.from_numpy(rng.integers(0, 5, (2, 500)))
        target[target == 4] = 5  # class 4 is only predicted, class 5 only in the target
        confusion = metrics.confusion_matrix(pred, target, num_classes=7)
        for ours, theirs in {
            "iou": functional.multiclass_jaccard_index,
            "dice": functional.multiclass_f1_score,
            "precision": functional.multiclass_precision,
            "recall": functional.multiclass_recall,
        }.items():
            expected = theirs(pred, target, num_classes=7, average=average)
            found = getattr(metrics, ours)(confusion, average=average)
            assert found == pytest.approx(float(expected), abs=1e-6), ours

    @pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
    def test_scikit_learn(self, average):
        sklearn = pytest.importorskip("sklearn.metrics")
        rng = np.random.default_rng(0)
        pred, target = rng.integers(0, 5, (2, 500))
        confusion = metrics.confusion_matrix(pred, target, num_classes=5)
        for ours, theirs in {
            "iou": sklearn.jaccard_score,
            "dice": sklearn.f1_score,
            "precision": sklearn.precision_score,
            "recall": sklearn.recall_score,
        }.items():
            expected = theirs(target, pred, average=average)
            assert getattr(metrics, ours)(confusion, average=average) == pytest.approx(expected)


@pytest.mark.parametrize("name", [*PER_CLASS, "frequency_weighted_iou", "cohen_kappa"])
class TestBadInput:
    @pytest.mark.parametrize("shape", [(3, 5), (4, 3), (3,), (1, 3, 3), (0, 0)])
    def test_shapes(self, name, shape):
        with pytest.raises(ShapeError, match=r"confusion must be \(K, K\)"):
            getattr(metrics, name)(np.zeros(shape, int))

    def test_normalized_counts(self, name):
        with pytest.raises(DtypeError, match="not normalized"):
            getattr(metrics, name)(np.eye(3))

    def test_negative_counts(self, name):
        with pytest.raises(DataError, match="negative"):
            getattr(metrics, name)(-np.eye(3, dtype=int))


def test_unknown_averages_and_absents():
    with pytest.raises(ParameterError, match="did you mean 'macro'"):
        metrics.iou(CONFUSION, average="makro")
    with pytest.raises(ParameterError, match="absent must be one of 'nan'"):
        metrics.iou(CONFUSION, absent="zero")
    with pytest.raises(DtypeError, match="absent must be a number"):
        metrics.iou(CONFUSION, absent=None)
