"""`metrics.distance_transform` against every pair of pixels, and against SciPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

import fastseg
from fastseg import errors, metrics
from references.plain_distances import distances

ndimage = pytest.importorskip("scipy.ndimage")

# Relative to the distance; float32 has 6e-8.
TOLERANCE = 1e-6
# Around the sixteen places that are worked on together, and the strips of 256.
SHAPES = [
    (1, 1),
    (1, 2),
    (2, 1),
    (1, 40),
    (40, 1),
    (15, 17),
    (16, 16),
    (17, 33),
    (3, 300),
    (1, 1, 1),
    (1, 1, 9),
    (9, 1, 1),
    (1, 9, 1),
    (5, 16, 17),
    (18, 3, 33),
    (4, 33, 2),
]


def masks(shape: tuple[int, ...], seed: int) -> list[NDArray[np.bool_]]:
    random = np.random.default_rng(seed)
    blob = ndimage.gaussian_filter(random.standard_normal(shape), 2) > 0
    made = [random.random(shape) < share for share in (0.1, 0.5, 0.9, 0.99)] + [blob, ~blob]
    for mask in made:
        mask.flat[random.integers(mask.size)] = False
    return made


def check(mask: NDArray[np.bool_], spacing: tuple[float, ...] | None) -> None:
    ours = metrics.distance_transform(mask, spacing=spacing)
    theirs = ndimage.distance_transform_edt(mask, sampling=spacing)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_scipy_and_every_pair(shape: tuple[int, ...]) -> None:
    spacings = [(1.0,) * 3, (3.0, 1.0, 2.0), (0.7, 1.3, 2.5)]
    for mask in masks(shape, 1):
        for spacing in spacings:
            check(mask, spacing[: mask.ndim])
        if mask.size < 600:
            ours = metrics.distance_transform(mask, spacing=spacings[2][: mask.ndim])
            expected = distances(mask, spacings[2][: mask.ndim])
            np.testing.assert_allclose(ours, expected, rtol=TOLERANCE, atol=0)


@given(
    arrays(np.bool_, array_shapes(min_dims=2, max_dims=3, max_side=40)),
    st.lists(st.floats(0.05, 20), min_size=3, max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_equals_scipy_for_any_mask_and_spacing(
    mask: NDArray[np.bool_], spacing: list[float]
) -> None:
    if mask.all():
        assert np.isinf(metrics.distance_transform(mask, spacing=spacing[: mask.ndim])).all()
    else:
        check(mask, tuple(spacing[: mask.ndim]))


@pytest.mark.parametrize("shape", [(300, 500), (40, 50, 60)], ids=str)
@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 3.0), (0.3, 0.7, 1.1)], ids=str)
def test_one_feature_far_away(shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> None:
    for corner in (0, -1):
        mask = np.ones(shape, bool)
        mask.flat[corner] = False
        check(mask, spacing and spacing[: mask.ndim])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.5)], ids=str)
def test_nearest_pixels_are_outside_and_as_far_as_said(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    spacing = spacing[: len(shape)]
    for mask in masks(shape, 2):
        measured, nearest = metrics.distance_transform(mask, spacing=spacing, return_indices=True)
        assert nearest.shape == (mask.ndim, *shape)
        assert nearest.dtype == np.int32
        assert not mask[tuple(nearest)].any()
        steps = (nearest - np.indices(shape)) * np.reshape(spacing, (-1, *[1] * mask.ndim))
        np.testing.assert_allclose(measured, np.sqrt((steps**2).sum(0)), rtol=TOLERANCE)


def test_squares_are_exact_integers() -> None:
    mask = masks((30, 45), 3)[3]
    squares = metrics.distance_transform(mask, spacing=(3, 2), squared=True)
    assert squares.dtype == np.int32
    expected = ndimage.distance_transform_edt(mask, sampling=(3, 2)) ** 2
    np.testing.assert_array_equal(squares, np.rint(expected))


def test_squares_that_need_64_bits() -> None:
    mask = np.ones((2, 40_000), bool)
    mask[0, 0] = False
    squares = metrics.distance_transform(mask, squared=True)
    assert squares.dtype == np.int64
    assert squares[1, -1] == 39_999**2 + 1
    tall = metrics.distance_transform(np.ascontiguousarray(mask.T), squared=True)
    np.testing.assert_array_equal(tall.T, squares)


def test_more_rows_than_sixteen_bits_count() -> None:
    mask = np.ones((70_000, 2), bool)
    mask[0, 0] = False
    check(mask, None)


def test_without_background_nothing_is_near() -> None:
    mask = np.ones((3, 4, 5), bool)
    measured, nearest = metrics.distance_transform(mask, return_indices=True)
    assert np.isposinf(measured).all()
    assert (nearest == -1).all()
    squares = metrics.distance_transform(mask, squared=True)
    assert (squares == np.iinfo(np.int32).max).all()
    assert np.isposinf(metrics.distance_transform(mask, spacing=0.5)).all()
    assert not metrics.distance_transform(~mask).any()


def test_a_picture_that_is_not_square() -> None:
    """torchmetrics 1.9 mixes up the axes of its distance transform (its issue 3300)."""
    functional = pytest.importorskip("torchmetrics.functional.segmentation.utils")
    torch = pytest.importorskip("torch")
    mask = np.zeros((4, 9), bool)
    mask[1:3, 1:8] = True
    check(mask, None)
    try:
        theirs = functional.distance_transform(torch.from_numpy(mask), engine="pytorch").numpy()
    except (RuntimeError, IndexError):
        return
    right = ndimage.distance_transform_edt(mask)
    assert theirs.shape != mask.shape or np.abs(theirs - right).max() > 0.1


def test_bits_do_not_depend_on_threads() -> None:
    before = fastseg.get_num_threads()
    try:
        for shape, spacing in (((257, 300), (0.7, 1.1)), ((30, 40, 50), (0.7, 1.1, 2.0))):
            mask = masks(shape, 4)[4]
            results = []
            for threads in (1, 2, 5):
                fastseg.set_num_threads(threads)
                results.append(metrics.distance_transform(mask, spacing=spacing).tobytes())
            assert len(set(results)) == 1
    finally:
        fastseg.set_num_threads(before)


@pytest.mark.parametrize(
    "array",
    [
        np.eye(5, dtype=np.uint8),
        np.eye(5, dtype=np.int64),
        np.eye(5, dtype=">i2"),
        np.asfortranarray(np.eye(5, dtype=bool)),
        np.repeat(np.eye(5, dtype=bool), 2, axis=0)[::2],
        np.eye(5, dtype=bool)[::-1, ::-1],
        np.eye(5, dtype=int).tolist(),
    ],
    ids=["uint8", "int64", "big-endian", "fortran", "strided", "reversed", "list"],
)
def test_any_kind_of_mask(array: Any) -> None:
    expected = ndimage.distance_transform_edt(np.eye(5))
    np.testing.assert_allclose(metrics.distance_transform(array), expected, rtol=TOLERANCE)


def test_torch_in_torch_out() -> None:
    torch = pytest.importorskip("torch")
    mask = torch.eye(6, dtype=torch.bool)
    measured, nearest = metrics.distance_transform(mask, return_indices=True)
    assert measured.dtype == torch.float32
    assert nearest.dtype == torch.int32
    np.testing.assert_array_equal(measured.numpy(), metrics.distance_transform(mask.numpy()))


@pytest.mark.parametrize(
    ("mask", "options", "error", "text"),
    [
        (np.zeros(5, bool), {}, errors.ShapeError, r"\(H, W\) or \(D, H, W\)"),
        (np.zeros((0, 5), bool), {}, errors.ShapeError, "at least one pixel"),
        (np.zeros((2, 2, 2, 2), bool), {}, errors.ShapeError, r"\(2, 2, 2, 2\)"),
        (np.zeros((2, 2)), {}, errors.DtypeError, "float64"),
        (np.full((2, 2), 255, np.uint8), {}, errors.DataError, "255"),
        (np.full((2, 2), -1), {}, errors.DataError, "-1"),
        (np.ones((2, 2), bool), {"spacing": 0}, errors.ParameterError, "greater than 0"),
        (np.ones((2, 2), bool), {"spacing": (1, -2)}, errors.ParameterError, r"spacing\[1\]"),
        (np.ones((2, 2), bool), {"spacing": np.nan}, errors.ParameterError, "finite"),
        (np.ones((2, 2), bool), {"spacing": (1, 1, 1)}, errors.ShapeError, "each axis"),
        (np.ones((2, 2), bool), {"spacing": "1"}, errors.DtypeError, "number"),
        (
            np.ones((2, 2), bool),
            {"spacing": 0.5, "squared": True},
            errors.ParameterError,
            "whole numbers",
        ),
    ],
)
def test_bad_input(mask: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        metrics.distance_transform(mask, **options)


@pytest.mark.data
def test_real_masks(data_dir: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    nuclei = np.asarray(Image.open(next((data_dir / "dsb2018").glob("*_inst.png"))))
    check(nuclei == 0, None)
    scan = nibabel.load(data_dir / "totalseg" / "example_seg.nii.gz")
    labels = np.asarray(scan.dataobj).astype(np.uint8)
    spacing = tuple(float(step) for step in scan.header.get_zooms())
    for mask in (labels > 0, labels == 0):
        check(mask, spacing)
    street = np.asarray(Image.open(data_dir / "vistas" / "vistas_labels.png"))[::3, ::3]
    check(street == np.bincount(street.ravel()).argmax(), None)
