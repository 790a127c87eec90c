"""Atrous spatial pyramid pooling: one map seen at several scales at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastseg.errors import ParameterError
from fastseg.layers.atrous import AtrousConv2d
from fastseg.layers.conv_norm_act import ConvNormAct


class ImagePooling(nn.Sequential):
    """The mean over the whole map, projected and spread over it again.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        block = ConvNormAct(in_channels, out_channels, 1)
        super().__init__(nn.AdaptiveAvgPool2d(1), block[0], block[1], block[2])

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that PyTorch gave it)
        """Computes (B, out_channels, H, W) from (B, in_channels, H, W)."""
        pooled: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return pooled.expand(-1, -1, input.shape[-2], input.shape[-1])


class ASPP(nn.Module):
    """DeepLab v3's pyramid: 1×1, atrous 3×3 of several rates and the image's mean, concatenated.

    Idea:
        Objects come in all sizes. Parallel atrous convolutions look at the same map with small and
        large fields; where a rate grows so large that its outer taps fall off the map, only the
        centre is left, and the mean over the image takes over the global view.

    Args:
        in_channels: channels of the input.
        rates: distance between taps of each 3×3 branch.
        out_channels: channels of each branch and of the output.
        dropout: probability after the projection.

    Source:
        L.-C. Chen, G. Papandreou, F. Schroff, H. Adam: Rethinking Atrous Convolution for Semantic
        Image Segmentation, 2017. The keys `convs.{0…}` and `project` are torchvision's.

    Example:
        >>> import torch
        >>> from fastseg.layers import ASPP
        >>> ASPP(8, rates=(2, 4), out_channels=4)(torch.ones(1, 8, 9, 9)).shape
        torch.Size([1, 4, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        *,
        rates: Sequence[int] = (12, 24, 36),
        out_channels: int = 256,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                ConvNormAct(in_channels, out_channels, 1),
                *(ConvNormAct(in_channels, out_channels, 3, rate=rate) for rate in rates),
                ImagePooling(in_channels, out_channels),
            ]
        )
        self.project = ConvNormAct(len(self.convs) * out_channels, out_channels, 1)
        self.project.append(nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        """Computes (B, out_channels, H, W) from (B, in_channels, H, W)."""
        out: Tensor = self.project(self._branches(features))
        return out

    def _branches(self, features: Tensor) -> Tensor:
        """All branches' maps, one stacked on the other."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return torch.cat([conv(features) for conv in self.convs], dim=1)
        # Each goes where it belongs at once: no two copies of all of them are in memory.
        first: Tensor = self.convs[0](features)
        batch, channels, height, width = first.shape
        stacked = first.new_empty(batch, height, width, len(self.convs) * channels)
        stacked = stacked.permute(0, 3, 1, 2)
        stacked[:, :channels] = first
        for index, conv in enumerate(self.convs[1:], start=1):
            stacked[:, index * channels : (index + 1) * channels] = conv(features)
        return stacked


class ASPPSum(nn.Module):
    """DeepLab v2's pyramid: atrous 3×3 convolutions of several rates, added.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output: the classes.
        rates: distance between taps of each branch.

    Raises:
        ParameterError: no rates.

    Source:
        L.-C. Chen et al.: DeepLab, TPAMI 2018 (ASPP-L: 6, 12, 18, 24).

    Example:
        >>> import torch
        >>> from fastseg.layers import ASPPSum
        >>> ASPPSum(8, 3)(torch.ones(1, 8, 9, 9)).shape
        torch.Size([1, 3, 9, 9])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, rates: Sequence[int] = (6, 12, 18, 24)
    ) -> None:
        super().__init__()
        if not rates:
            raise ParameterError("rates: expected at least one, got none")
        self.convs = nn.ModuleList(
            AtrousConv2d(in_channels, out_channels, 3, rate=rate) for rate in rates
        )

    def forward(self, features: Tensor) -> Tensor:
        """Computes (B, out_channels, H, W) from (B, in_channels, H, W)."""
        total: Tensor = self.convs[0](features)
        for conv in list(self.convs)[1:]:
            total = total + conv(features)
        return total
