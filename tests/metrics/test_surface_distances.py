"""Hausdorff, HD95, ASSD and surface Dice against every pair, DeepMind, MONAI and medpy."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastseg
from fastseg import errors, metrics
from fastseg.metrics._surface_elements import cell_weights
from metrics.surface_cases import Case, cases
from references import plain_surfaces

CASES = cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# What the three packages, and what they import, are warned of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Please (import|use).*scipy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:monai:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(surface_distance|medpy|monai|torch)"),
]
# DeepMind and medpy compute in double precision, MONAI in single.
DOUBLE, SINGLE = 1e-9, 2e-6
PERCENTILES = (50, 90, 95, 99, 100)
TOLERANCES = (0, 0.7, 1, 2.5, 4)


def found(case: Case, method: Any) -> metrics.SurfaceDistances:
    return metrics.surface_distances(case.pred, case.target, spacing=case.spacing, method=method)


def deepmind(case: Case) -> dict[str, Any]:
    module = pytest.importorskip("surface_distance")
    return module.compute_surface_distances(case.target, case.pred, case.spacing)


@each_case
def test_border_pixels_and_distances_equal_every_pair(case: Case) -> None:
    pred, target = map(plain_surfaces.border_pixels, (case.pred, case.target))
    for method in ("monai", "medpy"):
        ours = found(case, method)
        forth = plain_surfaces.distances(target, pred, case.spacing)
        np.testing.assert_allclose(ours.target_to_pred, forth, rtol=DOUBLE)
        back = plain_surfaces.distances(pred, target, case.spacing)
        np.testing.assert_allclose(ours.pred_to_target, back, rtol=DOUBLE)
        assert (ours.target_weights == 1).all()
        assert (ours.pred_weights == 1).all()


@each_case
def test_equals_deepmind(case: Case) -> None:
    module = pytest.importorskip("surface_distance")
    theirs, ours = deepmind(case), found(case, "deepmind")
    for name, array in (
        ("distances_gt_to_pred", ours.target_to_pred),
        ("distances_pred_to_gt", ours.pred_to_target),
        ("surfel_areas_gt", ours.target_weights),
        ("surfel_areas_pred", ours.pred_weights),
    ):
        np.testing.assert_allclose(array, theirs[name], rtol=DOUBLE, err_msg=name)
    for percentile in PERCENTILES:
        expected = module.compute_robust_hausdorff(theirs, percentile)
        assert ours.hausdorff(percentile) == pytest.approx(expected, rel=DOUBLE)
    for tolerance in TOLERANCES:
        expected = module.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert ours.surface_dice(tolerance) == pytest.approx(expected, rel=DOUBLE)
    forth, back = module.compute_average_surface_distance(theirs)
    assert ours.average(symmetric=False) == pytest.approx(back, rel=DOUBLE)
    areas = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    both = (forth * areas[0] + back * areas[1]) / sum(areas)
    assert ours.average() == pytest.approx(both, rel=DOUBLE)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.3, 2.0)])
def test_lengths_of_contours_equal_deepminds(spacing: tuple[float, float]) -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    theirs = tables.create_table_neighbour_code_to_contour_length(spacing)
    np.testing.assert_allclose(cell_weights(spacing)[:16], theirs, rtol=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 2.0), (0.3, 0.7, 5.0)])
def test_areas_of_surfaces_equal_deepminds(spacing: tuple[float, float, float]) -> None:
    """Computed from the geometry of marching cubes, not from their table."""
    tables = pytest.importorskip("surface_distance.lookup_tables")
    theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(cell_weights(spacing), theirs, rtol=1e-12)


def one_hot(mask: NDArray[np.bool_]) -> Any:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32))


@each_case
def test_equals_monai(case: Case) -> None:
    monai = pytest.importorskip("monai.metrics")
    ours = found(case, "monai")
    arguments = one_hot(case.pred), one_hot(case.target)
    for percentile in PERCENTILES:
        theirs = monai.compute_hausdorff_distance(
            *arguments, percentile=percentile, spacing=case.spacing
        )
        assert ours.hausdorff(percentile) == pytest.approx(theirs.item(), rel=SINGLE)
    for symmetric in (False, True):
        theirs = monai.compute_average_surface_distance(
            *arguments, symmetric=symmetric, spacing=case.spacing
        )
        assert ours.average(symmetric=symmetric) == pytest.approx(theirs.item(), rel=SINGLE)
    for tolerance in TOLERANCES:
        theirs = monai.compute_surface_dice(*arguments, [tolerance], spacing=case.spacing)
        assert ours.surface_dice(tolerance) == pytest.approx(theirs.item(), rel=SINGLE)


@each_case
def test_equals_medpy(case: Case) -> None:
    binary = pytest.importorskip("medpy.metric.binary")
    ours = found(case, "medpy")
    arguments = case.pred, case.target, case.spacing
    assert ours.hausdorff() == pytest.approx(binary.hd(*arguments), rel=DOUBLE)
    assert ours.hausdorff(95) == pytest.approx(binary.hd95(*arguments), rel=DOUBLE)
    assert ours.average() == pytest.approx(binary.assd(*arguments), rel=DOUBLE)
    assert ours.average(symmetric=False) == pytest.approx(binary.asd(*arguments), rel=DOUBLE)


def test_equals_frozen_numbers(golden_dir: Path) -> None:
    """The numbers of all three, for where they are not installed."""
    frozen = np.load(golden_dir / "golden_surfaces.npz")
    for method in ("deepmind", "monai", "medpy"):
        for case, (hd, hd95, asd) in zip(CASES, frozen[method], strict=True):
            ours = found(case, method)
            measured = ours.hausdorff(), ours.hausdorff(95), ours.average(symmetric=False)
            np.testing.assert_allclose(measured, (hd, hd95, asd), rtol=SINGLE, atol=0)
    for method in ("deepmind", "monai"):
        for case, shares in zip(CASES, frozen[f"{method}_nsd"], strict=True):
            ours = [found(case, method).surface_dice(tolerance) for tolerance in TOLERANCES]
            np.testing.assert_allclose(ours, shares, rtol=SINGLE)


@pytest.mark.parametrize("method", ["deepmind", "monai", "medpy"])
@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 7)], ids=str)
def test_empty_masks(shape: tuple[int, ...], method: Any) -> None:
    empty, full = np.zeros(shape, bool), np.zeros(shape, bool)
    full[tuple(slice(1, 4) for _ in shape)] = True
    for pred, target in ((empty, full), (full, empty)):
        for percentile in (95, 100):
            assert metrics.hausdorff_distance(
                pred, target, percentile=percentile, method=method
            ) == float("inf")
        for symmetric in (True, False):
            assert metrics.average_surface_distance(
                pred, target, symmetric=symmetric, method=method
            ) == float("inf")
        if method != "medpy":
            for tolerance in (1, np.inf):
                assert metrics.surface_dice(pred, target, tolerance=tolerance, method=method) == 0
        assert metrics.boundary_f_score(pred, target) == 0
    assert np.isnan(metrics.hausdorff_distance(empty, empty, method=method))
    assert np.isnan(metrics.average_surface_distance(empty, empty, method=method))
    assert np.isnan(metrics.surface_dice(empty, empty, tolerance=1))
    assert np.isnan(metrics.boundary_f_score(empty, empty))


def test_deepminds_package_fails_on_an_empty_mask() -> None:
    """It takes `np.Inf`, which NumPy 2 no longer has; the rule for it is ours."""
    module = pytest.importorskip("surface_distance")
    if hasattr(np, "Inf"):
        pytest.skip("NumPy 1 has it")
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    with pytest.raises(AttributeError, match="Inf"):
        module.compute_surface_distances(mask, np.zeros_like(mask), (1, 1))


def test_monai_leaves_out_a_prediction_that_is_missing() -> None:
    """Its distance is NaN then, which its mean ignores: issue 9095. Here it is infinite."""
    monai = pytest.importorskip("monai.metrics")
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    missed = np.zeros_like(mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = monai.compute_hausdorff_distance(one_hot(missed), one_hot(mask), percentile=95)
    assert np.isnan(theirs.item())
    ours = metrics.hausdorff_distance(missed, mask, percentile=95, method="monai")
    assert ours == float("inf")


def label_maps(shape: tuple[int, ...], classes: int) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(3)
    target = np.zeros(shape, np.uint8)
    for label in range(1, classes):
        corner = [random.integers(n - 4) for n in shape]
        place = tuple(slice(c, c + random.integers(2, 9)) for c in corner)
        target[place] = label
    pred = np.roll(target, 1, axis=-1)
    pred[random.random(shape) < 0.02] = 1
    return pred, target


@pytest.mark.parametrize("method", ["deepmind", "monai"])
@pytest.mark.parametrize("shape", [(40, 50), (12, 20, 30)], ids=str)
def test_all_labels_in_one_call(shape: tuple[int, ...], method: Any) -> None:
    pred, target = label_maps(shape, 7)
    options: Any = {"spacing": (2.0, 1.0, 0.5)[: len(shape)], "method": method}
    for function, more in (
        (metrics.hausdorff_distance, {"percentile": 95}),
        (metrics.average_surface_distance, {}),
        (metrics.surface_dice, {"tolerance": 1}),
    ):
        together = function(pred, target, num_classes=8, **options, **more)
        one_by_one = [function(pred == k, target == k, **options, **more) for k in range(8)]
        np.testing.assert_array_equal(together, one_by_one)
        assert np.isnan(together[7])


@pytest.mark.parametrize("shape", [(9, 1, 11), (1, 9, 11), (9, 11, 1), (1, 1, 9)], ids=str)
def test_thin_volumes_are_no_pictures(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(8)
    case = Case("", random.random(shape) < 0.6, random.random(shape) < 0.6, (2.0, 1.0, 0.5))
    theirs, ours = deepmind(case), found(case, "deepmind")
    np.testing.assert_allclose(ours.target_to_pred, theirs["distances_gt_to_pred"], rtol=DOUBLE)
    np.testing.assert_allclose(ours.pred_weights, theirs["surfel_areas_pred"], rtol=DOUBLE)
    assert len(found(case, "monai").pred_to_target) == case.pred.sum()
    labels = case.pred.astype(np.uint8), case.target.astype(np.uint8)
    both = metrics.hausdorff_distance(*labels, num_classes=2, spacing=case.spacing)
    assert both[1] == ours.hausdorff()


def test_a_tolerance_for_each_class() -> None:
    pred, target = label_maps((40, 50), 4)
    shares = metrics.surface_dice(pred, target, num_classes=4, tolerance=[0, 1, 2, 3])
    expected = [metrics.surface_dice(pred == k, target == k, tolerance=k) for k in range(4)]
    np.testing.assert_array_equal(shares, expected)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "u4", "i8", ">i2"])
def test_label_types_and_ignored_pixels(dtype: str) -> None:
    pred, target = label_maps((40, 50), 6)
    target[:, 20:24] = 100
    ours = metrics.hausdorff_distance(
        pred.astype(dtype), target.astype(dtype), num_classes=6, ignore_index=100
    )
    blank = np.where(target == 100, 100, pred)
    expected = [metrics.hausdorff_distance(blank == k, target == k) for k in range(6)]
    np.testing.assert_array_equal(ours, expected)


def test_batches_and_lists() -> None:
    torch = pytest.importorskip("torch")
    pred, target = label_maps((12, 20, 30), 5)
    each = np.stack(
        [metrics.hausdorff_distance(p, t, num_classes=5) for p, t in zip(pred, target, strict=True)]
    )
    batch = metrics.hausdorff_distance(pred, target, num_classes=5, spatial_dims=2)
    np.testing.assert_array_equal(batch, each)
    tensors = torch.from_numpy(pred), torch.from_numpy(target)
    np.testing.assert_array_equal(
        metrics.hausdorff_distance(*tensors, num_classes=5, spatial_dims=2), each
    )
    sizes = [pred[0], pred[1, :13, :9]], [target[0], target[1, :13, :9]]
    ragged = metrics.hausdorff_distance(*sizes, num_classes=5)
    np.testing.assert_array_equal(ragged[0], each[0])
    assert ragged.shape == (2, 5)
    masks = metrics.surface_dice(pred > 0, target > 0, tolerance=1, spatial_dims=2)
    assert masks.shape == (12,)
    listed = metrics.surface_distances(pred, target, num_classes=5, spatial_dims=2)
    assert listed[3][2].hausdorff() == pytest.approx(each[3, 2], nan_ok=True)


def test_bits_do_not_depend_on_threads() -> None:
    pred, target = label_maps((12, 60, 70), 9)
    before = fastseg.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            fastseg.set_num_threads(threads)
            measured = metrics.surface_distances(pred, target, num_classes=9, spacing=(0.7, 1.1, 2))
            results.append(b"".join(one.target_to_pred.tobytes() for one in measured))
        assert len(set(results)) == 1
    finally:
        fastseg.set_num_threads(before)


MASK = np.eye(4, dtype=bool)


@pytest.mark.parametrize(
    ("pred", "target", "options", "error", "text"),
    [
        (MASK, MASK[:3], {}, errors.ShapeError, r"\(4, 4\) and \(3, 4\)"),
        (MASK[0], MASK[0], {}, errors.ShapeError, r"\(H, W\)"),
        (MASK[:0], MASK[:0], {}, errors.ShapeError, "at least one pixel"),
        (MASK * 0.5, MASK, {}, errors.DtypeError, "threshold"),
        (MASK * 2, MASK, {}, errors.DataError, "num_classes"),
        (MASK * 2, MASK * 1, {"num_classes": 2}, errors.LabelError, "pred holds the label 2"),
        (MASK * 1, MASK * -1, {"num_classes": 2}, errors.LabelError, "target holds the label -1"),
        (MASK * 1.0, MASK, {"num_classes": 2}, errors.DtypeError, "argmax"),
        (MASK, MASK, {"num_classes": 0}, errors.ParameterError, "num_classes"),
        (MASK, MASK, {"ignore_index": 0}, errors.ParameterError, "needs num_classes"),
        (MASK, MASK, {"spacing": 0}, errors.ParameterError, "spacing"),
        (MASK, MASK, {"spacing": (1, -1)}, errors.ParameterError, "spacing"),
        (MASK, MASK, {"spacing": (1, 1, 1)}, errors.ShapeError, "spacing"),
        (MASK, MASK, {"percentile": 101}, errors.ParameterError, "percentile"),
        (MASK, MASK, {"percentile": -1}, errors.ParameterError, "percentile"),
        (MASK, MASK, {"method": "deepmnd"}, errors.ParameterError, "did you mean 'deepmind'"),
        (MASK, MASK, {"spatial_dims": 4}, errors.ParameterError, "spatial_dims"),
        (MASK, MASK, {"spatial_dims": 3}, errors.ShapeError, "spatial_dims=3"),
        ([MASK], MASK, {}, errors.ShapeError, "both be lists"),
        ([MASK], [MASK, MASK], {}, errors.ShapeError, "1 images and target 2"),
    ],
)
def test_bad_input(pred: Any, target: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        metrics.hausdorff_distance(pred, target, **options)


@pytest.mark.parametrize(
    ("tolerance", "error"),
    [(-1, errors.ParameterError), (np.nan, errors.ParameterError), ([1, 2], errors.ShapeError)],
)
def test_bad_tolerance(tolerance: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="tolerance"):
        metrics.surface_dice(MASK, MASK, tolerance=tolerance)


@pytest.mark.data
def test_real_organs(data_dir: Path) -> None:
    """A CT with 42 labels, its voxels not cubes; the prediction is the same one, shifted."""
    nibabel = pytest.importorskip("nibabel")
    module = pytest.importorskip("surface_distance")
    scan = nibabel.load(data_dir / "totalseg" / "example_seg.nii.gz")
    target = np.asarray(scan.dataobj).astype(np.uint8)
    spacing = tuple(float(step) for step in scan.header.get_zooms())
    pred = np.roll(target, 1, axis=0)
    classes = int(target.max()) + 1
    ours = metrics.surface_distances(pred, target, num_classes=classes, spacing=spacing)
    labels = np.unique(target)
    for label in labels[1 :: max(1, len(labels) // 4)]:
        theirs = module.compute_surface_distances(target == label, pred == label, spacing)
        expected = module.compute_robust_hausdorff(theirs, 95)
        assert ours[label].hausdorff(95) == pytest.approx(expected, rel=DOUBLE)
        expected = module.compute_surface_dice_at_tolerance(theirs, 2)
        assert ours[label].surface_dice(2) == pytest.approx(expected, rel=DOUBLE)


@pytest.mark.data
def test_real_hippocampi(data_dir: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    monai = pytest.importorskip("monai.metrics")
    ndimage = importlib.import_module("scipy.ndimage")
    for path in sorted((data_dir / "msd_hippocampus" / "labels").glob("*.nii*"))[:3]:
        target = np.asarray(nibabel.load(path).dataobj).astype(np.uint8)
        pred = ndimage.grey_opening(target, 3)
        ours = metrics.hausdorff_distance(
            pred, target, num_classes=3, percentile=95, method="monai"
        )
        for label in (1, 2):
            theirs = monai.compute_hausdorff_distance(
                one_hot(pred == label), one_hot(target == label), percentile=95
            )
            assert ours[label] == pytest.approx(theirs.item(), rel=SINGLE)
