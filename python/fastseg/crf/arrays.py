"""Arrays in, arrays out: NumPy or PyTorch, any float type, any memory layout."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import DtypeError, ShapeError

Restore = Callable[[NDArray[Any]], Any]


def to_numpy(value: Any) -> tuple[NDArray[Any], Restore]:
    """`value` as a NumPy array, and what turns a result back into the same kind, dtype and device.

    Labels (unsigned integers) keep their own dtype. A torch tensor is detached: nothing here
    is differentiable.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        dtype, device = value.dtype, value.device
        plain = value.detach().cpu()
        if dtype == torch.bfloat16:  # NumPy has no such type
            plain = plain.float()

        def restore(result: NDArray[Any]) -> Any:
            if result.dtype == np.uint16:  # few torch operations take uint16
                result = result.astype(np.int32)
            tensor = torch.from_numpy(np.ascontiguousarray(result))
            wanted = dtype if result.dtype.kind == "f" else tensor.dtype
            return tensor.to(device=device, dtype=wanted)

        return plain.numpy(), restore
    array = np.asarray(value)
    native = array.dtype.newbyteorder("=")

    def restore_numpy(result: NDArray[Any]) -> NDArray[Any]:
        return result.astype(native, copy=False) if result.dtype.kind == "f" else result

    return array, restore_numpy


def require_float(name: str, array: NDArray[Any], remedy: str) -> None:
    """Refuses what is no real floating-point array."""
    if array.dtype.kind != "f":
        raise DtypeError(f"{name} must be float16, float32 or float64, got {array.dtype}: {remedy}")


def float32(array: NDArray[Any], rows: int) -> NDArray[np.float32]:
    """`array` as contiguous native float32 of `rows` rows; a copy only where it must be."""
    return np.ascontiguousarray(array, dtype=np.float32).reshape(rows, -1)


def pixels(
    image: NDArray[Any], shape: Sequence[int], channel_axis: int | None, name: str = "image"
) -> NDArray[Any]:
    """`image` as contiguous `(points, channels)` of uint8, uint16 or float32.

    Args:
        image: `(*shape)`, `(*shape, C)` or `(C, *shape)`, a real dtype.
        shape: the spatial shape.
        channel_axis: where the channels are; None finds out, preferring last.
        name: what errors call the image.

    Raises:
        DtypeError: the dtype is not real.
        ShapeError: the shape does not match.
    """
    if image.dtype.kind not in "uif":
        raise DtypeError(
            f"{name} must be of a real number type (uint8, uint16, float32 …), got {image.dtype}"
        )
    shape = tuple(shape)
    if image.ndim == len(shape):
        image = image[..., np.newaxis]
    elif image.ndim == len(shape) + 1:
        if channel_axis is None:
            channel_axis = -1 if image.shape[:-1] == shape else 0
        elif not -image.ndim <= channel_axis < image.ndim:
            raise ShapeError(f"channel_axis {channel_axis} is not an axis of shape {image.shape}")
        image = np.moveaxis(image, channel_axis, -1)
    if image.shape[:-1] != shape or image.shape[-1] == 0:
        raise ShapeError(
            f"{name} must have the spatial shape {shape} of the probabilities, with channels last "
            f"or first (set channel_axis if in doubt), got shape {image.shape}"
        )
    dtype = image.dtype.newbyteorder("=")
    if dtype not in (np.uint8, np.uint16):
        dtype = np.dtype(np.float32)
    return np.ascontiguousarray(image, dtype=dtype).reshape(-1, image.shape[-1])
