"""What the drop-in modules accept as a buffer, and the errors for what they don't."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError

__all__ = [
    "AssertedParameterError",
    "BufferDtypeError",
    "BufferLayoutError",
    "LabelDtypeError",
    "LabelIndexError",
    "float_buffer",
    "typed_buffer",
]


class BufferDtypeError(DtypeError, ValueError):
    """An array's dtype is not the required one; pydensecrf raises ValueError for it."""


class BufferLayoutError(ShapeError):
    """An array is not laid out row by row in memory."""


class AssertedParameterError(ParameterError, AssertionError):
    """A parameter is out of its range; pydensecrf raises AssertionError for it."""


class LabelIndexError(LabelError, IndexError):
    """A label lies outside the range of classes; pydensecrf raises IndexError for it."""


class LabelDtypeError(DtypeError, IndexError):
    """Labels are not integers; pydensecrf raises IndexError for it."""


def typed_buffer(value: Any, name: str, dtype: type[np.generic], ndim: int) -> NDArray[Any]:
    """Views `value` as a C-contiguous array of exactly this dtype and number of axes.

    Nothing is converted: like pydensecrf, the drop-in modules say what is wrong and leave the
    conversion to the caller.

    Args:
        value: An array, or any object with the buffer protocol.
        name: The argument's name, for the message.
        dtype: The required dtype, in native byte order.
        ndim: The required number of axes.

    Returns:
        A view of `value`.

    Raises:
        DtypeError: `value` is None or has no buffer.
        BufferDtypeError: The dtype is another one.
        ShapeError: The number of axes is another one.
        BufferLayoutError: The array is not C-contiguous.
    """
    want = np.dtype(dtype)
    if value is None:
        raise DtypeError(f"{name} must be a {ndim}-D {want} array, not None")
    if not isinstance(value, np.ndarray):
        try:
            value = memoryview(value)
        except TypeError:
            raise DtypeError(
                f"{name} must be a {ndim}-D {want} array or buffer, got "
                f"{type(value).__name__}; convert it with np.asarray({name}, dtype=np.{want})"
            ) from None
    array = np.asarray(value)
    if array.ndim != ndim:
        raise ShapeError(f"{name} must have {ndim} dimensions, got {array.ndim}: {array.shape}")
    if array.dtype != want:
        # A mask of booleans has the same bytes as one of zeros and ones.
        if want == np.uint8 and array.dtype == np.bool_:
            array = array.view(np.uint8)
        else:
            raise BufferDtypeError(
                f"{name} must have dtype {want}, got {array.dtype.newbyteorder('=')}"
                f"{'' if array.dtype.isnative else ' in foreign byte order'}; "
                f"convert it with {name}.astype(np.{want})"
            )
    if not array.flags.c_contiguous:
        raise BufferLayoutError(
            f"{name} must be C-contiguous, got shape {array.shape} with strides "
            f"{array.strides}; copy it with np.ascontiguousarray({name})"
        )
    return array


def float_buffer(value: Any, name: str, ndim: int) -> NDArray[np.float32]:
    """Views `value` as a C-contiguous float32 array with `ndim` axes; see `typed_buffer`."""
    return typed_buffer(value, name, np.float32, ndim)
