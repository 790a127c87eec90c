"""Lattices of tensors: what stands in for the engine's on a GPU. Loaded only where torch is."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastseg import ops
from fastseg.errors import BackendError, DataError, ShapeError
from fastseg.ops._backends import chosen_backend


class UnfitError(Exception):
    """Something that torch cannot take; the engine can, or says what is wrong with it."""


def placed(features: Tensor) -> ops.PermutohedralLattice:
    """The lattice of (d, N) features.

    Raises:
        UnfitError: the engine must do it, or say what is wrong.
        BackendError: a backend that was asked for by name cannot do it.
    """
    try:
        return ops.permutohedral_lattice(features)
    except (DataError, ShapeError) as error:
        raise UnfitError from error
    except BackendError as error:
        if chosen_backend():
            raise
        raise UnfitError from error


class TensorLattice:
    """What `PermutohedralLattice` holds for tensors, in the place of the engine's lattice.

    Args:
        features: (d, *shape) float.

    Raises:
        UnfitError: the engine must do it, or say what is wrong.
        BackendError: a backend that was asked for by name cannot do it.
    """

    def __init__(self, features: Tensor) -> None:
        if features.ndim < 2:
            raise UnfitError
        self._lattice = placed(features.flatten(1))

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
        """How many vertices the points touch."""
        return self._lattice.num_vertices

    @overload
    def filter(self, values: Tensor, transpose: bool) -> Tensor: ...

    @overload
    def filter(self, values: NDArray[np.float32], transpose: bool) -> NDArray[np.float32]: ...

    def filter(self, values: Any, transpose: bool) -> Any:
        """Filters (C, N) values on the device of the lattice; of an array, an array."""
        if isinstance(values, np.ndarray):
            return self.filter(torch.tensor(values), transpose).numpy(force=True)
        with torch.no_grad():
            columns = values.to(self._lattice.corners.device).T
            return self._lattice.filter(columns, transpose=transpose).T.contiguous()
