"""Scores and images as the engine takes them."""

import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastseg._arrays import contiguous, is_tensor
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


def computes_in_torch(value: Any) -> bool:
    """Whether `value` is a tensor that torch computes with where it is, instead of the engine.

    That is a tensor of floats on a CUDA device, and on any device where `ops.use_backend` names
    another backend than "rust".
    """
    if not is_tensor(value) or not value.is_floating_point():
        return False
    if value.layout != sys.modules["torch"].strided:
        return False
    backends = sys.modules.get("fastseg.ops._backends")  # where it is not, nobody has named one
    chosen = "" if backends is None else backends.chosen_backend()
    return value.device.type == "cuda" if chosen == "" else chosen != "rust"


def channels_of(
    image: tuple[int, ...], shape: tuple[int, ...], channel_axis: int | None
) -> int | None:
    """Which axis of an image holds its channels; None if none does.

    Args:
        image: the shape of the image: (*shape), (*shape, C) or (C, *shape).
        shape: the shape of the points.
        channel_axis: where the channels are; None finds out, preferring last.

    Raises:
        DtypeError: `channel_axis` is no integer.
        ShapeError: the shapes do not match, or there are no channels.
    """
    last = len(image) - 1
    if channel_axis is not None:
        channel_axis = integer("channel_axis", channel_axis)
        if not -len(image) <= channel_axis <= last:
            raise ShapeError(f"channel_axis {channel_axis} is not an axis of image {image}")
    if image == shape:
        return None
    is_last = channel_axis in (None, last, -1) and image[:-1] == shape
    axis = last if is_last else (channel_axis or 0) % max(len(image), 1)
    if image[:axis] + image[axis + 1 :] != shape or 0 in image:
        raise ShapeError(
            f"image must have the shape {shape} of the points, with or without channels, "
            f"last or first (set channel_axis if in doubt), got {image}"
        )
    return axis


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
    axis = channels_of(image.shape, shape, channel_axis)
    rows = image[..., np.newaxis] if axis is None else np.moveaxis(image, axis, -1)
    keeps = rows.dtype.kind == "u" and rows.dtype.itemsize <= 2
    dtype = rows.dtype.newbyteorder("=") if keeps else np.dtype(np.float32)
    return contiguous(rows, dtype).reshape(-1, rows.shape[-1])
