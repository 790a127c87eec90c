"""Fully connected conditional random fields: sharper masks from probabilities and an image.

`refine` does it in one call. `DenseCRF` gives the parts to those who need them, and
`PermutohedralLattice` is the high-dimensional Gaussian filter underneath.
"""

from fastseg.crf.dense_crf import DenseCRF
from fastseg.crf.lattice import PermutohedralLattice
from fastseg.crf.presets import PRESETS, Preset
from fastseg.crf.refine import refine
from fastseg.crf.workspace import Workspace, cache_info, clear_cache, set_cache_limit

__all__ = [
    "PRESETS",
    "DenseCRF",
    "PermutohedralLattice",
    "Preset",
    "Workspace",
    "cache_info",
    "clear_cache",
    "refine",
    "set_cache_limit",
]
