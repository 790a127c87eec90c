"""The parts of a dense CRF as torch computes with them, on a GPU. Loaded only where torch is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastseg import _rust
from fastseg._arrays import require_float, to_numpy
from fastseg.crf._engine_model import EngineModel
from fastseg.crf._inference import Progress
from fastseg.crf._kernels import Compatibility, Normalization
from fastseg.crf._task import WeightedGrid
from fastseg.crf._tensor_lattice import UnfitError
from fastseg.crf._tensor_mean_field import (
    TensorKernel,
    as_tensor,
    colors,
    feature_kernel,
    free_energy,
    infer,
    positions,
    scores_of_logits,
    scores_of_probs,
    sums_of_scores,
)
from fastseg.errors import BackendError, DataError, ShapeError


class TensorModel:
    """Unary term and kernels of a `DenseCRF` of tensors; what it returns are (K, *shape) tensors.

    Args:
        value: (K, *shape) float: probabilities if `clip` is given, energies otherwise.
        clip: the least probability.
        workspace: of the engine, which says what is wrong with what cannot be used.

    Raises:
        UnfitError: the engine must say what is wrong.
    """

    def __init__(self, value: Tensor, clip: float | None, workspace: _rust.Workspace) -> None:
        if not 2 <= value.ndim <= 4 or value.numel() == 0:
            raise UnfitError
        self._workspace = workspace
        self._kernels: list[TensorKernel] = []
        self.num_labels, *shape = value.shape
        self.shape = tuple(shape)
        self._device = value.device
        with self._computing():
            rows = value.float().flatten(1)
            self._scores = scores_of_logits(-rows) if clip is None else scores_of_probs(rows, clip)
            # What the scores of a point lack to its energies.
            self._least = rows.amin(0) if clip is None else None

    @property
    def num_kernels(self) -> int:
        """How many kernels there are."""
        return len(self._kernels)

    def add_gaussian(self, grid: WeightedGrid, normalization: Normalization) -> None:
        """Adds a kernel over position."""
        axes, says = grid

        def features() -> Tensor:
            return positions(axes, self._device)

        self._add(features, says, normalization, lambda m: m.add_gaussian(grid, normalization))

    def add_bilateral(
        self,
        grid: WeightedGrid,
        image: Any,
        channel_axis: int | None,
        color_sigma: Any,
        normalization: Normalization,
    ) -> None:
        """Adds a kernel over position and colour."""
        axes, says = grid

        def features() -> Tensor:
            channels = colors(image, self.shape, channel_axis, color_sigma, self._device)
            return torch.cat([positions(axes, self._device), channels])

        self._add(
            features,
            says,
            normalization,
            lambda m: m.add_bilateral(grid, image, channel_axis, color_sigma, normalization),
        )

    def add_features(
        self,
        features: Any,
        says: Compatibility,
        normalization: Normalization,
        with_origin: bool = False,
    ) -> None:
        """Adds a kernel over features, (d, *shape)."""

        def rows() -> Tensor:
            given = as_tensor("features", features)
            if given.ndim == 0 or given.shape[1:] != self.shape or with_origin:
                raise UnfitError
            return given.to(self._device).float().flatten(1)

        self._add(
            rows,
            says,
            normalization,
            lambda m: m.add_features(features, says, normalization, with_origin),
        )

    def infer(
        self, iterations: int, tolerance: float | None, progress: Progress | None
    ) -> tuple[Tensor, int]:
        """Q after some updates, and how many they were."""
        with self._computing():
            q, done = infer(
                self._scores,
                self._kernels,
                iterations=iterations,
                tolerance=tolerance,
                progress=progress,
            )
            return self._shaped(q), done

    def update(self, q: Any) -> Tensor:
        """One update of Q."""
        with self._computing():
            return self._shaped(self._sums(self._q_rows(q), self._scores).softmax(1))

    def messages(self, q: Any) -> Tensor:
        """What Q adds to the energies."""
        with self._computing():
            return self._shaped(-self._sums(self._q_rows(q), torch.zeros_like(self._scores)))

    def free_energy(self, q: Any) -> float:
        """The free energy of Q, in nats."""
        with self._computing():
            rows = self._q_rows(q)
            # To the rounding of float16.
            if rows.min() < 0 or (rows.sum(1) - 1).abs().max() > 1e-2:
                raise DataError("q must be probabilities, summing to one over labels at each point")
            constant = 0.0 if self._least is None else float(self._least.sum(dtype=torch.float64))
            return free_energy(rows, self._scores, self._sums(rows, self._scores)) + constant

    def energies(self) -> Tensor:
        """The unary term as energies; a copy."""
        energies = -self._shaped(self._scores)
        return energies if self._least is None else energies + self._least.view(self.shape)

    def _sums(self, q: Tensor, scores: Tensor) -> Tensor:
        return sums_of_scores(q, scores, self._kernels)

    def _shaped(self, rows: Tensor) -> Tensor:
        return rows.T.contiguous().view(self.num_labels, *self.shape)

    def _q_rows(self, q: Any) -> Tensor:
        """`q` as contiguous (N, K)."""
        try:
            given = as_tensor("q", q)
        except UnfitError:
            require_float("q", to_numpy("q", q)[0])
            raise
        expected = (self.num_labels, *self.shape)
        if given.shape != expected:
            raise ShapeError(f"q must be {expected}, got shape {tuple(given.shape)}")
        rows = given.to(self._device).float().flatten(1).T.contiguous()
        if not rows.isfinite().all():
            raise DataError("q must be finite, got NaN or infinity")
        return rows

    def _add(
        self,
        features: Callable[[], Tensor],
        says: Compatibility,
        normalization: Normalization,
        on_engine: Callable[[EngineModel], None],
    ) -> None:
        """Adds the kernel of features, or raises what the engine says of them."""
        try:
            with self._computing():
                self._kernels.append(feature_kernel(features(), says, normalization))
        except UnfitError:
            energies = torch.zeros(self.num_labels, *self.shape)
            on_engine(EngineModel("unary", energies, None, self._workspace))
            raise BackendError(
                "the vertices of this kernel need more bits than the 63 that tensors have: give "
                "DenseCRF an array, or take larger standard deviations"
            ) from None

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            yield
