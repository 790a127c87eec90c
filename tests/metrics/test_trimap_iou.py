"""`metrics.trimap_iou` against its definition, pixel by pixel."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastseg import errors, metrics

K = 4


def maps(seed: int, shape: tuple[int, int] = (31, 44)) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(seed)
    rough = random.integers(0, K - 1, (shape[0] // 9 + 1, shape[1] // 9 + 1), np.uint8)
    target = rough.repeat(9, 0).repeat(9, 1)[: shape[0], : shape[1]].copy()
    pred = np.where(random.random(shape) < 0.05, 1, np.roll(target, 1, 1)).astype(np.uint8)
    return pred, target


def band(target: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Where another label lies within `width` along both axes; beyond the image is none."""
    near = np.zeros(target.shape, bool)
    for y, x in np.ndindex(target.shape):
        window = target[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        near[y, x] = (window != target[y, x]).any()
    return near


def shares(pred: NDArray[Any], target: NDArray[Any], seen: NDArray[np.bool_]) -> list[float]:
    found = []
    for k in range(K):
        one, other = (pred == k) & seen, (target == k) & seen
        union = (one | other).sum()
        found.append(float((one & other).sum() / union) if union else float("nan"))
    return found


@pytest.mark.parametrize("width", [1, 2, 5, 100])
def test_equals_its_definition(width: int) -> None:
    for seed in range(3):
        pred, target = maps(seed)
        expected = shares(pred, target, band(target, width))
        each = metrics.trimap_iou(pred, target, num_classes=K, width=width, average="none")
        np.testing.assert_allclose(each, expected)
        mean = metrics.trimap_iou(pred, target, num_classes=K, width=width)
        assert mean == pytest.approx(np.nanmean(expected))


def test_ignored_regions_bound_the_band_and_are_not_counted() -> None:
    pred, target = maps(3)
    target[10:14] = 255
    expected = shares(pred, target, band(target, 2) & (target != 255))
    ours = metrics.trimap_iou(
        pred, target, num_classes=K, width=2, ignore_index=255, average="none"
    )
    np.testing.assert_allclose(ours, expected)


def test_batches_and_the_accumulator_count_before_they_divide() -> None:
    pairs = [maps(4), maps(5)]
    metric = metrics.TrimapIoU(num_classes=K, width=3)
    for pair in pairs:
        metric.update(*pair)
    preds, targets = (np.stack(side) for side in zip(*pairs, strict=True))
    together = metrics.trimap_iou(preds, targets, num_classes=K, width=3)
    assert metric.compute() == pytest.approx(together)
    seen = np.stack([band(target, 3) for target in targets])
    assert together == pytest.approx(np.nanmean(shares(preds, targets, seen)))


def test_no_outline_is_nan() -> None:
    flat = np.ones((5, 6), np.uint8)
    assert np.isnan(metrics.trimap_iou(flat, flat, num_classes=K, width=2))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_classes": 0, "width": 1}, errors.ParameterError),
        ({"num_classes": K, "width": 0}, errors.ParameterError),
        ({"num_classes": K, "width": 1.5}, errors.DtypeError),
        ({"num_classes": K, "width": 1, "average": "micro"}, errors.ParameterError),
        ({"num_classes": 1, "width": 1}, errors.LabelError),
    ],
)
def test_bad_input(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        metrics.trimap_iou(*maps(0), **options)
