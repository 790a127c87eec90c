"""Vertices of the permutohedral lattice as 64-bit integers."""

import math
from dataclasses import dataclass

import torch

from fastseg.errors import BackendError, DataError

# Past it a 32-bit float no longer resolves the inside of a simplex.
LARGEST_COORDINATE = 2.0**21

# Room around the range of the points: rounding, the walk over a simplex, and its neighbours.
_MARGIN = 4

# The sign of an int64 stays free: keys are sorted.
_BITS = 63


@dataclass(frozen=True)
class KeyLayout:
    """How the coordinates of a vertex are packed.

    A vertex of class r (0 ≤ r ≤ d) has coordinates (d + 1) q + r, and d of them tell the last. Its
    q, each less its least, lie side by side above r.

    Attributes:
        lows: (d), what is taken off each q.
        units: (d), what a step of one along each q adds to the key.
    """

    lows: list[int]
    units: list[int]

    def steps(self) -> list[tuple[int, int]]:
        """For each axis what leads to the next vertex along it: from class d, and from others."""
        d = len(self.units)
        return [(sum(self.units) - unit - d, 1 - unit) for unit in [*self.units, 0]]


def scales(dimension: int) -> list[float]:
    """What each feature is multiplied by, to 32 bits: the blur then has unit variance."""
    deviation = _rounded(math.sqrt(2 / 3) * (dimension + 1))
    return [_rounded(1 / math.sqrt((i + 1) * (i + 2)) * deviation) for i in range(dimension)]


def key_layout(bounds: list[tuple[float, float]]) -> KeyLayout:
    """The layout for features within bounds.

    Args:
        bounds: (least, greatest) of each feature.

    Raises:
        DataError: a feature is not finite, or too large to be placed.
        BackendError: the vertices do not fit 63 bits.
    """
    ranges = _ranges(bounds)
    shift = len(ranges).bit_length()
    shifts = []
    for low, high in ranges:
        shifts.append(shift)
        shift += (high - low).bit_length()
    if shift > _BITS:
        raise BackendError(
            f"permutohedral_lattice: vertices need {shift} bits each, more than the {_BITS} that "
            "tensors have; take fewer features or larger standard deviations, or "
            "fastseg.crf.PermutohedralLattice of a NumPy array, which has wider ones"
        )
    return KeyLayout([low for low, _ in ranges], [1 << shift for shift in shifts])


def _ranges(bounds: list[tuple[float, float]]) -> list[tuple[int, int]]:
    """The range of q of each stored coordinate."""
    d = len(bounds)
    scaled = [(low * s, high * s) for (low, high), s in zip(bounds, scales(d), strict=True)]
    for feature, ((low, high), (least, most)) in enumerate(zip(bounds, scaled, strict=True)):
        if not math.isfinite(low) or not math.isfinite(high):
            raise DataError(f"features[{feature}] holds NaN or infinity: remove or replace it")
        reach = max(-least, most) * d
        if reach > LARGEST_COORDINATE:
            value = max(-low, high)
            raise DataError(
                f"features[{feature}] reaches {value:.4g}, more than the "
                f"{value * LARGEST_COORDINATE / reach:.4g} up to which a 32-bit float can place a "
                "point in the lattice: divide by a larger standard deviation, or subtract the mean"
            )
    # Elevated coordinate j is the sum of the scaled features from j on, less j times feature j - 1.
    ranges = []
    low = high = 0.0
    for j in range(d, -1, -1):
        own = scaled[j - 1] if j else (0.0, 0.0)
        if j < d:
            least, most = (low - j * own[1]) / (d + 1), (high - j * own[0]) / (d + 1)
            ranges.append((math.floor(least) - _MARGIN, math.ceil(most) + _MARGIN))
        low, high = low + own[0], high + own[1]
    return ranges[::-1]


def _rounded(number: float) -> float:
    return float(torch.tensor(number, dtype=torch.float32))
