"""Pictures of one evaluated image: prediction, ground truth, and where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.labelmaps import overlay

_RIGHT, _WRONG, _LEFT_OUT = (226, 226, 222), (209, 52, 70), (60, 62, 68)
_BACKDROP = 242


def mistakes_drawing(
    pred: NDArray[Any],
    target: NDArray[Any],
    photo: NDArray[np.uint8] | None,
    *,
    colors: NDArray[np.uint8],
    ignore_index: int | None,
    size: int,
) -> list[tuple[NDArray[np.uint8], str]]:
    """Draw three panels with captions.

    Args:
        pred: (H, W) labels.
        target: (H, W) labels.
        photo: (H, W, 3), or None for a plain ground.
        colors: (K, 3); labels beyond have none and stay untinted.
        ignore_index: The target that is left out.
        size: Longest side of a panel in pixels.

    Returns:
        The panels, (h, w, 3) uint8, each with its caption.
    """
    height, width = target.shape
    scale = min(1.0, size / max(height, width))
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    if photo is None:
        ground, alpha = np.full((shape[1], shape[0], 3), _BACKDROP, np.uint8), 1.0
    else:
        how = Image.Resampling.LANCZOS
        ground = np.asarray(Image.fromarray(photo).resize(shape, how))
        alpha = 0.6
    panels = []
    for labels, caption in ((pred, "prediction"), (target, "ground truth")):
        small = _shrunk(labels, shape)
        unknown = (small < 0) | (small >= len(colors))
        if ignore_index is not None:
            unknown |= small == ignore_index
        shown = np.where(unknown, -1, small)
        tinted = overlay(ground, shown, palette=colors, alpha=alpha, ignore_index=-1)
        panels.append((tinted, caption))
    left_out = np.zeros(target.shape, bool) if ignore_index is None else target == ignore_index
    wrong = (pred != target) & ~left_out
    # Averaged, so that thin mistakes of a large image are still seen.
    shares = [
        np.asarray(
            Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).resize(
                shape, Image.Resampling.BOX
            ),
            np.float32,
        )[..., np.newaxis]
        / 255
        for mask in (wrong, left_out)
    ]
    drawn = np.full((shape[1], shape[0], 3), _RIGHT, np.float32)
    drawn += np.sqrt(shares[0]) * (np.array(_WRONG, np.float32) - drawn)
    drawn += shares[1] * (np.array(_LEFT_OUT, np.float32) - drawn)
    counted = max(1, int(np.count_nonzero(~left_out)))
    share = 100 * np.count_nonzero(wrong) / counted
    panels.append((np.rint(drawn).astype(np.uint8), f"wrong: {share:.1f} % (dark: left out)"))
    return panels


def side_by_side(panels: list[tuple[NDArray[np.uint8], str]]) -> Image.Image:
    """Lay the panels side by side on one picture."""
    gap = 8
    height, width = panels[0][0].shape[:2]
    page = Image.new("RGB", (len(panels) * (width + gap) - gap, height), (255, 255, 255))
    for i, (picture, _) in enumerate(panels):
        page.paste(Image.fromarray(picture), (i * (width + gap), 0))
    return page


def _shrunk(labels: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.int64]:
    width, height = shape
    rows = (np.arange(height) * labels.shape[0] + labels.shape[0] // 2) // height
    columns = (np.arange(width) * labels.shape[1] + labels.shape[1] // 2) // width
    rows, columns = rows.clip(0, labels.shape[0] - 1), columns.clip(0, labels.shape[1] - 1)
    return labels[np.ix_(rows, columns)].astype(np.int64)
