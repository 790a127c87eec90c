"""Convolution, BatchNorm and ReLU as one block, the brick of most models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.layers.conv2d import Conv2d


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that also trains on a single value per channel.

    A batch of one whose map is pooled to 1×1 has no variance: PyTorch's own layer raises an error.
    Here such a map is normalised with the running statistics, which stay as they are.

    Example:
        >>> import torch
        >>> from fastseg.layers import BatchNorm2d
        >>> BatchNorm2d(2).train()(torch.ones(1, 2, 1, 1)).shape
        torch.Size([1, 2, 1, 1])
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that PyTorch gave it)
        """Normalises (B, C, H, W)."""
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class FreshBatchNorm2d(BatchNorm2d):
    """BatchNorm for maps that nothing else reads, such as the output of a convolution.

    Convention:
        In evaluation without gradients, in float32, it works in place: no further map is made.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that PyTorch gave it)
        """Normalises (B, C, H, W), which is overwritten where nothing needs it for a gradient."""
        if (
            not self.is_settled
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or input.dtype != torch.float32
        ):
            return super().forward(input)
        scale, shift = self.scale_and_shift()
        return input.mul_(scale[:, None, None]).add_(shift[:, None, None])

    @property
    def is_settled(self) -> bool:
        """Whether it normalises with running statistics, and is a scale and a shift."""
        return not self.training and self.running_mean is not None

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What each channel is multiplied with, and what is added then, where `is_settled`."""
        mean, variance = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return scale, self.bias - mean * scale


class ConvNormAct(nn.Sequential):
    """Convolution, BatchNorm, ReLU; the size is kept unless a padding is given.

    The three are children 0, 1 and 2, as in most public checkpoints.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel in pixels; odd.
        rate: distance between taps, for an atrous convolution.
        bias: whether the convolution has one; BatchNorm's shift can stand for it.
        options: further arguments of `torch.nn.Conv2d`.

    Example:
        >>> import torch
        >>> from fastseg.layers import ConvNormAct
        >>> ConvNormAct(3, 8)(torch.ones(2, 3, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        rate: int = 1,
        bias: bool = False,
        **options: Any,
    ) -> None:
        options.setdefault("padding", (kernel_size - 1) // 2 * rate)
        super().__init__(
            Conv2d(in_channels, out_channels, kernel_size, dilation=rate, bias=bias, **options),
            FreshBatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, input: Tensor | Sequence[Tensor]) -> Tensor:  # noqa: A002  (PyTorch's name)
        """Computes (B, out_channels, H, W) from (B, in_channels, H, W), or from a stack of maps."""
        maps = [input] if isinstance(input, Tensor) else list(input)
        if not (
            self._is_as_built()
            and self.norm.is_settled
            and self.conv.saves_products(maps)
            and not any(map(_is_watched, self))
        ):
            stacked = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
            out: Tensor = super().forward(stacked)  # type: ignore[no-untyped-call]
            return out
        out = self.conv.scaled(maps, *self.norm.scale_and_shift(), relu=True)
        for layer in list(self)[3:]:
            out = layer(out)
        return out

    def _is_as_built(self) -> bool:
        """Whether nobody exchanged a layer, as `SyncBatchNorm.convert_sync_batchnorm` does."""
        kinds = [type(layer) for layer in self][:3]
        return kinds == [Conv2d, FreshBatchNorm2d, nn.ReLU]

    @property
    def conv(self) -> Conv2d:
        """The convolution."""
        return cast(Conv2d, self[0])

    @property
    def norm(self) -> FreshBatchNorm2d:
        """The BatchNorm."""
        return cast(FreshBatchNorm2d, self[1])


def _is_watched(layer: nn.Module) -> bool:
    """Whether somebody waits for what goes into a layer or comes out of it."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
