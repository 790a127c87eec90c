"""Surfaces and what is measured between them, by looking at every pair of pixels."""

import itertools

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def border_pixels(mask: Mask) -> Mask:
    """Pixels of a mask with a neighbour outside it along an axis; beyond the image is outside."""
    padded = np.pad(mask, 1)
    inner = (slice(1, -1),) * mask.ndim
    border = np.zeros_like(mask)
    for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
        border |= mask & ~np.roll(padded, step, axis)[inner]
    return border


def distances(one: Mask, other: Mask, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """From each pixel of one mask to the nearest of the other, ascending."""
    a, b = np.argwhere(one) * np.array(spacing), np.argwhere(other) * np.array(spacing)
    if not len(b):
        return np.full(len(a), np.inf)
    least: NDArray[np.float64] = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).min(1)
    return np.sort(least)


def boundary(mask: Mask, depth: int) -> Mask:
    """Pixels of a mask with one outside in the square of radius `depth`; beyond is outside."""
    padded = np.pad(mask, depth)
    inside = np.ones_like(mask)
    height, width = mask.shape
    for y, x in itertools.product(range(2 * depth + 1), repeat=2):
        inside &= padded[y : y + height, x : x + width]
    return mask & ~inside


def boundary_iou(pred: Mask, target: Mask, depth: int) -> float:
    """Intersection over union of two boundaries."""
    one, other = boundary(pred, depth), boundary(target, depth)
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else float("nan")


def border_weights(
    cells: NDArray[np.integer], w0: float, sigma: float, everywhere: bool
) -> NDArray[np.float64]:
    """U-Net's weights, from the distance of every pixel to every pixel of every cell."""
    weights = np.ones(cells.shape)
    names = [name for name in np.unique(cells) if name]
    if len(names) < 2:
        return weights
    places = np.indices(cells.shape).reshape(2, -1).T
    far = []
    for name in names:
        cell = np.argwhere(cells == name)
        far.append(np.sqrt(((places[:, None] - cell[None]) ** 2).sum(-1)).min(1))
    first, second = np.sort(far, axis=0)[:2]
    term = (w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))).reshape(cells.shape)
    return weights + np.where(everywhere | (cells == 0), term, 0)
