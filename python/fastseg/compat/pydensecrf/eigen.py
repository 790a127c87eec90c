"""Matrices and vectors as pydensecrf's `eigen` module hands them out.

`MatrixXf` and `VectorXf` are float32 arrays that support the buffer protocol; `np.array(Q)` makes
a copy and `np.asarray(Q)` a view, which follows when `DenseCRF.stepInference` updates `Q`.

Convention: A `MatrixXf` is (rows, columns), laid out row by row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.compat.pydensecrf._buffers import float_buffer

__all__ = ["MatrixXf", "VectorXf", "matrixXf", "vectorXf"]


def _plain(value: Any) -> Any:
    """Turns every wrapped array inside `value` into an ordinary one."""
    if isinstance(value, _Wrapped):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(_plain(item) for item in value)
    return value


class _Wrapped(np.ndarray):
    """A float32 array whose only special behaviour is its type.

    Whatever is computed from it is an ordinary array, as it is with pydensecrf's opaque matrices.
    """

    _NDIM = 0

    def __new__(cls, *_: object, **__: object) -> "_Wrapped":
        return np.empty((0,) * cls._NDIM, dtype=np.float32).view(cls)

    @classmethod
    def _wrap(cls, array: NDArray[np.float32]) -> Any:
        return array.view(cls)

    def __getitem__(self, key: Any) -> Any:
        return self.view(np.ndarray)[key]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        kwargs = {name: _plain(value) for name, value in kwargs.items()}
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return func(*_plain(args), **{name: _plain(value) for name, value in kwargs.items()})


class MatrixXf(_Wrapped):
    """A float32 matrix; `MatrixXf()` is the empty one."""

    _NDIM = 2


class VectorXf(_Wrapped):
    """A float32 vector; `VectorXf()` is the empty one."""

    _NDIM = 1


def matrixXf(arr: Any) -> MatrixXf:  # noqa: N802
    """Copies a C-contiguous float32 array into a `MatrixXf`.

    Args:
        arr: (rows, columns) float32.

    Returns:
        A copy, for example to start `DenseCRF.stepInference` from another distribution.

    Raises:
        ShapeError: `arr` is not 2-D or not C-contiguous.
        DtypeError: `arr` is no array, or not float32 (also a ValueError then).
    """
    return MatrixXf._wrap(float_buffer(arr, "arr", 2).copy())  # type: ignore[no-any-return]


def vectorXf(arr: Any) -> VectorXf:  # noqa: N802
    """Copies a C-contiguous float32 array into a `VectorXf`.

    Args:
        arr: (n,) float32.

    Returns:
        A copy.

    Raises:
        ShapeError: `arr` is not 1-D or not C-contiguous.
        DtypeError: `arr` is no array, or not float32 (also a ValueError then).
    """
    return VectorXf._wrap(float_buffer(arr, "arr", 1).copy())  # type: ignore[no-any-return]
