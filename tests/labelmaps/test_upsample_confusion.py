"""upsample_confusion: against counting the label map, and what is refused."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastseg import ops
from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError
from fastseg.labelmaps import upsample_argmax, upsample_confusion

torch = pytest.importorskip("torch")


def counted(pred, target, classes, ignore_index=None):
    counts = np.zeros((classes, classes), np.int64)
    for t, p in zip(np.ravel(target).tolist(), np.ravel(pred).tolist(), strict=True):
        if t != ignore_index:
            counts[t, p] += 1
    return counts


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    logits = np.cumsum(rng.normal(size=(2, 6, 9, 11)), axis=3).astype(np.float32)
    target = rng.integers(0, 6, (2, 36, 44)).astype(np.uint8)
    target[:, 10:20] = 3
    target[rng.random(target.shape) < 0.1] = 255
    return logits, target


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "i8", "u4", "u8", ">i4", ">u2"])
def test_counts(scene, dtype, align_corners):
    logits, target = scene
    counts = upsample_confusion(
        logits, target.astype(dtype), ignore_index=255, align_corners=align_corners
    )
    ids = upsample_argmax(logits, (36, 44), align_corners=align_corners)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, counted(ids, target, 6, 255))
    assert counts.sum() == (target != 255).sum()


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 300), st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(0, 9)
)
def test_any_size(classes, h, w, side, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(classes, h, w)).astype(np.float32)
    target = rng.integers(0, classes, (side, 2 * side))
    np.testing.assert_array_equal(
        upsample_confusion(logits, target),
        counted(upsample_argmax(logits, target.shape), target, classes),
    )


def test_one_image_and_views(scene):
    logits, target = scene
    one = upsample_confusion(logits[0], target[0], ignore_index=255)
    two = upsample_confusion(logits[1], target[1], ignore_index=255)
    np.testing.assert_array_equal(one + two, upsample_confusion(logits, target, ignore_index=255))
    np.testing.assert_array_equal(
        upsample_confusion(logits[0], target[0, ::-2, ::3], ignore_index=255),
        upsample_confusion(logits[0], target[0, ::-2, ::3].copy(), ignore_index=255),
    )
    binary = upsample_confusion(logits[0, :2], target[0] > 2)
    assert binary.sum() == target[0].size


def test_ignored_by_target_only(scene):
    logits, target = scene
    counts = upsample_confusion(logits, np.where(target == 255, 0, target), ignore_index=2)
    assert not counts[2].any()
    assert counts[:, 2].any()
    everything = upsample_confusion(logits, np.full_like(target, 255), ignore_index=255)
    assert not everything.any()
    negative = np.where(target == 255, -1, target.astype(np.int64))
    np.testing.assert_array_equal(
        upsample_confusion(logits, negative, ignore_index=-1),
        upsample_confusion(logits, target, ignore_index=255),
    )


def test_tensors(scene):
    logits, target = (torch.from_numpy(array) for array in scene)
    counts = upsample_confusion(logits.bfloat16(), target.long(), ignore_index=255)
    assert isinstance(counts, torch.Tensor)
    assert counts.dtype == torch.int64
    expected = upsample_confusion(logits.bfloat16().float().numpy(), scene[1], ignore_index=255)
    np.testing.assert_array_equal(counts, expected)


def test_nothing_to_count():
    logits = np.zeros((3, 2, 2), np.float32)
    assert not upsample_confusion(logits, np.zeros((0, 5), np.uint8)).any()
    assert not upsample_confusion(logits[np.newaxis][:0], np.zeros((0, 4, 4), np.uint8)).any()


def test_labels_that_are_none(scene):
    logits, target = scene
    first = tuple(int(i) for i in np.argwhere(target[0] == 255)[0])
    with pytest.raises(LabelError, match=rf"255 at row {first[0]}, column {first[1]} is not .* 6"):
        upsample_confusion(logits[0], target[0])
    wrong = np.zeros((2, 9, 9), np.int64)
    wrong[1, 7, 8], wrong[1, 8, 0] = -3, 9
    with pytest.raises(LabelError, match=r"-3 at row 7, column 8 of item 1.*ignore_index"):
        upsample_confusion(logits, wrong)


def test_refusals(scene):
    logits, target = scene
    with pytest.raises(ShapeError, match=r"\(B, H, W\)"):
        upsample_confusion(logits, target[0])
    with pytest.raises(ShapeError, match=r"target must be \(H, W\)"):
        upsample_confusion(logits[0], target)
    with pytest.raises(ShapeError, match="2 items of logits, but 1 targets"):
        upsample_confusion(logits, target[:1])
    with pytest.raises(DtypeError, match="integer labels, got float64"):
        upsample_confusion(logits[0], target[0] / 1)
    with pytest.raises(DtypeError, match="ignore_index must be an integer"):
        upsample_confusion(logits, target, ignore_index="255")
    with pytest.raises(ParameterError, match="ignore_index"):
        upsample_confusion(logits, target, ignore_index=2**70)


def test_tensors_on_a_gpu_are_counted_there(scene, monkeypatch):
    logits, target = (torch.from_numpy(each) for each in scene)
    expected = upsample_confusion(logits, target, ignore_index=255)
    # No GPU is needed to take the way of one.
    module = sys.modules["fastseg.labelmaps.upsample_confusion"]
    monkeypatch.setattr(module, "is_on_gpu", lambda _: True)
    with ops.use_backend("torch"):
        got = upsample_confusion(logits, target, ignore_index=255)
        one = upsample_confusion(logits[0], target[0], ignore_index=255)
        binary = upsample_confusion(logits[0, :2], target[0] > 2)
    assert torch.equal(got, expected)
    assert one.sum() == (target[0] != 255).sum()
    assert binary.sum() == target[0].numel()
    monkeypatch.setattr(ops, "upsample_confusion", lambda *_, **__: torch.full((6, 6), -1))
    with pytest.raises(LabelError, match="name it as ignore_index"):
        upsample_confusion(logits, target)
