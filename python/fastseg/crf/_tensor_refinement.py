"""Refinement in torch, where the probabilities are: what `refine` does on a GPU.

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
from fastseg._checks import positive_per
from fastseg.crf._arrays import channels_of
from fastseg.crf._kernels import Axis, Compatibility, Normalization
from fastseg.crf._task import Task
from fastseg.crf._tensor_lattice import UnfitError, placed

# The engine's: what keeps a normalisation finite where a point has no neighbour, the least that a
# probability counts as, and what is above one by more than rounding.
_TINY = 1e-20
_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
_LARGEST_PROBABILITY = 1.001


def refine(task: Task, scores: Tensor, images: Any) -> Tensor:
    """Does a task.

    Args:
        task: what is to be done.
        scores: as `task.layout` describes them, of any float dtype.
        images: for each item one, array or tensor; None if there is none.

    Returns:
        What `fastseg.crf.refine` returns, on the device of the scores.

    Raises:
        UnfitError: the values cannot be used, or not here.
    """
    device = scores.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        spatial = _spatial_kernel(task, device)
        if task.layout.batch is None:
            return _refined(task, scores, images, spatial)
        pictures = [None] * len(scores) if images is None else images
        items = [_refined(task, *item, spatial) for item in zip(scores, pictures, strict=True)]
        return torch.stack(items)


@dataclass(frozen=True)
class _Kernel:
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


def _refined(task: Task, given: Tensor, picture: Any, spatial: _Kernel | None) -> Tensor:
    """The result for one item."""
    kernels = [] if spatial is None else [spatial]
    if picture is not None:
        # Checked even where the weight is zero: a wrong image is a mistake all the same.
        colors = _pixels(picture, task, given.device)
        sigmas = positive_per("color_sigma", task.color_sigma, colors.shape[1], "channel")
        if task.bilateral is not None:
            axes, compat = task.bilateral
            channels = colors.T / torch.tensor(sigmas, device=given.device)[:, None]
            features = torch.cat([_positions(axes, given.device), channels])
            kernels.append(_kernel(features, compat, task.normalization))
    q = _infer(_scores(task, given), kernels, task)
    if task.wants_labels:
        labels = q.argmax(1).to(torch.uint8 if q.shape[1] <= 256 else torch.int32)
        return labels.view(task.layout.shape)
    kept = q[:, 1] if task.layout.is_foreground else q.T
    return kept.to(given.dtype).contiguous().view(given.shape)


def _infer(scores: Tensor, kernels: Sequence[_Kernel], task: Task) -> Tensor:
    """Mean-field updates of the (N, K) scores −U, from their softmax."""
    q = scores.softmax(1)
    energies: list[float] = []
    for done in range(1, task.iterations + 1):
        change = abs(energies[-1] - energies[-2]) if len(energies) > 1 else float("inf")
        sums = scores
        for kernel in kernels:
            sums = kernel.add_messages(q, sums)
        if task.tolerance is not None:
            energies.append(_free_energy(q, scores, sums))
        q = sums.softmax(1)
        if task.progress is not None:
            task.progress(done, task.iterations)
        if task.tolerance is not None and change <= task.tolerance:
            break
    return q


def _free_energy(q: Tensor, scores: Tensor, sums: Tensor) -> float:
    """ΣQ·(ln Q + U) + ½ΣQ·messages(Q), in nats a point; `sums` are scores plus messages."""
    # Below, q·ln q is nothing, and the score may be infinite.
    terms = torch.where(q > _TINY, q * (q.log() - 0.5 * (scores + sums)), 0.0)
    return float(terms.sum(dtype=torch.float64)) / len(q)


def _scores(task: Task, given: Tensor) -> Tensor:
    """The scores −U of one item, (N, K) float32."""
    points = task.layout.shape
    rows = given.float().reshape(1 if given.shape == points else len(given), -1)
    if task.are_logits:
        rows = torch.cat([torch.zeros_like(rows), rows]) if len(rows) == 1 else rows
        largest = rows.amax(0)
        _require(largest.isfinite().all())
        return (rows - largest).T.contiguous()
    _require(((rows >= 0) & (rows <= _LARGEST_PROBABILITY)).all())
    rows = torch.cat([(1 - rows).clamp(min=0), rows]) if len(rows) == 1 else rows
    sums = rows.sum(0)
    share = rows * torch.where(sums > 0, 1 / sums, 0.0)
    return share.clamp(min=max(task.clip, _LEAST_PROBABILITY)).log().T.contiguous()


def _spatial_kernel(task: Task, device: torch.device) -> _Kernel | None:
    if task.spatial is None:
        return None
    axes, compat = task.spatial
    return _kernel(_positions(axes, device), compat, task.normalization)


def _kernel(features: Tensor, compat: Compatibility, normalization: Normalization) -> _Kernel:
    """The kernel of (d, N) features."""
    lattice = _normalized(placed(features), normalization)
    if not isinstance(compat, np.ndarray):
        return _Kernel(lattice, compat)
    says = torch.from_numpy(compat).to(features.device)
    return _Kernel(lattice, -0.5 * (says + says.T) if says.ndim == 2 else says)


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


def _positions(axes: Sequence[Axis], device: torch.device) -> Tensor:
    """Positions over their sigmas, (number of axes, N): x, y, z."""
    along = [np.arange(axis.size, dtype=np.float32) / np.float32(axis.pixels) for axis in axes]
    grid = torch.meshgrid([torch.from_numpy(x).to(device) for x in along], indexing="ij")
    return torch.stack(grid[::-1]).flatten(1)


def _pixels(image: Any, task: Task, device: torch.device) -> Tensor:
    """One image as (N, C) float32."""
    if not isinstance(image, Tensor):
        if image.dtype.kind not in "uif":
            raise UnfitError
        with np.errstate(over="ignore"):
            image = torch.from_numpy(np.array(image, dtype=np.float32))
    if image.dtype == torch.bool or image.is_complex():
        raise UnfitError
    axis = channels_of(tuple(image.shape), task.layout.shape, task.channel_axis)
    pixels: Tensor = image.detach().to(device).float()
    pixels = pixels[..., None] if axis is None else pixels.movedim(axis, -1)
    return pixels.reshape(-1, pixels.shape[-1])


def _require(is_valid: Tensor) -> None:
    if not bool(is_valid):
        raise UnfitError
