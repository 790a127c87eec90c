"""The permutohedral lattice as a general high-dimensional Gaussian filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastseg import _rust
from fastseg._arrays import is_tensor, require_float, to_numpy
from fastseg.crf import _memory
from fastseg.crf._arrays import computes_in_torch, float32_rows
from fastseg.crf._kernels import feature_error
from fastseg.crf.workspace import Workspace, engine_workspace
from fastseg.errors import ShapeError

if TYPE_CHECKING:
    from fastseg.crf._tensor_lattice import TensorLattice


class PermutohedralLattice:
    """A Gaussian filter over points with any number of features, in time linear in the points.

    The lattice is built once from the features and then filters any values of those points: the
    result at point i approximates Σⱼ exp(−½‖fᵢ − fⱼ‖²)·vⱼ, up to a constant factor, without
    normalisation (filter ones and divide for that).

    Args:
        features: (d, *shape) or (d, N), real numbers: each divided by its standard deviation.
        workspace: where memory is kept between calls; by default one that all calls share.

    Raises:
        DtypeError: the features are not real numbers.
        ShapeError: there are no points or no features, or more than fit.
        DataError: a feature is NaN, infinite, or too large to be placed in the lattice (about 10⁵
            standard deviations).
        MemoryError: the lattice would not fit the memory that is available (on a GPU it is
            PyTorch's OutOfMemoryError).
        BackendError: a backend that was asked for by name cannot do it.

    Convention:
        The lattice of a tensor on a CUDA device is there, and filters there. Nothing here is
        differentiable: `fastseg.ops.permutohedral_lattice` is, in the values.

    Source:
        Adams, Baek & Davis 2010. Same results as the lattice in pydensecrf.

    Example:
        >>> import numpy as np
        >>> from fastseg import crf
        >>> position = np.mgrid[0:4, 0:6].astype("float32") / 2.0
        >>> lattice = crf.PermutohedralLattice(position)
        >>> lattice.filter(np.ones((4, 6), "float32")).shape
        (4, 6)
    """

    def __init__(self, features: Any, *, workspace: Workspace | None = None) -> None:
        engine = engine_workspace(workspace)
        self._in_torch = _lattice_in_torch(features) if computes_in_torch(features) else None
        if self._in_torch is not None:
            self._lattice: _rust.Lattice | TensorLattice = self._in_torch
            self._shape = tuple(features.shape[1:])
            return
        array, _ = to_numpy("features", features)
        if array.dtype.kind not in "iu":
            require_float("features", array)
        if array.ndim < 2 or array.size == 0:
            raise ShapeError(
                f"features must be (d, *shape) with at least one feature and one point, "
                f"got shape {array.shape}"
            )
        self._shape = array.shape[1:]
        dimension, points = array.shape[0], array[0].size
        _memory.require(points * (dimension * 20 + 16), f"a lattice of {points} points")
        try:
            self._lattice = _rust.Lattice(float32_rows(array, dimension), self._shape, engine)
        except ValueError as error:
            raise feature_error(error) from None

    @property
    def dimension(self) -> int:
        """How many features a point has."""
        return self._lattice.dimension

    @property
    def num_points(self) -> int:
        """How many points there are."""
        return self._lattice.num_points

    @property
    def num_vertices(self) -> int:
        """How many lattice vertices the points touch."""
        return self._lattice.num_vertices

    def filter(self, values: Any) -> Any:
        """Filters `values`: slice ∘ blur ∘ splat.

        Args:
            values: (C, *shape) or (*shape) float, of the shape of the features.

        Returns:
            The same shape, kind, dtype and device. NaN and infinity spread to their surroundings.

        Raises:
            DtypeError: the values are not floats.
            ShapeError: they are of another shape than the features.
            MemoryError: the result would not fit the memory that is available.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> lattice = crf.PermutohedralLattice(np.array([[0.0, 0.1, 9.0]]))
            >>> q = lattice.filter(np.array([1.0, 0.0, 0.0]))
            >>> bool(q[0] > q[1] > 0.5), float(q[2])
            (True, 0.0)
        """
        return self._apply(values, transpose=False)

    def transpose(self, values: Any) -> Any:
        """Applies the exact adjoint of `filter`.

        That is, ⟨filter(a), b⟩ = ⟨a, transpose(b)⟩. It differs from `filter` where vertices are
        missing at the border of the occupied space.

        Args:
            values: (C, *shape) or (*shape) float, of the shape of the features.

        Returns:
            The same shape, kind, dtype and device. NaN and infinity spread to their surroundings.

        Raises:
            DtypeError: the values are not floats.
            ShapeError: they are of another shape than the features.
            MemoryError: the result would not fit the memory that is available.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> lattice = crf.PermutohedralLattice(np.linspace(0, 9, 20)[None])
            >>> a, b = np.eye(20)[3], np.eye(20)[5]
            >>> bool(np.isclose(lattice.filter(a) @ b, a @ lattice.transpose(b)))
            True
        """
        return self._apply(values, transpose=True)

    def _apply(self, values: Any, *, transpose: bool) -> Any:
        if self._in_torch is not None and is_tensor(values) and values.is_floating_point():
            channels = self._channels(tuple(values.shape))
            rows = values.detach().reshape(channels, self.num_points)
            return self._in_torch.filter(rows, transpose).reshape(values.shape).to(values)
        array, restore = to_numpy("values", values)
        require_float("values", array)
        channels = self._channels(array.shape)
        if array.size == 0:
            return restore(np.zeros(array.shape, np.float32))
        _memory.require(array.size * 8, f"filtering {array.size} values")
        result = self._lattice.filter(float32_rows(array, channels), transpose)
        return restore(result.reshape(array.shape))

    def _channels(self, values: tuple[int, ...]) -> int:
        """How many channels values of a shape have."""
        if values == self._shape:
            return 1
        if values[1:] != self._shape:
            raise ShapeError(
                f"values must be {self._shape} or (C, {', '.join(map(str, self._shape))}) as the "
                f"features are, got shape {values}"
            )
        return values[0]

    def __repr__(self) -> str:
        return (
            f"PermutohedralLattice(dimension={self.dimension}, num_points={self.num_points}, "
            f"num_vertices={self.num_vertices})"
        )


def _lattice_in_torch(features: Any) -> TensorLattice | None:
    """The lattice of tensors; None where the engine must do it, or say what is wrong."""
    from fastseg.crf._tensor_lattice import TensorLattice, UnfitError

    try:
        return TensorLattice(features)
    except UnfitError:
        return None
