"""Bilinear enlargement along one axis, placed as PyTorch places it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def neighbours(place, size, full, ALIGNED: tl.constexpr = 0):
    """Where the two source places of enlarged places lie, and the weight of the second.

    Args:
        place: enlarged places, from 0 to `full`; int32.
        size: how many source places there are.
        full: how many enlarged places there are.
        ALIGNED: 1 where the centres of the corners coincide (`align_corners`), 0 where their edges.

    Returns:
        Two int32 and a float32 in [0, 1), shaped like `place`.
    """
    scale = _ratio(size - ALIGNED, full - ALIGNED)
    source = place * scale if ALIGNED else (place + 0.5) * scale - 0.5
    source = tl.maximum(source, 0.0)
    low = tl.minimum(source.to(tl.int32), size - 1)
    return low, tl.minimum(low + 1, size - 1), source - low


@triton.jit
def _ratio(upper, lower):
    """Rounded as a CPU rounds it; the quotient of two float32 is not, on a GPU."""
    # Not `.to`: a size of one is a constant and has none.
    upper, lower = tl.cast(upper, tl.float32), tl.cast(lower, tl.float32)
    return tl.div_rn(upper, tl.maximum(lower, 1.0))


@triton.jit
def first_after(source, size, full, ALIGNED: tl.constexpr = 0):
    """The first enlarged place whose two neighbours are `source` and the next, or lie behind.

    The enlarged places from `first_after(s)` to `first_after(s + 1)` lie between `s` and `s + 1`;
    the first also has all before 0, and the last all behind `size - 1`.

    Args:
        source: source places, from -1 to `size`; int32.
        size: how many source places there are.
        full: how many enlarged places there are.
        ALIGNED: as of `neighbours`.
    """
    scale = _ratio(full - ALIGNED, size - ALIGNED)
    guess = source * scale if ALIGNED else (source + 0.5) * scale - 0.5
    guess = tl.ceil(guess).to(tl.int32)
    # Rounding may put it one place off; `neighbours` has the last word.
    low, _, _ = neighbours(guess - 1, size, full, ALIGNED)
    guess -= (low >= source).to(tl.int32)
    low, _, _ = neighbours(guess, size, full, ALIGNED)
    guess += (low < source).to(tl.int32)
    guess = tl.where(source <= 0, 0, tl.minimum(guess, full))
    return tl.where(source >= size, full, guess)


@triton.jit
def enlarged(tokens, layout, full_layout, y, x, inside_c):
    """The values of a map, bilinearly enlarged, at some places.

    Args:
        tokens: pointers to the channels of a sample's first token; (1, C).
        layout: height and width of the map, and steps to the next sample, row and column.
        full_layout: of the enlarged map; only height and width count.
        y: enlarged rows; (P) int32, inside the picture.
        x: enlarged columns; (P) int32, inside.
        inside_c: which channels there are; (1, C).

    Returns:
        (P, C) float32.
    """
    low_y, high_y, weight_y = neighbours(y, layout[0], full_layout[0])
    low_x, high_x, weight_x = neighbours(x, layout[1], full_layout[1])
    top, bottom = low_y.to(tl.int64) * layout[3], high_y.to(tl.int64) * layout[3]
    left, right = low_x.to(tl.int64) * layout[4], high_x.to(tl.int64) * layout[4]
    weight_y, weight_x = weight_y[:, None], weight_x[:, None]
    upper = _value(tokens, top + left, inside_c) * (1 - weight_x)
    upper += _value(tokens, top + right, inside_c) * weight_x
    lower = _value(tokens, bottom + left, inside_c) * (1 - weight_x)
    lower += _value(tokens, bottom + right, inside_c) * weight_x
    return upper * (1 - weight_y) + lower * weight_y


@triton.jit
def _value(tokens, places, inside_c):
    return tl.load(tokens + places[:, None], mask=inside_c, other=0).to(tl.float32)
