"""How good a segmentation is: counts, overlaps, and what accumulates them over a dataset."""

from fastseg.metrics.accumulator import Accumulator, State
from fastseg.metrics.distance_transform import distance_transform

__all__ = ["Accumulator", "State", "distance_transform"]
