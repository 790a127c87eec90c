"""The accumulating surface metrics: what they make of many images."""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastseg import errors, metrics

# Where torchmetrics is loaded they are metrics of its kind, and it warns of what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")

K = 4
Images = list[tuple[NDArray[Any], NDArray[Any]]]


def images(count: int = 5) -> Images:
    random = np.random.default_rng(1)
    made = []
    for i in range(count):
        target = np.zeros((30, 40 + i), np.uint8)
        for label in range(1, K - 1):
            y, x = random.integers(20), random.integers(30)
            target[y : y + 8, x : x + 9] = label
        made.append((np.roll(target, 1, axis=1), target))
    return made


METRICS: list[tuple[Any, Any, dict[str, Any]]] = [
    (metrics.HausdorffDistance, metrics.hausdorff_distance, {"percentile": 95}),
    (metrics.AverageSurfaceDistance, metrics.average_surface_distance, {"method": "monai"}),
    (metrics.SurfaceDice, metrics.surface_dice, {"tolerance": 0.5}),
    (metrics.BoundaryFScore, metrics.boundary_f_score, {"tolerance": 0.5}),
]
each_metric = pytest.mark.parametrize(
    ("metric", "function", "options"), METRICS, ids=lambda value: getattr(value, "__name__", "")
)


@each_metric
def test_is_the_mean_over_images(metric: Any, function: Any, options: dict[str, Any]) -> None:
    made = metric(num_classes=K, spacing=(2, 1), average="none", **options)
    scores = []
    for pred, target in images():
        made.update(pred, target)
        scores.append(function(pred, target, num_classes=K, spacing=(2, 1), **options))
    expected = np.full(K, np.nan)
    expected[: K - 1] = np.mean(scores, axis=0)[: K - 1]
    np.testing.assert_allclose(np.asarray(made.compute()), expected)
    macro = metric(num_classes=K, spacing=(2, 1), **options)
    preds, targets = zip(*images(), strict=True)
    macro.update(list(preds), list(targets))
    assert float(macro.compute()) == pytest.approx(np.nanmean(expected))
    assert made.left_out.tolist() == [0, 0, 0, 5]
    assert made.missed.tolist() == [0, 0, 0, 0]
    made.reset()
    assert np.isnan(np.asarray(made.compute())).all()


@each_metric
def test_merging_loading_and_pickling(metric: Any, function: Any, options: Any) -> None:
    whole, one, other = (metric(num_classes=K, **options) for _ in range(3))
    for i, pair in enumerate(images()):
        whole.update(*pair)
        (one if i < 2 else other).update(*pair)
    one.merge(other)
    assert one.compute() == pytest.approx(whole.compute())
    loaded = metric(num_classes=K, **options)
    loaded.load_state_dict(whole.state_dict())
    assert loaded.compute() == whole.compute()
    assert pickle.loads(pickle.dumps(whole)).compute() == whole.compute()
    with pytest.raises(errors.ParameterError, match="same parameters"):
        one.merge(metric(num_classes=K, ignore_index=255, **options))


@each_metric
def test_a_missed_structure_makes_no_score_better(metric: Any, function: Any, options: Any) -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:5, 2:5] = True
    made = metric(**options)
    made.update(mask, mask)
    perfect = made.compute()
    made.update(np.zeros_like(mask), mask)
    if made.higher_is_better:
        assert made.compute() == perfect / 2
    else:
        assert made.compute() == float("inf")
        finite = metric(missing=8, **options)
        finite.merge(made)
        assert finite.compute() == 4
    assert made.missed.tolist() == [1]
    made.update(np.zeros_like(mask), np.zeros_like(mask))
    assert made.left_out.tolist() == [1]


def test_spacing_of_each_image() -> None:
    pred, target = images(1)[0]
    made = metrics.HausdorffDistance(num_classes=K, average="none")
    made.update(pred, target, spacing=(3, 2))
    expected = metrics.hausdorff_distance(pred, target, num_classes=K, spacing=(3, 2))
    np.testing.assert_array_equal(made.compute(), expected)


def test_boundary_iou_sums_before_it_divides() -> None:
    made = metrics.BoundaryIoU(num_classes=K, average="none")
    pixels = np.zeros((K, 3))
    for pred, target in images():
        made.update(pred, target)
        for k in range(K):
            near = [metrics.boundary_iou(mask, mask) for mask in (pred == k, target == k)]
            assert len(near) == 2
    for pred, target in images():
        from fastseg.metrics.boundary_iou import boundary_counts

        pixels += boundary_counts(pred, target, ratio=0.02, num_classes=K, ignore_index=None)[1][0]
    both, one, other = pixels[: K - 1].T
    np.testing.assert_allclose(np.asarray(made.compute())[: K - 1], both / (one + other - both))
    assert np.isnan(float(made.compute()[K - 1]))
    macro = metrics.BoundaryIoU(num_classes=K)
    preds, targets = zip(*images(), strict=True)
    macro.update(list(preds), list(targets))
    assert float(macro.compute()) == pytest.approx(np.nanmean(np.asarray(made.compute())))
    binary = metrics.BoundaryIoU()
    binary.update(preds[0] > 0, targets[0] > 0)
    assert binary.compute() == pytest.approx(metrics.boundary_iou(preds[0] > 0, targets[0] > 0))


def test_as_torchmetrics_metrics() -> None:
    """In a process of its own, where torchmetrics is loaded before they are made."""
    pytest.importorskip("torchmetrics")
    code = """
import warnings
warnings.simplefilter("ignore")
import torch, torchmetrics
from fastseg import metrics
mask = torch.zeros(12, 15, dtype=torch.int64)
mask[3:8, 4:9] = 1
moved = mask.roll(1, 1)
collection = torchmetrics.MetricCollection([
    metrics.HausdorffDistance(num_classes=2),
    metrics.AverageSurfaceDistance(num_classes=2),
    metrics.SurfaceDice(num_classes=2, tolerance=1),
    metrics.BoundaryFScore(num_classes=2, tolerance=1),
    metrics.BoundaryIoU(num_classes=2),
])
for _ in range(3):
    collection.update(moved, mask)
scores = collection.compute()
assert len(scores) == 5
expected = metrics.hausdorff_distance(moved, mask, num_classes=2).mean()
assert scores["HausdorffDistance"].item() == expected, scores
assert scores["SurfaceDice"].item() == 1, scores
assert isinstance(collection["BoundaryIoU"], torchmetrics.Metric)
print("ok")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: metrics.HausdorffDistance(average="mean"), errors.ParameterError),  # type: ignore[arg-type]
        (lambda: metrics.HausdorffDistance(num_classes=0), errors.ParameterError),
        (lambda: metrics.HausdorffDistance(missing=-1), errors.ParameterError),
        (lambda: metrics.BoundaryIoU(num_classes=-3), errors.ParameterError),
        (lambda: metrics.BoundaryIoU(average="all"), errors.ParameterError),  # type: ignore[arg-type]
    ],
)
def test_bad_parameters(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()
