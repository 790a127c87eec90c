"""fastseg.crf.DenseCRF against the plain mean field, frozen and live pydensecrf, and exactness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crf.tolerances import EXACT_ARGMAX_SHARE, EXACT_Q, Q_ATOL, Q_ATOL_LONG
from fastseg.crf import DenseCRF
from references import exact_mean_field, plain_mean_field
from references.pictures import made_up_image, made_up_probs
from references.plain_mean_field import (
    PlainKernel,
    bilateral_features,
    gaussian_features,
    unary_from_probs,
)

NORMALIZATIONS = ["none", "before", "after", "symmetric"]
COMPATS = ["scalar", "vector", "matrix"]
GOLDEN = np.load(Path(__file__).resolve().parents[1] / "golden" / "golden_crf.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files})


def compat_of(kind, num_labels, scale=3.0, seed=3):
    rng = np.random.default_rng(seed)
    if kind == "scalar":
        return scale
    if kind == "vector":
        return (scale * rng.uniform(0.3, 1.5, num_labels)).astype(np.float32)
    return (scale * rng.uniform(-1, 1, (num_labels, num_labels))).astype(np.float32)


def small_case(shape=(13, 18), num_labels=4, kind="scalar", normalization="symmetric"):
    """Image, probabilities, engine and plain kernels of a Gaussian and a bilateral term."""
    image = made_up_image(shape, num_labels=num_labels)
    probs = made_up_probs(num_labels, shape)
    scale = 0.02 if normalization == "none" else 1.0
    first = compat_of(kind, num_labels, 3.0 * scale)
    second = compat_of(kind, num_labels, 6.0 * scale, seed=4)
    crf = DenseCRF(probs)
    crf.add_gaussian(sigma=3, compat=first, normalization=normalization)
    crf.add_bilateral(image, sigma=20, color_sigma=13, compat=second, normalization=normalization)
    kernels = [
        PlainKernel(gaussian_features(shape, 3), first, normalization),
        PlainKernel(bilateral_features(image, 20, 13), second, normalization),
    ]
    return probs, crf, kernels


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("kind", COMPATS)
def test_matches_the_plain_mean_field(kind, normalization):
    probs, crf, kernels = small_case(kind=kind, normalization=normalization)
    unary = unary_from_probs(probs)
    for iterations in (0, 1, 5):
        expected = plain_mean_field.infer(unary, kernels, iterations).reshape(probs.shape)
        actual = crf.infer(iterations)
        assert actual.shape == probs.shape
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])


@pytest.mark.parametrize("num_labels", [1, 2, 3, 7, 8, 9, 16, 21, 33, 150, 300])
@pytest.mark.parametrize("kind", COMPATS)
def test_any_number_of_labels(kind, num_labels):
    shape = (8, 9)
    probs = made_up_probs(num_labels, shape)
    image = made_up_image(shape)
    compat = compat_of(kind, num_labels, 3.0 if kind != "matrix" else 3.0 / num_labels**0.5)
    crf = DenseCRF(probs)
    assert crf.num_labels == num_labels
    crf.add_bilateral(image, sigma=20, color_sigma=13, compat=compat)
    kernel = PlainKernel(bilateral_features(image, 20, 13), compat)
    expected = plain_mean_field.infer(unary_from_probs(probs), [kernel], 5)
    actual = crf.infer(5).reshape(num_labels, -1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])


@pytest.mark.parametrize("name", CASES)
def test_matches_frozen_pydensecrf(name):
    """Golden arrays; where N % 4 != 0, with the extra points that pydensecrf adds."""
    case = {k.split("/")[1]: GOLDEN[k] for k in GOLDEN.files if k.startswith(name + "/")}
    unary = case["unary"]
    quirk = unary.shape[1] % 4 != 0
    if "image" in case:
        image = case["image"]
        shape = image.shape[:2]
        features = [gaussian_features(shape, 3.0), bilateral_features(image, 20.0, 13.0)]
    else:
        features = [case["features0"]]
    crf = DenseCRF(unary=unary)
    native = DenseCRF(unary=unary.reshape(-1, *shape)) if "image" in case else None
    for k, feature in enumerate(features):
        options = {
            "compat": case[f"compat{k}"],
            "normalization": str(case[f"normalization{k}"]),
        }
        crf.add_pairwise(feature.astype(np.float32), **options, _pad_origin=quirk)
        if native is not None and k == 0:
            native.add_gaussian(sigma=3.0, **options)
        elif native is not None:
            native.add_bilateral(image, sigma=20.0, color_sigma=13.0, **options)
    for n in (0, 1, 5, 10):
        atol = Q_ATOL["float32"] if n <= 5 else Q_ATOL_LONG
        np.testing.assert_allclose(crf.infer(n), case[f"q{n}"], rtol=0, atol=atol)
        if native is not None and not quirk:
            ours = native.infer(n).reshape(unary.shape)
            np.testing.assert_allclose(ours, case[f"q{n}"], rtol=0, atol=atol)


def test_the_extra_points_of_pydensecrf_are_left_out():
    """Where N % 4 != 0 the native result is the plain lattice's, not pydensecrf's."""
    name = "picture_11x13_dark"
    unary, image = GOLDEN[f"{name}/unary"], GOLDEN[f"{name}/image"]
    crf = DenseCRF(unary=unary.reshape(-1, 11, 13))
    crf.add_gaussian(sigma=3, compat=GOLDEN[f"{name}/compat0"])
    crf.add_bilateral(image, sigma=20, color_sigma=13, compat=GOLDEN[f"{name}/compat1"])
    kernels = [
        PlainKernel(gaussian_features((11, 13), 3), GOLDEN[f"{name}/compat0"]),
        PlainKernel(bilateral_features(image, 20, 13), GOLDEN[f"{name}/compat1"]),
    ]
    ours = crf.infer(1).reshape(unary.shape)
    expected = plain_mean_field.infer(unary, kernels, 1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=Q_ATOL["float32"])
    assert np.abs(ours - GOLDEN[f"{name}/q1"]).max() > 10 * Q_ATOL["float32"]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("kind", COMPATS)
def test_matches_live_pydensecrf(kind, normalization):
    dcrf = pytest.importorskip("pydensecrf.densecrf")
    flag = {
        "none": dcrf.NO_NORMALIZATION,
        "before": dcrf.NORMALIZE_BEFORE,
        "after": dcrf.NORMALIZE_AFTER,
        "symmetric": dcrf.NORMALIZE_SYMMETRIC,
    }[normalization]
    shape, num_labels = (40, 52), 5
    image = made_up_image(shape, num_labels=num_labels)
    probs = made_up_probs(num_labels, shape)
    scale = 0.005 if normalization == "none" else 1.0
    compats = [compat_of(kind, num_labels, scale * w, seed=w) for w in (3, 10)]
    sign = -1 if kind == "vector" else 1  # pydensecrf wants negative per-label weights to smooth

    peer = dcrf.DenseCRF2D(shape[1], shape[0], num_labels)
    peer.setUnaryEnergy(unary_from_probs(probs))
    peer.addPairwiseGaussian(3, sign * compats[0], normalization=flag)
    peer.addPairwiseBilateral(80, 13, image, sign * compats[1], normalization=flag)
    crf = DenseCRF(probs)
    crf.add_gaussian(sigma=3, compat=compats[0], normalization=normalization)
    crf.add_bilateral(
        image, sigma=80, color_sigma=13, compat=compats[1], normalization=normalization
    )
    for iterations in (0, 1, 5):
        expected = np.array(peer.inference(iterations)).reshape(probs.shape)
        actual = crf.infer(iterations)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL_LONG)


@pytest.mark.parametrize("normalization", ["before", "after", "symmetric"])
@pytest.mark.parametrize("kind", COMPATS)
def test_lattice_approximates_the_exact_mean_field(kind, normalization):
    """How closely the lattice approximates exact Gaussians, measured on sixteen small pictures.

    Q after five iterations of Gaussian(3) + bilateral(20, 20), two labels, N = 400 or 576; largest
    and mean absolute difference, worst of the pictures, and the share of equal argmax:

        normalisation   Potts or per-label weights   a matrix that also repels
        symmetric       0.064   0.0018   100 %       0.046   0.0045   98.8 %
        after           0.055   0.0018   99.8 %      0.003   0.0003   99.8 %
        before          0.113   0.0032   99.8 %      0.098   0.0087   98.8 %

    The kernels move Q by 0.26 to 0.4 on average there. One filter pass, normalised, of values in
    [0, 1] is at most 0.06 off and 0.006 on average for d = 5, 0.017 and 0.0025 for d = 2. Without
    normalisation the lattice's response is 0.87 (d = 2) or 0.52 (d = 5) times the exact one, so
    "none" has no exact counterpart.
    """
    shape = (20, 20)
    for seed in range(4):
        image = made_up_image(shape, num_labels=2, seed=seed)
        unary = unary_from_probs(made_up_probs(2, shape, seed=seed + 1))
        compats = [compat_of(kind, 2, w, seed=8) for w in (2.0, 3.0)]
        features = [gaussian_features(shape, 3.0), bilateral_features(image, 20.0, 20.0)]
        crf, kernels = DenseCRF(unary=unary), []
        for feature, compat in zip(features, compats, strict=True):
            crf.add_pairwise(feature.astype(np.float32), compat=compat, normalization=normalization)
            kernels.append(exact_mean_field.Kernel(feature, compat, normalization))
        q = crf.infer(5)
        exact = exact_mean_field.infer(unary, kernels, 5)
        largest, mean = EXACT_Q[normalization]
        assert np.abs(q - exact).max() < largest
        assert np.abs(q - exact).mean() < mean
        assert (q.argmax(0) == exact.argmax(0)).mean() >= EXACT_ARGMAX_SHARE
        # The test is worth something only where the kernels matter.
        assert np.abs(exact - exact_mean_field.infer(unary, [], 0)).mean() > 0.2


def test_infer_zero_is_the_softmax_of_the_unary():
    unary = np.random.default_rng(0).normal(0, 3, (4, 6, 5)).astype(np.float32)
    crf = DenseCRF(unary=unary)
    crf.add_gaussian(sigma=3, compat=3)
    expected = exact_mean_field.softmax(-unary.reshape(4, -1).astype(np.float64))
    np.testing.assert_allclose(crf.infer(0).reshape(4, -1), expected, rtol=0, atol=1e-6)


def test_without_kernels_inference_is_the_softmax():
    probs = made_up_probs(3, (6, 7))
    crf = DenseCRF(probs)
    np.testing.assert_allclose(crf.infer(5), probs, rtol=0, atol=1e-6)


def test_probs_and_unary_agree():
    probs = made_up_probs(3, (9, 8))
    unary = unary_from_probs(probs).reshape(3, 9, 8)
    results = []
    for crf in (DenseCRF(probs), DenseCRF(unary=unary)):
        crf.add_gaussian(sigma=2, compat=4)
        results.append(crf.infer(5))
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=Q_ATOL["float32"])


def test_unary_energies_may_be_large():
    """Only differences of energies matter, and none overflows."""
    unary = np.array([[0.0, 1e4, 300.0], [1e4, 0.0, 301.0]], np.float32)
    features = np.array([[0.0, 0.5, 1.0]], np.float32)
    results = []
    for offset in (0.0, 5000.0, -5000.0):
        crf = DenseCRF(unary=unary + np.float32(offset))
        crf.add_pairwise(features, compat=1.0)
        results.append(crf.infer(3))
        assert np.isfinite(results[-1]).all()
        np.testing.assert_allclose(results[-1].sum(axis=0), 1, rtol=0, atol=1e-5)
    np.testing.assert_allclose(results[0][:, :2], [[1, 0], [0, 1]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(results[2], results[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", COMPATS)
def test_steps_messages_and_update(kind):
    probs, crf, kernels = small_case(kind=kind)
    unary = unary_from_probs(probs)
    for n, q in enumerate(crf.steps(3), start=1):
        np.testing.assert_allclose(q, crf.infer(n), rtol=0, atol=1e-6)
    assert n == 3
    rng = np.random.default_rng(4)
    q = rng.dirichlet(np.ones(4), (13, 18)).transpose(2, 0, 1).astype(np.float32)
    flat = q.reshape(4, -1)
    expected = plain_mean_field.messages(flat, kernels).reshape(q.shape)
    messages = crf.messages(q)
    assert messages.dtype == np.float32
    np.testing.assert_allclose(messages, expected, rtol=0, atol=2e-5)
    updated = plain_mean_field.update(flat, unary, kernels).reshape(q.shape)
    np.testing.assert_allclose(crf.update(q), updated, rtol=0, atol=Q_ATOL["float32"])


def test_yielded_steps_are_not_overwritten():
    _, crf, _ = small_case()
    kept = list(crf.steps(3))
    for n, q in enumerate(kept, start=1):
        np.testing.assert_allclose(q, crf.infer(n), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(50,), (7, 8), (4, 5, 6)])
def test_one_two_and_three_axes(shape):
    probs = made_up_probs(3, shape)
    image = made_up_image(shape, channels=2)
    sigma = tuple(np.linspace(2, 3, len(shape)))
    spacing = tuple(np.linspace(0.5, 2.0, len(shape)))
    crf = DenseCRF(probs)
    assert crf.shape == shape
    crf.add_gaussian(sigma=sigma, compat=3, spacing=spacing)
    crf.add_bilateral(image, sigma=sigma, color_sigma=20, compat=5, spacing=spacing)
    kernels = [
        PlainKernel(gaussian_features(shape, sigma, spacing), 3.0),
        PlainKernel(bilateral_features(image, sigma, 20, spacing), 5.0),
    ]
    expected = plain_mean_field.infer(unary_from_probs(probs), kernels, 5).reshape(probs.shape)
    np.testing.assert_allclose(crf.infer(5), expected, rtol=0, atol=Q_ATOL["float32"])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 10])
def test_any_number_of_channels(channels):
    shape = (9, 10)
    probs = made_up_probs(3, shape)
    image = made_up_image(shape, channels=channels)
    colors = tuple(np.linspace(10, 40, channels))
    crf = DenseCRF(probs)
    crf.add_bilateral(image, sigma=15, color_sigma=colors, compat=5)
    kernel = PlainKernel(bilateral_features(image, 15, colors), 5.0)
    expected = plain_mean_field.infer(unary_from_probs(probs), [kernel], 5).reshape(probs.shape)
    np.testing.assert_allclose(crf.infer(5), expected, rtol=0, atol=Q_ATOL["float32"])


@pytest.mark.parametrize("num_kernels", [1, 3, 4])
def test_any_number_of_kernels(num_kernels):
    shape = (10, 11)
    probs = made_up_probs(3, shape)
    rng = np.random.default_rng(6)
    crf, kernels = DenseCRF(probs), []
    for k in range(num_kernels):
        features = rng.normal(0, 1, (k + 1, *shape)).astype(np.float32)
        compat = compat_of(COMPATS[k % 3], 3, 2.0)
        normalization = NORMALIZATIONS[3 - k % 3]
        crf.add_pairwise(features, compat=compat, normalization=normalization)
        kernels.append(PlainKernel(features.reshape(k + 1, -1), compat, normalization))
    expected = plain_mean_field.infer(unary_from_probs(probs), kernels, 5).reshape(probs.shape)
    np.testing.assert_allclose(crf.infer(5), expected, rtol=0, atol=Q_ATOL["float32"])


@pytest.mark.parametrize("weight", [0.0, -2.0])
def test_weights_that_do_not_smooth(weight):
    """Zero does nothing and negative repels: both are legal energies."""
    probs, _, _ = small_case()
    crf = DenseCRF(probs)
    crf.add_gaussian(sigma=3, compat=weight)
    kernel = PlainKernel(gaussian_features((13, 18), 3), weight)
    expected = plain_mean_field.infer(unary_from_probs(probs), [kernel], 5).reshape(probs.shape)
    np.testing.assert_allclose(crf.infer(5), expected, rtol=0, atol=Q_ATOL["float32"])


def test_a_kernel_added_after_inference_counts():
    probs, _, kernels = small_case()
    image = made_up_image((13, 18), num_labels=4)
    crf = DenseCRF(probs)
    crf.add_gaussian(sigma=3, compat=3)
    crf.infer(2)
    crf.add_bilateral(image, sigma=20, color_sigma=13, compat=6)
    expected = plain_mean_field.infer(unary_from_probs(probs), kernels, 5).reshape(probs.shape)
    np.testing.assert_allclose(crf.infer(5), expected, rtol=0, atol=Q_ATOL["float32"])


def test_matrix_of_potts_equals_scalar():
    """-w I is the penalty matrix of a scalar w; so is w (1 - I), as rows of Q sum to one."""
    probs, _, _ = small_case()
    results = []
    eye = np.eye(4, dtype=np.float32)
    for compat in (3.0, np.full(4, 3, np.float32), -3 * eye):
        crf = DenseCRF(probs)
        crf.add_gaussian(sigma=3, compat=compat)
        results.append(crf.infer(5))
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=Q_ATOL["float32"])
    np.testing.assert_allclose(results[2], results[0], rtol=0, atol=Q_ATOL["float32"])


def test_the_caller_may_reuse_its_arrays():
    """The CRF keeps its own copy of what it was given."""
    probs, crf, _ = small_case()
    expected = crf.infer(3)
    given = probs.copy()
    image = made_up_image((13, 18), num_labels=4)
    other = DenseCRF(given)
    other.add_gaussian(sigma=3, compat=3)
    other.add_bilateral(image, sigma=20, color_sigma=13, compat=6)
    given[:] = 0.25
    image[:] = 0
    np.testing.assert_array_equal(other.infer(3), expected)
