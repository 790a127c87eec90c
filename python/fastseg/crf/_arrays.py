"""Scores and images as the engine takes them."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastseg._arrays import contiguous
from fastseg._checks import integer
from fastseg.errors import DtypeError, ShapeError

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


def float32_rows(
    array: NDArray[Any], rows: int, *, always_copy: bool = False
) -> NDArray[np.float32]:
    """`array` as (rows, N) contiguous float32: itself if it can be, unless a copy is wanted.

    What float32 cannot hold becomes infinite, which the engine refuses where it matters.
    """
    if always_copy:
        with np.errstate(over="ignore"):
            return np.array(array, dtype=np.float32, order="C").reshape(rows, -1)
    return contiguous(array, np.float32).reshape(rows, -1)


def pixels(image: NDArray[Any], shape: tuple[int, ...], channel_axis: int | None) -> Pixels:
    """`image` as contiguous (N, C) of uint8, uint16 or float32: a view of itself if it can be.

    Args:
        image: (*shape), (*shape, C) or (C, *shape), a real dtype.
        shape: the shape of the N points.
        channel_axis: where the channels are; None finds out, preferring last.

    Raises:
        DtypeError: the dtype is not real, or `channel_axis` no integer.
        ShapeError: the shape does not match.
    """
    if image.dtype.kind not in "uif":
        raise DtypeError(
            f"image must be of a real number type (uint8, uint16, float32 …), got {image.dtype}"
        )
    last = image.ndim - 1
    if channel_axis is not None:
        channel_axis = integer("channel_axis", channel_axis)
        if not -image.ndim <= channel_axis <= last:
            raise ShapeError(f"channel_axis {channel_axis} is not an axis of image {image.shape}")
    if image.shape == shape:
        rows = image[..., np.newaxis]
    elif channel_axis in (None, last, -1) and image.shape[:-1] == shape:
        rows = image
    else:
        rows = np.moveaxis(image, channel_axis or 0, -1) if image.ndim else image
    if rows.shape[:-1] != shape or rows.size == 0:
        raise ShapeError(
            f"image must have the shape {shape} of the points, with or without channels, "
            f"last or first (set channel_axis if in doubt), got {image.shape}"
        )
    keeps = rows.dtype.kind == "u" and rows.dtype.itemsize <= 2
    dtype = rows.dtype.newbyteorder("=") if keeps else np.dtype(np.float32)
    return contiguous(rows, dtype).reshape(-1, rows.shape[-1])
