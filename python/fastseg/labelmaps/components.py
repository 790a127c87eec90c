"""Connected regions of a label map, and those that are too small."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg._arrays import contiguous, to_numpy
from fastseg._checks import integer
from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError


def connected_components(
    ids: Any, *, connectivity: int = 1, background: int | None = 0
) -> tuple[Any, int]:
    """Number the connected regions of equal labels.

    Args:
        ids: (H, W) or (D, H, W), bool or integers.
        connectivity: Along how many axes at once neighbours may differ: 1 for 4 neighbours in a
            picture and 6 in a volume, 2 for 8 and 18, 3 for 26.
        background: A label that is in no region; None if there is none.

    Returns:
        The regions, same shape, int32, 0 for the background; and how many there are. They are
        numbered from 1 in the order of their first pixel.

    Raises:
        ShapeError: The map is not of two or three axes, or has no pixels.
        DtypeError: It holds no integers.
        ParameterError: `connectivity` is below 1 or above the number of axes.

    Convention:
        As `scipy.ndimage.label` for a mask (whose numbers, for a connectivity of 1, these are),
        and a map of several labels is taken apart in the same pass.

    Source:
        Runs of equal pixels are joined with a union-find, so the work is that of the runs.

    Example:
        >>> from fastseg import labelmaps
        >>> regions, count = labelmaps.connected_components([[1, 0, 2], [1, 0, 2], [0, 2, 0]])
        >>> regions.tolist(), count
        ([[1, 0, 2], [1, 0, 2], [0, 3, 0]], 3)
    """
    labels, restore, shape, connectivity, background = _prepared(ids, connectivity, background)
    regions, sizes = _rust.connected_components(labels.reshape(-1), shape, background, connectivity)
    return restore(regions.reshape(labels.shape)), len(sizes)


def remove_small_regions(
    ids: Any,
    *,
    min_size: int,
    connectivity: int = 1,
    background: int | None = 0,
    fill: int | Literal["nearest"] = 0,
) -> Any:
    """Give the pixels of small regions another label.

    Args:
        ids: (H, W) or (D, H, W), bool or integers.
        min_size: Pixels that a region needs to stay.
        connectivity: Along how many axes at once neighbours may differ, as in
            `connected_components`.
        background: A label whose regions stay whatever their size. None: small holes of the
            background go, too.
        fill: The label that takes their place, or "nearest": that of the nearest pixel that stays,
            and 0 where none does.

    Returns:
        The map with its shape and dtype.

    Raises:
        ShapeError: The map is not of two or three axes, or has no pixels.
        DtypeError: It holds no integers.
        LabelError: `fill` does not fit the dtype.
        ParameterError: A parameter is out of its range.

    Example:
        >>> from fastseg import labelmaps
        >>> labelmaps.remove_small_regions([[1, 1, 0, 1], [1, 1, 0, 0]], min_size=2).tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0]]
        >>> ids = [[3, 3, 0, 5], [3, 3, 5, 5]]
        >>> labelmaps.remove_small_regions(
        ...     ids, min_size=2, background=None, fill="nearest"
        ... ).tolist()
        [[3, 3, 3, 5], [3, 3, 5, 5]]
    """
    min_size = integer("min_size", min_size, least=1)
    labels, restore, shape, connectivity, background = _prepared(ids, connectivity, background)
    array = to_numpy("ids", ids)[0]
    if fill != "nearest":
        fill = integer("fill", fill)
        lowest, highest = (0, 1) if array.dtype == bool else _range(array.dtype)
        if not lowest <= fill <= highest:
            raise LabelError(f"fill must fit {array.dtype}, got {fill}")
    small = _rust.small_regions(labels.reshape(-1), shape, background, connectivity, min_size)
    kept = array.copy()
    if fill != "nearest":
        kept[small.reshape(array.shape).view(bool)] = fill
        return restore(kept)
    if small.all():
        kept[...] = 0
    elif small.any():
        nearest = _rust.nearest_features(small, shape, (1.0, 1.0, 1.0)).reshape(3, -1)
        places = np.ravel_multi_index(tuple(nearest), shape)
        kept = np.ascontiguousarray(array).reshape(-1)[places].reshape(array.shape)
    return restore(kept)


def _prepared(
    ids: Any, connectivity: Any, background: Any
) -> tuple[NDArray[Any], Any, tuple[int, int, int], int, int | None]:
    array, restore = to_numpy("ids", ids)
    if array.ndim not in (2, 3) or array.size == 0:
        raise ShapeError(
            f"ids must be (H, W) or (D, H, W) with at least one pixel, got {array.shape}"
        )
    if array.dtype.kind not in "bui":
        raise DtypeError(f"ids must be bool or integers, got {array.dtype}")
    connectivity = integer("connectivity", connectivity, least=1)
    if connectivity > array.ndim:
        raise ParameterError(
            f"connectivity must be at most the number of axes, {array.ndim}, got {connectivity}"
        )
    if background is not None:
        background = integer("background", background)
    shape = array.shape if array.ndim == 3 else (1, *array.shape)
    return _engine_labels(array), restore, (shape[0], shape[1], shape[2]), connectivity, background


def _engine_labels(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == bool:
        return contiguous(array, np.bool_).view(np.uint8)
    for dtype in (np.uint8, np.uint16, np.int32, np.int64):
        if np.can_cast(array.dtype, dtype):
            return contiguous(array, dtype)
    return contiguous(array, np.int64)  # uint64: as good as any other bits for telling apart


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
