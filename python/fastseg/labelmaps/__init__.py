"""Label maps: from logits to labels, and labels as pictures.

Example:
    >>> import numpy as np
    >>> from fastseg import labelmaps
    >>> image = np.full((4, 6, 3), 200, np.uint8)
    >>> ids = np.zeros((4, 6), np.uint8)
    >>> ids[:, 3:] = 1
    >>> labelmaps.overlay(image, ids, palette="voc").shape
    (4, 6, 3)
"""

from fastseg.labelmaps.border_weights import border_weight_map
from fastseg.labelmaps.components import connected_components, remove_small_regions
from fastseg.labelmaps.overlay import contours, overlay
from fastseg.labelmaps.palettes import PALETTES, colorize, palette
from fastseg.labelmaps.upsample_argmax import upsample_argmax
from fastseg.labelmaps.upsample_confidence import Confidence, upsample_confidence
from fastseg.labelmaps.upsample_confusion import upsample_confusion
from fastseg.labelmaps.upsample_top_k import TopK, upsample_top_k

__all__ = [
    "Confidence",
    "PALETTES",
    "TopK",
    "border_weight_map",
    "colorize",
    "connected_components",
    "contours",
    "overlay",
    "palette",
    "remove_small_regions",
    "upsample_argmax",
    "upsample_confidence",
    "upsample_confusion",
    "upsample_top_k",
]
