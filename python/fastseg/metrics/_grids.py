"""Masks on a grid with a spacing, as the engine takes them: always three axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg._arrays import contiguous
from fastseg._checks import positive_per
from fastseg.errors import DataError, DtypeError, ShapeError

Spacing = float | Sequence[float]


def binary(name: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    """A mask as contiguous uint8 that is nonzero where the mask is: itself if it can be.

    Raises:
        DtypeError: it is neither bool nor integer.
        DataError: it has values other than 0 and 1.
    """
    if array.dtype == np.bool_:
        return contiguous(array, np.bool_).view(np.uint8)
    if array.dtype.kind not in "ui":
        raise DtypeError(
            f"{name} must be a bool mask or hold integers 0 and 1, got {array.dtype}: "
            f"compare it with a threshold first, as in {name} > 0.5"
        )
    if array.size and (array.min() < 0 or array.max() > 1):
        raise DataError(
            f"{name} must be a mask of 0 and 1, got values from {array.min()} to {array.max()}: "
            f"compare it first, as in {name} == label, or give num_classes where labels are meant"
        )
    return contiguous(array, np.uint8)


def require_grid(name: str, shape: tuple[int, ...]) -> None:
    """Refuses what is no image or volume, or has no pixels."""
    if len(shape) not in (2, 3):
        raise ShapeError(f"{name} must be (H, W) or (D, H, W), got {shape}")
    if 0 in shape:
        raise ShapeError(f"{name} must have at least one pixel, got {shape}")


def spacing_per_axis(spacing: Spacing | None, axes: int) -> tuple[float, ...]:
    """One positive distance for each axis; 1 where nothing is said."""
    return tuple(positive_per("spacing", 1.0 if spacing is None else spacing, axes, "axis"))


def three_axes(values: Sequence[Any], one: Any) -> tuple[Any, Any, Any]:
    """Something for each axis of an image as something for each axis of a volume.

    The axis that is added is the middle one: the engine sweeps along the first.
    """
    first, *rest = values
    return (first, one, *rest) if len(rest) == 1 else (first, *rest)
