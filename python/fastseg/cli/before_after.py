"""The picture that `fastseg refine --overlay` writes: input, labels before, labels after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fastseg.labelmaps import overlay

_PAPER = (250, 250, 248)
_INK = (35, 35, 38)
_FAINT = (110, 110, 115)
_GAP = 10
_SMALLEST_PANEL = 300
_MAX_SWATCHES = 12
UNLABELLED = -1


class Legend(NamedTuple):
    """Colours and names of the labels 0 … K-1.

    Attributes:
        colors: (K, 3) uint8.
        names: One for each label.
        background: The label that is not tinted, if any.
    """

    colors: NDArray[np.uint8]
    names: Sequence[str]
    background: int | None


def before_after(
    image: NDArray[np.uint8],
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    legend: Legend,
    *,
    captions: tuple[str, str, str],
    panel_size: int = 1024,
) -> Image.Image:
    """Lay out three captioned panels, and the legend below them.

    Args:
        image: (H, W, 3) uint8.
        before: (H, W) labels 0 … K-1, `UNLABELLED` where there is none.
        after: (H, W) labels likewise.
        legend: Colours and names of the labels.
        captions: What stands above the panels.
        panel_size: Longest side of a panel in pixels; a smaller picture stays as it is.

    Returns:
        An RGB picture.
    """
    height, width = before.shape
    scale = min(1.0, panel_size / max(height, width))
    if width * scale < _SMALLEST_PANEL and scale == 1.0:
        # Tiny pictures grow by a whole factor, so that their pixels stay squares.
        scale = float(max(1, min(-(-_SMALLEST_PANEL // width), panel_size // max(height, width))))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photo = _resized(image, size, smooth=scale < 1)
    line = max(1, round(min(size) / 280))
    panels = [photo]
    for labels in (before, after):
        shown = np.asarray(_resized(labels, size, smooth=False))
        tinted = overlay(
            np.asarray(photo),
            shown,
            palette=legend.colors,
            alpha=0.55,
            ignore_index=UNLABELLED,
            background=legend.background,
            contour_width=line,
        )
        panels.append(Image.fromarray(tinted))
    return _laid_out(panels, captions, _entries(after, legend))


def as_rgb(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """Make an RGB picture of any (H, W) or (H, W, C) array, for looking at.

    Values in 0 … 255 stay as they are; any others are stretched to that range.
    """
    values = picture if picture.ndim == 3 else picture[..., np.newaxis]
    values = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
    if values.dtype != np.uint8:
        values = values.astype(np.float64)
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if low < 0 or high > 255 or high <= 1:
            values = (values - low) * (255 / (high - low) if high > low else 1)
        values = np.nan_to_num(values)
    shown: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that comes with Pillow, at a size where Pillow can."""
    try:
        return ImageFont.load_default(size)
    # Pillow before 10.1, or built without FreeType, has one small bitmap font.
    except (TypeError, ImportError, OSError):
        return ImageFont.load_default()


def _resized(array: NDArray[Any], size: tuple[int, int], *, smooth: bool) -> Image.Image:
    picture = Image.fromarray(array)
    if picture.size == size:
        return picture
    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return picture.resize(size, how)


def _entries(
    after: NDArray[np.int32], legend: Legend
) -> list[tuple[tuple[int, int, int] | None, str]]:
    """Return colour and text of the commonest labels; no colour for the untinted one."""
    labelled = after[after != UNLABELLED]
    counts = np.bincount(labelled, minlength=len(legend.names))
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    entries: list[tuple[tuple[int, int, int] | None, str]] = []
    for label in order[:_MAX_SWATCHES]:
        red, green, blue = (int(part) for part in legend.colors[label])
        color = None if label == legend.background else (red, green, blue)
        share = 100 * counts[label] / max(1, labelled.size)
        entries.append((color, f"{legend.names[label]}  {share:.1f} %"))
    if len(order) > _MAX_SWATCHES:
        entries.append((None, f"and {len(order) - _MAX_SWATCHES} more"))
    return entries


def _laid_out(
    panels: Sequence[Image.Image],
    captions: Sequence[str],
    entries: Sequence[tuple[tuple[int, int, int] | None, str]],
) -> Image.Image:
    width, height = panels[0].size
    # Wide pictures go below each other, the others side by side.
    stacked = width > 1.8 * height
    text_size = max(12, min(26, round(width / 26)))
    face = font(text_size)
    strip = round(text_size * 1.7)
    columns, rows = (1, len(panels)) if stacked else (len(panels), 1)
    total = columns * width + (columns + 1) * _GAP
    lines = _wrapped(entries, face, total - 2 * _GAP, text_size)
    page = Image.new(
        "RGB",
        (total, rows * (height + strip) + (rows + 1) * _GAP + len(lines) * strip),
        _PAPER,
    )
    draw = ImageDraw.Draw(page)
    for i, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = _GAP + (0 if stacked else i * (width + _GAP))
        top = _GAP + (i * (height + strip + _GAP) if stacked else 0)
        draw.text((left, top), _fitted(caption, face, width), fill=_INK, font=face)
        page.paste(panel, (left, top + strip))
    top = rows * (height + strip + _GAP) + _GAP
    for line in lines:
        for left, color, text in line:
            if color is not None:
                box = (left, top + 2, left + text_size, top + 2 + text_size)
                draw.rectangle(box, fill=color, outline=_FAINT)
            draw.text(
                (left + (0 if color is None else round(1.5 * text_size)), top),
                text,
                fill=_FAINT if color is None else _INK,
                font=face,
            )
        top += strip
    return page


def _wrapped(
    entries: Sequence[tuple[tuple[int, int, int] | None, str]],
    face: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
    text_size: int,
) -> list[list[tuple[int, tuple[int, int, int] | None, str]]]:
    """Break the legend into lines; every entry gets its left edge."""
    lines: list[list[tuple[int, tuple[int, int, int] | None, str]]] = []
    left = width
    for color, text in entries:
        needed = round(face.getlength(text) + (3 if color else 1.5) * text_size)
        if not lines or left + needed > width + _GAP:
            lines.append([])
            left = _GAP
        lines[-1].append((left, color, text))
        left += needed
    return lines


def _fitted(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if isinstance(face, ImageFont.ImageFont):
        # The bitmap font knows Latin-1 only; a file may have any name.
        text = text.encode("latin-1", "replace").decode("latin-1")
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
