"""Agreement with live pydensecrf on real photographs: Q within 1e-5, argmax on 99.99 %."""

from __future__ import annotations

import numpy as np
import pytest

from crf.tolerances import ARGMAX_SHARE, Q_ATOL
from fastseg.crf import refine

pytestmark = [pytest.mark.data]


def read(path, mode="RGB"):
    image_module = pytest.importorskip("PIL.Image")
    if not path.is_file():
        pytest.skip(f"{path.name} is not in FASTSEG_DATA")
    with image_module.open(path) as picture:
        return np.array(picture.convert(mode) if mode else picture)


def whole_fours(image, labels):
    """Cut a row or columns off until the number of pixels is a multiple of four."""
    while image.shape[0] * image.shape[1] % 4:
        image, labels = image[:, :-1], labels[..., :-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def soft_labels(labels, num_labels, sure, seed=0):
    """Probabilities from labels, blurred and with noise: the truth is likely, not certain."""
    rng = np.random.default_rng(seed)
    probs = np.full((num_labels, *labels.shape), (1 - sure) / (num_labels - 1), np.float32)
    np.put_along_axis(probs, labels[None].astype(np.int64), np.float32(sure), axis=0)
    probs *= rng.uniform(0.5, 1.5, probs.shape).astype(np.float32)
    return probs / probs.sum(axis=0)


def compare(probs, image, *, iterations=5, sxy=80.0, srgb=13.0, weights=(3.0, 10.0)):
    dcrf = pytest.importorskip("pydensecrf.densecrf")
    utils = pytest.importorskip("pydensecrf.utils")
    num_labels, height, width = probs.shape
    assert height * width % 4 == 0
    peer = dcrf.DenseCRF2D(width, height, num_labels)
    peer.setUnaryEnergy(utils.unary_from_softmax(probs))
    peer.addPairwiseGaussian(sxy=3, compat=weights[0])
    peer.addPairwiseBilateral(sxy=sxy, srgb=srgb, rgbim=image, compat=weights[1])
    expected = np.array(peer.inference(iterations)).reshape(probs.shape)
    actual = refine(
        probs,
        image,
        iterations=iterations,
        bilateral_sigma=sxy,
        color_sigma=srgb,
        spatial_weight=weights[0],
        bilateral_weight=weights[1],
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=Q_ATOL["float32"])
    assert (actual.argmax(0) == expected.argmax(0)).mean() >= ARGMAX_SHARE
    # The CRF did something.
    assert (actual.argmax(0) != probs.argmax(0)).mean() > 1e-4


@pytest.mark.parametrize("name", ["2007_000033", "2007_000129", "2007_000332", "2007_000346"])
def test_voc(data, name):
    image = read(data / "voc_convcrf" / f"{name}_0img.png")
    labels = read(data / "voc_convcrf" / f"{name}_5labels.png", None)
    if labels.ndim == 3:
        _, labels = np.unique(labels.reshape(-1, labels.shape[-1]), axis=0, return_inverse=True)
        labels = labels.reshape(image.shape[:2])
    _, labels = np.unique(labels, return_inverse=True)
    image, labels = whole_fours(image, labels.reshape(image.shape[:2]))
    compare(soft_labels(labels, 21, 0.3), image)


def test_msrc_unary(data):
    path = data / "msrc_unary" / "2_14_s.npz"
    if not path.is_file():
        pytest.skip("no msrc_unary in FASTSEG_DATA")
    stored = np.load(path)
    probs = stored["prob"].astype(np.float32).transpose(2, 0, 1)
    image = stored["image"]
    if image.shape[:2] != probs.shape[1:]:
        image = image.transpose(1, 0, 2)
    image, probs = whole_fours(image, probs)
    compare(probs / probs.sum(0), np.ascontiguousarray(image))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_annotations_of_the_pydensecrf_examples(data, number):
    folder = data / "pydensecrf_examples"
    image = read(folder / f"im{number}.png")
    annotation = read(folder / f"anno{number}.png").astype(np.int64)
    codes = annotation[..., 0] + 256 * annotation[..., 1] + 65536 * annotation[..., 2]
    colors, labels = np.unique(codes, return_inverse=True)
    labels = labels.reshape(image.shape[:2])
    unknown = colors[0] == 0
    num_labels = len(colors) - int(unknown)
    if num_labels < 2:
        num_labels, unknown = len(colors), False
    image, labels = whole_fours(image, labels)
    if unknown:
        known = labels > 0
        probs = soft_labels(np.maximum(labels - 1, 0), num_labels, 0.7)
        probs = np.where(known, probs, np.float32(1 / num_labels)).astype(np.float32)
    else:
        probs = soft_labels(labels, num_labels, 0.7)
    compare(probs, image)
