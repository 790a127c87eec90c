"""Segmentation models, FCN to SegFormer: one file per family, one convention for all.

A picture (B, C, H, W) goes in, logits (B, K, H, W) of its size come out.

Example:
    >>> import fastseg
    >>> "unet" in fastseg.list_models()
    True
"""

from fastseg.models._base import SegmentationModel, SegmentationOutput
from fastseg.models._registry import create_model, list_models, register

__all__ = ["SegmentationModel", "SegmentationOutput", "create_model", "list_models", "register"]
