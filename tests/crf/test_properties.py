"""Properties that hold for any input, looked for with hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crf.tolerances import Q_ATOL, Q_ATOL_LONG, SUM_RTOL
from fastseg.crf import DenseCRF, PermutohedralLattice, refine
from references import plain_mean_field
from references.plain_mean_field import (
    PlainKernel,
    bilateral_features,
    gaussian_features,
    unary_from_probs,
)

SETTINGS = settings(max_examples=40, deadline=None)
SIZE = st.integers(1, 14)


@st.composite
def scenes(draw, max_labels=9, channels=(1, 4)):
    """Probabilities (K, H, W), an image (H, W, C) and parameters."""
    height, width = draw(SIZE), draw(SIZE)
    num_labels = draw(st.integers(2, max_labels))
    num_channels = draw(st.integers(*channels))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    flat = draw(st.booleans())
    image = rng.integers(0, 256, (height, width, num_channels), dtype=np.uint8)
    if flat:
        image[:] = image[0, 0]
    sharpness = draw(st.sampled_from([0.05, 1.0, 20.0]))
    probs = rng.dirichlet(np.full(num_labels, sharpness), (height, width)).transpose(2, 0, 1)
    options = {
        "iterations": draw(st.integers(0, 4)),
        "spatial_weight": draw(st.floats(0, 5)),
        "spatial_sigma": draw(st.floats(0.3, 20)),
        "bilateral_weight": draw(st.floats(0, 5)),
        "bilateral_sigma": draw(st.floats(0.3, 200)),
        "color_sigma": draw(st.floats(0.5, 100)),
    }
    return np.ascontiguousarray(probs, dtype=np.float32), image, options


@SETTINGS
@given(scenes())
def test_rows_sum_to_one_and_stay_in_range(scene):
    probs, image, options = scene
    q = refine(probs, image, **options)
    assert np.isfinite(q).all()
    assert (q >= 0).all()
    assert (q <= 1 + 1e-6).all()
    np.testing.assert_allclose(q.sum(axis=0), 1, rtol=0, atol=2e-6)


@SETTINGS
@given(scenes(max_labels=24), st.sampled_from(["before", "after", "symmetric"]))
def test_any_scene_matches_the_plain_reference(scene, normalization):
    probs, image, options = scene
    height, width = (n if n > 1 else None for n in probs.shape[1:])
    shape = tuple(n for n in (height, width) if n) or (1,)
    kernels = [
        PlainKernel(
            gaussian_features(shape, options["spatial_sigma"]),
            options["spatial_weight"],
            normalization,
        ),
        PlainKernel(
            bilateral_features(
                image.reshape(*shape, -1), options["bilateral_sigma"], options["color_sigma"]
            ),
            options["bilateral_weight"],
            normalization,
        ),
    ]
    unary = unary_from_probs(probs)
    expected = plain_mean_field.infer(unary, kernels, options["iterations"])
    actual = refine(probs, image, channel_axis=-1, normalization=normalization, **options)
    np.testing.assert_allclose(actual.reshape(expected.shape), expected, rtol=0, atol=Q_ATOL_LONG)


@SETTINGS
@given(scenes(), st.randoms(use_true_random=False))
def test_permuting_the_labels_permutes_the_result(scene, random):
    probs, image, options = scene
    order = list(range(len(probs)))
    random.shuffle(order)
    expected = refine(probs, image, **options)[order]
    actual = refine(probs[order], image, **options)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL_LONG)


@SETTINGS
@given(scenes(), st.integers(1, 4))
def test_a_batch_equals_a_loop(scene, size):
    probs, image, options = scene
    batch = np.stack([np.roll(probs, b, axis=2) for b in range(size)])
    images = np.stack([np.roll(image, 2 * b, axis=0) for b in range(size)])
    # Two sizes in spacing say that this is a batch of pictures, even where shapes could be volumes.
    together = refine(batch, images, channel_axis=-1, spacing=(1, 1), **options)
    for b in range(size):
        alone = refine(batch[b], images[b], channel_axis=-1, **options)
        np.testing.assert_array_equal(together[b], alone)


@SETTINGS
@given(scenes(), st.integers(0, 2))
def test_a_volume_with_an_axis_of_size_one_equals_the_picture(scene, axis):
    """Exactly: the axis is dropped, as a constant coordinate says nothing."""
    probs, image, options = scene
    volume = np.expand_dims(probs, axis + 1)
    pictures = np.expand_dims(image, axis)
    actual = refine(volume, pictures, spacing=(1.0, 1.0, 1.0), channel_axis=-1, **options)
    expected = refine(probs, image, channel_axis=-1, **options)
    np.testing.assert_array_equal(np.squeeze(actual, axis + 1), expected)


@SETTINGS
@given(scenes())
def test_spacing_and_sigma_scale_together(scene):
    """Twice the spacing with twice the spatial sigmas is the same problem, to the bit."""
    probs, image, options = scene
    options["spatial_sigma"] = float(np.float32(options["spatial_sigma"]))
    options["bilateral_sigma"] = float(np.float32(options["bilateral_sigma"]))
    expected = refine(probs, image, channel_axis=-1, **options)
    doubled = {
        **options,
        "spatial_sigma": 2 * options["spatial_sigma"],
        "bilateral_sigma": 2 * options["bilateral_sigma"],
    }
    actual = refine(probs, image, channel_axis=-1, spacing=(2.0, 2.0), **doubled)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL_LONG)


@SETTINGS
@given(scenes())
def test_refine_equals_the_parts(scene):
    probs, image, options = scene
    height, width = probs.shape[1:]
    # refine drops axes of size one, the parts keep what they are given.
    if height == 1 or width == 1:
        return
    crf = DenseCRF(probs)
    crf.add_gaussian(sigma=options["spatial_sigma"], compat=options["spatial_weight"])
    crf.add_bilateral(
        image,
        sigma=options["bilateral_sigma"],
        color_sigma=options["color_sigma"],
        compat=options["bilateral_weight"],
        channel_axis=-1,
    )
    expected = crf.infer(options["iterations"])
    actual = refine(probs, image, channel_axis=-1, **options)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL_LONG)


@SETTINGS
@given(scenes(max_labels=2))
def test_foreground_equals_two_labels(scene):
    probs, image, options = scene
    both = refine(probs, image, channel_axis=-1, **options)
    alone = refine(probs[1], image, channel_axis=-1, **options)
    np.testing.assert_allclose(alone, both[1], rtol=0, atol=Q_ATOL_LONG)


@SETTINGS
@given(
    st.integers(1, 9),
    st.integers(1, 200),
    st.floats(0.01, 1000),
    st.integers(0, 2**32 - 1),
)
def test_transpose_passes_the_dot_product_test(dimension, points, scale, seed):
    rng = np.random.default_rng(seed)
    lattice = PermutohedralLattice(rng.normal(0, scale, (dimension, points)).astype(np.float32))
    a, b = rng.uniform(0, 1, (2, 2, points)).astype(np.float32)
    left = np.vdot(lattice.filter(a).astype(np.float64), b)
    right = np.vdot(a.astype(np.float64), lattice.transpose(b))
    assert abs(left - right) <= SUM_RTOL * max(abs(left), abs(right))


@SETTINGS
@given(st.integers(1, 7), st.integers(1, 150), st.integers(0, 2**32 - 1))
def test_the_filter_is_linear_and_positive(dimension, points, seed):
    rng = np.random.default_rng(seed)
    lattice = PermutohedralLattice(rng.normal(0, 2, (dimension, points)).astype(np.float32))
    a, b = rng.uniform(0, 1, (2, 3, points)).astype(np.float32)
    filtered_a, filtered_b = lattice.filter(a), lattice.filter(b)
    assert (filtered_a > -1e-5).all()
    combined = lattice.filter(2 * a - b)
    expected = 2 * filtered_a - filtered_b
    scale = np.abs(filtered_a).max() + np.abs(filtered_b).max()
    np.testing.assert_allclose(combined, expected, rtol=0, atol=5e-6 * scale)


@SETTINGS
@given(st.integers(1, 6), st.integers(2, 100), st.integers(0, 2**32 - 1))
def test_the_order_of_the_points_does_not_matter(dimension, points, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 2, (dimension, points)).astype(np.float32)
    values = rng.uniform(0, 1, (2, points)).astype(np.float32)
    order = rng.permutation(points)
    expected = PermutohedralLattice(features).filter(values)[:, order]
    actual = PermutohedralLattice(features[:, order]).filter(values[:, order])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6 * expected.max())


@SETTINGS
@given(scenes(), st.sampled_from(["none", "before", "after", "symmetric"]))
def test_update_is_one_step_of_infer(scene, normalization):
    probs, image, options = scene
    crf = DenseCRF(probs)
    weight = options["bilateral_weight"] * (0.01 if normalization == "none" else 1.0)
    crf.add_bilateral(
        image,
        sigma=options["bilateral_sigma"],
        color_sigma=options["color_sigma"],
        compat=weight,
        normalization=normalization,
        channel_axis=-1,
    )
    q = crf.infer(0)
    for n in range(1, 3):
        q = crf.update(q)
        np.testing.assert_allclose(q, crf.infer(n), rtol=0, atol=Q_ATOL_LONG)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_uniform_scene_stays_uniform(value):
    """No information in, none out: equal probabilities of all labels are a fixed point."""
    probs = np.full((4, 12, 13), 0.25, np.float32)
    q = refine(probs, np.full((12, 13, 3), value, np.uint8))
    np.testing.assert_allclose(q, probs, rtol=0, atol=Q_ATOL["float32"])
