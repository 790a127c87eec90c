"""upsample_top_k and upsample_confidence: against torch and the definition, and what is refused."""

import numpy as np
import pytest

from fastseg.errors import DtypeError, ParameterError, ShapeError
from fastseg.labelmaps import upsample_argmax, upsample_confidence, upsample_top_k
from references.plain_upsample import plain_softmax, plain_upsample

torch = pytest.importorskip("torch")

# Of a probability: float32 softmax over up to 150 classes.
ATOL = 2e-6


def theirs(logits, size, k, align_corners=False):
    enlarged = torch.nn.functional.interpolate(
        torch.as_tensor(logits).float(), size=size, mode="bilinear", align_corners=align_corners
    )
    return enlarged.softmax(dim=1).topk(k, dim=1)


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(size=(2, 9, 6, 7)).astype(np.float32)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(24, 28), (6, 7), (100, 9), (4, 3), (17, 31)])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_like_torch(noise, size, k, align_corners):
    labels, probs = upsample_top_k(noise, size, k=k, align_corners=align_corners)
    expected = theirs(noise, size, k, align_corners)
    assert labels.shape == probs.shape == (2, k, *size)
    assert (labels.dtype, probs.dtype) == (np.uint8, np.float32)
    np.testing.assert_allclose(probs, expected.values.numpy(), atol=ATOL)
    np.testing.assert_array_equal(labels, expected.indices.numpy())
    np.testing.assert_array_equal(
        labels[:, 0], upsample_argmax(noise, size, align_corners=align_corners)
    )
    if k == 9:
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)


def test_like_the_definition(noise):
    enlarged = plain_upsample(noise[0], (11, 16))
    expected = -np.sort(-plain_softmax(enlarged), axis=0)[:4]
    labels, probs = upsample_top_k(noise[0], (11, 16), k=4)
    np.testing.assert_allclose(probs, expected, atol=ATOL)
    np.testing.assert_array_equal(labels, np.argsort(-enlarged, axis=0, kind="stable")[:4])


def test_many_classes_and_large_logits():
    logits = np.random.default_rng(1).normal(0, 40, (1, 300, 8, 9)).astype(np.float32)
    labels, probs = upsample_top_k(logits, (32, 36), k=5)
    expected = theirs(logits, (32, 36), 5)
    assert labels.dtype == np.uint16
    # Logits of ±150 are rounded to 1e-5.
    np.testing.assert_allclose(probs, expected.values.numpy(), atol=5e-5)
    surely = expected.values.numpy().min(axis=1) > 1e-6
    assert surely.any()
    at = np.broadcast_to(surely[:, np.newaxis], labels.shape)
    np.testing.assert_array_equal(labels[at], expected.indices.numpy()[at])


def test_ties_go_to_the_lowest_class():
    labels, probs = upsample_top_k(np.zeros((4, 3, 3), np.float32), (7, 7), k=3)
    assert (labels == np.arange(3)[:, np.newaxis, np.newaxis]).all()
    assert (probs == 0.25).all()


def test_confidence(noise):
    ids, confidence = upsample_confidence(noise, (24, 28))
    labels, probs = upsample_top_k(noise, (24, 28), k=1)
    np.testing.assert_array_equal(ids, labels[:, 0])
    np.testing.assert_array_equal(confidence, probs[:, 0])
    one = upsample_confidence(noise[0], (24, 28))
    np.testing.assert_array_equal(one.labels, ids[0])
    np.testing.assert_array_equal(one.confidence, confidence[0])
    assert (upsample_confidence(noise[:, :1], (5, 5)).confidence == 1).all()


def test_not_finite(noise):
    noise[0, 3, 2, 4] = np.nan
    noise[1, 5] = -np.inf
    noise[1, 2, 0, 0] = np.inf
    ids, confidence = upsample_confidence(noise, (24, 28))
    np.testing.assert_array_equal(ids, upsample_argmax(noise, (24, 28)))
    assert np.isnan(confidence[0, 7:13, 15:21]).all()
    assert (ids[0, 7:13, 15:21] == 3).all()
    assert np.isnan(confidence[1, :5, :5]).all()
    low = noise[1:].copy()
    low[:, 5], low[:, 2, 0, 0] = -1e4, 0
    clear = confidence[1, 6:, 6:]
    np.testing.assert_allclose(
        clear, upsample_confidence(low, (24, 28)).confidence[0, 6:, 6:], atol=ATOL
    )
    labels, probs = upsample_top_k(noise[1:], (24, 28), k=9)
    assert (labels[0, -1] == 5).all()
    assert (probs[0, -1, 6:, 6:] == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors(noise, dtype):
    tensor = torch.from_numpy(noise).to(getattr(torch, dtype))
    labels, probs = upsample_top_k(tensor, (12, 14), k=2)
    assert (labels.dtype, probs.dtype) == (torch.uint8, torch.float32)
    expected = theirs(tensor, (12, 14), 2)
    np.testing.assert_allclose(probs, expected.values, atol=ATOL)


def test_refusals(noise):
    for k in (0, 10):
        with pytest.raises(ParameterError, match="k must be at"):
            upsample_top_k(noise, (4, 4), k=k)
    with pytest.raises(DtypeError, match="k must be an integer"):
        upsample_top_k(noise, (4, 4), k=1.5)
    with pytest.raises(ShapeError, match="logits must be"):
        upsample_confidence(noise[0, 0], (4, 4))
    with pytest.raises(DtypeError, match="logits must be"):
        upsample_confidence(noise.astype(int), (4, 4))
