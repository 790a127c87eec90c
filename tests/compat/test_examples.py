"""The uses that pydensecrf's own example, notebook and bug reports show, on its pictures."""

import os
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.data]

SCENES = [("im1", "anno1"), ("im1", "anno1-b"), ("im2", "anno2"), ("im3", "anno3")]


@pytest.fixture(scope="module")
def pictures():
    image = pytest.importorskip("PIL.Image")
    root = os.environ.get("FASTSEG_DATA")
    folder = Path(root or ".") / "pydensecrf_examples"
    if not root or not folder.is_dir():
        pytest.skip("FASTSEG_DATA has no pydensecrf_examples")

    def load(name):
        return np.array(image.open(folder / f"{name}.png").convert("RGB"))

    return load


def scribbles(annotation):
    """Labels 1, 2, … by color, 0 where black; the number of labels; whether any is black."""
    codes = annotation.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    colors, labels = np.unique(codes, return_inverse=True)
    unsure = colors[0] == 0
    return labels.reshape(codes.shape), len(colors) - int(unsure), bool(unsure)


def annotate(module, image, annotation, two_dimensional):
    """Spreads scribbles over the picture, with either of pydensecrf's two ways to set it up."""
    dcrf, utils = module.densecrf, module.utils
    labels, n_labels, unsure = scribbles(annotation)
    height, width = labels.shape
    unary = utils.unary_from_labels(labels, n_labels, gt_prob=0.7, zero_unsure=unsure)
    options = {"kernel": dcrf.DIAG_KERNEL, "normalization": dcrf.NORMALIZE_SYMMETRIC}
    if two_dimensional:
        crf = dcrf.DenseCRF2D(width, height, n_labels)
        crf.setUnaryEnergy(unary)
        crf.addPairwiseGaussian(sxy=(3, 3), compat=3, **options)
        crf.addPairwiseBilateral(sxy=(80, 80), srgb=(13, 13, 13), rgbim=image, compat=10, **options)
    else:
        crf = dcrf.DenseCRF(width * height, n_labels)
        crf.setUnaryEnergy(unary)
        near = utils.create_pairwise_gaussian(sdims=(3, 3), shape=image.shape[:2])
        crf.addPairwiseEnergy(near, compat=3, **options)
        alike = utils.create_pairwise_bilateral(
            sdims=(80, 80), schan=(13, 13, 13), img=image, chdim=2
        )
        crf.addPairwiseEnergy(alike, compat=10, **options)

    result = crf.inference(5)
    divergences = []
    q, tmp1, tmp2 = crf.startInference()
    for _ in range(3):
        divergences.append(crf.klDivergence(q))
        crf.stepInference(q, tmp1, tmp2)
    return np.array(result), np.argmax(result, axis=0).reshape(labels.shape), divergences


@pytest.mark.parametrize(("image", "annotation"), SCENES)
@pytest.mark.parametrize("two_dimensional", [True, False], ids=["2D", "features"])
def test_scribbles(peer, ours, pictures, image, annotation, two_dimensional):
    arguments = (pictures(image), pictures(annotation), two_dimensional)
    theirs, mine = annotate(peer, *arguments), annotate(ours, *arguments)
    np.testing.assert_allclose(mine[0], theirs[0], rtol=0, atol=1e-5)
    assert (mine[1] == theirs[1]).mean() >= 0.9999
    np.testing.assert_allclose(mine[2], theirs[2], rtol=1e-4)


@pytest.mark.parametrize("rows", [320, 319])
def test_scores_of_a_network(peer, ours, rows):
    # 21 classes, with the parameters of DeepLab v2; one row less leaves 3 points over.
    file = Path(os.environ.get("FASTSEG_DATA") or ".") / "msrc_unary" / "2_14_s.npz"
    if not file.is_file():
        pytest.skip("FASTSEG_DATA has no msrc_unary")
    with np.load(file) as data:
        image = np.ascontiguousarray(data["image"][:rows])
        probs = data["prob"][:rows].astype(np.float32).transpose(2, 0, 1)
    probs = np.ascontiguousarray(probs / probs.sum(axis=0))

    def run(module):
        crf = module.densecrf.DenseCRF2D(image.shape[1], image.shape[0], len(probs))
        crf.setUnaryEnergy(module.utils.unary_from_softmax(probs))
        crf.addPairwiseGaussian(sxy=1, compat=3)
        crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=image, compat=4)
        return np.array(crf.inference(10))

    mine, theirs = run(ours), run(peer)
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)
    assert (mine.argmax(0) == theirs.argmax(0)).mean() >= 0.9999


def test_image_with_many_channels(peer, ours, pictures):
    # Issue 26: only three channels go through addPairwiseBilateral, others through features.
    image = np.concatenate([pictures("im1")[:80, :101], pictures("im2")[:80, :101, :1]], axis=2)
    y, x = np.mgrid[:80, :101]
    foreground = 0.5 + 0.1 * np.exp(-((y - 40) ** 2 + (x - 50) ** 2) / 400)
    probs = np.stack([foreground, 1 - foreground])

    def run(module):
        crf = module.densecrf.DenseCRF2D(101, 80, 2)
        crf.setUnaryEnergy(module.utils.unary_from_softmax(probs))
        with pytest.raises(ValueError, match="create_pairwise_bilateral"):
            crf.addPairwiseBilateral(sxy=(10, 10), srgb=20, rgbim=image, compat=10)
        crf.addPairwiseEnergy(
            module.utils.create_pairwise_bilateral((10, 10), schan=20, img=image, chdim=2),
            compat=10,
        )
        return np.array(crf.inference(20))

    np.testing.assert_allclose(run(ours), run(peer), rtol=0, atol=1e-5)


def test_volume_and_wrong_shape(peer, ours, pictures):
    # Issue 29: a volume through features, and a unary that does not fit it.
    shape, n_labels = (7, 21, 19), 3
    gray = pictures("im1")[: 7 * 21, :19].mean(axis=2).reshape(shape)
    probs = np.stack([gray, 255 - gray, np.full(shape, 60.0)])
    probs /= probs.sum(axis=0)

    def run(module):
        crf = module.densecrf.DenseCRF(np.prod(shape), n_labels)
        with pytest.raises(ValueError, match="shape"):
            crf.setUnaryEnergy(module.utils.unary_from_softmax(probs[:, 1:]))
        crf.setUnaryEnergy(module.utils.unary_from_softmax(probs))
        crf.addPairwiseEnergy(
            module.utils.create_pairwise_gaussian(sdims=(1.0, 1.5, 2.0), shape=shape),
            compat=3,
            kernel=module.densecrf.FULL_KERNEL,
            normalization=module.densecrf.NORMALIZE_SYMMETRIC,
        )
        crf.addPairwiseEnergy(
            module.utils.create_pairwise_bilateral((3.0, 3.0, 3.0), 20.0, gray), compat=2
        )
        return np.array(crf.inference(5))

    np.testing.assert_allclose(run(ours), run(peer), rtol=0, atol=1e-5)
