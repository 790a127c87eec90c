"""The permutohedral lattice as a general high-dimensional Gaussian filter."""

from typing import Any

import numpy as np

from fastseg import _rust
from fastseg.crf import arrays, memory
from fastseg.crf.workspace import DEFAULT, Workspace
from fastseg.errors import DataError, ShapeError


class PermutohedralLattice:
    """A Gaussian filter over points with any number of features, in time linear in the points.

    The lattice is built once from the features and then filters any values of those points: the
    result at point i approximates Σⱼ exp(−½‖fᵢ − fⱼ‖²)·vⱼ, up to a constant factor, without
    normalisation (filter ones and divide for that).

    Args:
        features: (d, *shape) float, or (d, N): each feature divided by its standard deviation.
        workspace: where memory is kept between calls; by default one that all calls share.

    Raises:
        DtypeError: the features are not real numbers.
        ShapeError: there are no points or no features.
        DataError: a feature is NaN, infinite, or too large to be placed in the lattice (about 10⁵
            standard deviations).
        MemoryError: the lattice would not fit the memory that is available.

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
        array, _ = arrays.to_numpy(features)
        if array.dtype.kind not in "fiu":
            arrays.require_float("features", array, "convert them")
        if array.ndim < 2 or array.size == 0:
            raise ShapeError(
                f"features must be (d, *shape) with at least one feature and one point, "
                f"got shape {array.shape}"
            )
        self._shape = array.shape[1:]
        dimension, points = array.shape[0], array[0].size
        memory.require(points * (dimension * 20 + 16), f"a lattice of {points} points")
        rows = arrays.float32(array, dimension)
        try:
            self._rust = _rust.Lattice(rows, self._shape, (workspace or DEFAULT)._rust)
        except ValueError as error:
            raise feature_error(error) from None

    @property
    def dimension(self) -> int:
        """How many features a point has."""
        return self._rust.dimension

    @property
    def num_points(self) -> int:
        """How many points there are."""
        return self._rust.num_points

    @property
    def num_vertices(self) -> int:
        """How many lattice vertices the points touch."""
        return self._rust.num_vertices

    def filter(self, values: Any) -> Any:
        """Filters `values`: slice ∘ blur ∘ splat.

        Args:
            values: (C, *shape) or (*shape) float, of the shape of the features.

        Returns:
            The same shape, kind, dtype and device.

        Raises:
            DtypeError: the values are not floats.
            ShapeError: they are of another shape than the features.
        """
        return self._apply(values, transpose=False)

    def transpose(self, values: Any) -> Any:
        """Applies the exact adjoint of `filter`.

        That is, ⟨filter(a), b⟩ = ⟨a, transpose(b)⟩. It differs from `filter` where vertices are missing at the border of the occupied space.
        Arguments, result and errors are those of `filter`.
        """
        return self._apply(values, transpose=True)

    def _apply(self, values: Any, *, transpose: bool) -> Any:
        array, restore = arrays.to_numpy(values)
        arrays.require_float("values", array, "convert them")
        if array.shape != self._shape and array.shape[1:] != self._shape:
            raise ShapeError(
                f"values must be {self._shape} or (C, {', '.join(map(str, self._shape))}) as the "
                f"features are, got shape {array.shape}"
            )
        if array.size == 0:
            return restore(np.zeros(array.shape, np.float32))
        channels = 1 if array.shape == self._shape else array.shape[0]
        result = self._rust.filter(arrays.float32(array, channels), transpose)
        return restore(result.reshape(array.shape))


def feature_error(error: ValueError) -> Exception:
    """The engine's complaint about a feature, in words."""
    match error.args:
        case ("feature not finite", feature):
            return DataError(f"features[{feature}] holds NaN or infinity: remove or replace it")
        case ("feature out of range", feature, value, limit):
            return DataError(
                f"features[{feature}] reaches {value:.4g}, more than the {limit:.4g} up to which a "
                "32-bit float can place a point in the lattice: divide by a larger standard "
                "deviation, or subtract the mean"
            )
        case _:
            return DataError(str(error))
