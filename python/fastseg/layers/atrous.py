"""Atrous (dilated) convolution, and what a stack of layers sees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from fastseg.errors import ParameterError
from fastseg.layers.conv2d import Conv2d


class AtrousConv2d(Conv2d):
    """A convolution whose taps lie `rate` pixels apart, and that keeps the size.

    Idea:
        Pooling widens what a network sees at the price of resolution. Taking the stride out of a
        pooling layer and spreading the taps of every later convolution by the same factor gives the
        same view at full resolution, with the same weights.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: number of taps along an axis; odd.
        rate: distance between taps in pixels; 1 is the ordinary convolution.
        options: further arguments of `torch.nn.Conv2d`, such as `bias`.

    Attributes:
        field: side in pixels of the square that the layer sees, (kernel_size − 1) · rate + 1.

    Raises:
        ParameterError: an even kernel, which has no centre, or a rate below 1.

    Source:
        L.-C. Chen et al.: Semantic Image Segmentation with Deep Convolutional Nets and Fully
        Connected CRFs, ICLR 2015.

    Example:
        >>> from fastseg.layers import AtrousConv2d
        >>> AtrousConv2d(512, 1024, 3, rate=12).field
        25
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, rate: int, **options: Any
    ) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ParameterError(f"kernel_size: expected an odd number, got {kernel_size}")
        if rate < 1:
            raise ParameterError(f"rate: expected at least 1, got {rate}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding=(kernel_size - 1) // 2 * rate,
            dilation=rate,
            **options,
        )
        self.field = (kernel_size - 1) * rate + 1


class ReceptiveField(NamedTuple):
    """What one output pixel of a stack of layers sees, in pixels of the input.

    Attributes:
        size: side of the square.
        stride: distance between the squares of neighbouring output pixels.
    """

    size: int
    stride: int


def receptive_field(layers: Iterable[tuple[int, int, int]]) -> ReceptiveField:
    """Computes what one output pixel of a stack of convolutions and poolings sees.

    Each layer widens the field by (kernel − 1) · rate steps of the stride so far.

    Args:
        layers: (kernel size, stride, rate) of each, from the input on.

    Returns:
        Its side and stride in pixels of the input.

    Raises:
        ParameterError: a number below 1.

    Example:
        Two ways to see 7 pixels with three taps per layer: by a stride, and by a rate.

        >>> from fastseg.layers import receptive_field
        >>> receptive_field([(3, 2, 1), (3, 1, 1)])
        ReceptiveField(size=7, stride=2)
        >>> receptive_field([(3, 1, 1), (3, 1, 2)])
        ReceptiveField(size=7, stride=1)
    """
    size, step = 1, 1
    for kernel, stride, rate in layers:
        if min(kernel, stride, rate) < 1:
            raise ParameterError(
                f"layers: expected numbers from 1 on, got {(kernel, stride, rate)}"
            )
        size += (kernel - 1) * rate * step
        step *= stride
    return ReceptiveField(size, step)
