"""`labelmaps.border_weight_map` against every pair of pixels, and against a transform per cell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import fastseg
from fastseg import errors, labelmaps
from references.plain_surfaces import border_weights

# Of weights up to 11, with terms below 3e-8 taken as none.
TOLERANCE = 2e-6


def one_transform_per_cell(
    cells: NDArray[Any], w0: float = 10, sigma: float = 5, everywhere: bool = False
) -> NDArray[np.float64]:
    """What everyone does: SciPy's distance transform of each cell, and the two least of all."""
    ndimage = pytest.importorskip("scipy.ndimage")
    far = np.full((3, *cells.shape), np.inf)
    for name in np.unique(cells[cells > 0]):
        far[2] = ndimage.distance_transform_edt(cells != name)
        far.sort(axis=0)
    term = w0 * np.exp(-((far[0] + far[1]) ** 2) / (2 * sigma**2))
    return 1 + np.where(everywhere | (cells == 0), term, 0)


def scattered(shape: tuple[int, int], count: int, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    cells = np.zeros(shape, np.int64)
    for name in range(1, count + 1):
        y, x = random.integers(shape[0]), random.integers(shape[1])
        cells[y : y + random.integers(1, 9), x : x + random.integers(1, 9)] = name
    return cells


@pytest.mark.parametrize("where", ["background", "everywhere"])
@pytest.mark.parametrize(
    ("shape", "count"),
    [((1, 1), 1), ((1, 30), 3), ((30, 1), 3), ((17, 23), 5), ((40, 33), 12), ((9, 64), 6)],
    ids=str,
)
def test_equals_every_pair(shape: tuple[int, int], count: int, where: Any) -> None:
    for seed in range(4):
        cells = scattered(shape, count, seed)
        for w0, sigma in ((10, 5), (3, 1.5), (10, 40)):
            ours = labelmaps.border_weight_map(cells, w0=w0, sigma=sigma, where=where)
            expected = border_weights(cells, w0, sigma, where == "everywhere")
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, expected, atol=TOLERANCE)


@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 40), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_equals_a_transform_per_cell(height: int, width: int, count: int, seed: int) -> None:
    cells = scattered((height, width), count, seed)
    ours = labelmaps.border_weight_map(cells)
    np.testing.assert_allclose(ours, one_transform_per_cell(cells), atol=TOLERANCE)


def test_many_single_pixels_next_to_each_other() -> None:
    """Two cells for each column suffice, whatever the third is."""
    random = np.random.default_rng(5)
    cells = np.where(random.random((90, 100)) < 0.2, random.integers(1, 9, (90, 100)), 0)
    for where in ("background", "everywhere"):
        ours = labelmaps.border_weight_map(cells, where=where)
        expected = one_transform_per_cell(cells, everywhere=where == "everywhere")
        np.testing.assert_allclose(ours, expected, atol=TOLERANCE)


def test_fewer_than_two_cells_have_no_border() -> None:
    cells = np.zeros((20, 30), np.uint8)
    assert (labelmaps.border_weight_map(cells) == 1).all()
    cells[3:9, 4:8] = 7
    assert (labelmaps.border_weight_map(cells) == 1).all()
    cells[3:9, 20:22] = 7  # the same cell, in two pieces
    assert (labelmaps.border_weight_map(cells) == 1).all()


def test_it_is_the_papers_formula() -> None:
    """Not d1 − d2, and σ is not squared before."""
    cells = np.zeros((1, 11), np.uint8)
    cells[0, 0], cells[0, 10] = 1, 2
    expected = 1 + 10 * np.exp(-(10**2) / (2 * 5**2))
    np.testing.assert_allclose(labelmaps.border_weight_map(cells)[0, 1:-1], expected, rtol=1e-6)


def test_ids_of_any_size_and_type() -> None:
    cells = scattered((40, 50), 9, 1)
    expected = labelmaps.border_weight_map(cells)
    for other in (
        cells.astype(np.uint8),
        cells.astype(">i4"),
        np.asfortranarray(cells),
        cells * 100_000,
    ):
        np.testing.assert_array_equal(labelmaps.border_weight_map(other), expected)
    wide = labelmaps.border_weight_map(cells, sigma=45)
    np.testing.assert_allclose(wide, one_transform_per_cell(cells, sigma=45), atol=TOLERANCE)


def test_batches_and_torch() -> None:
    torch = pytest.importorskip("torch")
    batch = np.stack([scattered((30, 41), 6, seed) for seed in range(3)])
    weights = labelmaps.border_weight_map(torch.from_numpy(batch))
    assert weights.dtype == torch.float32
    for one, expected in zip(batch, weights.numpy(), strict=True):
        np.testing.assert_array_equal(labelmaps.border_weight_map(one), expected)


def test_class_weights() -> None:
    cells = scattered((30, 40), 4, 2)
    plain = labelmaps.border_weight_map(cells)
    weighted = labelmaps.border_weight_map(cells, class_weights=(0.5, 2))
    np.testing.assert_allclose(weighted - plain, np.where(cells > 0, 1, -0.5), atol=1e-6)
    balanced = labelmaps.border_weight_map(cells, w0=0, class_weights="balanced")
    np.testing.assert_allclose(balanced[cells > 0].sum(), balanced[cells == 0].sum(), rtol=1e-4)
    np.testing.assert_allclose(balanced.sum(), cells.size, rtol=1e-4)


def test_bits_do_not_depend_on_threads() -> None:
    cells = scattered((300, 200), 60, 3)
    before = fastseg.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            fastseg.set_num_threads(threads)
            results.append(labelmaps.border_weight_map(cells).tobytes())
        assert len(set(results)) == 1
    finally:
        fastseg.set_num_threads(before)


@pytest.mark.parametrize(
    ("cells", "options", "error", "text"),
    [
        (np.zeros(4, int), {}, errors.ShapeError, r"\(H, W\)"),
        (np.zeros((0, 4), int), {}, errors.ShapeError, "at least one pixel"),
        (np.zeros((4, 4)), {}, errors.DtypeError, "connected_components"),
        (np.zeros((4, 4), bool), {}, errors.DtypeError, "bool"),
        (np.full((4, 4), -1), {}, errors.LabelError, "-1"),
        (np.full((4, 4), 2**40), {}, errors.LabelError, "unique"),
        (np.zeros((4, 4), int), {"w0": -1}, errors.ParameterError, "w0"),
        (np.zeros((4, 4), int), {"w0": np.nan}, errors.ParameterError, "w0"),
        (np.zeros((4, 4), int), {"sigma": 0}, errors.ParameterError, "sigma"),
        (np.zeros((4, 4), int), {"sigma": 1e6}, errors.ParameterError, "at most"),
        (np.zeros((4, 4), int), {"where": "here"}, errors.ParameterError, "where"),
        (np.zeros((4, 4), int), {"class_weights": (1,)}, errors.ShapeError, "two numbers"),
        (np.zeros((4, 4), int), {"class_weights": "even"}, errors.ParameterError, "balanced"),
    ],
)
def test_bad_input(cells: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        labelmaps.border_weight_map(cells, **options)


@pytest.mark.data
def test_real_nuclei(data_dir: Path) -> None:
    for path in sorted((data_dir / "dsb2018").glob("*_inst.png"))[:3]:
        cells = np.asarray(Image.open(path))[:200, :200].astype(np.int64)
        ours = labelmaps.border_weight_map(cells)
        np.testing.assert_allclose(ours, one_transform_per_cell(cells), atol=TOLERANCE)
