"""What users pass by mistake: each has a clear error or a documented answer, never a crash."""

from __future__ import annotations

import re

import numpy as np
import pytest

from crf.tolerances import Q_ATOL
from fastseg.crf import DenseCRF, PermutohedralLattice, refine
from fastseg.errors import DataError, DtypeError, FastsegError, ParameterError, ShapeError
from references.pictures import made_up_image, made_up_probs

SHAPE = (9, 11)


@pytest.fixture
def probs():
    return made_up_probs(3, SHAPE)


@pytest.fixture
def image():
    return made_up_image(SHAPE)


# ---- values of the probabilities -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_probabilities_that_are_not_finite(probs, image, value, dtype):
    given = probs.astype(dtype)
    given[1, 4, 7] = value
    with pytest.raises(DataError, match=r"probs.*\(?1, 4, 7\)?"):
        refine(given, image)
    with pytest.raises(DataError, match="probs"):
        DenseCRF(given)


@pytest.mark.parametrize("place", [(0, 0, 0), (2, 8, 10), (1, 3, 0)])
def test_every_place_is_looked_at(probs, image, place):
    probs[place] = np.nan
    with pytest.raises(DataError, match=re.escape(", ".join(map(str, place)))):
        refine(probs, image)


def test_nan_in_a_foreground_map_or_a_batch(probs, image):
    foreground = probs[0].copy()
    foreground[3, 4] = np.nan
    with pytest.raises(DataError, match=r"probs\[3, 4\]"):
        refine(foreground, image)
    batch = np.stack([probs, probs])
    batch[1, 2, 3, 4] = np.nan
    with pytest.raises(DataError, match=r"probs\[1, 2, 3, 4\]"):
        refine(batch, np.stack([image, image]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_and_unaries_that_are_not_finite(image, value):
    scores = np.zeros((3, *SHAPE), np.float32)
    scores[0, 1, 2] = value
    with pytest.raises(DataError, match=rf"logits\[0, 1, 2\] is {value}"):
        refine(logits=scores, image=image)
    with pytest.raises(DataError, match=r"unary\[0, 1, 2\]"):
        DenseCRF(unary=-scores)


def test_an_infinite_energy_forbids_a_label(image):
    energies = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    energies[1] = np.inf
    crf = DenseCRF(unary=energies)
    crf.add_bilateral(image, sigma=20, color_sigma=13)
    without = DenseCRF(unary=energies[[0, 2]])
    without.add_bilateral(image, sigma=20, color_sigma=13)
    q = crf.infer(5)
    assert (q[1] < 1e-20).all()
    np.testing.assert_allclose(q[[0, 2]], without.infer(5), rtol=0, atol=Q_ATOL["float32"])
    energies[:, 3, 4] = np.inf
    with pytest.raises(DataError, match=r"unary\[\d, 3, 4\]"):
        DenseCRF(unary=energies)


def test_foreground_logits_that_are_not_finite(image):
    scores = np.zeros(SHAPE, np.float32)
    scores[1, 2] = np.nan
    with pytest.raises(DataError, match=r"logits\[1, 2\] is nan"):
        refine(logits=scores, image=image)


@pytest.mark.parametrize("value", [-1e-2, -5.0, 1.01, 7.0, 255.0])
def test_values_outside_zero_to_one_look_like_logits(probs, image, value):
    probs[2, 5, 6] = value
    with pytest.raises(DataError, match="logits="):
        refine(probs, image)
    with pytest.raises(DataError):
        DenseCRF(probs)


def test_rounding_slightly_above_one_is_forgiven(probs, image):
    probs[:, 5, 6] = [1.0005, 0, 0]
    expected = probs.copy()
    expected[:, 5, 6] = [1, 0, 0]
    np.testing.assert_allclose(
        refine(probs, image), refine(expected, image), rtol=0, atol=Q_ATOL["float32"]
    )


def test_foreground_values_outside_zero_to_one(image):
    foreground = np.full(SHAPE, 0.5, np.float32)
    for value in (-0.5, 2.0):
        foreground[1, 2] = value
        with pytest.raises(DataError, match="logits="):
            refine(foreground, image)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite(probs, image, value):
    given = image.astype(np.float32)
    given[2, 3, 1] = value
    with pytest.raises(DataError, match="image"):
        refine(probs, given)
    with pytest.raises(DataError, match="image"):
        DenseCRF(probs).add_bilateral(given, sigma=20, color_sigma=13)


# ---- dtypes --------------------------------------------------------------------------------------

WRONG = {
    "complex": np.complex64,
    "object": object,
    "bool": np.bool_,
    "str": "U4",
    "int": np.int64,
    "uint8": np.uint8,
    "datetime": "M8[s]",
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_probabilities_of_a_wrong_dtype(image, kind):
    given = np.zeros((3, *SHAPE), np.int64).astype(WRONG[kind])
    with pytest.raises(DtypeError, match="probs") as error:
        refine(given, image)
    assert str(given.dtype) in str(error.value)
    with pytest.raises(DtypeError, match="probs"):
        DenseCRF(given)


@pytest.mark.parametrize("kind", ["complex", "object", "str"])
def test_logits_and_unaries_of_a_wrong_dtype(image, kind):
    given = np.zeros((3, *SHAPE), np.int64).astype(WRONG[kind])
    with pytest.raises(DtypeError, match="logits"):
        refine(logits=given, image=image)
    with pytest.raises(DtypeError, match="unary"):
        DenseCRF(unary=given)


@pytest.mark.parametrize("kind", ["complex", "object", "str", "datetime"])
def test_images_of_a_wrong_dtype(probs, kind):
    given = np.zeros((*SHAPE, 3), np.int64).astype(WRONG[kind])
    with pytest.raises(DtypeError, match="image"):
        refine(probs, given)
    with pytest.raises(DtypeError, match="image"):
        DenseCRF(probs).add_bilateral(given, sigma=20, color_sigma=13)


@pytest.mark.parametrize("given", ["picture.png", None, 3, object(), [[1, "a"]], {}])
def test_things_that_are_no_arrays(probs, image, given):
    if given is not None:
        with pytest.raises((FastsegError, TypeError)):
            refine(given, image)
        with pytest.raises((FastsegError, TypeError)):
            refine(probs, given)
    with pytest.raises((FastsegError, TypeError)):
        PermutohedralLattice(given)


# ---- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [(3, 8, 11), (3, 9, 10), (3, 11, 9), (12, 9)],
)
def test_shapes_that_disagree_are_both_named(image, shape):
    given = np.full(shape, 0.5, np.float32)
    with pytest.raises(ShapeError) as error:
        refine(given, image)
    message = str(error.value)
    assert re.search(r"9, 11", message), message
    assert re.search(re.escape(", ".join(map(str, shape[-2:]))), message), message


def test_batches_that_disagree(probs, image):
    with pytest.raises(ShapeError, match=r"2\D.*4\D"):
        refine(np.stack([probs] * 2), np.stack([image] * 4))
    with pytest.raises(ShapeError, match=r"2\D.*4\D"):
        refine(np.stack([probs] * 2), np.stack([image] * 4), spacing=(1, 1))
    with pytest.raises(ShapeError):
        refine(np.stack([probs] * 2), image)


@pytest.mark.parametrize(
    "shape", [(), (5,), (1, 1, 3, 4, 5, 6), (0, 9, 11), (3, 0, 11), (3, 9, 0), (0, 0), (3, 0, 0)]
)
def test_empty_and_hopeless_shapes(image, shape):
    given = np.full(shape, 0.5, np.float32)
    matching = np.zeros((*shape[-2:], 3), np.uint8)
    with pytest.raises(ShapeError, match="probs"):
        refine(given, matching)


def test_images_without_channels(probs):
    with pytest.raises(ShapeError, match="image"):
        refine(probs, np.zeros((*SHAPE, 0), np.uint8))
    with pytest.raises(ShapeError, match="image"):
        refine(probs, np.zeros((2, *SHAPE, 3), np.uint8))
    with pytest.raises(ShapeError, match="image"):
        refine(probs, np.zeros(9, np.uint8))


@pytest.mark.parametrize("axis", [3, -4, 1])
def test_a_channel_axis_that_does_not_fit(probs, image, axis):
    with pytest.raises((ShapeError, ParameterError), match=r"channel_axis|image"):
        refine(probs, image, channel_axis=axis)
    with pytest.raises((ShapeError, ParameterError, DtypeError), match="channel_axis"):
        refine(probs, image, channel_axis="last")


def test_shapes_of_the_parts(probs, image):
    crf = DenseCRF(probs)
    with pytest.raises(ShapeError, match=r"features.*\n?.*9, 11"):
        crf.add_pairwise(np.zeros((2, 9, 10), np.float32), compat=1)
    with pytest.raises(ShapeError, match="image"):
        crf.add_bilateral(image[:-1], sigma=20, color_sigma=13)
    with pytest.raises(ShapeError, match="features"):
        crf.add_pairwise(np.zeros((0, *SHAPE), np.float32), compat=1)
    with pytest.raises(ShapeError, match="q"):
        crf.update(np.zeros((2, *SHAPE), np.float32))
    with pytest.raises(ShapeError, match="q"):
        crf.messages(np.zeros((3, 9), np.float32))
    with pytest.raises(ShapeError, match="q"):
        crf.free_energy(np.zeros((3, 9, 10), np.float32))
    lattice = PermutohedralLattice(np.zeros((2, *SHAPE), np.float32))
    for wrong in ((9, 10), (3, 9, 10), (98,), (1, 1, 9, 11)):
        with pytest.raises(ShapeError, match="values"):
            lattice.filter(np.zeros(wrong, np.float32))
    for wrong in ((), (3,), (0, 5), (2, 0)):
        with pytest.raises(ShapeError, match="features"):
            PermutohedralLattice(np.zeros(wrong, np.float32))


@pytest.mark.parametrize("shape", [(2,), (4,), (2, 2), (3, 4), (3, 3, 3)])
def test_compat_that_does_not_fit_the_labels(probs, shape):
    with pytest.raises(ShapeError, match=r"compat(.|\n)*3"):
        DenseCRF(probs).add_gaussian(sigma=3, compat=np.ones(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_compat_that_is_not_finite(probs, value):
    for compat in (value, [1.0, value, 1.0], np.full((3, 3), value)):
        with pytest.raises((DataError, ParameterError), match="compat"):
            DenseCRF(probs).add_gaussian(sigma=3, compat=compat)


# ---- parameters ----------------------------------------------------------------------------------

SIGMAS = ["spatial_sigma", "bilateral_sigma", "color_sigma"]


@pytest.mark.parametrize("name", SIGMAS)
@pytest.mark.parametrize("value", [0, 0.0, -1.0, np.nan, np.inf, -np.inf])
def test_sigmas_that_are_not_positive(probs, image, name, value):
    with pytest.raises(ParameterError, match=name):
        refine(probs, image, **{name: value})


@pytest.mark.parametrize("value", [0, -2.0, np.nan])
def test_sigmas_of_the_parts(probs, image, value):
    crf = DenseCRF(probs)
    with pytest.raises(ParameterError, match="sigma"):
        crf.add_gaussian(sigma=value)
    with pytest.raises(ParameterError, match="sigma"):
        crf.add_gaussian(sigma=(3.0, value))
    with pytest.raises(ParameterError, match="sigma"):
        crf.add_bilateral(image, sigma=value, color_sigma=13)
    with pytest.raises(ParameterError, match="color_sigma"):
        crf.add_bilateral(image, sigma=20, color_sigma=value)
    with pytest.raises(ParameterError, match="spacing"):
        crf.add_gaussian(sigma=3, spacing=(1.0, value))


def test_sigmas_of_a_wrong_length_or_type(probs, image):
    crf = DenseCRF(probs)
    for wrong in ((1.0, 2.0, 3.0), (1.0,), ()):
        with pytest.raises((ParameterError, ShapeError), match="sigma"):
            crf.add_gaussian(sigma=wrong)
        with pytest.raises((ParameterError, ShapeError), match="spacing"):
            crf.add_gaussian(sigma=3, spacing=wrong)
    with pytest.raises((ParameterError, ShapeError), match="color_sigma"):
        crf.add_bilateral(image, sigma=20, color_sigma=(13.0, 13.0))
    for wrong in ("3", None, [[1.0]], 1j):
        with pytest.raises((FastsegError, TypeError), match="sigma"):
            crf.add_gaussian(sigma=wrong)


def test_spacing_of_refine(probs, image):
    for wrong in (0.0, -1.0, (1.0, np.nan), (1.0, 0.0)):
        with pytest.raises(ParameterError, match="spacing"):
            refine(probs, image, spacing=wrong)
    with pytest.raises((ParameterError, ShapeError), match="spacing"):
        refine(probs, image, spacing=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("name", SIGMAS)
@pytest.mark.parametrize("value", [1e-9, 1e-20, 1e-45, 5e-324])
def test_sigmas_too_small_for_the_lattice(probs, image, name, value):
    """Refused with the reason and the smallest that works, and that one does work."""
    with pytest.raises(ParameterError, match=name) as error:
        refine(probs, image, **{name: value})
    message = str(error.value)
    numbers = [float(x) for x in re.findall(r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", message)]
    usable = [x for x in numbers if x > value * 10 and x < 1.0]
    assert usable, message
    q = refine(probs, image, **{name: max(usable)})
    np.testing.assert_allclose(q.sum(0), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SIGMAS)
@pytest.mark.parametrize("value", [1e-1, 1e-2, 1e-3])
def test_small_sigmas_compute(probs, image, name, value):
    """Where pydensecrf's keys overflow: every pixel is alone in the end, nothing is corrupted."""
    from references import plain_mean_field as plain

    options = {"spatial_sigma": 3.0, "bilateral_sigma": 80.0, "color_sigma": 13.0, name: value}
    kernels = [
        plain.PlainKernel(plain.gaussian_features(SHAPE, options["spatial_sigma"]), 3.0),
        plain.PlainKernel(
            plain.bilateral_features(image, options["bilateral_sigma"], options["color_sigma"]),
            10.0,
        ),
    ]
    expected = plain.infer(plain.unary_from_probs(probs), kernels, 5).reshape(probs.shape)
    actual = refine(probs, image, **options)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=10 * Q_ATOL["float32"])


@pytest.mark.parametrize("name", SIGMAS)
@pytest.mark.parametrize("value", [1e9, 1e30, 1e300])
def test_huge_sigmas_compute(probs, image, name, value):
    """So wide that the coordinate does not count at all any more."""
    actual = refine(probs, image, **{name: value})
    np.testing.assert_allclose(actual.sum(0), 1, rtol=0, atol=1e-5)
    expected = refine(probs, image, **{name: 1e8})
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("value", [1e20, -1e20, 3e38, 1e12, np.nan, np.inf])
def test_features_too_large(probs, value):
    features = np.zeros((2, *SHAPE), np.float32)
    features[1, 4, 5] = value
    with pytest.raises(DataError, match="features"):
        DenseCRF(probs).add_pairwise(features, compat=1)
    with pytest.raises(DataError, match="features"):
        PermutohedralLattice(features)
    with pytest.raises(DataError, match="features"):
        PermutohedralLattice(features.astype(np.float64))


def test_features_beyond_float32():
    features = np.zeros((2, 5))
    features[0, 0] = 1e200
    with pytest.raises(DataError, match="features"):
        PermutohedralLattice(features)


@pytest.mark.parametrize("value", [1e20, 1e30])
def test_images_with_huge_values(probs, image, value):
    given = image.astype(np.float32)
    given[0, 0, 0] = value
    with pytest.raises((DataError, ParameterError), match=r"image|color_sigma"):
        refine(probs, given)


@pytest.mark.parametrize("name", ["spatial_weight", "bilateral_weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, "3", None])
def test_weights_that_are_no_numbers(probs, image, name, value):
    if value is None:
        # None may mean "the default"; it must then be exactly that.
        try:
            q = refine(probs, image, **{name: value})
        except (ParameterError, DtypeError):
            return
        np.testing.assert_array_equal(q, refine(probs, image))
        return
    with pytest.raises((ParameterError, DtypeError), match=name):
        refine(probs, image, **{name: value})


@pytest.mark.parametrize("value", [-1, 2.5, "5", 1j, np.nan, True])
def test_iterations(probs, image, value):
    error = ParameterError if value == -1 else DtypeError
    with pytest.raises(error, match="iterations"):
        refine(probs, image, iterations=value)
    with pytest.raises(error, match="iterations"):
        DenseCRF(probs).infer(value)


def test_iterations_may_be_a_numpy_integer(probs, image):
    expected = refine(probs, image, iterations=2)
    np.testing.assert_array_equal(refine(probs, image, iterations=np.int64(2)), expected)


@pytest.mark.parametrize("value", [-1e-5, 1.0, 1.5, np.nan])
def test_clip(probs, image, value):
    with pytest.raises(ParameterError, match="clip"):
        refine(probs, image, clip=value)


@pytest.mark.parametrize("value", [-1.0, np.nan, "small"])
def test_tolerance(probs, image, value):
    with pytest.raises((ParameterError, DtypeError), match="tolerance"):
        refine(probs, image, tolerance=value)


def test_unknown_names(probs, image):
    with pytest.raises(ParameterError, match=r"deeplab-v3(.|\n)*deeplab-v[12]"):
        refine(probs, image, preset="deeplab-v3")
    with pytest.raises(ParameterError, match=r"pydensecrf"):
        refine(probs, image, preset="pydense")
    with pytest.raises(ParameterError, match=r"return_(.|\n)*labels"):
        refine(probs, image, return_="label")
    with pytest.raises(ParameterError, match=r"normalization(.|\n)*symmetric"):
        refine(probs, image, normalization="symmetrical")
    with pytest.raises(ParameterError, match=r"normalization(.|\n)*symmetric"):
        DenseCRF(probs).add_gaussian(sigma=3, normalization="SYMMETRIC!")
    with pytest.raises((ParameterError, TypeError)):
        refine(probs, image, preset=3)
    with pytest.raises(TypeError):
        refine(probs, image, spatial_sigmas=3)


def test_probs_and_logits_both_or_none(probs, image):
    with pytest.raises(ParameterError, match=r"probs(.|\n)*logits"):
        refine(probs, image, logits=probs)
    with pytest.raises(ParameterError, match=r"probs(.|\n)*logits"):
        refine(image=image)
    with pytest.raises(ParameterError, match=r"probs(.|\n)*unary"):
        DenseCRF(probs, unary=probs)
    with pytest.raises(ParameterError, match=r"probs(.|\n)*unary"):
        DenseCRF()


def test_only_arrays_are_positional(probs, image):
    with pytest.raises(TypeError):
        refine(probs, image, None)
    with pytest.raises(TypeError):
        DenseCRF(probs).add_gaussian(3)


@pytest.mark.parametrize("progress", [3, "bar"])
def test_progress_must_be_callable(probs, image, progress):
    with pytest.raises((ParameterError, TypeError), match=r"progress|callable"):
        refine(probs, image, progress=progress)


def test_workspace_of_a_wrong_type(probs, image):
    with pytest.raises((FastsegError, TypeError), match="orkspace"):
        refine(probs, image, workspace=3)


def test_q_that_is_not_finite(probs):
    crf = DenseCRF(probs)
    crf.add_gaussian(sigma=3)
    q = probs.copy()
    q[0, 0, 0] = np.nan
    for method in (crf.update, crf.messages, crf.free_energy):
        with pytest.raises(DataError, match="q"):
            method(q)


# ---- small and large -----------------------------------------------------------------------------


@pytest.mark.parametrize("num_labels", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (5, 1)])
def test_one_pixel_and_one_label_compute(num_labels, shape):
    image = made_up_image(shape)
    if num_labels == 1:
        # One map is the foreground of two labels.
        q = refine(np.full((1, *shape), 0.7, np.float32), image)
        assert q.shape == (1, *shape)
        assert (q >= 0.7).all()
        crf = DenseCRF(np.full((1, *shape), 0.7, np.float32))
        crf.add_gaussian(sigma=3)
        np.testing.assert_allclose(crf.infer(3), np.ones((1, *shape)), rtol=0, atol=1e-6)
        return
    probs = made_up_probs(num_labels, shape)
    q = refine(probs, image)
    assert q.shape == probs.shape
    np.testing.assert_allclose(q.sum(0), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_labels", [2, 21, 400])
def test_images_too_large_for_the_memory(num_labels):
    """Refused at once, with what it would need, before anything is allocated or read."""
    probs = np.broadcast_to(np.float32(1 / num_labels), (num_labels, 30_000, 30_000))
    image = np.broadcast_to(np.uint8(0), (30_000, 30_000, 3))
    if num_labels < 400 and _total_memory() > 60 * 2**30:
        pytest.skip("this machine might have the memory")
    with pytest.raises(MemoryError, match=r"\d(.|\n)*GiB(.|\n)*GiB") as error:
        refine(probs, image)
    needed = [float(x) for x in re.findall(r"([\d.]+) GiB", str(error.value))]
    # At least the result itself.
    assert max(needed) >= num_labels * 9e8 * 4 / 2**30


def test_parts_too_large_for_the_memory():
    if _total_memory() > 60 * 2**30:
        pytest.skip("this machine might have the memory")
    with pytest.raises(MemoryError, match="GiB"):
        DenseCRF(np.broadcast_to(np.float32(0.5), (2, 30_000, 30_000)))
    with pytest.raises(MemoryError, match="GiB"):
        PermutohedralLattice(np.broadcast_to(np.float32(0.5), (5, 30_000, 30_000)))


def test_a_batch_too_large_for_the_memory():
    """Each picture is small, their results together are not."""
    probs = np.broadcast_to(np.float32(0.5), (10**7, 2, 200, 200))
    image = np.broadcast_to(np.uint8(0), (10**7, 200, 200, 3))

    def progress(done, total):
        raise AssertionError("it began to work")

    with pytest.raises(MemoryError, match="GiB"):
        refine(probs, image, progress=progress)


def _total_memory():
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62


def test_a_refused_call_leaves_nothing_behind(probs, image):
    expected = refine(probs, image)
    for bad in ({"color_sigma": 1e-9}, {"spatial_sigma": -1}, {"iterations": -1}):
        with pytest.raises(ParameterError):
            refine(probs, image, **bad)
    crf = DenseCRF(probs)
    with pytest.raises(ParameterError):
        crf.add_gaussian(sigma=-1)
    crf.add_gaussian(sigma=3, compat=3)
    crf.add_bilateral(image, sigma=80, color_sigma=13, compat=10)
    np.testing.assert_allclose(crf.infer(5), expected, rtol=0, atol=Q_ATOL["float32"])
    np.testing.assert_array_equal(refine(probs, image), expected)
