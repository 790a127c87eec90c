"""Transposed convolution that starts as bilinear interpolation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastseg.errors import ParameterError


def bilinear_kernel(size: int) -> Tensor:
    """Makes the kernel with which a transposed convolution interpolates bilinearly.

    Args:
        size: side of the kernel in pixels of the output; twice the stride for interpolation.

    Returns:
        (size, size) float32, a tent over both axes whose peak is 1 (or 0.75 … for an even size).

    Raises:
        ParameterError: the size is below 1.

    Source:
        J. Long, E. Shelhamer, T. Darrell: Fully Convolutional Networks for Semantic Segmentation,
        CVPR 2015, section 3.3.

    Example:
        >>> from fastseg.layers import bilinear_kernel
        >>> bilinear_kernel(4)[0].tolist()
        [0.0625, 0.1875, 0.1875, 0.0625]
    """
    if size < 1:
        raise ParameterError(f"size: expected at least 1 pixel, got {size}")
    half = (size + 1) // 2
    center = (size - 1) / 2
    tent = 1 - (torch.arange(size, dtype=torch.float32) - center).abs() / half
    return tent[:, None] * tent[None, :]


class BilinearConvTranspose2d(nn.ConvTranspose2d):
    """A learned enlargement that is bilinear interpolation until it is trained.

    Idea:
        A transposed convolution lays a weighted copy of its kernel down for every input pixel,
        `stride` output pixels apart. With a tent for a kernel the copies add up to linear
        interpolation, so training starts from a sensible map instead of from noise, and is free to
        learn something sharper.

    Args:
        channels: number of channels; each starts as its own copy, without any mixing.
        stride: the factor of enlargement.
        kernel_size: side of the kernel; None is twice the stride.
        options: further arguments of `torch.nn.ConvTranspose2d`, such as `padding`.

    Convention:
        Without padding n pixels become (n − 1) · stride + kernel_size: the border has to be
        cropped. With `padding=stride // 2` and an even stride they become n · stride, aligned as
        `align_corners=False`.

    Source:
        Long et al. 2015, section 3.3; the reference in Caffe fills its kernels the same way.

    Example:
        >>> import torch
        >>> from fastseg.layers import BilinearConvTranspose2d
        >>> double = BilinearConvTranspose2d(1, stride=2, padding=1)
        >>> double(torch.ones(1, 1, 3, 3))[0, 0, 2].tolist()
        [0.75, 1.0, 1.0, 1.0, 1.0, 0.75]
    """

    def __init__(
        self, channels: int, *, stride: int, kernel_size: int | None = None, **options: Any
    ) -> None:
        size = 2 * stride if kernel_size is None else kernel_size
        super().__init__(channels, channels, size, stride=stride, bias=False, **options)

    def reset_parameters(self) -> None:
        """Makes the layer a bilinear interpolation again."""
        with torch.no_grad():
            self.weight.zero_()
            kernel = bilinear_kernel(self.kernel_size[0]).to(self.weight)
            for channel in range(self.in_channels):
                self.weight[channel, channel % self.weight.shape[1]] = kernel
