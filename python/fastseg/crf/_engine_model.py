"""The parts of a dense CRF as the engine computes with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg._arrays import require_float, to_numpy
from fastseg._checks import positive_per
from fastseg.crf._arrays import float32_rows, pixels
from fastseg.crf._inference import Progress, infer, require_memory
from fastseg.crf._kernels import (
    Compatibility,
    Normalization,
    bilateral_kernel,
    feature_kernel,
    gaussian_kernel,
)
from fastseg.crf._task import WeightedGrid
from fastseg.crf._unary import Unary
from fastseg.errors import DataError, ShapeError


class EngineModel:
    """Unary term and kernels of a `DenseCRF` on a CPU; what it returns are (K, *shape) arrays.

    Args:
        name: what errors call the unary term.
        value: (K, *shape) probabilities if `clip` is given, energies otherwise.
        clip: the least probability.
        workspace: where memory is kept.
    """

    def __init__(
        self, name: str, value: Any, clip: float | None, workspace: _rust.Workspace
    ) -> None:
        self._workspace = workspace
        self._kernels: list[tuple[_rust.Kernel, Compatibility]] = []
        self._unary = self._checked_unary(name, value, clip)
        self._energies: NDArray[np.float32] | None = None

    @property
    def num_labels(self) -> int:
        """How many labels there are."""
        return len(self._unary.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the points."""
        return self._unary.shape

    @property
    def num_kernels(self) -> int:
        """How many kernels there are."""
        return len(self._kernels)

    def set_unary(self, energies: Any) -> None:
        """Puts energies of the same shape in the place of the unary term; kernels stay."""
        array, _ = to_numpy("unary", energies)
        self._require_shape("unary", array.shape)
        self._unary = self._checked_unary("unary", array, None)
        self._energies = None

    def add_gaussian(self, grid: WeightedGrid, normalization: Normalization) -> None:
        """Adds a kernel over position."""
        axes, says = grid
        kernel = gaussian_kernel(axes, normalization=normalization, workspace=self._workspace)
        self._kernels.append((kernel, says))

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
        colors = pixels(to_numpy("image", image)[0], self.shape, channel_axis)
        sigmas = positive_per("color_sigma", color_sigma, colors.shape[1], "channel")
        kernel = bilateral_kernel(
            axes, colors, sigmas, normalization=normalization, workspace=self._workspace
        )
        self._kernels.append((kernel, says))

    def add_features(
        self,
        features: Any,
        says: Compatibility,
        normalization: Normalization,
        with_origin: bool = False,
    ) -> None:
        """Adds a kernel over features, (d, *shape)."""
        array, _ = to_numpy("features", features)
        require_float("features", array)
        if array.ndim == 0 or array.shape[1:] != self.shape or len(array) == 0:
            expected = ", ".join(map(str, self.shape))
            raise ShapeError(f"features must be (d, {expected}), got shape {array.shape}")
        kernel = feature_kernel(
            float32_rows(array, len(array)),
            self.shape,
            normalization=normalization,
            workspace=self._workspace,
            with_origin=with_origin,
        )
        self._kernels.append((kernel, says))

    def infer(
        self, iterations: int, tolerance: float | None, progress: Progress | None
    ) -> tuple[NDArray[np.float32], int]:
        """Q after some updates, and how many they were."""
        q, done = infer(
            self._unary,
            self._kernels,
            iterations=iterations,
            tolerance=tolerance,
            progress=progress,
            workspace=self._workspace,
        )
        return self._shaped(q), done

    def update(self, q: Any) -> NDArray[np.float32]:
        """One update of Q."""
        return self._shaped(
            _rust.update(
                self._energy_rows(),
                self._q_rows(q),
                self.shape,
                kernels=self._kernels,
                workspace=self._workspace,
            )
        )

    def messages(self, q: Any) -> NDArray[np.float32]:
        """What Q adds to the energies."""
        return self._shaped(
            _rust.messages(
                self._q_rows(q), self.shape, kernels=self._kernels, workspace=self._workspace
            )
        )

    def free_energy(self, q: Any) -> float:
        """The free energy of Q, in nats."""
        rows = self._q_rows(q)
        # To the rounding of float16.
        if rows.min() < 0 or np.abs(rows.sum(0) - 1).max() > 1e-2:
            raise DataError("q must be probabilities, summing to one over labels at each point")
        return _rust.free_energy(
            self._energy_rows(),
            rows,
            self.shape,
            kernels=self._kernels,
            workspace=self._workspace,
        )

    def energies(self) -> NDArray[np.float32]:
        """The unary term as energies; a copy."""
        return self._shaped(self._energy_rows().copy())

    def _shaped(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return rows.reshape(self.num_labels, *self.shape)

    def _require_shape(self, name: str, shape: tuple[int, ...]) -> None:
        expected = (self.num_labels, *self.shape)
        if shape != expected:
            raise ShapeError(f"{name} must be {expected}, got shape {shape}")

    def _checked_unary(self, name: str, value: Any, clip: float | None) -> Unary:
        """A copy of `value` as a unary term: the caller may reuse its array."""
        array, _ = to_numpy(name, value)
        require_float(name, array)
        if not 2 <= array.ndim <= 4 or array.size == 0:
            raise ShapeError(
                f"{name} must be (K, *shape) with at least one label and one point, of one to "
                f"three axes, got shape {array.shape}"
            )
        require_memory(len(array), array.shape[1:])
        rows = float32_rows(array, len(array), always_copy=True)
        unary = Unary(rows, array.shape[1:], clip, name, given=rows.reshape(array.shape))
        # What cannot be used shows now rather than at the first inference.
        infer(unary, [], iterations=0, labels=True, workspace=self._workspace)
        return unary

    def _energy_rows(self) -> NDArray[np.float32]:
        """The energies, (K, N), computed once."""
        if self._energies is None:
            self._energies = self._unary.energies()
        return self._energies

    def _q_rows(self, q: Any) -> NDArray[np.float32]:
        """`q` as contiguous (K, N)."""
        array, _ = to_numpy("q", q)
        require_float("q", array)
        self._require_shape("q", array.shape)
        rows = float32_rows(array, self.num_labels)
        if not np.isfinite(rows).all():
            raise DataError("q must be finite, got NaN or infinity")
        return rows
