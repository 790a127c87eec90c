"""Max pooling that remembers where its maxima were, and its inverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.errors import ShapeError


def max_pool_with_indices(
    features: Tensor, kernel_size: int = 2, *, stride: int | None = None, ceil_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Takes the maximum of each window, and where it was.

    Args:
        features: (B, C, H, W) float.
        kernel_size: side of the window in pixels.
        stride: distance between windows; None is the side.
        ceil_mode: keeps the windows that stick out at the right and bottom.

    Returns:
        The maxima (B, C, h, w), and their positions y · W + x, of the same shape, int64.

    Example:
        >>> import torch
        >>> from fastseg.layers import max_pool_with_indices
        >>> values, indices = max_pool_with_indices(torch.tensor([[[[1.0, 4.0], [2.0, 3.0]]]]))
        >>> values.item(), indices.item()
        (4.0, 1)
    """
    window = (kernel_size, kernel_size)
    step = window if stride is None else (stride, stride)
    values, indices = F.max_pool2d_with_indices(features, window, step, ceil_mode=ceil_mode)
    return values, indices


def max_unpool(features: Tensor, indices: Tensor, *, output_size: Sequence[int]) -> Tensor:
    """Puts each value back where its maximum was, and zeros everywhere else.

    Idea:
        Pooling forgets where in its window the maximum was, and interpolation can only guess. The
        remembered position is a few bits per window, and puts outlines back on the right pixel
        without keeping the whole feature map.

    Args:
        features: (B, C, h, w) float.
        indices: (B, C, h, w) int64 from `max_pool_with_indices`.
        output_size: height and width of the map that was pooled; odd ones, too.

    Returns:
        (B, C, H, W) of the dtype of `features`; channels last in memory where theirs are.

    Raises:
        ShapeError: features and indices disagree.

    Convention:
        Where windows overlap and share a maximum, one of their values is kept.

    Source:
        V. Badrinarayanan, A. Kendall, R. Cipolla: SegNet, TPAMI 2017; H. Noh, S. Hong, B. Han:
        Learning Deconvolution Network for Semantic Segmentation, ICCV 2015.

    Example:
        >>> import torch
        >>> from fastseg.layers import max_unpool
        >>> ten = torch.tensor([[[[10.0]]]])
        >>> max_unpool(ten, torch.tensor([[[[1]]]]), output_size=(2, 2))[0, 0].tolist()
        [[0.0, 10.0], [0.0, 0.0]]
    """
    if features.shape != indices.shape:
        raise ShapeError(
            f"indices: expected the shape of features {tuple(features.shape)}, got "
            f"{tuple(indices.shape)}"
        )
    height, width = output_size
    batch, channels = features.shape[:2]
    # A scatter rather than max_unpool2d: it exports to ONNX, runs in half precision, and is
    # deterministic on a GPU where windows do not overlap.
    if features.is_contiguous() or not features.is_contiguous(memory_format=torch.channels_last):
        filled = features.new_zeros(batch, channels, height * width)
        filled.scatter_(2, indices.flatten(2), features.flatten(2))
        return filled.view(batch, channels, height, width)
    filled = features.new_zeros(batch, height * width, channels)
    filled.scatter_(1, _pixels_first(indices), _pixels_first(features))
    return filled.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _pixels_first(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
