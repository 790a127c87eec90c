"""How good a segmentation is: counts, overlaps, and what accumulates them over a dataset."""

from fastseg.metrics.accumulator import Accumulator, State

__all__ = ["Accumulator", "State"]
