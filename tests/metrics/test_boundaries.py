"""Boundary IoU and the boundary F-score against their definitions, pixel by pixel."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import fastseg
from fastseg import errors, metrics
from references import plain_surfaces


def masks(shape: tuple[int, int], seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    ndimage = pytest.importorskip("scipy.ndimage")
    random = np.random.default_rng(seed)
    first, second = (
        ndimage.gaussian_filter(random.standard_normal(shape), 2) > 0.02 for _ in range(2)
    )
    return first | second, first


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.001, 0.5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_boundary_iou_equals_its_definition(
    height: int, width: int, ratio: float, seed: int
) -> None:
    pred, target = masks((height, width), seed)
    depth = max(1, round(ratio * math.hypot(height, width)))
    ours = metrics.boundary_iou(pred, target, ratio=ratio)
    expected = plain_surfaces.boundary_iou(pred, target, depth)
    assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_boundary_iou_equals_an_erosion() -> None:
    """The authors' own way: erode by three by three, d times, with zeros beyond the image."""
    ndimage = pytest.importorskip("scipy.ndimage")
    pred, target = masks((300, 451), 1)
    depth = round(0.02 * math.hypot(300, 451))
    near = [
        mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=depth)
        for mask in (pred, target)
    ]
    expected = (near[0] & near[1]).sum() / (near[0] | near[1]).sum()
    assert metrics.boundary_iou(pred, target) == pytest.approx(expected, abs=1e-12)


def labels(shape: tuple[int, int], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(seed)
    rough = random.integers(0, 5, (shape[0] // 8 + 1, shape[1] // 8 + 1), np.uint8)
    target = rough.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]].copy()
    pred = np.where(random.random(shape) < 0.01, 4, np.roll(target, 1, 1)).astype(np.uint8)
    return pred, target


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "i8"])
def test_every_label_in_one_call(dtype: str) -> None:
    pred, target = labels((140, 201), 2)
    ours = metrics.boundary_iou(pred.astype(dtype), target.astype(dtype), num_classes=6)
    one_by_one = [metrics.boundary_iou(pred == k, target == k) for k in range(6)]
    np.testing.assert_allclose(ours, one_by_one, atol=1e-12)
    assert np.isnan(ours[5])


def test_ignored_pixels_are_not_counted() -> None:
    pred, target = labels((100, 90), 3)
    target[40:60] = 255
    ours = metrics.boundary_iou(pred, target, num_classes=5, ignore_index=255)
    depth = max(1, round(0.02 * math.hypot(100, 90)))
    seen = target != 255
    blank = np.where(seen, pred, 255)
    for k in range(5):
        one, other = (
            plain_surfaces.boundary(image == k, depth) & seen for image in (blank, target)
        )
        union = (one | other).sum()
        assert ours[k] == pytest.approx((one & other).sum() / union, abs=1e-12)


def test_batches_lists_and_torch() -> None:
    torch = pytest.importorskip("torch")
    pairs = [labels((60, 70), seed) for seed in range(3)]
    preds, targets = (np.stack(side) for side in zip(*pairs, strict=True))
    each = np.stack([metrics.boundary_iou(*pair, num_classes=5) for pair in pairs])
    batch = metrics.boundary_iou(preds, targets, num_classes=5)
    np.testing.assert_array_equal(batch, each)
    tensors = torch.from_numpy(preds), torch.from_numpy(targets)
    np.testing.assert_array_equal(metrics.boundary_iou(*tensors, num_classes=5), each)
    listed = metrics.boundary_iou(list(preds), list(targets), num_classes=5)
    np.testing.assert_array_equal(listed, each)


def test_no_boundary_is_nan_and_a_missing_one_zero() -> None:
    empty, full = np.zeros((9, 9), bool), np.ones((9, 9), bool)
    assert np.isnan(metrics.boundary_iou(empty, empty))
    assert metrics.boundary_iou(full, empty) == 0
    assert metrics.boundary_iou(empty, full) == 0
    assert metrics.boundary_iou(full, full) == 1


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3])
def test_f_score_equals_its_definition(tolerance: float) -> None:
    for seed in range(3):
        pred, target = masks((31, 44), seed)
        one, other = map(plain_surfaces.border_pixels, (pred, target))
        precision = (plain_surfaces.distances(one, other, (1, 1)) <= tolerance).mean()
        recall = (plain_surfaces.distances(other, one, (1, 1)) <= tolerance).mean()
        expected = 2 * precision * recall / (precision + recall)
        ours = metrics.boundary_f_score(pred, target, tolerance=tolerance)
        assert ours == pytest.approx(expected, abs=1e-12)


def test_f_score_takes_a_share_of_the_diagonal() -> None:
    pred, target = masks((300, 400), 4)
    expected = metrics.boundary_f_score(pred, target, tolerance=0.0075 * 500)
    assert metrics.boundary_f_score(pred, target) == expected
    halved = metrics.boundary_f_score(pred, target, spacing=0.5)
    assert halved == pytest.approx(expected)


def test_f_score_of_every_label() -> None:
    pred, target = labels((80, 90), 5)
    together = metrics.boundary_f_score(pred, target, num_classes=5, tolerance=1)
    each = [metrics.boundary_f_score(pred == k, target == k, tolerance=1) for k in range(5)]
    np.testing.assert_allclose(together, each)


def test_bits_do_not_depend_on_threads() -> None:
    pred, target = labels((500, 300), 6)
    before = fastseg.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            fastseg.set_num_threads(threads)
            results.append(metrics.boundary_iou(pred, target, num_classes=5).tobytes())
        assert len(set(results)) == 1
    finally:
        fastseg.set_num_threads(before)


MASK = np.eye(4, dtype=bool)


@pytest.mark.parametrize(
    ("pred", "target", "options", "error", "text"),
    [
        (MASK, MASK[:3], {}, errors.ShapeError, "same shape"),
        (MASK[:, :0], MASK[:, :0], {}, errors.ShapeError, "at least one pixel"),
        (MASK[None, None], MASK[None, None], {}, errors.ShapeError, "H, W"),
        (MASK * 0.5, MASK, {}, errors.DtypeError, "threshold"),
        (MASK * 2, MASK, {}, errors.DataError, "num_classes"),
        (MASK * 2, MASK * 1, {"num_classes": 2}, errors.LabelError, "pred holds the label 2"),
        (MASK * 1, MASK * -1, {"num_classes": 2}, errors.LabelError, "target holds the label -1"),
        (MASK, MASK, {"num_classes": 0}, errors.ParameterError, "num_classes"),
        (MASK, MASK, {"ratio": 0}, errors.ParameterError, "ratio"),
        (MASK, MASK, {"ratio": np.nan}, errors.ParameterError, "ratio"),
    ],
)
def test_bad_input(pred: Any, target: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        metrics.boundary_iou(pred, target, **options)


@pytest.mark.parametrize("tolerance", [-1, np.nan, np.inf])
def test_bad_tolerance(tolerance: float) -> None:
    with pytest.raises(errors.ParameterError, match="tolerance"):
        metrics.boundary_f_score(MASK, MASK, tolerance=tolerance)


@pytest.mark.data
def test_a_real_street(data_dir: Path) -> None:
    """Twelve megapixels, every label at once, against an erosion of one."""
    ndimage = pytest.importorskip("scipy.ndimage")
    target = np.asarray(Image.open(data_dir / "vistas" / "vistas_labels.png"))
    pred = np.roll(target, 5, 1)
    ours = metrics.boundary_iou(pred, target, num_classes=256, ratio=0.005)
    label = int(np.bincount(target.ravel()).argmax())
    depth = round(0.005 * math.hypot(*target.shape))
    near = [
        image & ~ndimage.minimum_filter(image, 2 * depth + 1, mode="constant")
        for image in (pred == label, target == label)
    ]
    expected = (near[0] & near[1]).sum() / (near[0] | near[1]).sum()
    assert ours[label] == pytest.approx(expected, abs=1e-12)
