"""Overlays: the mixture, what stays untouched, contours, and what is refused."""

import numpy as np
import pytest

from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError
from fastseg.labelmaps import contours, overlay, palette


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.fixture
def ids():
    return np.random.default_rng(1).integers(0, 4, (5, 7), dtype=np.uint8)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["voc", "cityscapes", "distinct"])
def test_mixture(image, ids, alpha, name):
    expected = np.empty_like(image)
    colors = palette(name, 4).astype(float)
    for y in range(5):
        for x in range(7):
            mixed = (1 - alpha) * image[y, x] + alpha * colors[ids[y, x]]
            expected[y, x] = np.floor(mixed + 0.5)
    got = overlay(image, ids, palette=name, alpha=alpha)
    assert got.dtype == np.uint8
    # Halves may round either way.
    assert np.abs(got.astype(int) - expected).max() <= 1
    if alpha in (0.0, 1.0):
        np.testing.assert_array_equal(got, expected)


def test_inputs_are_left_alone(image, ids):
    before = image.copy(), ids.copy()
    image.flags.writeable = ids.flags.writeable = False
    overlay(image, ids, contour_width=2)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(ids, before[1])


def test_ignored_and_background_keep_the_photograph(image, ids):
    ids[0] = 255
    got = overlay(image, ids, background=0)
    untouched = (ids == 255) | (ids == 0)
    np.testing.assert_array_equal(got[untouched], image[untouched])
    assert (got[~untouched] != image[~untouched]).any(axis=1).mean() > 0.9
    negative = np.full((5, 7), -1)
    np.testing.assert_array_equal(overlay(image, negative, ignore_index=-1), image)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_grey_pictures(ids, shape):
    grey = np.full(shape, 90, np.uint8)
    rgb = np.full((5, 7, 3), 90, np.uint8)
    np.testing.assert_array_equal(overlay(grey, ids), overlay(rgb, ids))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, ">i4"])
def test_label_dtypes(image, dtype):
    ids = (np.arange(35).reshape(5, 7) % 2).astype(dtype)
    np.testing.assert_array_equal(
        overlay(image, ids, ignore_index=None), overlay(image, ids.astype(np.uint8))
    )


def test_contours_between_labels_only():
    ids = np.zeros((6, 8), int)
    ids[:, 4:] = 3
    assert contours(ids).any(axis=0).nonzero()[0].tolist() == [3]
    assert contours(ids, width=2).all(axis=0).nonzero()[0].tolist() == [3, 4]
    assert contours(ids, width=3).all(axis=0).nonzero()[0].tolist() == [2, 3, 4]
    assert not contours(ids, ignore_index=3).any()
    assert not contours(np.ones((4, 4), int)).any()
    assert not contours(np.ones((1, 1), int)).any()


def test_contour_colour(image):
    ids = np.zeros((5, 7), np.uint8)
    ids[2:] = 1
    got = overlay(image, ids, contour_width=1, contour_color=(1, 2, 3))
    assert (got[1] == (1, 2, 3)).all()
    assert not (got[[0, 2, 3, 4]] == (1, 2, 3)).all(axis=2).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_awkward_sizes(shape):
    got = overlay(np.zeros((*shape, 3), np.uint8), np.zeros(shape, int), contour_width=3)
    assert got.shape == (*shape, 3)


def test_views_and_order(image, ids):
    np.testing.assert_array_equal(
        overlay(image[::-1, ::2], ids[::-1, ::2]), overlay(image, ids)[::-1, ::2]
    )
    np.testing.assert_array_equal(
        overlay(np.asfortranarray(image), np.asfortranarray(ids)), overlay(image, ids)
    )


def test_refusals(image, ids):
    with pytest.raises(ShapeError, match=r"\(5, 7\), got \(7, 5\)"):
        overlay(image, ids.T)
    with pytest.raises(ShapeError, match=r"got \(5, 7, 4\)"):
        overlay(np.zeros((5, 7, 4), np.uint8), ids)
    with pytest.raises(DtypeError, match="uint8"):
        overlay(image / 255, ids)
    with pytest.raises(DtypeError, match="argmax"):
        overlay(image, ids / 2)
    with pytest.raises(LabelError, match="19 is beyond"):
        overlay(image, ids + 16, palette="cityscapes")
    with pytest.raises(LabelError, match="negative"):
        overlay(image, ids.astype(int) - 1)
    with pytest.raises(ParameterError, match="alpha"):
        overlay(image, ids, alpha=1.5)
    with pytest.raises(ParameterError, match="width"):
        contours(ids, width=0)
    with pytest.raises(ShapeError, match=r"\(H, W\)"):
        contours(np.zeros(4, int))
