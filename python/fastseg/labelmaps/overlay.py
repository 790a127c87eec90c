"""Lay a label map over its picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.errors import DtypeError, ParameterError, ShapeError
from fastseg.labelmaps.palettes import checked_labels, colors_for


def overlay(
    image: ArrayLike,
    ids: ArrayLike,
    *,
    palette: str | ArrayLike = "voc",
    alpha: float = 0.5,
    ignore_index: int | None = 255,
    background: int | None = None,
    contour_width: int = 0,
    contour_color: tuple[int, int, int] = (255, 255, 255),
) -> NDArray[np.uint8]:
    """Tint a picture with the colours of its labels.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3) uint8.
        ids: (H, W) integer labels.
        palette: A name in `PALETTES`, or (N, 3) colours in 0 … 255.
        alpha: Share of the labels' colour, 0 (the picture alone) … 1 (the colours alone).
        ignore_index: A label whose pixels stay as they are and bound no contour.
        background: A further label whose pixels stay as they are; contours run along it.
        contour_width: Width in pixels of the lines between labels; 0 for none.
        contour_color: Colour of the lines, red, green, blue in 0 … 255.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ShapeError: The picture is not one, or picture and labels disagree in size.
        DtypeError: The picture is not uint8, or the labels are not integers.
        LabelError: A label is negative or beyond the palette.
        ParameterError: `alpha` or `contour_width` is out of its range.

    Convention:
        Labels and picture share the order of axes (y, x).

    Example:
        >>> import numpy as np
        >>> from fastseg.labelmaps import overlay
        >>> grey = np.full((1, 2), 100, np.uint8)
        >>> overlay(grey, [[0, 1]], alpha=0.5, background=0).tolist()
        [[[100, 100, 100], [114, 50, 50]]]
    """
    picture = _as_rgb(image)
    labels = checked_labels(ids)
    if labels.shape != picture.shape[:2]:
        raise ShapeError(
            f"ids: expected the picture's height and width {picture.shape[:2]}, got {labels.shape}"
        )
    if not 0 <= alpha <= 1:
        raise ParameterError(f"alpha: expected 0 … 1, got {alpha}")
    untouched = np.zeros(labels.shape, dtype=bool)
    for label in (ignore_index, background):
        if label is not None:
            untouched |= labels == label
    shown = np.where(untouched, labels.dtype.type(0), labels)
    color = colors_for(palette, shown)[shown]
    weight = np.where(untouched, np.float32(0), np.float32(alpha))[..., np.newaxis]
    mixed = picture + weight * (color.astype(np.float32) - picture)
    result: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    if contour_width:
        result[contours(labels, width=contour_width, ignore_index=ignore_index)] = contour_color
    return result


def contours(
    ids: ArrayLike, *, width: int = 1, ignore_index: int | None = None
) -> NDArray[np.bool_]:
    """Mark the lines between labels.

    Args:
        ids: (H, W) integer labels.
        width: Width of the lines in pixels.
        ignore_index: A label that bounds no line.

    Returns:
        (H, W) bool.

    Raises:
        ShapeError: The labels are not (H, W).
        DtypeError: The labels are not integers.
        ParameterError: The width is below 1.

    Example:
        >>> from fastseg.labelmaps import contours
        >>> contours([[0, 0, 1, 1]], width=2).tolist()
        [[False, True, True, False]]
    """
    labels = checked_labels(ids)
    if labels.ndim != 2:
        raise ShapeError(f"ids: expected (H, W), got {labels.shape}")
    if width < 1:
        raise ParameterError(f"width: expected at least 1 pixel, got {width}")
    # A step between two pixels marks the first of them; every further pixel of width grows the
    # line in one direction, in turn forward and back, so that it stays centred.
    marked = np.zeros(labels.shape, dtype=bool)
    down = _differ(labels[:-1], labels[1:], ignore_index)
    right = _differ(labels[:, :-1], labels[:, 1:], ignore_index)
    marked[:-1] |= down
    marked[:, :-1] |= right
    for step in range(1, width):
        grown = marked.copy()
        if step % 2:
            grown[1:] |= marked[:-1]
            grown[:, 1:] |= marked[:, :-1]
        else:
            grown[:-1] |= marked[1:]
            grown[:, :-1] |= marked[:, 1:]
        marked = grown
    return marked


def _differ(one: NDArray[Any], other: NDArray[Any], ignore_index: int | None) -> NDArray[np.bool_]:
    step: NDArray[np.bool_] = one != other
    if ignore_index is not None:
        step &= (one != ignore_index) & (other != ignore_index)
    return step


def _as_rgb(image: ArrayLike) -> NDArray[np.float32]:
    picture = np.asarray(image)
    if picture.dtype != np.uint8:
        raise DtypeError(
            f"image: expected uint8 in 0 … 255, got {picture.dtype}; scale and convert it first"
        )
    if picture.ndim == 2:
        picture = picture[..., np.newaxis]
    if picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ShapeError(f"image: expected (H, W), (H, W, 1) or (H, W, 3), got {picture.shape}")
    return np.broadcast_to(picture, (*picture.shape[:2], 3)).astype(np.float32)
