"""torch tensors in, torch tensors of the same dtype and device out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from crf.tolerances import q_atol
from fastseg.crf import DenseCRF, PermutohedralLattice, refine
from fastseg.errors import DataError, DtypeError
from references.pictures import made_up_image, made_up_probs

torch = pytest.importorskip("torch")

SHAPE = (13, 16)
DTYPES = ["float16", "bfloat16", "float32", "float64"]


def as_numpy(tensor):
    return tensor.detach().cpu().to(torch.float64).numpy()


@pytest.mark.parametrize("name", DTYPES)
def test_dtype_is_kept(name):
    dtype = getattr(torch, name)
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    given = torch.from_numpy(probs).to(dtype)
    actual = refine(given, torch.from_numpy(image))
    assert isinstance(actual, torch.Tensor)
    assert actual.dtype == dtype
    assert actual.device == given.device
    assert tuple(actual.shape) == probs.shape
    expected = refine(as_numpy(given), image)
    np.testing.assert_allclose(as_numpy(actual), expected, rtol=0, atol=q_atol(dtype))


def test_float32_gives_the_bits_of_numpy():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    actual = refine(torch.from_numpy(probs), torch.from_numpy(image))
    np.testing.assert_array_equal(actual.numpy(), refine(probs, image))


@pytest.mark.parametrize("mixed", ["numpy probs", "torch probs"])
def test_the_kind_follows_the_probabilities(mixed):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    expected = refine(probs, image)
    if mixed == "numpy probs":
        actual = refine(probs, torch.from_numpy(image))
        assert isinstance(actual, np.ndarray)
    else:
        actual = refine(torch.from_numpy(probs), image)
        assert isinstance(actual, torch.Tensor)
    np.testing.assert_array_equal(np.asarray(actual), expected)


@pytest.mark.parametrize("channels_first", [True, False])
def test_layouts(channels_first):
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    expected = refine(probs, image)
    stored = torch.from_numpy(np.ascontiguousarray(probs.transpose(1, 2, 0))).permute(2, 0, 1)
    assert not stored.is_contiguous()
    picture = torch.from_numpy(image)
    if channels_first:
        picture = picture.permute(2, 0, 1).contiguous()
    for float_picture in (picture, picture.float(), picture.to(torch.bfloat16)):
        if float_picture.dtype == torch.bfloat16:
            float_picture = picture.to(torch.float16)
        np.testing.assert_array_equal(refine(stored, float_picture).numpy(), expected)


def test_bfloat16_images():
    probs = torch.from_numpy(made_up_probs(3, SHAPE))
    image = torch.from_numpy(made_up_image(SHAPE)).to(torch.bfloat16)
    expected = refine(probs, image.to(torch.float32))
    np.testing.assert_array_equal(refine(probs, image).numpy(), expected.numpy())


def test_logits_batch_foreground_and_labels():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    tensor, picture = torch.from_numpy(probs), torch.from_numpy(image)
    refined = refine(tensor, picture)
    from_logits = refine(logits=tensor.log(), image=picture)
    np.testing.assert_allclose(from_logits.numpy(), refined.numpy(), rtol=0, atol=2e-5)
    batch = refine(torch.stack([tensor, tensor]), torch.stack([picture, picture]))
    np.testing.assert_array_equal(batch[1].numpy(), refined.numpy())
    labels = refine(tensor, picture, return_="labels")
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.numpy(), refined.numpy().argmax(0))
    foreground = refine(tensor[0], picture)
    np.testing.assert_array_equal(foreground.numpy(), refine(probs[0], image))


def test_tensors_that_require_grad_are_detached():
    """refine is not differentiable: what comes out is a constant, what went in is untouched."""
    given = torch.from_numpy(made_up_probs(3, SHAPE)).requires_grad_()
    actual = refine(given, torch.from_numpy(made_up_image(SHAPE)))
    assert not actual.requires_grad
    assert given.grad is None
    assert given.requires_grad
    expected = refine(given.detach().numpy(), made_up_image(SHAPE))
    np.testing.assert_array_equal(actual.numpy(), expected)


def test_inputs_are_not_written():
    given = torch.from_numpy(made_up_probs(3, SHAPE))
    before = given.clone()
    actual = refine(given, made_up_image(SHAPE))
    actual.zero_()
    assert torch.equal(given, before)


def test_bad_tensors():
    image = torch.from_numpy(made_up_image(SHAPE))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(DtypeError, match="probs"):
            refine(torch.zeros((3, *SHAPE), dtype=dtype), image)
    given = torch.from_numpy(made_up_probs(3, SHAPE))
    given[1, 2, 3] = float("nan")
    with pytest.raises(DataError, match="1, 2, 3"):
        refine(given, image)


def test_the_parts_take_tensors():
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    results = []
    for convert in (np.asarray, torch.from_numpy):
        crf = DenseCRF(convert(probs))
        crf.add_gaussian(sigma=3, compat=3)
        crf.add_bilateral(convert(image), sigma=20, color_sigma=13, compat=5)
        results.append(np.asarray(crf.infer(3)))
    np.testing.assert_array_equal(results[1], results[0])
    features = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    values = np.random.default_rng(1).normal(size=(2, 50)).astype(np.float32)
    expected = PermutohedralLattice(features).filter(values)
    lattice = PermutohedralLattice(torch.from_numpy(features))
    np.testing.assert_array_equal(np.asarray(lattice.filter(torch.from_numpy(values))), expected)


def test_numpy_users_never_import_torch():
    script = (
        "import sys, numpy as np; from fastseg.crf import refine; "
        "refine(np.full((2, 8, 8), .5, np.float32), np.zeros((8, 8, 3), np.uint8)); "
        "print('torch' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.gpu
def test_tensors_on_a_gpu_come_back_to_it():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    probs, image = made_up_probs(3, SHAPE), made_up_image(SHAPE)
    given = torch.from_numpy(probs).cuda()
    actual = refine(given, torch.from_numpy(image).cuda())
    assert actual.device == given.device
    np.testing.assert_array_equal(actual.cpu().numpy(), refine(probs, image))
