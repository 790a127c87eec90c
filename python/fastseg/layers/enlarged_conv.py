"""A 3×3 convolution over an enlarged map, computed before the enlargement."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fastseg.errors import ShapeError


def enlarged_conv(
    features: Tensor, weight: Tensor, *, size: tuple[int, int], align_corners: bool = False
) -> Tensor:
    """Convolves what bilinear interpolation makes of a map, without ever making it.

    Idea:
        Interpolation works on each channel alone, a tap of the convolution on each pixel alone:
        they commute. So each of the nine taps projects the small map (all the arithmetic happens
        there), the few projected channels are enlarged, moved by their tap's offset and added. The
        result is that of `conv2d(interpolate(features, size), weight, padding=1)` up to rounding;
        for a factor s the products are s² times fewer.

    Args:
        features: (B, C, h, w) float.
        weight: (D, C, 3, 3) of the same dtype.
        size: height and width (H, W) of the enlarged map.
        align_corners: of the interpolation.

    Returns:
        (B, D, H, W).

    Raises:
        ShapeError: the weight is not (D, C, 3, 3).

    Convention:
        The enlarged map is padded with zeros, as `padding=1` does.

    Example:
        >>> import torch
        >>> from torch.nn.functional import conv2d, interpolate
        >>> from fastseg.layers import enlarged_conv
        >>> x, w = torch.rand(1, 4, 3, 3), torch.rand(2, 4, 3, 3)
        >>> plain = conv2d(interpolate(x, (12, 12), mode="bilinear"), w, padding=1)
        >>> torch.allclose(enlarged_conv(x, w, size=(12, 12)), plain, atol=1e-5)
        True
    """
    channels = features.shape[1]
    if weight.ndim != 4 or weight.shape[1:] != (channels, 3, 3):
        raise ShapeError(
            f"weight: expected (D, {channels}, 3, 3) for a map of {channels} channels, got "
            f"{tuple(weight.shape)}"
        )
    out = weight.shape[0]
    height, width = size
    # Taps come first among the channels: (3 dx) of (3 dy) of D.
    taps = weight.permute(3, 2, 0, 1).reshape(9 * out, channels, 1, 1)
    projected = F.conv2d(features, taps)
    # Across, then down: the first enlargement is of the small height only.
    wide = F.interpolate(
        projected, (features.shape[2], width), mode="bilinear", align_corners=align_corners
    )
    left, middle, right = wide.chunk(3, dim=1)
    across = middle.clone()
    across[..., 1:] += left[..., :-1]
    across[..., :-1] += right[..., 1:]
    tall = F.interpolate(across, (height, width), mode="bilinear", align_corners=align_corners)
    above, middle, below = tall.chunk(3, dim=1)
    convolved = middle.clone()
    convolved[..., 1:, :] += above[..., :-1, :]
    convolved[..., :-1, :] += below[..., 1:, :]
    return convolved
