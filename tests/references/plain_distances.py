"""Distances to the nearest background pixel, by looking at every pair."""

import numpy as np
from numpy.typing import NDArray


def distances(mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Every pixel's distance to every background pixel; the least, infinite if there is none."""
    places = np.argwhere(np.ones_like(mask)) * np.array(spacing)
    outside = np.argwhere(~mask) * np.array(spacing)
    if not len(outside):
        return np.full(mask.shape, np.inf)
    steps = places[:, None] - outside[None]
    least: NDArray[np.float64] = np.sqrt((steps**2).sum(-1)).min(1)
    return least.reshape(mask.shape)
