"""`labelmaps.connected_components` and `remove_small_regions` against SciPy and a flood fill."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from fastseg import errors, labelmaps

ndimage = pytest.importorskip("scipy.ndimage")


def flood(ids: NDArray[Any], connectivity: int, background: int | None) -> NDArray[np.int32]:
    """Regions by walking from pixel to pixel, in the order of the first."""
    steps = [
        step
        for step in np.ndindex(*(3,) * ids.ndim)
        if 0 < np.abs(np.array(step) - 1).sum() <= connectivity
    ]
    regions = np.zeros(ids.shape, np.int32)
    count = 0
    for start in np.ndindex(ids.shape):
        if regions[start] or ids[start] == background:
            continue
        count += 1
        regions[start] = count
        todo = [start]
        while todo:
            place = todo.pop()
            for step in steps:
                near = tuple(int(p + s - 1) for p, s in zip(place, step, strict=True))
                if any(not 0 <= p < n for p, n in zip(near, ids.shape, strict=True)):
                    continue
                if not regions[near] and ids[near] == ids[start]:
                    regions[near] = count
                    todo.append(near)
    return regions


@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=3, max_side=12), elements=st.integers(0, 2)),
    st.integers(1, 3),
    st.sampled_from([0, 1, None]),
)
@settings(max_examples=150, deadline=None)
def test_equals_a_flood_fill(
    ids: NDArray[np.uint8], connectivity: int, background: int | None
) -> None:
    connectivity = min(connectivity, ids.ndim)
    regions, count = labelmaps.connected_components(
        ids, connectivity=connectivity, background=background
    )
    expected = flood(ids, connectivity, background)
    assert regions.dtype == np.int32
    np.testing.assert_array_equal(regions, expected)
    assert count == expected.max()


@pytest.mark.parametrize("connectivity", [1, 2, 3])
@pytest.mark.parametrize("shape", [(200, 301), (40, 50, 61)], ids=str)
def test_equals_scipy(shape: tuple[int, ...], connectivity: int) -> None:
    connectivity = min(connectivity, len(shape))
    random = np.random.default_rng(1)
    for mask in (
        random.random(shape) < 0.4,
        ndimage.gaussian_filter(random.random(shape), 2) < 0.5,
    ):
        regions, count = labelmaps.connected_components(mask, connectivity=connectivity)
        structure = ndimage.generate_binary_structure(mask.ndim, connectivity)
        theirs, their_count = ndimage.label(mask, structure)
        assert count == their_count
        # The same partition, whatever the numbers.
        pairs = np.unique(np.stack([regions.ravel(), theirs.ravel()]), axis=1)
        assert pairs.shape[1] == count + 1


@pytest.mark.parametrize("dtype", ["bool", "u1", "u2", "i2", "u4", "i8", "u8", ">i4"])
def test_any_type(dtype: str) -> None:
    mask = (np.random.default_rng(2).random((20, 30)) < 0.5).astype(dtype)
    regions, count = labelmaps.connected_components(mask)
    assert count == ndimage.label(mask != 0)[1]
    assert regions.max() == count


def test_a_label_beyond_the_type_is_nowhere() -> None:
    ids = np.array([[0, 0, 255]], np.uint8)
    assert labelmaps.connected_components(ids, background=-1)[1] == 2
    assert labelmaps.connected_components(ids, background=256)[1] == 2


def test_torch_in_torch_out() -> None:
    torch = pytest.importorskip("torch")
    mask = torch.eye(5, dtype=torch.bool)
    regions, count = labelmaps.connected_components(mask)
    assert count == 5
    assert regions.dtype == torch.int32
    cleaned = labelmaps.remove_small_regions(mask, min_size=2)
    assert cleaned.dtype == torch.bool
    assert not cleaned.any()


@given(
    arrays(np.int16, array_shapes(min_dims=2, max_dims=3, max_side=12), elements=st.integers(0, 2)),
    st.integers(1, 9),
    st.sampled_from([0, None]),
)
@settings(max_examples=80, deadline=None)
def test_small_regions_go(ids: NDArray[np.int16], least: int, background: int | None) -> None:
    kept = labelmaps.remove_small_regions(ids, min_size=least, background=background, fill=9)
    regions = flood(ids, 1, background)
    sizes = np.bincount(regions.ravel())
    expected = np.where((regions > 0) & (sizes[regions] < least), 9, ids)
    assert kept.dtype == ids.dtype
    np.testing.assert_array_equal(kept, expected)
    nearest = labelmaps.remove_small_regions(
        ids, min_size=least, background=background, fill="nearest"
    )
    gone = kept == 9
    if gone.all():
        assert not nearest.any()
        return
    places = np.argwhere(~gone)
    for place in np.argwhere(gone):
        far = ((places - place) ** 2).sum(1)
        near = {int(ids[tuple(at)]) for at in places[far == far.min()]}
        assert int(nearest[tuple(place)]) in near
    np.testing.assert_array_equal(nearest[~gone], ids[~gone])


@pytest.mark.parametrize(
    ("ids", "options", "error", "text"),
    [
        (np.zeros(4, int), {}, errors.ShapeError, r"\(H, W\)"),
        (np.zeros((4, 0), int), {}, errors.ShapeError, "at least one pixel"),
        (np.zeros((4, 4)), {}, errors.DtypeError, "float64"),
        (np.zeros((4, 4), int), {"connectivity": 0}, errors.ParameterError, "at least 1"),
        (np.zeros((4, 4), int), {"connectivity": 3}, errors.ParameterError, "number of axes"),
        (np.zeros((4, 4), int), {"background": 0.5}, errors.DtypeError, "background"),
        (np.zeros((4, 4), int), {"min_size": 0}, errors.ParameterError, "min_size"),
        (np.zeros((4, 4), np.uint8), {"fill": -1}, errors.LabelError, "uint8"),
        (np.zeros((4, 4), bool), {"fill": 2}, errors.LabelError, "bool"),
        (np.zeros((4, 4), int), {"fill": "near"}, errors.DtypeError, "fill"),
    ],
)
def test_bad_input(ids: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        labelmaps.remove_small_regions(ids, **{"min_size": 2, **options})
