"""The two ways to bring a finer map into a coarser, deeper one."""

from __future__ import annotations

import torch
from torch import Tensor

from fastseg.errors import ShapeError


def center_crop(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Cuts the middle out of a map.

    Args:
        features: (B, C, H, W).
        size: height and width to keep, at most those of the map.

    Returns:
        (B, C, *size), a view. An odd remainder is cut at the right and bottom.

    Raises:
        ShapeError: the map is smaller than `size`.
    """
    height, width = size
    top = (features.shape[-2] - height) // 2
    left = (features.shape[-1] - width) // 2
    if top < 0 or left < 0:
        raise ShapeError(
            f"size: expected at most {tuple(features.shape[-2:])}, the map's own, got {size}"
        )
    return features[..., top : top + height, left : left + width]


def fuse_by_addition(deep: Tensor, skip: Tensor) -> Tensor:
    """Adds a finer map to a deeper one.

    Idea:
        Addition asks both maps for the same channels and the same meaning, such as scores per
        class: the deep one says what, the fine one corrects where. It costs nothing more.

    Args:
        deep: (B, C, h, w), already enlarged.
        skip: (B, C, H, W), cropped in its middle where it is larger.

    Returns:
        (B, C, h, w).

    Raises:
        ShapeError: other channels, or a skip that is smaller.

    Source:
        Long et al. 2015 (FCN), section 4.2.

    Example:
        >>> import torch
        >>> from fastseg.layers import fuse_by_addition
        >>> fuse_by_addition(torch.ones(1, 2, 2, 2), torch.ones(1, 2, 4, 4)).shape
        torch.Size([1, 2, 2, 2])
    """
    if deep.shape[:2] != skip.shape[:2]:
        raise ShapeError(
            f"skip: expected batch and channels {tuple(deep.shape[:2])}, those of deep, got "
            f"{tuple(skip.shape[:2])}; project it with a 1x1 convolution"
        )
    return deep + center_crop(skip, (deep.shape[-2], deep.shape[-1]))


def fuse_by_concatenation(deep: Tensor, skip: Tensor) -> Tensor:
    """Stacks a finer map and a deeper one along the channels, the skip first.

    Idea:
        Concatenation keeps both maps as they are, of any widths, and leaves it to the next
        convolution how to weigh them. It costs that convolution's weights and time.

    Args:
        deep: (B, C, h, w), already enlarged.
        skip: (B, D, H, W), cropped in its middle where it is larger.

    Returns:
        (B, D + C, h, w).

    Raises:
        ShapeError: other batches, or a skip that is smaller.

    Source:
        O. Ronneberger, P. Fischer, T. Brox: U-Net, MICCAI 2015.

    Example:
        >>> import torch
        >>> from fastseg.layers import fuse_by_concatenation
        >>> fuse_by_concatenation(torch.ones(1, 2, 2, 2), torch.ones(1, 3, 4, 4)).shape
        torch.Size([1, 5, 2, 2])
    """
    if deep.shape[0] != skip.shape[0]:
        raise ShapeError(f"skip: expected a batch of {deep.shape[0]}, got {skip.shape[0]}")
    return torch.cat([center_crop(skip, (deep.shape[-2], deep.shape[-1])), deep], dim=1)
