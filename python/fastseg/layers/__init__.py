"""Building blocks that models share, each usable alone.

Example:
    >>> import torch
    >>> from fastseg import layers
"""

from fastseg.layers.checkpointing import checkpointed

__all__ = ["checkpointed"]
