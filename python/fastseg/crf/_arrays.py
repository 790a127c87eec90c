"""Arrays in, arrays out: NumPy or PyTorch, any float type, any memory layout."""

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastseg.crf._checks import integer
from fastseg.errors import DataError, DtypeError, ShapeError

Restore: TypeAlias = Callable[[NDArray[Any]], Any]
Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]


def to_numpy(name: str, value: Any) -> tuple[NDArray[Any], Restore]:
    """`value` as a NumPy array, and what turns a result back into the same kind, dtype and device.

    Labels (unsigned integers) keep their own dtype. A torch tensor is detached: nothing here
    is differentiable.

    Args:
        name: what errors call the value.
        value: an array, a torch tensor, or anything that NumPy makes an array of.

    Raises:
        DtypeError: the value is no array.
        DataError: it is a masked array in which something is masked.
    """
    if type(value) is not np.ndarray:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return _from_torch(name, value, torch)
        if np.ma.is_masked(value):
            raise DataError(f"{name} has masked values: say what they are with {name}.filled(…)")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of unequal lengths, arrays of other devices
        raise DtypeError(f"{name} must be an array: {error}") from None
    native = array.dtype.newbyteorder("=")

    def restore(result: NDArray[Any]) -> NDArray[Any]:
        return result.astype(native, copy=False) if result.dtype.kind == "f" else result

    return array, restore


def _from_torch(name: str, tensor: Any, torch: Any) -> tuple[NDArray[Any], Restore]:
    dtype, device = tensor.dtype, tensor.device
    if tensor.is_floating_point() and dtype not in {torch.float16, torch.float32, torch.float64}:
        tensor = tensor.float()  # bfloat16 and others that NumPy does not have

    def restore(result: NDArray[Any]) -> Any:
        if result.dtype == np.uint16:  # few torch operations take uint16
            result = result.astype(np.int32)
        restored = torch.from_numpy(np.ascontiguousarray(result))
        wanted = dtype if result.dtype.kind == "f" else restored.dtype
        return restored.to(device=device, dtype=wanted)

    try:
        return tensor.numpy(force=True), restore
    except (TypeError, NotImplementedError) as error:  # sparse, or without data
        raise DtypeError(f"{name} must be a dense tensor: {error}") from None


def require_float(name: str, array: NDArray[Any], remedy: str = "convert it to float32") -> None:
    """Refuses what is no real floating-point array."""
    if array.dtype.kind != "f":
        raise DtypeError(f"{name} must be float16, float32 or float64, got {array.dtype}: {remedy}")


def float32_rows(
    array: NDArray[Any], rows: int, *, always_copy: bool = False
) -> NDArray[np.float32]:
    """`array` as (rows, N) contiguous float32: itself if it can be, unless a copy is wanted.

    What float32 cannot hold becomes infinite, which the engine refuses where it matters.
    """
    if always_copy:
        with np.errstate(over="ignore"):
            return np.array(array, dtype=np.float32, order="C").reshape(rows, -1)
    return _contiguous(array, np.float32).reshape(rows, -1)


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
    return _contiguous(rows, dtype).reshape(-1, rows.shape[-1])


def _contiguous(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    # Aligned, too: memory read from a file at an odd offset is contiguous and still not usable.
    if array.dtype.itemsize <= 4:
        return np.require(array, dtype, ["C", "A"])
    with np.errstate(over="ignore"):
        return np.require(array, dtype, ["C", "A"])
