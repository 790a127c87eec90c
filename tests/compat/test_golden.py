"""The drop-in against frozen results of pydensecrf: needs no pydensecrf to be installed."""

from pathlib import Path

import numpy as np
import pytest

GOLDEN = np.load(Path(__file__).resolve().parents[1] / "golden" / "golden_crf.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files})
NORMALIZATIONS = {
    "none": "NO_NORMALIZATION",
    "before": "NORMALIZE_BEFORE",
    "after": "NORMALIZE_AFTER",
    "symmetric": "NORMALIZE_SYMMETRIC",
}


def build(dcrf, case):
    """The CRF of a case, with the parameters that the script beside the golden file states."""
    data = {key.split("/")[1]: GOLDEN[key] for key in GOLDEN.files if key.split("/")[0] == case}

    def kernel(k):
        # Stored in the sign of fastseg.crf: a vector that smooths is positive there.
        compat = np.float32(1) * data[f"compat{k}"]
        compat = -compat if compat.ndim == 1 else float(compat) if compat.ndim == 0 else compat
        return {
            "compat": compat,
            "normalization": getattr(dcrf, NORMALIZATIONS[str(data[f"normalization{k}"])]),
        }

    labels, points = data["unary"].shape
    if "image" in data:
        height, width, _ = data["image"].shape
        crf = dcrf.DenseCRF2D(width, height, labels)
        crf.addPairwiseGaussian(3, **kernel(0))
        crf.addPairwiseBilateral(20, 13, data["image"], **kernel(1))
    else:
        crf = dcrf.DenseCRF(points, labels)
        crf.addPairwiseEnergy(data["features0"], **kernel(0))
    crf.setUnaryEnergy(data["unary"])
    return crf, data


@pytest.mark.parametrize("case", CASES)
def test_inference(ours, case):
    crf, data = build(ours.densecrf, case)
    for niter in (0, 1, 5, 10):
        np.testing.assert_allclose(
            np.array(crf.inference(niter)), data[f"q{niter}"], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("case", CASES)
def test_steps_and_divergence(ours, case):
    crf, data = build(ours.densecrf, case)
    q, tmp1, tmp2 = crf.startInference()
    for _ in range(5):
        crf.stepInference(q, tmp1, tmp2)
    np.testing.assert_allclose(np.array(q), data["q5"], rtol=0, atol=1e-5)
    assert crf.klDivergence(q) == pytest.approx(float(data["kl"]), rel=1e-4, abs=1e-3)
