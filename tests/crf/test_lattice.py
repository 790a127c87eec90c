"""fastseg.crf.PermutohedralLattice against the plain lattice and the exact Gaussian."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from crf.tolerances import EXACT_FILTER_MAX, EXACT_FILTER_MEAN, FILTER_RTOL, SUM_RTOL
from fastseg.crf import DenseCRF, PermutohedralLattice
from references.exact_mean_field import gaussian_matrix
from references.pictures import made_up_image
from references.plain_lattice import PlainLattice
from references.plain_mean_field import bilateral_features, gaussian_features


def random_features(dimension, points=300, scale=1.5, seed=0):
    rng = np.random.default_rng(seed + dimension)
    return rng.normal(0, scale, (dimension, points)).astype(np.float32)


def assert_filter_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=FILTER_RTOL * np.abs(expected).max())


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 6, 7, 8, 12])
def test_filter_and_transpose_match_the_plain_lattice(dimension):
    features = random_features(dimension)
    lattice, plain = PermutohedralLattice(features), PlainLattice(features)
    assert lattice.dimension == dimension
    assert lattice.num_points == 300
    assert lattice.num_vertices == plain.num_vertices
    values = np.random.default_rng(5).normal(size=(4, 300)).astype(np.float32)
    assert_filter_close(lattice.filter(values), plain.filter(values))
    assert_filter_close(lattice.transpose(values), plain.transpose(values))


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 9, 16, 17, 64, 131])
@pytest.mark.parametrize("dimension", [2, 5])
def test_any_number_of_channels(dimension, channels):
    features = random_features(dimension, points=120)
    values = np.random.default_rng(6).normal(size=(channels, 120)).astype(np.float32)
    lattice, plain = PermutohedralLattice(features), PlainLattice(features)
    assert_filter_close(lattice.filter(values), plain.filter(values))
    assert_filter_close(lattice.transpose(values), plain.transpose(values))


@pytest.mark.parametrize("points", [1, 2, 3, 4, 5, 63, 65])
def test_awkward_numbers_of_points(points):
    features = random_features(5, points)
    values = np.random.default_rng(7).normal(size=(3, points)).astype(np.float32)
    expected = PlainLattice(features).filter(values)
    assert_filter_close(PermutohedralLattice(features).filter(values), expected)


def test_shapes_of_values_follow_the_features():
    image = made_up_image((9, 14))
    features = bilateral_features(image, 20, 13).astype(np.float32)
    lattice = PermutohedralLattice(features.reshape(5, 9, 14))
    flat = PermutohedralLattice(features)
    values = np.random.default_rng(8).uniform(size=(2, 9, 14)).astype(np.float32)
    out = lattice.filter(values)
    assert out.shape == (2, 9, 14)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(lattice.filter(values[0]), out[0])
    # The shape decides the order in which points are added up, so only rounding may differ.
    assert_filter_close(flat.filter(values.reshape(2, -1)), out.reshape(2, -1))
    assert lattice.transpose(values[1]).shape == (9, 14)


def test_built_once_filters_many_times():
    lattice = PermutohedralLattice(random_features(5))
    rng = np.random.default_rng(9)
    first, second = rng.normal(size=(2, 3, 300)).astype(np.float32)
    before = lattice.filter(first)
    lattice.filter(second)
    lattice.transpose(second)
    np.testing.assert_array_equal(lattice.filter(first), before)


def test_results_outlive_the_lattice():
    lattice = PermutohedralLattice(random_features(2))
    values = np.ones((2, 300), np.float32)
    kept = lattice.filter(values)
    copy = kept.copy()
    del lattice
    gc.collect()
    np.testing.assert_array_equal(kept, copy)


def test_features_on_the_borders_of_simplices():
    """Whole and half numbers put many points on a border: the tie rules must be the plain ones."""
    grid = np.indices((6, 5, 4)).reshape(3, -1)
    for features in (grid, grid / 2, grid * np.sqrt(1.5), np.zeros((3, 120)), -grid / 4):
        features = features.astype(np.float32)
        lattice, plain = PermutohedralLattice(features), PlainLattice(features)
        assert lattice.num_vertices == plain.num_vertices
        values = np.random.default_rng(10).normal(size=(2, 120)).astype(np.float32)
        assert_filter_close(lattice.filter(values), plain.filter(values))


@pytest.mark.parametrize("scale", [1e3, 8e3, 3e4, 1e5])
@pytest.mark.parametrize("dimension", [2, 5])
def test_coordinates_beyond_16_bits(dimension, scale):
    """pydensecrf's 16-bit keys overflow from about 7 thousand; ours must not."""
    rng = np.random.default_rng(11)
    near = rng.normal(0, 0.3, (dimension, 60)) + scale
    far = rng.normal(0, 0.3, (dimension, 60)) - scale
    wide = rng.uniform(-scale, scale, (dimension, 60))
    features = np.concatenate([near, far, wide], axis=1).astype(np.float32)
    lattice, plain = PermutohedralLattice(features), PlainLattice(features)
    assert lattice.num_vertices == plain.num_vertices
    values = rng.normal(size=(3, 180)).astype(np.float32)
    assert_filter_close(lattice.filter(values), plain.filter(values))


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12])
def test_large_features_are_placed_to_the_last_bit(dimension):
    """A rounding more or less in the elevation would move points where features are large."""
    rng = np.random.default_rng(dimension)
    offset = rng.uniform(500, 1500, (dimension, 1))
    features = (rng.normal(0, 0.6, (dimension, 300)) + offset).astype(np.float32)
    lattice, plain = PermutohedralLattice(features), PlainLattice(features)
    assert lattice.num_vertices == plain.num_vertices
    values = rng.normal(size=(2, 300)).astype(np.float32)
    assert_filter_close(lattice.filter(values), plain.filter(values))


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_large_features_agree_with_live_pydensecrf(dimension):
    dcrf = pytest.importorskip("pydensecrf.densecrf")
    rng = np.random.default_rng(dimension)
    offset = rng.uniform(500, 1500, (dimension, 1))
    features = (rng.normal(0, 0.6, (dimension, 300)) + offset).astype(np.float32)
    unary = rng.normal(size=(3, 300)).astype(np.float32)
    peer = dcrf.DenseCRF(300, 3)
    peer.setUnaryEnergy(unary)
    peer.addPairwiseEnergy(features, compat=1.0)
    crf = DenseCRF(unary=unary)
    crf.add_pairwise(features, compat=1.0)
    np.testing.assert_allclose(crf.infer(1), np.array(peer.inference(1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 6, 9])
def test_transpose_is_the_adjoint(dimension):
    """<filter(a), b> = <a, transpose(b)>, where filter is not its own adjoint."""
    features = random_features(dimension, scale=1.2)
    lattice = PermutohedralLattice(features)
    rng = np.random.default_rng(12)
    a, b = rng.uniform(0, 1, (2, 300)).astype(np.float32)
    filtered, transposed = lattice.filter(a), lattice.transpose(b)
    left = np.dot(filtered.astype(np.float64), b)
    right = np.dot(a.astype(np.float64), transposed)
    assert abs(left - right) <= SUM_RTOL * abs(left)
    if dimension > 1:
        # Otherwise the test above would not notice a transpose that runs the same axes forward.
        assert np.abs(lattice.filter(b) - transposed).max() > 1e-4 * np.abs(transposed).max()


@pytest.mark.parametrize("dimension", [2, 3, 5])
def test_response_to_a_constant_is_close_to_the_exact_gaussian(dimension):
    """The raw response is the Gaussian's up to a factor: about 0.87 for d = 2, 0.52 for d = 5."""
    image = made_up_image((20, 20), channels=max(dimension - 2, 1))
    features = gaussian_features((20, 20), 3.0)
    if dimension > 2:
        features = bilateral_features(image, 20.0, 20.0)
    lattice = PermutohedralLattice(features.astype(np.float32))
    matrix = gaussian_matrix(features)
    values = np.random.default_rng(13).uniform(size=(3, 400)).astype(np.float32)
    ours = lattice.filter(values) / lattice.filter(np.ones(400, np.float32))
    exact = values @ matrix / matrix.sum(axis=1)
    error = np.abs(ours - exact)
    assert error.max() < EXACT_FILTER_MAX
    assert error.mean() < EXACT_FILTER_MEAN
    ratio = (lattice.filter(values) / (values @ matrix)).mean()
    low, high = {2: (0.84, 0.9), 3: (0.65, 0.9), 5: (0.45, 0.6)}[dimension]
    assert low < ratio < high


def test_layout_of_the_arrays_does_not_matter():
    features = random_features(5, 240).reshape(5, 12, 20)
    values = np.random.default_rng(14).normal(size=(3, 12, 20)).astype(np.float32)
    expected = PermutohedralLattice(features).filter(values)
    fortran = np.asfortranarray(features)
    swapped = features.astype(features.dtype.newbyteorder())
    wide = features.astype(np.float64)
    padded = np.zeros((5, 24, 40), np.float32)
    padded[:, ::2, ::2] = features
    for variant in (fortran, swapped, wide, padded[:, ::2, ::2]):
        lattice = PermutohedralLattice(variant)
        np.testing.assert_array_equal(lattice.filter(np.asfortranarray(values)), expected)
        reverse = np.ascontiguousarray(values[:, ::-1])[:, ::-1]
        np.testing.assert_array_equal(lattice.filter(reverse), expected)


def test_read_only_input_is_taken_and_not_written():
    features = random_features(3)
    values = np.ones((2, 300), np.float32)
    features.flags.writeable = values.flags.writeable = False
    out = PermutohedralLattice(features).filter(values)
    assert out.flags.writeable
    assert (values == 1).all()
