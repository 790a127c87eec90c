"""Arrays in, arrays out: NumPy or PyTorch, any real type, any memory layout."""

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastseg.errors import DataError, DtypeError

Restore: TypeAlias = Callable[[NDArray[Any]], Any]


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor, without loading torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(name: str, value: Any) -> tuple[NDArray[Any], Restore]:
    """`value` as a NumPy array, and what turns a result back into the same kind, dtype and device.

    Floats become floats of the value's own type; labels and counts keep theirs, as does what was
    computed from values that are no floats. A torch tensor is detached: nothing here
    is differentiable.

    Args:
        name: what errors call the value.
        value: an array, a torch tensor, or anything that NumPy makes an array of.

    Raises:
        DtypeError: the value is no array.
        DataError: it is a masked array in which something is masked.
    """
    if type(value) is not np.ndarray:
        if is_tensor(value):
            return _from_torch(name, value, sys.modules["torch"])
        if np.ma.is_masked(value):
            raise DataError(f"{name} has masked values: say what they are with {name}.filled(…)")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of unequal lengths, arrays of other devices
        raise DtypeError(f"{name} must be an array: {error}") from None
    native = array.dtype.newbyteorder("=")

    def restore(result: NDArray[Any]) -> NDArray[Any]:
        floats = native.kind == "f" and result.dtype.kind == "f"
        return result.astype(native, copy=False) if floats else result

    return array, restore


def _from_torch(name: str, tensor: Any, torch: Any) -> tuple[NDArray[Any], Restore]:
    dtype, device = tensor.dtype, tensor.device
    if tensor.is_floating_point() and dtype not in {torch.float16, torch.float32, torch.float64}:
        tensor = tensor.float()  # bfloat16 and others that NumPy does not have

    def restore(result: NDArray[Any]) -> Any:
        # Few torch operations take unsigned integers beyond 8 bits.
        signed = {"uint16": np.int32, "uint32": np.int64}.get(result.dtype.name)
        if signed is not None:
            result = result.astype(signed)
        restored = torch.from_numpy(np.ascontiguousarray(result))
        floats = dtype.is_floating_point and restored.is_floating_point()
        wanted = dtype if floats else restored.dtype
        return restored.to(device=device, dtype=wanted)

    try:
        return tensor.numpy(force=True), restore
    except (TypeError, NotImplementedError) as error:  # sparse, or without data
        raise DtypeError(f"{name} must be a dense tensor: {error}") from None


def require_float(name: str, array: NDArray[Any], remedy: str = "convert it to float32") -> None:
    """Refuses what is no real floating-point array."""
    if array.dtype.kind != "f":
        raise DtypeError(f"{name} must be float16, float32 or float64, got {array.dtype}: {remedy}")


def contiguous(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """`array` as C-contiguous, aligned `dtype`: itself if it can be.

    What a smaller float cannot hold becomes infinite.
    """
    # Aligned, too: memory read from a file at an odd offset is contiguous and still not usable.
    if array.dtype.itemsize <= 4:
        return np.require(array, dtype, ["C", "A"])
    with np.errstate(over="ignore"):
        return np.require(array, dtype, ["C", "A"])
