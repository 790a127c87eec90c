"""Arrays that NumPy and torch make and few people think of."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fastseg.crf import DenseCRF, PermutohedralLattice, Workspace, _memory, refine
from fastseg.errors import DataError, DtypeError, ParameterError, ShapeError
from references.pictures import made_up_image, made_up_probs

SHAPE = (9, 11)


@pytest.fixture
def probs():
    return made_up_probs(3, SHAPE)


@pytest.fixture
def image():
    return made_up_image(SHAPE)


def unaligned(array):
    """A copy at an odd address, contiguous all the same."""
    memory = np.frombuffer(bytearray(array.nbytes + 1), np.uint8)[1:]
    result = memory.view(array.dtype).reshape(array.shape)
    result[...] = array
    assert not result.flags.aligned
    assert result.flags.c_contiguous
    return result


def test_unaligned_arrays(probs, image):
    expected = refine(probs, image)
    np.testing.assert_array_equal(refine(unaligned(probs), image), expected)
    wide = image.astype(np.uint16)
    np.testing.assert_array_equal(
        refine(probs, unaligned(wide)), refine(probs, image.astype(np.uint16))
    )


def test_masked_arrays_are_refused_unless_nothing_is_masked(probs, image):
    masked = np.ma.MaskedArray(probs, mask=np.zeros(probs.shape, bool))
    np.testing.assert_array_equal(refine(masked, image), refine(probs, image))
    masked.mask[0, 1, 2] = True
    with pytest.raises(DataError, match=r"probs.*filled"):
        refine(masked, image)
    with pytest.raises(DataError, match=r"image.*filled"):
        refine(probs, np.ma.MaskedArray(image, mask=image > 100))


def test_ragged_lists(probs, image):
    with pytest.raises(DtypeError, match="probs"):
        refine([[0.5], [0.5, 0.5]], image)
    with pytest.raises(DtypeError, match="compat"):
        DenseCRF(probs).add_gaussian(sigma=3, compat=[[1], [1, 2]])


def test_values_beyond_float32_are_named_as_they_came(probs, image):
    given = probs.astype(np.float64)
    given[1, 2, 3] = 1e200
    with pytest.raises(DataError, match=re.escape("probs[1, 2, 3] is 1e+200")):
        refine(given, image)


def test_one_spacing_for_all_axes(image):
    volume = made_up_probs(2, (4, *SHAPE))
    picture = np.repeat(image[np.newaxis], 4, axis=0)
    expected = refine(volume, picture, spacing=(2.0, 2.0, 2.0))
    np.testing.assert_array_equal(refine(volume, picture, spacing=2.0), expected)


def test_the_smallest_sigma_is_in_the_unit_of_spacing(probs, image):
    with pytest.raises(ParameterError, match="spatial_sigma along y") as error:
        refine(probs, image, spatial_sigma=(1e-9, 3), spacing=(5.0, 1.0))
    smallest = float(re.findall(r"used here is (\S+)", str(error.value))[0])
    refine(probs, image, spatial_sigma=(smallest, 3), spacing=(5.0, 1.0))
    with pytest.raises(ParameterError, match="spatial_sigma along y"):
        refine(probs, image, spatial_sigma=(smallest * 0.99, 3), spacing=(5.0, 1.0))


def test_an_axis_of_one_point_keeps_the_names_of_the_others():
    probs = np.full((2, 3, 1, 5), 0.5, np.float32)
    with pytest.raises(ParameterError, match="spatial_sigma along z"):
        refine(probs, np.zeros((3, 1, 5)), spatial_sigma=(1e-9, 1, 1), spacing=(1, 1, 1))


def test_labels_beyond_16_bits(image):
    probs = np.full((70_000, 1, 2), 0.5, np.float32)
    with pytest.raises(ShapeError, match=r"65536.*70000"):
        refine(probs, image[:1, :2], return_="labels")


@pytest.mark.parametrize("value", [10**400, 1e31, 3e38])
def test_weights_beyond_float32(probs, image, value):
    with pytest.raises(ParameterError, match="spatial_weight"):
        refine(probs, image, spatial_weight=value)
    with pytest.raises((ParameterError, DataError), match="compat"):
        DenseCRF(probs).add_gaussian(sigma=3, compat=np.full((3, 3), float(min(value, 1e300))))


@pytest.mark.parametrize("value", [2**63, 2**70])
def test_integers_beyond_64_bits(probs, image, value):
    with pytest.raises(ParameterError, match="iterations"):
        refine(probs, image, iterations=value)
    with pytest.raises(ParameterError, match="limit"):
        Workspace(value)


def test_the_free_energy_is_one_of_probabilities(probs):
    crf = DenseCRF(probs)
    for wrong in (np.zeros_like(probs), -probs, 2 * probs):
        with pytest.raises(DataError, match="q must be probabilities"):
            crf.free_energy(wrong)


def test_energies_are_a_copy(probs):
    crf = DenseCRF(probs)
    expected = crf.infer(2)
    crf.energies()[:] = 0
    np.testing.assert_array_equal(crf.infer(2), expected)
    np.testing.assert_allclose(crf.energies(), -np.log(probs / probs.sum(0)), rtol=0, atol=1e-5)


def test_steps_count_as_inference(probs):
    crf = DenseCRF(probs)
    crf.add_gaussian(sigma=3)
    *_, q = crf.steps(3)
    np.testing.assert_allclose(crf.free_energy(), crf.free_energy(q), rtol=1e-6)
    with pytest.raises(ParameterError, match="iterations"):
        crf.steps(-1)


def test_a_batch_is_written_into_one_result_of_its_dtype(probs, image):
    batch, images = np.stack([probs, probs[::-1]]), np.stack([image, image[::-1]])
    refined = refine(batch.astype(">f8"), images)
    assert refined.dtype == np.float64
    for one, values, picture in zip(refined, batch, images, strict=True):
        np.testing.assert_array_equal(one, refine(values, picture))
    assert refine(batch, images, return_="labels").dtype == np.uint8


@pytest.mark.parametrize("make", ["to_sparse", "meta"])
def test_tensors_without_dense_data(probs, image, make):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(probs)
    tensor = tensor.to_sparse() if make == "to_sparse" else tensor.to("meta")
    with pytest.raises(DtypeError, match="probs must be a dense tensor"):
        refine(tensor, image)


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    for name, text in {"limit": "1000", "usage": "900", "memory.stat": "cache 50\n"}.items():
        (tmp_path / name).write_text(text)
    group = (str(tmp_path / "limit"), "usage", "cache")
    monkeypatch.setattr(_memory, "_CONTROL_GROUPS", (group,))
    assert _memory.available() == 150
    (tmp_path / "limit").write_text("max")
    assert _memory.available() != 150
    monkeypatch.setattr(_memory, "available", lambda: 1 << 28)
    with pytest.raises(MemoryError, match=r"GiB"):
        PermutohedralLattice(np.broadcast_to(np.float32(0.5), (5, 2000, 2000)))
