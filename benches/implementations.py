"""The implementations that the benchmarks compare, each from numpy in to numpy out.

All run the same problem: 5 iterations, Gaussian(3) with weight 3, bilateral(80, 13) with weight 10,
symmetric normalisation, probabilities clipped at 1e-5, float32.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from workloads import Case, Probabilities

ITERATIONS = 5
SPATIAL_SIGMA = 3.0
SPATIAL_WEIGHT = 3.0
BILATERAL_SIGMA = 80.0
COLOR_SIGMA = 13.0
BILATERAL_WEIGHT = 10.0
CLIP = 1e-5

# Agreement with pydensecrf that is asserted before anything is timed.
FASTSEG_TOLERANCE = 1e-5
TORCH_TOLERANCE = 1e-4
ARGMAX_AGREEMENT = 0.9999

Refine = Callable[[Case], Probabilities]


class DisagreementError(Exception):
    """Two implementations gave different answers, so their times mean nothing."""


@dataclass(frozen=True)
class Agreement:
    """How closely two results agree.

    Attributes:
        max_abs: Largest absolute difference of any probability.
        argmax_equal: Share of pixels that get the same label, in [0, 1].
        exact: How far the result and its rival are from the same computed in float64, where that
            was asked for because they are farther apart than the limit.
    """

    max_abs: float
    argmax_equal: float
    exact: tuple[float, float] | None = None

    @property
    def error(self) -> float:
        """What is held against the limit.

        The difference from the rival; but where the rival is shown to be farther from the values in
        float64 than the result is, the result's difference from those.
        """
        if self.exact is not None and self.exact[0] <= self.exact[1]:
            return self.exact[0]
        return self.max_abs


def _module(name: str) -> Any:
    # Imported on demand: a measurement must load only what it measures.
    return importlib.import_module(name)


def set_fastseg_threads(threads: int) -> None:
    """Set the number of threads of fastseg's pool."""
    _module("fastseg").set_num_threads(threads)


def clear_fastseg_cache() -> None:
    """Drop the lattices that fastseg keeps between calls."""
    _module("fastseg.crf").clear_cache()


def fastseg_build_info() -> dict[str, str | int]:
    """Return the version, instruction set and profile of the compiled engine."""
    info: dict[str, str | int] = _module("fastseg._rust").build_info()
    return info


def set_torch_threads(threads: int) -> None:
    """Set the number of threads of PyTorch's operators."""
    _module("torch").set_num_threads(threads)


def fastseg_refine(case: Case) -> Probabilities:
    """Run the public `fastseg.crf.refine`."""
    result: Probabilities = _module("fastseg.crf").refine(
        case.probs,
        case.image,
        iterations=ITERATIONS,
        spatial_weight=SPATIAL_WEIGHT,
        spatial_sigma=SPATIAL_SIGMA,
        bilateral_weight=BILATERAL_WEIGHT,
        bilateral_sigma=BILATERAL_SIGMA,
        color_sigma=COLOR_SIGMA,
        clip=CLIP,
    )
    return result


def pydensecrf_refine(case: Case) -> Probabilities:
    """Run the complete pydensecrf pipeline, as its README shows it."""
    densecrf = _module("pydensecrf.densecrf")
    labels, height, width = case.probs.shape
    crf = densecrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(_module("pydensecrf.utils").unary_from_softmax(case.probs, clip=CLIP))
    crf.addPairwiseGaussian(sxy=SPATIAL_SIGMA, compat=SPATIAL_WEIGHT)
    crf.addPairwiseBilateral(
        sxy=BILATERAL_SIGMA, srgb=COLOR_SIGMA, rgbim=case.image, compat=BILATERAL_WEIGHT
    )
    q: Probabilities = np.array(crf.inference(ITERATIONS)).reshape(case.probs.shape)
    return q


def torch_refine(case: Case) -> Probabilities:
    """Run the plain PyTorch reference."""
    torch = _module("torch")
    result: Probabilities = (
        _module("torch_reference")
        .refine(
            torch.from_numpy(case.probs),
            torch.from_numpy(case.image),
            iterations=ITERATIONS,
            spatial_weight=SPATIAL_WEIGHT,
            spatial_sigma=SPATIAL_SIGMA,
            bilateral_weight=BILATERAL_WEIGHT,
            bilateral_sigma=BILATERAL_SIGMA,
            color_sigma=COLOR_SIGMA,
            clip=CLIP,
        )
        .numpy()
    )
    return result


def with_exact(
    found: Agreement, case: Case, result: Probabilities, rival: Probabilities
) -> Agreement:
    """Add how far a result and its rival are from the same mean field in float64."""
    torch = _module("torch")
    exact = _module("torch_reference").refine(
        torch.from_numpy(case.probs),
        torch.from_numpy(case.image),
        iterations=ITERATIONS,
        spatial_weight=SPATIAL_WEIGHT,
        spatial_sigma=SPATIAL_SIGMA,
        bilateral_weight=BILATERAL_WEIGHT,
        bilateral_sigma=BILATERAL_SIGMA,
        color_sigma=COLOR_SIGMA,
        clip=CLIP,
        dtype=torch.float64,
    )
    ours, theirs = (
        max(float(np.abs(a - b).max()) for a, b in zip(one, exact.numpy(), strict=True))
        for one in (result, rival)
    )
    return replace(found, exact=(ours, theirs))


def agreement(result: Probabilities, expected: Probabilities) -> Agreement:
    """Compare two (K, H, W) results.

    Raises:
        DisagreementError: The shapes differ or a value is not finite.
    """
    if result.shape != expected.shape:
        raise DisagreementError(f"shape {result.shape} against {expected.shape}")
    if not np.isfinite(result).all():
        raise DisagreementError("the result has values that are not finite")
    worst = max(float(np.abs(a - b).max()) for a, b in zip(result, expected, strict=True))
    equal = float((result.argmax(axis=0) == expected.argmax(axis=0)).mean())
    return Agreement(worst, equal)


def require_agreement(
    result: Probabilities, expected: Probabilities, tolerance: float, name: str
) -> Agreement:
    """Compare two results and refuse to go on when they differ.

    Raises:
        DisagreementError: A probability differs by more than `tolerance`, or fewer than 99.99 % of
            the pixels get the same label.
    """
    measured = agreement(result, expected)
    if not (measured.max_abs <= tolerance and measured.argmax_equal >= ARGMAX_AGREEMENT):
        raise DisagreementError(
            f"{name}: differs from pydensecrf by {measured.max_abs:.2e} (limit {tolerance:.0e}), "
            f"same label on {measured.argmax_equal:.4%} (limit {ARGMAX_AGREEMENT:.2%})"
        )
    return measured
