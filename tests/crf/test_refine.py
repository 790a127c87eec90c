"""fastseg.crf.refine: values, and layouts, dtypes and shapes of what goes in and out."""

from __future__ import annotations

import numpy as np
import pytest

from crf.tolerances import ARGMAX_SHARE, Q_ATOL, q_atol
from fastseg import crf
from fastseg.crf import refine
from fastseg.errors import ParameterError, ShapeError
from references import plain_mean_field
from references.pictures import made_up_image, made_up_probs
from references.plain_mean_field import (
    PlainKernel,
    bilateral_features,
    gaussian_features,
    unary_from_probs,
)

SHAPE = (15, 17)


def plain_refine(
    probs, image, *, iterations=5, spatial=(3.0, 3.0), bilateral=(10.0, 80.0, 13.0), spacing=1.0
):
    """What refine computes, in plain NumPy; spatial = weight, sigma; image (*shape, C)."""
    probs = np.asarray(probs, np.float64)
    shape = probs.shape[1:]
    weight, sigma, color_sigma = bilateral
    kernels = [PlainKernel(gaussian_features(shape, spatial[1], spacing), spatial[0])]
    if image is not None:
        features = bilateral_features(image, sigma, color_sigma, spacing)
        kernels.append(PlainKernel(features, weight))
    q = plain_mean_field.infer(unary_from_probs(probs), kernels, iterations)
    return q.reshape(probs.shape)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (15, 17), (64, 16), (33, 70)])
@pytest.mark.parametrize("num_labels", [2, 3, 21])
def test_matches_the_plain_reference(shape, num_labels):
    probs = made_up_probs(num_labels, shape)
    image = made_up_image(shape)
    # Axes of size one are dropped: they would add nothing but a constant coordinate.
    expected = plain_refine(probs, image)
    if 1 in shape:
        kept = tuple(n for n in shape if n > 1) or (1,)
        flat = plain_refine(probs.reshape(num_labels, *kept), image.reshape(*kept, 3))
        expected = flat.reshape(probs.shape)
    actual = refine(probs, image)
    assert actual.shape == probs.shape
    assert actual.dtype == np.float32
    # Twice the tolerance: the reference is float32 as well.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2 * Q_ATOL["float32"])


def test_matches_the_plain_reference_with_every_parameter_changed():
    probs, image = made_up_probs(4, SHAPE), made_up_image(SHAPE)
    expected = plain_refine(
        probs, image, iterations=3, spatial=(2.0, 1.5), bilateral=(4.0, 30.0, 8.0)
    )
    actual = refine(
        probs,
        image,
        iterations=3,
        spatial_weight=2.0,
        spatial_sigma=1.5,
        bilateral_weight=4.0,
        bilateral_sigma=30.0,
        color_sigma=8.0,
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])


@pytest.mark.parametrize("shape", [(60, 84), (201, 304)])
@pytest.mark.parametrize("num_labels", [2, 5, 21])
@pytest.mark.parametrize("random_pixels", [False, True])
def test_matches_live_pydensecrf(num_labels, shape, random_pixels):
    dcrf = pytest.importorskip("pydensecrf.densecrf")
    utils = pytest.importorskip("pydensecrf.utils")
    probs, image = made_up_probs(num_labels, shape), made_up_image(shape)
    if random_pixels:
        image = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    peer = dcrf.DenseCRF2D(shape[1], shape[0], num_labels)
    peer.setUnaryEnergy(utils.unary_from_softmax(probs))
    peer.addPairwiseGaussian(sxy=3, compat=3)
    peer.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    expected = np.array(peer.inference(5)).reshape(probs.shape)
    actual = refine(probs, image)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2 * Q_ATOL["float32"])
    assert (actual.argmax(0) == expected.argmax(0)).mean() >= ARGMAX_SHARE


def test_refining_sharpens_a_noisy_map():
    """What people call it for: the made-up labels are found again far better than before."""
    from references.pictures import blocks

    shape = (64, 64)
    truth = blocks(shape, 3)
    probs, image = made_up_probs(3, shape), made_up_image(shape)
    before = (probs.argmax(0) == truth).mean()
    after = (refine(probs, image).argmax(0) == truth).mean()
    assert before < 0.75
    assert after > 0.97


# ---- the probabilities ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_of_the_result_is_that_of_the_probabilities(dtype):
    probs, image = made_up_probs(3, SHAPE, dtype), made_up_image(SHAPE)
    actual = refine(probs, image)
    assert actual.dtype == dtype
    expected = plain_refine(probs, image)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=q_atol(dtype))


def _strided(array):
    wide = np.zeros([2 * n for n in array.shape], array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def _reversed(array):
    return np.ascontiguousarray(array[..., ::-1])[..., ::-1]


def _read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": _strided,
    "reversed": _reversed,
    "read-only": _read_only,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_layout_of_the_probabilities_does_not_matter(layout, dtype):
    probs, image = made_up_probs(3, SHAPE, dtype), made_up_image(SHAPE)
    expected = refine(probs, image)
    given = LAYOUTS[layout](probs)
    actual = refine(given, image)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(given, probs)  # untouched


def test_channels_last_probabilities_as_a_transposed_view():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    stored = np.ascontiguousarray(probs.transpose(1, 2, 0))
    np.testing.assert_array_equal(refine(stored.transpose(2, 0, 1), image), refine(probs, image))


@pytest.mark.parametrize("factor", [1e-3, 0.5, 0.999])
def test_probabilities_that_do_not_sum_to_one_are_renormalised(factor):
    """Documented: every pixel is divided by its sum, so a common factor changes nothing."""
    probs, image = made_up_probs(3, SHAPE, np.float64), made_up_image(SHAPE)
    scale = np.full(SHAPE, factor)
    scale[::2] = 1.0
    actual = refine(probs * scale, image)
    np.testing.assert_allclose(actual, refine(probs, image), rtol=0, atol=Q_ATOL["float32"])


def test_zeros_and_ones_are_clipped():
    hard = np.eye(3, dtype=np.float32)[made_up_probs(3, SHAPE).argmax(0)].transpose(2, 0, 1)
    image = made_up_image(SHAPE)
    actual = refine(hard, image)
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, plain_refine(hard, image), rtol=0, atol=Q_ATOL["float32"])


def test_clip_changes_how_sure_a_zero_is():
    hard = np.zeros((2, *SHAPE), np.float32)
    hard[0] = 1
    hard[:, 7, 8] = [0, 1]  # one dissenting pixel
    image = np.full((*SHAPE, 3), 128, np.uint8)
    gentle = refine(hard, image, clip=0.1, iterations=1, bilateral_weight=0.0, spatial_weight=1.0)
    firm = refine(hard, image, clip=1e-9, iterations=1, bilateral_weight=0.0, spatial_weight=1.0)
    assert gentle[1, 7, 8] < 0.97
    assert firm[1, 7, 8] > 0.999


def test_a_clip_of_zero_forbids_labels_and_stays_finite():
    hard = np.zeros((3, *SHAPE), np.float32)
    hard[0] = 1
    hard[:, 7, 8] = [0.0, 0.5, 0.5]
    q = refine(hard, made_up_image(SHAPE), clip=0)
    assert np.isfinite(q).all()
    np.testing.assert_allclose(q.sum(0), 1, rtol=0, atol=1e-5)
    assert q[0, 7, 8] < 1e-6


def test_an_all_zero_pixel_counts_as_uniform():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    probs[:, 3, 4] = 1 / 3
    expected = refine(probs, image)
    probs[:, 3, 4] = 0
    np.testing.assert_allclose(refine(probs, image), expected, rtol=0, atol=Q_ATOL["float32"])


def test_logits():
    image = made_up_image(SHAPE)
    logits = np.random.default_rng(0).normal(0, 2, (4, *SHAPE)).astype(np.float32)
    exponentials = np.exp(logits.astype(np.float64))
    probs = (exponentials / exponentials.sum(0)).astype(np.float32)
    actual = refine(logits=logits, image=image)
    np.testing.assert_allclose(actual, refine(probs, image), rtol=0, atol=2 * Q_ATOL["float32"])
    shifted = refine(logits=logits + 7, image=image)
    np.testing.assert_allclose(shifted, actual, rtol=0, atol=2 * Q_ATOL["float32"])
    assert refine(logits=logits.astype(np.float64), image=image).dtype == np.float64


@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_foreground_alone_is_two_labels(iterations):
    foreground = made_up_probs(2, SHAPE)[1]
    image = made_up_image(SHAPE, num_labels=2)
    both = refine(np.stack([1 - foreground, foreground]), image, iterations=iterations)
    alone = refine(foreground, image, iterations=iterations)
    assert alone.shape == SHAPE
    np.testing.assert_allclose(alone, both[1], rtol=0, atol=Q_ATOL["float32"])
    kept_axis = refine(foreground[None], image, iterations=iterations)
    assert kept_axis.shape == (1, *SHAPE)
    np.testing.assert_array_equal(kept_axis[0], alone)
    assert alone.std() > 0.05  # not the all-zero map that one channel gives elsewhere


def test_foreground_logits():
    logits = np.random.default_rng(1).normal(0, 2, SHAPE).astype(np.float32)
    image = made_up_image(SHAPE, num_labels=2)
    probs = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    actual = refine(logits=logits, image=image)
    assert actual.shape == SHAPE
    np.testing.assert_allclose(actual, refine(probs, image), rtol=0, atol=2 * Q_ATOL["float32"])


# ---- the image -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("layout", [*LAYOUTS])
def test_dtype_and_layout_of_the_image_do_not_matter(layout, dtype):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    expected = refine(probs, image)
    given = LAYOUTS[layout](image.astype(dtype))
    np.testing.assert_array_equal(refine(probs, given), expected)
    np.testing.assert_array_equal(given, image)


def test_float16_images():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    # Whole numbers up to 255 are exact in float16.
    np.testing.assert_array_equal(refine(probs, image.astype(np.float16)), refine(probs, image))


def test_uint16_images_are_not_squeezed_into_bytes():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    wide = image.astype(np.uint16) * 256
    actual = refine(probs, wide, color_sigma=13 * 256)
    np.testing.assert_allclose(actual, refine(probs, image), rtol=0, atol=Q_ATOL["float32"])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_number_of_channels_first_or_last(channels):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE, channels=channels)
    last = refine(probs, image)
    np.testing.assert_allclose(last, plain_refine(probs, image), rtol=0, atol=Q_ATOL["float32"])
    first = np.ascontiguousarray(image.transpose(2, 0, 1))
    np.testing.assert_array_equal(refine(probs, first), last)
    np.testing.assert_array_equal(refine(probs, first, channel_axis=0), last)
    np.testing.assert_array_equal(refine(probs, image, channel_axis=-1), last)
    if channels == 1:
        np.testing.assert_array_equal(refine(probs, image[..., 0]), last)


def test_channel_axis_settles_an_ambiguous_shape():
    """A 3x3 picture of three channels could be read either way; -1 is what it defaults to."""
    probs, image = made_up_probs(2, (3, 3)), made_up_image((3, 3))
    options = {"iterations": 1, "bilateral_weight": 2.0, "spatial_weight": 0.5}
    last = refine(probs, image, channel_axis=-1, **options)
    first = refine(probs, image, channel_axis=0, **options)
    assert np.abs(last - first).max() > 1e-3
    np.testing.assert_array_equal(refine(probs, image, **options), last)


def test_without_an_image_only_the_spatial_term_counts():
    probs = made_up_probs(3, SHAPE)
    expected = plain_refine(probs, None)
    actual = refine(probs, bilateral_weight=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])
    with pytest.raises(ParameterError, match=r"image(.|\n)*bilateral_weight"):
        refine(probs)


@pytest.mark.parametrize("spatial", [True, False])
def test_a_weight_of_zero_drops_its_term(spatial):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    if spatial:
        actual = refine(probs, image, bilateral_weight=0)
        expected = plain_refine(probs, None)
    else:
        actual = refine(probs, image, spatial_weight=0)
        expected = plain_refine(probs, image, spatial=(0.0, 3.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])


# ---- batches and volumes -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_batch_equals_a_loop(size):
    # Four labels: with three, channels-first images could also be volumes of depth three.
    probs = np.stack([made_up_probs(4, SHAPE, seed=s) for s in range(size + 1)])[:size]
    images = np.stack([made_up_image(SHAPE, seed=s) for s in range(size + 1)])[:size]
    if size == 0:
        with pytest.raises(ShapeError):
            refine(probs, images)
        return
    batch = refine(probs, images)
    assert batch.shape == probs.shape
    for b in range(size):
        np.testing.assert_array_equal(batch[b], refine(probs[b], images[b]))
    labels = refine(probs, images, return_="labels")
    np.testing.assert_array_equal(labels, batch.argmax(1))
    first = refine(probs, np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(first, batch)


@pytest.mark.parametrize("spacing", [None, (3.0, 1.0, 1.0), (2.5, 0.7, 0.9)])
@pytest.mark.parametrize("channels", [None, 1, 2])
def test_volumes(channels, spacing):
    shape = (5, 8, 9)
    probs = made_up_probs(3, shape)
    image = made_up_image(shape, channels=channels or 1)
    given = image[..., 0] if channels is None else image
    steps = (1.0, 1.0, 1.0) if spacing is None else spacing
    # A volume is told from a batch by its spacing or by its image.
    actual = refine(probs, given, spacing=steps, bilateral_sigma=10)
    expected = plain_refine(probs, image, bilateral=(10.0, 10.0, 13.0), spacing=steps)
    assert actual.shape == probs.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])


@pytest.mark.parametrize("kind", ["vector", "matrix"])
def test_compat_scales_the_weights_by_label(kind):
    """(K,) multiplies both weights label by label; (K, K) holds penalties, times both weights."""
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    rng = np.random.default_rng(5)
    compat = rng.uniform(0.2, 1.5, 3) if kind == "vector" else rng.uniform(0, 1, (3, 3))
    compat = compat.astype(np.float32)
    kernels = [
        PlainKernel(gaussian_features(SHAPE, 3), 3 * compat),
        PlainKernel(bilateral_features(image, 80, 13), 10 * compat),
    ]
    expected = plain_mean_field.infer(unary_from_probs(probs), kernels, 5).reshape(probs.shape)
    actual = refine(probs, image, compat=compat)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])


@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
def test_normalization(normalization):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    scale = 0.02 if normalization == "none" else 1.0
    kernels = [
        PlainKernel(gaussian_features(SHAPE, 3), 3 * scale, normalization),
        PlainKernel(bilateral_features(image, 80, 13), 10 * scale, normalization),
    ]
    expected = plain_mean_field.infer(unary_from_probs(probs), kernels, 5).reshape(probs.shape)
    actual = refine(
        probs,
        image,
        normalization=normalization,
        spatial_weight=3 * scale,
        bilateral_weight=10 * scale,
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])


def test_one_sigma_for_each_axis_and_channel():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    expected = plain_refine(
        probs, image, spatial=(3.0, (2.0, 4.0)), bilateral=(10.0, (40.0, 20.0), (10.0, 20.0, 30.0))
    )
    actual = refine(
        probs,
        image,
        spatial_sigma=(2.0, 4.0),
        bilateral_sigma=(40.0, 20.0),
        color_sigma=(10.0, 20.0, 30.0),
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])


def test_a_batch_of_volumes_and_ambiguous_shapes():
    shape = (4, 6, 7)
    probs = np.stack([made_up_probs(3, shape, seed=s) for s in range(2)])
    images = np.stack([made_up_image(shape, channels=2, seed=s) for s in range(2)])
    together = refine(probs, images)
    assert together.shape == probs.shape
    for b in range(2):
        one = refine(probs[b], images[b], spacing=(1, 1, 1))
        np.testing.assert_array_equal(together[b], one)
    # (K, D, H, W) with (D, H, W) where K == D could be a batch of pictures: spacing decides.
    twins = made_up_probs(4, shape)
    volume = made_up_image(shape, channels=1)[..., 0]
    with pytest.raises(ShapeError, match="spacing"):
        refine(twins, volume)
    as_volume = refine(twins, volume, spacing=(1, 1, 1))
    as_batch = refine(twins, volume, spacing=(1, 1))
    np.testing.assert_allclose(as_volume.sum(0), 1, rtol=0, atol=1e-5)
    np.testing.assert_allclose(as_batch.sum(1), 1, rtol=0, atol=1e-5)


def test_a_volume_is_told_by_its_image():
    shape = (4, 6, 7)
    probs = made_up_probs(3, shape)
    for image in (made_up_image(shape), made_up_image(shape)[..., 0]):
        expected = refine(probs, image, spacing=(1, 1, 1))
        np.testing.assert_array_equal(refine(probs, image), expected)


def test_a_foreground_volume():
    shape = (4, 6, 7)
    foreground = made_up_probs(2, shape)[1]
    image = made_up_image(shape)
    both = refine(np.stack([1 - foreground, foreground]), image)
    alone = refine(foreground[None], image, spacing=(1, 1, 1))
    np.testing.assert_allclose(alone[0], both[1], rtol=0, atol=Q_ATOL["float32"])


def test_spacing_scales_pixels_too():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    actual = refine(probs, image, spacing=(2.0, 0.5))
    expected = plain_refine(probs, image, spacing=(2.0, 0.5))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])


# ---- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_labels", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)]
)
def test_labels_come_in_the_smallest_unsigned_type(num_labels, dtype):
    probs, image = made_up_probs(num_labels, (6, 7)), made_up_image((6, 7))
    labels = refine(probs, image, return_="labels")
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, refine(probs, image).argmax(0))


def test_labels_of_a_foreground_map():
    foreground = made_up_probs(2, SHAPE)[1]
    image = made_up_image(SHAPE, num_labels=2)
    labels = refine(foreground, image, return_="labels")
    assert labels.shape == SHAPE
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, refine(foreground, image) > 0.5)
    assert set(np.unique(labels)) == {0, 1}


@pytest.mark.parametrize("return_", ["probs", "labels"])
def test_the_result_belongs_to_the_caller(return_):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    first = refine(probs, image, return_=return_)
    kept = first.copy()
    first[...] = 0
    np.testing.assert_array_equal(refine(probs, image, return_=return_), kept)


# ---- workspace, cache, progress, tolerance -------------------------------------------------------


def test_a_workspace_changes_no_bit():
    workspace = crf.Workspace()
    for shape, num_labels in [((20, 30), 3), ((33, 12), 21), ((20, 30), 2), ((5, 5), 150)]:
        probs, image = made_up_probs(num_labels, shape), made_up_image(shape)
        expected = refine(probs, image)
        for _ in range(2):
            actual = refine(probs, image, workspace=workspace)
            np.testing.assert_array_equal(actual, expected)


def test_results_do_not_live_in_the_workspace():
    workspace = crf.Workspace()
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    first = refine(probs, image, workspace=workspace)
    kept = first.copy()
    refine(made_up_probs(3, SHAPE, seed=9), image, workspace=workspace)
    np.testing.assert_array_equal(first, kept)


def test_the_cache_changes_no_bit_and_can_be_bounded():
    probs, image = made_up_probs(3, (40, 50)), made_up_image((40, 50))
    crf.clear_cache()
    cold = refine(probs, image)
    warm = refine(probs, image)
    np.testing.assert_array_equal(warm, cold)
    # Another shape with as many pixels, or another sigma, must not be served the same lattice.
    turned = refine(probs.transpose(0, 2, 1), image.transpose(1, 0, 2))
    assert np.abs(turned.transpose(0, 2, 1) - cold).max() < 0.1
    other = refine(probs, image, spatial_sigma=2.0)
    assert np.abs(other - cold).max() > 1e-4
    spaced = refine(probs, image, spacing=(1.0, 2.0))
    assert np.abs(spaced - cold).max() > 1e-4
    limit = crf.cache_info().limit
    try:
        crf.set_cache_limit(0)
        assert crf.cache_info() == (0, 0)
        np.testing.assert_array_equal(refine(probs, image), cold)
        assert crf.cache_info().nbytes == 0
        crf.set_cache_limit(2**20)
        for width in range(40, 80):
            refine(made_up_probs(2, (40, width)), made_up_image((40, width)))
            assert crf.cache_info().nbytes <= 2**20
    finally:
        crf.set_cache_limit(limit)
    np.testing.assert_array_equal(refine(probs, image), cold)
    assert crf.cache_info().nbytes > 0
    crf.clear_cache()
    assert crf.cache_info().nbytes == 0


def test_a_workspace_keeps_no_more_than_its_limit():
    workspace = crf.Workspace(limit=2**20)
    refine(made_up_probs(3, (20, 20)), made_up_image((20, 20)), workspace=workspace)
    assert 0 < workspace.nbytes <= workspace.limit == 2**20
    refine(made_up_probs(21, (200, 200)), made_up_image((200, 200)), workspace=workspace)
    assert workspace.nbytes <= 2**20
    workspace.clear()
    assert workspace.nbytes == 0


def test_progress_is_called_after_every_iteration():
    seen = []
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    actual = refine(probs, image, iterations=4, progress=lambda *call: seen.append(call))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    np.testing.assert_array_equal(actual, refine(probs, image, iterations=4))


def test_raising_in_progress_cancels():
    class StopNowError(Exception):
        pass

    calls = []

    def progress(done, total):
        calls.append(done)
        if done == 2:
            raise StopNowError("enough")

    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    expected = refine(probs, image)
    with pytest.raises(StopNowError, match="enough"):
        refine(probs, image, iterations=50, progress=progress)
    assert calls == [1, 2]
    np.testing.assert_array_equal(refine(probs, image), expected)


def test_progress_may_use_fastseg_itself(restore_threads):
    """A callback that refines, clears caches or changes the threads neither hangs nor disturbs."""
    import fastseg

    probs, image = made_up_probs(4, (60, 70)), made_up_image((60, 70))
    expected = refine(probs, image)
    workspace = crf.Workspace()
    nested = []

    def progress(done, total):
        nested.append(refine(probs, image, workspace=workspace))
        fastseg.set_num_threads(done)
        crf.clear_cache()
        workspace.clear()

    actual = refine(probs, image, progress=progress, workspace=workspace)
    np.testing.assert_array_equal(actual, expected)
    assert len(nested) == 5
    for q in nested:
        np.testing.assert_array_equal(q, expected)


def test_tolerance_stops_early_near_the_fixed_point():
    probs, image = made_up_probs(3, (30, 40)), made_up_image((30, 40))
    calls = []
    q = refine(
        probs,
        image,
        iterations=500,
        tolerance=1e-6,
        progress=lambda done, total: calls.append(done),
    )
    assert 1 < len(calls) < 500
    np.testing.assert_allclose(q, refine(probs, image, iterations=500), rtol=0, atol=2e-2)
    assert (q.argmax(0) == refine(probs, image, iterations=500).argmax(0)).mean() > 0.99
