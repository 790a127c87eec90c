"""A confusion matrix as an SVG picture that a page can hold."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

# Up to so many classes the cells have numbers.
_MOST_WITH_NUMBERS = 21
_SMALLEST_SHARE = 5e-4
_LETTER = 6.3
_LONGEST = 22


def confusion_svg(confusion: NDArray[np.int64], names: Sequence[str]) -> str:
    """Draw a confusion matrix: how the pixels of each class (a row) were predicted.

    Colours come from the page's style sheet: `.hit` on the diagonal, `.miss` beside it, as opaque
    as the square root of the cell's share of its row.

    Args:
        confusion: (K, C) counts.
        names: Of the C columns, the first K of which are those of the rows.

    Returns:
        An `svg` element.
    """
    rows, columns = confusion.shape
    cell = max(5.0, min(42.0, 620 / columns))
    shown = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    margin = 14 + _LETTER * max(len(name) for name in shown)
    slant = 0.72 * margin
    width, height = margin + columns * cell + slant, slant + rows * cell + 26
    totals = confusion.sum(axis=1)
    opening = (
        f'<svg class="matrix" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="img" aria-label="Confusion matrix of {rows} classes">'
    )
    parts = [opening]
    size = f'width="{cell - 1:.1f}" height="{cell - 1:.1f}" rx="{min(3.0, cell / 8):.1f}"'
    for row in range(rows):
        top = slant + row * cell
        parts.append(
            f'<text class="name" x="{margin - 7:.1f}" y="{top + cell / 2:.1f}" '
            f'text-anchor="end" dominant-baseline="central">{escape(shown[row])}</text>'
        )
        parts.append(
            f'<rect class="bed" x="{margin:.1f}" y="{top:.1f}" width="{columns * cell - 1:.1f}" '
            f'height="{cell - 1:.1f}" rx="3"/>'
        )
        for column in range(columns):
            share = confusion[row, column] / totals[row] if totals[row] else 0.0
            if share < _SMALLEST_SHARE:
                continue
            left, kind = margin + column * cell, "hit" if row == column else "miss"
            opacity = float(np.sqrt(share))
            parts.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" {size} '
                f'fill-opacity="{opacity:.3f}"><title>{escape(names[row])} → '
                f"{escape(names[column])}: {100 * share:.2f} % of {escape(names[row])}, "
                f"{int(confusion[row, column]):,} pixels</title></rect>"
            )
            if columns <= _MOST_WITH_NUMBERS and share >= 0.005:
                strong = " strong" if opacity > 0.62 else ""
                parts.append(
                    f'<text class="number{strong}" x="{left + cell / 2 - 0.5:.1f}" '
                    f'y="{top + cell / 2:.1f}" text-anchor="middle" dominant-baseline="central">'
                    f"{100 * share:.0f}</text>"
                )
    for column in range(columns):
        x = margin + (column + 0.5) * cell
        parts.append(
            f'<text class="name" transform="translate({x:.1f} {slant - 7:.1f}) rotate(-45)">'
            f"{escape(shown[column])}</text>"
        )
    parts.append(
        f'<text class="axis" x="{margin:.1f}" y="{height - 6:.1f}">rows: ground truth · columns: '
        "prediction · numbers: per cent of the row</text></svg>"
    )
    return "".join(parts)
