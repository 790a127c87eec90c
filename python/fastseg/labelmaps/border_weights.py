"""U-Net's weight map: heavy between cells that nearly touch."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg._arrays import contiguous, to_numpy
from fastseg._checks import number, one_of, positive
from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError

# The largest reach of the engine's two kinds of integers.
_REACH_16, _REACH_32 = 180, 46_000


def border_weight_map(
    instances: Any,
    *,
    w0: float = 10,
    sigma: float = 5,
    class_weights: Sequence[float] | Literal["balanced"] | None = None,
    where: Literal["background", "everywhere"] = "background",
) -> Any:
    """Weights that make a network learn the gaps between touching cells.

    w(x) = class weight + w0 · exp(−(d1 + d2)² / (2 σ²)), where d1 and d2 are the distances from
    the pixel to the nearest and to the second-nearest cell.

    Args:
        instances: (H, W) or (B, H, W) integers: 0 for the background, and a number of its own for
            each cell. A mask of foreground is no such map: `connected_components` makes one.
        w0: The border term's largest value, at least 0.
        sigma: Pixels.
        class_weights: Weight of the background and of cells. None: 1 and 1. "balanced": each
            class weighs as much in total, pixels / (2 · pixels of the class).
        where: "background": cells have no border term. "everywhere": they do, with d1 = 0.

    Returns:
        float32 of the same shape.

    Raises:
        ShapeError: The map is not (H, W) or (B, H, W), or has no pixels.
        DtypeError: It holds no integers.
        LabelError: An instance is negative.
        ParameterError: A parameter is out of its range.

    Convention:
        Distances are between centres of pixels, exact and Euclidean. Two cells are two numbers,
        wherever their pixels are; fewer than two cells give no border term. A term below 3e-8,
        which float32 does not see beside a weight of 1, is 0: with the defaults beyond d1 + d2 =
        31 pixels.

    Source:
        Ronneberger, Fischer and Brox, "U-Net", 2015, equation 2. Some implementations in use take
        d1 − d2, or pass σ² for σ; this is the paper's formula.

    Example:
        >>> import numpy as np
        >>> from fastseg import labelmaps
        >>> cells = np.array([[1, 1, 0, 2, 2, 0, 0, 0]])
        >>> labelmaps.border_weight_map(cells).round(2)
        array([[ 1.  ,  1.  , 10.23,  1.  ,  1.  ,  7.07,  4.75,  2.98]],
              dtype=float32)
    """
    w0, sigma = number("w0", w0, least=0), positive("sigma", sigma)
    one_of("where", where, ("background", "everywhere"))
    array, restore = to_numpy("instances", instances)
    if array.ndim not in (2, 3) or array.size == 0:
        raise ShapeError(
            f"instances must be (H, W) or (B, H, W) with at least one pixel, got {array.shape}"
        )
    reach = _rust.border_reach(w0, sigma)
    if reach > _REACH_32:
        raise ParameterError(f"sigma must be at most {sigma * _REACH_32 / reach:.0f}, got {sigma}")
    cells = _cells(array, reach)
    weights = [
        _rust.border_weights(
            picture.reshape(-1),
            picture.shape[1],
            w0=w0,
            sigma=sigma,
            class_weights=_class_weights(class_weights, picture),
            everywhere=where == "everywhere",
        ).reshape(picture.shape)
        for picture in (cells if array.ndim == 3 else [cells])
    ]
    return restore(np.stack(weights) if array.ndim == 3 else weights[0])


def _cells(instances: NDArray[Any], reach: int) -> NDArray[np.uint16] | NDArray[np.uint32]:
    if instances.dtype.kind not in "ui":
        raise DtypeError(
            f"instances must be integers, a number for each cell, got {instances.dtype}: "
            "connected_components makes them from a mask"
        )
    if instances.dtype.kind == "i" and instances.min() < 0:
        raise LabelError(f"instances must be 0 or more, got {instances.min()}: set it to 0")
    small = instances.dtype.itemsize <= 2 or instances.max() <= np.iinfo(np.uint16).max
    if small and reach <= _REACH_16:
        return contiguous(instances, np.uint16)
    if instances.dtype.itemsize > 4 and instances.max() > np.iinfo(np.uint32).max:
        raise LabelError(
            f"instances must be below 2**32, got {instances.max()}: number them anew, as with "
            "numpy.unique(…, return_inverse=True)"
        )
    return contiguous(instances, np.uint32)


def _class_weights(given: Any, cells: NDArray[Any]) -> tuple[float, float]:
    if given is None:
        return 1.0, 1.0
    if isinstance(given, str):
        one_of("class_weights", given, ["balanced"])
        inside = int(np.count_nonzero(cells))
        outside = cells.size - inside
        return cells.size / (2 * max(outside, 1)), cells.size / (2 * max(inside, 1))
    values = [number(f"class_weights[{i}]", weight, least=0) for i, weight in enumerate(given)]
    if len(values) != 2:
        raise ShapeError(
            f"class_weights must be two numbers, for background and cells, got {len(values)}"
        )
    return values[0], values[1]
