"""Mean-field inference in torch, where the tensors are: what runs on a GPU.

The same steps as in the engine, on the lattices of `fastseg.ops`. Loaded only where torch is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastseg import ops
from fastseg._arrays import to_numpy
from fastseg._checks import positive_per
from fastseg.crf._arrays import channels_of
from fastseg.crf._inference import Progress
from fastseg.crf._kernels import Axis, Compatibility, Normalization
from fastseg.crf._tensor_lattice import UnfitError, placed

# The engine's: what keeps a normalisation finite where a point has no neighbour, the least that a
# probability counts as, and what is above one by more than rounding.
_TINY = 1e-20
_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
_LARGEST_PROBABILITY = 1.001


@dataclass(frozen=True)
class TensorKernel:
    """A normalised filter, and what it says about labels.

    Attributes:
        lattice: the filter.
        says: a number, (K) or (K, K) float32: what filtered probabilities add to the scores.
    """

    lattice: ops.PermutohedralLattice
    says: float | Tensor

    def add_messages(self, q: Tensor, scores: Tensor) -> Tensor:
        """The (N, K) scores plus the messages of the (N, K) probabilities."""
        if not isinstance(self.says, Tensor):
            return self.lattice.filter(q, scale=self.says, start=scores)
        q = q @ self.says if self.says.ndim == 2 else q * self.says
        return self.lattice.filter(q, start=scores)


def as_tensor(name: str, value: Any, kinds: str = "f") -> Tensor:
    """A tensor as it is, detached, and an array as one of float32.

    Args:
        name: what errors call it.
        value: array or tensor.
        kinds: of its dtype, as NumPy calls them.

    Raises:
        UnfitError: it is of another kind.
    """
    if isinstance(value, Tensor):
        is_float = value.is_floating_point()
        if not is_float and (kinds == "f" or value.is_complex() or value.dtype == torch.bool):
            raise UnfitError
        return value.detach()
    array, _ = to_numpy(name, value)
    if array.dtype.kind not in kinds:
        raise UnfitError
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(array, dtype=np.float32))


def feature_kernel(
    features: Tensor, compat: Compatibility, normalization: Normalization
) -> TensorKernel:
    """The kernel of (d, N) features.

    Raises:
        UnfitError: the engine must do it, or say what is wrong.
        BackendError: a backend that was asked for by name cannot do it.
    """
    lattice = _normalized(placed(features), normalization)
    if not isinstance(compat, np.ndarray):
        return TensorKernel(lattice, compat)
    says = torch.from_numpy(compat).to(features.device)
    return TensorKernel(lattice, -0.5 * (says + says.T) if says.ndim == 2 else says)


def positions(axes: Sequence[Axis], device: torch.device) -> Tensor:
    """Positions over their sigmas, (number of axes, N): x, y, z."""
    along = [np.arange(axis.size, dtype=np.float32) / np.float32(axis.pixels) for axis in axes]
    grid = torch.meshgrid([torch.from_numpy(x).to(device) for x in along], indexing="ij")
    return torch.stack(grid[::-1]).flatten(1)


def colors(
    image: Any,
    shape: tuple[int, ...],
    channel_axis: int | None,
    color_sigma: Any,
    device: torch.device,
) -> Tensor:
    """The channels of an image over their sigmas, (C, N) float32.

    Args:
        image: array or tensor, with or without channels.
        shape: of the N points.
        channel_axis: of the image; None finds out.
        color_sigma: one for all channels or one for each.
        device: where they are wanted.

    Raises:
        UnfitError: the image is of no real numbers.
        ShapeError: it is of another shape than the points.
        ParameterError: a sigma is not positive.
    """
    given = as_tensor("image", image, "uif")
    axis = channels_of(tuple(given.shape), shape, channel_axis)
    pixels = given.to(device).float()
    pixels = pixels[None] if axis is None else pixels.movedim(axis, 0)
    sigmas = positive_per("color_sigma", color_sigma, len(pixels), "channel")
    return pixels.flatten(1) / torch.tensor(sigmas, device=device)[:, None]


def scores_of_probs(rows: Tensor, clip: float) -> Tensor:
    """The scores −U, (N, K), of (K, N) float32 probabilities, which need not sum to one.

    Raises:
        UnfitError: one is no probability.
    """
    _require(((rows >= 0) & (rows <= _LARGEST_PROBABILITY)).all())
    sums = rows.sum(0)
    # The inverse of a smaller sum is infinite: such a point is undecided, as one of sum 0.
    share = rows * torch.where(sums >= _LEAST_PROBABILITY, 1 / sums, 0.0)
    return share.clamp(min=max(clip, _LEAST_PROBABILITY)).log().T.contiguous()


def scores_of_logits(rows: Tensor) -> Tensor:
    """The scores −U, (N, K), of (K, N) float32 logits, of which −inf forbids a label.

    Raises:
        UnfitError: one is NaN or +inf, or all of a point are −inf.
    """
    largest = rows.amax(0)
    _require(largest.isfinite().all())
    return (rows - largest).T.contiguous()


def sums_of_scores(q: Tensor, scores: Tensor, kernels: Sequence[TensorKernel]) -> Tensor:
    """The (N, K) scores plus the messages of all kernels."""
    for kernel in kernels:
        scores = kernel.add_messages(q, scores)
    return scores


def infer(
    scores: Tensor,
    kernels: Sequence[TensorKernel],
    *,
    iterations: int,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, int]:
    """Mean-field updates from the softmax of the scores.

    Args:
        scores: (N, K) float32, −U.
        kernels: what connects the points.
        iterations: the most updates.
        tolerance: the change of the free energy to stop at, in nats a point.
        progress: called after every update.

    Returns:
        (N, K) probabilities, and the number of updates done.
    """
    q = scores.softmax(1)
    energies: list[float] = []
    for done in range(1, iterations + 1):
        change = abs(energies[-1] - energies[-2]) if len(energies) > 1 else float("inf")
        sums = sums_of_scores(q, scores, kernels)
        if tolerance is not None:
            energies.append(free_energy(q, scores, sums) / len(q))
        q = sums.softmax(1)
        if progress is not None:
            progress(done, iterations)
        if tolerance is not None and change <= tolerance:
            return q, done
    return q, iterations


def free_energy(q: Tensor, scores: Tensor, sums: Tensor) -> float:
    """ΣQ·(ln Q + U) + ½ΣQ·messages(Q), in nats; `sums` are scores plus messages."""
    # Below, q·ln q is nothing, and the score may be infinite.
    terms = torch.where(q > _TINY, q * (q.log() - 0.5 * (scores + sums)), 0.0)
    return float(terms.sum(dtype=torch.float64))


def _normalized(
    lattice: ops.PermutohedralLattice, normalization: Normalization
) -> ops.PermutohedralLattice:
    if normalization == "none":
        return lattice
    response = lattice.filter(torch.ones(lattice.num_points, 1, device=lattice.corners.device))
    norm = response[:, 0] + _TINY
    factor = 1 / (norm.sqrt() if normalization == "symmetric" else norm)
    return lattice.scaled(
        before=None if normalization == "after" else factor,
        after=None if normalization == "before" else factor,
    )


def _require(is_valid: Tensor) -> None:
    if not bool(is_valid):
        raise UnfitError
