"""Write golden_crf.npz: results of pydensecrf on small made-up inputs. Run: python make_golden.py.

Made with pydensecrf2 1.1 and numpy 2.4 on x86-64. Inputs are stored with the results, so that the
tests depend neither on pydensecrf nor on a random generator. `compat` is stored in fastseg's sign
(positive smooths); pydensecrf wants a 1-D one negated.

Keys of a case: NAME/unary (K, N), NAME/q0, q1, q5, q10 (K, N), NAME/kl (pydensecrf's "KL" after
five updates) and, for each kernel k, NAME/compat{k} and NAME/normalization{k}. A picture case holds
NAME/image (H, W, 3), its kernels are Gaussian(3) and bilateral(20, 13); a features case holds
NAME/features0 (d, N).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydensecrf.densecrf as dcrf

ITERATIONS = (0, 1, 5, 10)
NORMALIZATIONS = {
    "none": dcrf.NO_NORMALIZATION,
    "before": dcrf.NORMALIZE_BEFORE,
    "after": dcrf.NORMALIZE_AFTER,
    "symmetric": dcrf.NORMALIZE_SYMMETRIC,
}
SPATIAL_SIGMA, BILATERAL_SIGMA, COLOR_SIGMA = 3.0, 20.0, 13.0


def peer_compat(compat: Any) -> Any:
    """The same compat in pydensecrf's sign and type."""
    array = np.asarray(compat, np.float32)
    if array.ndim == 0:
        return float(array)
    return -array if array.ndim == 1 else array


def results(build: Any, num_labels: int, num_points: int) -> dict[str, np.ndarray]:
    """Q after 0, 1, 5 and 10 updates, and the KL after five."""
    out = {}
    for n in ITERATIONS:
        q = np.array(build().inference(n), np.float32)
        out[f"q{n}"] = q.reshape(num_labels, num_points)
    model = build()
    q, first, second = model.startInference()
    for _ in range(5):
        model.stepInference(q, first, second)
    out["kl"] = np.float64(model.klDivergence(q))
    return out


def random_unary(rng: np.random.Generator, num_labels: int, num_points: int) -> np.ndarray:
    probs = rng.dirichlet(np.ones(num_labels), num_points).T
    return np.ascontiguousarray(-np.log(np.clip(probs, 1e-5, 1)), dtype=np.float32)


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A dark disc on a bright ramp, with noise."""
    y, x = np.mgrid[:height, :width]
    disc = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (height / 3) ** 2
    base = np.stack([120 + 6 * x, 140 + 3 * y, 200 - 5 * x], -1) - 90 * disc[..., None]
    return np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)


def compat_of(rng: np.random.Generator, kind: str, num_labels: int, scale: float) -> Any:
    if kind == "scalar":
        return np.float32(scale)
    if kind == "vector":
        return (scale * rng.uniform(0.3, 1.5, num_labels)).astype(np.float32)
    return (scale * rng.uniform(-1, 1, (num_labels, num_labels))).astype(np.float32)


def picture_case(
    seed: int,
    height: int,
    width: int,
    labels: int,
    kind: str,
    normalization: str,
    darken: int = 1,
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    image = picture(rng, height, width) // darken
    unary = random_unary(rng, labels, height * width)
    small = 0.02 if normalization == "none" else 1.0
    compats = [compat_of(rng, kind, labels, s * small) for s in (3.0, 5.0)]

    def build() -> Any:
        model = dcrf.DenseCRF2D(width, height, labels)
        model.setUnaryEnergy(unary)
        norm = NORMALIZATIONS[normalization]
        model.addPairwiseGaussian(SPATIAL_SIGMA, peer_compat(compats[0]), normalization=norm)
        model.addPairwiseBilateral(
            BILATERAL_SIGMA, COLOR_SIGMA, image, peer_compat(compats[1]), normalization=norm
        )
        return model

    return {
        "image": image,
        "unary": unary,
        "compat0": compats[0],
        "compat1": compats[1],
        "normalization0": normalization,
        "normalization1": normalization,
        **results(build, labels, height * width),
    }


def features_case(seed: int, dimension: int, points: int, labels: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    features = np.ascontiguousarray(rng.normal(0, 1.2, (dimension, points)), dtype=np.float32)
    unary = random_unary(rng, labels, points)

    def build() -> Any:
        model = dcrf.DenseCRF(points, labels)
        model.setUnaryEnergy(unary)
        model.addPairwiseEnergy(features, compat=2.0)
        return model

    return {
        "unary": unary,
        "features0": features,
        "compat0": np.float32(2.0),
        "normalization0": "symmetric",
        **results(build, labels, points),
    }


def main() -> None:
    cases: dict[str, dict[str, Any]] = {}
    for seed, normalization in enumerate(NORMALIZATIONS):
        case = picture_case(seed, 12, 16, 3, "scalar", normalization)
        cases[f"picture_12x16_scalar_{normalization}"] = case
    cases["picture_8x9_vector_symmetric"] = picture_case(10, 8, 9, 4, "vector", "symmetric")
    cases["picture_8x9_matrix_symmetric"] = picture_case(11, 8, 9, 4, "matrix", "symmetric")
    cases["picture_10x10_matrix_before"] = picture_case(12, 10, 10, 2, "matrix", "before")
    # The number of points is no multiple of four: pydensecrf's extra points join the blur. They lie
    # at the origin of all features, so they count where the top left corner is dark.
    cases["picture_11x13_dark"] = picture_case(14, 11, 13, 3, "scalar", "symmetric", darken=4)
    for dimension in (1, 2, 3, 4, 6, 8):
        cases[f"features_d{dimension}"] = features_case(20 + dimension, dimension, 100, 3)
    flat = {f"{name}/{key}": v for name, case in cases.items() for key, v in case.items()}
    np.savez_compressed(Path(__file__).with_name("golden_crf.npz"), **flat)


if __name__ == "__main__":
    main()
