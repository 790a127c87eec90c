"""The variational free energy, stopping on its change, and progress of DenseCRF.infer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from crf.tolerances import SUM_RTOL
from fastseg.crf import DenseCRF
from references import exact_mean_field, plain_mean_field
from references.pictures import made_up_image, made_up_probs
from references.plain_mean_field import (
    PlainKernel,
    bilateral_features,
    gaussian_features,
    unary_from_probs,
)

SHAPE = (14, 16)


def scene(num_labels=3, compat=(3.0, 5.0), normalization="symmetric"):
    probs = made_up_probs(num_labels, SHAPE)
    image = made_up_image(SHAPE, num_labels=num_labels)
    crf = DenseCRF(probs)
    options = {"normalization": normalization}
    crf.add_gaussian(sigma=3, compat=compat[0], **options)
    crf.add_bilateral(image, sigma=20, color_sigma=13, compat=compat[1], **options)
    kernels = [
        PlainKernel(gaussian_features(SHAPE, 3), compat[0], normalization),
        PlainKernel(bilateral_features(image, 20, 13), compat[1], normalization),
    ]
    return probs, crf, kernels


def assert_energy_close(actual, expected, magnitude):
    assert isinstance(actual, float)
    assert abs(actual - expected) <= SUM_RTOL * magnitude


@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
@pytest.mark.parametrize("kind", ["scalar", "vector", "matrix"])
def test_matches_the_plain_reference(kind, normalization):
    rng = np.random.default_rng(0)
    scale = 0.02 if normalization == "none" else 1.0
    compats = {
        "scalar": (3.0 * scale, 5.0 * scale),
        "vector": tuple(rng.uniform(1, 4, (2, 3)).astype(np.float32) * np.float32(scale)),
        "matrix": tuple(rng.normal(size=(2, 3, 3)).astype(np.float32) * np.float32(scale)),
    }[kind]
    probs, crf, kernels = scene(compat=compats, normalization=normalization)
    unary = unary_from_probs(probs)
    for q in (crf.infer(0), crf.infer(5), made_up_probs(3, SHAPE, seed=77)):
        flat = q.reshape(3, -1)
        expected = plain_mean_field.free_energy(flat, unary, kernels)
        magnitude = float(np.abs(unary).sum() + probs[0].size * 10)
        assert_energy_close(crf.free_energy(q), expected, magnitude)


def test_without_kernels_it_is_minus_log_z():
    """Q = softmax(-U) is exact there: the free energy is -sum ln sum exp(-U)."""
    unary = np.random.default_rng(1).normal(0, 2, (4, 30)).astype(np.float32)
    crf = DenseCRF(unary=unary)
    expected = -np.log(np.exp(-unary.astype(np.float64)).sum(axis=0)).sum()
    assert_energy_close(crf.free_energy(crf.infer(0)), expected, np.abs(unary).sum())


def test_it_bounds_minus_log_z_of_a_tiny_model():
    """True to its name: F >= -ln Z, with Z summed over all 2^6 labelings of six points.

    Features far apart but for two pairs; the exact Gaussian stands in for the lattice (0.52 to 0.87
    of it), so the couplings are read back through messages().
    """
    features = np.array([[0.0, 0.4, 30.0, 30.3, 60.0, 90.0]], np.float32)
    unary = np.random.default_rng(2).normal(0, 1, (2, 6)).astype(np.float32)
    crf = DenseCRF(unary=unary)
    crf.add_pairwise(features, compat=1.5, normalization="none")
    # The matrix of the coupling, column by column: message of label 0 to a unit of label 0.
    coupling = np.zeros((6, 6))
    for j in range(6):
        unit = np.zeros((2, 6), np.float32)
        unit[0, j] = 1
        coupling[:, j] = crf.messages(unit)[0]
    assert np.abs(coupling - coupling.T).max() < 1e-5
    log_weights = []
    for code in range(2**6):
        labels = np.array([(code >> i) & 1 for i in range(6)])
        same = labels[:, None] == labels[None, :]
        energy = unary[labels, np.arange(6)].sum() + 0.5 * (coupling * same).sum()
        log_weights.append(-energy)
    log_z = np.logaddexp.reduce(log_weights)
    q = crf.infer(50)
    # The self-coupling counts once per point for a labeling, and as sum of Q^2 for Q: allow for it.
    slack = 0.5 * np.abs(np.diag(coupling)).sum()
    energy = crf.free_energy(q)
    assert energy >= -log_z - slack
    assert energy <= -log_z + slack + 2.0
    assert energy < crf.free_energy(np.full((2, 6), 0.5, np.float32))


def test_close_to_the_exact_free_energy():
    """With exact Gaussians in place of the lattice it differs by a percent or so."""
    probs, crf, _ = scene()
    image = made_up_image(SHAPE)
    unary = unary_from_probs(probs)
    exact = [
        exact_mean_field.Kernel(gaussian_features(SHAPE, 3), 3.0),
        exact_mean_field.Kernel(bilateral_features(image, 20, 13), 5.0),
    ]
    q = crf.infer(5)
    expected = exact_mean_field.free_energy(q.reshape(3, -1), unary, exact)
    assert abs(crf.free_energy(q) - expected) < 0.03 * abs(expected)


def test_default_is_the_last_result():
    _, crf, _ = scene()
    q = crf.infer(4)
    assert crf.free_energy() == crf.free_energy(q)
    assert crf.free_energy() != crf.free_energy(crf.infer(0))


def test_it_decreases_over_the_iterations():
    """Parallel updates carry no guarantee, but smoothing kernels do decrease it on pictures."""
    _, crf, _ = scene()
    energies = [crf.free_energy(crf.infer(0))]
    energies += [crf.free_energy(q) for q in crf.steps(8)]
    magnitude = abs(energies[0])
    for earlier, later in pairwise(energies):
        assert later <= earlier + SUM_RTOL * magnitude
    assert energies[-1] < energies[0] - 0.05 * magnitude


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_stops_when_it_changes_less_than_the_tolerance(tolerance):
    _, crf, _ = scene()
    calls = []
    q = crf.infer(300, tolerance=tolerance, progress=lambda done, total: calls.append(done))
    assert calls == list(range(1, len(calls) + 1))
    assert 1 < len(calls) < 300
    # The very iterate of the step at which it stopped.
    np.testing.assert_allclose(q, crf.infer(len(calls)), rtol=0, atol=1e-6)


def steps_until(crf, tolerance):
    calls = []
    crf.infer(300, tolerance=tolerance, progress=lambda done, _: calls.append(done))
    return len(calls)


def test_a_smaller_tolerance_takes_more_steps():
    _, crf, _ = scene()
    counts = [steps_until(crf, tolerance) for tolerance in (1e-1, 1e-3, 1e-6)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_the_iterations_are_a_limit_with_a_tolerance_too():
    _, crf, _ = scene()
    expected = crf.infer(2)
    np.testing.assert_allclose(crf.infer(2, tolerance=1e-12), expected, rtol=0, atol=1e-6)


def test_progress():
    _, crf, _ = scene()
    seen = []
    q = crf.infer(3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    np.testing.assert_allclose(q, crf.infer(3), rtol=0, atol=1e-6)


def test_raising_in_progress_cancels():
    _, crf, _ = scene()

    def progress(done, total):
        raise LookupError("stop here")

    expected = crf.infer(3)
    with pytest.raises(LookupError, match="stop here"):
        crf.infer(3, progress=progress)
    np.testing.assert_array_equal(crf.infer(3), expected)
