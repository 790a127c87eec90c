"""The distance of each pixel to the nearest one of the background."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg import _rust
from fastseg._arrays import to_numpy
from fastseg.errors import ParameterError
from fastseg.metrics._grids import Spacing, binary, require_grid, spacing_per_axis, three_axes


def distance_transform(
    mask: ArrayLike,
    *,
    spacing: Spacing | None = None,
    squared: bool = False,
    return_indices: bool = False,
) -> Any:
    """Exact Euclidean distance of each pixel of a mask to the nearest pixel outside it.

    Args:
        mask: (H, W) or (D, H, W), bool or integers 0 and 1; NumPy or torch.
        spacing: Distance between neighbouring pixels along each axis, in the order of the axes
            ((y, x) or (z, y, x)), or one number for all. Default 1.
        squared: Whether to return the squares, which are exact integers; the spacing must then be
            of whole numbers.
        return_indices: Whether to return which pixel is nearest, too.

    Returns:
        Distances in the unit of the spacing, shape of the mask, float32; 0 outside the mask.
        With `squared` int32, or int64 where a squared distance of this shape might not fit. With
        `return_indices` a pair: the distances, and (axes, *shape) int32 coordinates of the nearest
        pixel outside the mask. Of several that are equally near it is always the same one.

    Raises:
        ShapeError: The mask is not of two or three axes, or has no pixels.
        DtypeError: It is neither bool nor integer.
        DataError: It has values other than 0 and 1.
        ParameterError: A spacing is not positive, or fractional although `squared`.

    Convention:
        As in `scipy.ndimage.distance_transform_edt`, what is measured is the mask, and its
        complement has distance 0. Where the mask covers everything there is no nearest pixel:
        distances are infinite, squared ones the largest of their dtype, coordinates −1. (SciPy
        gives finite numbers without a meaning there.)

    Source:
        The minimum over q of f(q) + (x − q)² for one axis after the other: Felzenszwalb and
        Huttenlocher, "Distance Transforms of Sampled Functions", 2012. That the place of the
        minimum never moves back as x grows, which is how it is found here: Aggarwal et al.,
        "Geometric applications of a matrix-searching algorithm", 1987.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> mask = np.array([[0, 1, 1, 1]], bool)
        >>> metrics.distance_transform(mask).tolist()
        [[0.0, 1.0, 2.0, 3.0]]
        >>> metrics.distance_transform(mask, spacing=(1, 0.5)).tolist()
        [[0.0, 0.5, 1.0, 1.5]]
        >>> metrics.distance_transform(mask, squared=True).tolist()
        [[0, 1, 4, 9]]
    """
    array, restore = to_numpy("mask", mask)
    require_grid("mask", array.shape)
    per_axis = spacing_per_axis(spacing, array.ndim)
    flat = binary("mask", array).reshape(-1)
    grid = three_axes(array.shape, 1), three_axes(per_axis, 1.0)
    if squared:
        if any(not step.is_integer() for step in per_axis):
            raise ParameterError(
                f"spacing must be of whole numbers for squared integers, got {per_axis}: "
                "square the distances themselves instead"
            )
        distances: NDArray[Any] = _rust.squared_distance_transform(flat, *grid)
    else:
        distances = _rust.distance_transform(flat, *grid)
    distances = restore(distances.reshape(array.shape))
    if not return_indices:
        return distances
    nearest = _rust.nearest_features(flat, *grid).reshape(3, *array.shape)
    if array.ndim == 2:
        nearest = nearest[[0, 2]]
        nearest = np.ascontiguousarray(nearest)
    return distances, restore(nearest)
