"""A convolution that is faster where nothing has to be learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg import ops

# Of the plain convolution's products, as many may be left; the transforms cost the rest.
_WORTHWHILE = 0.5
# Pixels from which on the weights' transform is small beside the products.
_PIXELS = 256
# Channels and filters from which on a product fills the registers.
_WIDTH = 16
# Of all taps, as many may be on the map where the others are left out.
_FEW_TAPS = 0.6
# Pixels and input channels from which on the products of single taps are large enough.
_TAP_PIXELS = 1024
_TAP_CHANNELS = 256
# Weights per value of a map from which on reordering them takes longer than reordering the map.
_HEAVY = 8
# Weights that PyTorch is given at once: it reorders them into memory of their size.
_WEIGHTS = 1 << 20


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that computes 3×3 windows with fewer products, in evaluation on a CPU.

    Where nothing needs gradients, in float32, and where it saves time, windows of stride 1 are
    computed by `fastseg.ops.conv3x3`, and those of which most taps fall off the map tap by tap.
    Where weights are many, no second copy of all of them is made. Everywhere else it is PyTorch's
    layer; weights, names and arguments are the same.

    Example:
        >>> import torch
        >>> from fastseg.layers import Conv2d
        >>> Conv2d(3, 8, 3, padding=1)(torch.ones(1, 3, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Conv2d:
        """The same layer with the same parameters, not copies of them."""
        with torch.device("meta"):
            layer = cls(
                conv.in_channels,
                conv.out_channels,
                cast("tuple[int, int]", conv.kernel_size),
                stride=cast("tuple[int, int]", conv.stride),
                padding=cast("str | tuple[int, int]", conv.padding),
                dilation=cast("tuple[int, int]", conv.dilation),
                groups=conv.groups,
                bias=conv.bias is not None,
                padding_mode=conv.padding_mode,
            )
        layer.weight, layer.bias = conv.weight, conv.bias
        return layer.train(conv.training)

    def forward(self, input: Tensor | Sequence[Tensor]) -> Tensor:  # noqa: A002  (PyTorch's name)
        """Convolves (B, C, H, W), or several such maps as if one were stacked on the other."""
        maps = [input] if isinstance(input, Tensor) else list(input)
        if self.saves_products(maps):
            one = self.weight.new_ones(self.out_channels)
            return self.scaled(maps, one, torch.zeros_like(one), relu=False)
        stacked = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
        if self._has_few_taps(stacked):
            return self._by_taps(stacked)
        if self._is_product(stacked):
            tokens = stacked.permute(0, 2, 3, 1)
            return F.linear(tokens, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        if self._has_heavy_weights(stacked):
            return self._in_order_of_weights(stacked)
        return super().forward(stacked)

    def scaled(self, maps: Sequence[Tensor], scale: Tensor, shift: Tensor, *, relu: bool) -> Tensor:
        """Computes relu(scale · convolution + shift) in one step, where `saves_products` says so.

        Args:
            maps: (B, C, H, W) float32 each; all C add up to `in_channels`.
            scale: (K) float32.
            shift: (K) float32.
            relu: whether negative results become 0.

        Returns:
            (B, K, H, W) float32 with its channels innermost.

        Raises:
            As `fastseg.ops.conv3x3`, which says where the method is from.
        """
        if self.bias is not None:
            shift = torch.addcmul(shift, self.bias, scale)
        rate, padding = self.dilation[0], cast("tuple[int, ...]", self.padding)[0]
        tokens = [x.permute(0, 2, 3, 1) for x in maps]
        out = ops.conv3x3(tokens, self.weight, scale, shift, rate=rate, padding=padding, relu=relu)
        return out.permute(0, 3, 1, 2)

    def _by_taps(self, stacked: Tensor) -> Tensor:
        """Adds one matrix product per tap, over the pixels for which the tap is on the map.

        PyTorch reorders all weights at once; this has those of a few channels in memory.
        """
        tokens = stacked.permute(0, 2, 3, 1)
        batch, height, width, channels = tokens.shape
        rate, filters = self.dilation[0], self.out_channels
        out = tokens.new_zeros(batch, height, width, filters)
        if self.bias is not None:
            out += self.bias
        rows, columns = _seen(height, rate), _seen(width, rate)
        for first in range(0, channels, _TAP_CHANNELS):
            some = slice(first, first + _TAP_CHANNELS)
            weights = self.weight[:, some, _all_or_middle(rows), _all_or_middle(columns)]
            weights = weights.permute(2, 3, 0, 1).contiguous()
            for (to_y, from_y), row in zip(rows.values(), weights, strict=True):
                for (to_x, from_x), tap in zip(columns.values(), row, strict=True):
                    seen = tokens[:, from_y, from_x, some]
                    product = F.linear(seen.reshape(-1, seen.shape[3]), tap)
                    out[:, to_y, to_x] += product.view(*seen.shape[:3], filters)
        return out.permute(0, 3, 1, 2)

    def _in_order_of_weights(self, stacked: Tensor) -> Tensor:
        """Reorders the map, some filters at a time.

        PyTorch would bring the weights into the order of the map, anew each time.
        """
        stacked = stacked.contiguous()
        filters = max(1, _WEIGHTS // self.weight[0].numel())
        if self.groups > 1 or self.padding_mode != "zeros" or filters >= self.out_channels:
            return super().forward(stacked).contiguous(memory_format=torch.channels_last)
        parts = []
        for first in range(0, self.out_channels, filters):
            some = slice(first, first + filters)
            bias = self.bias[some] if self.bias is not None else None
            weight = self.weight[some]
            parts.append(F.conv2d(stacked, weight, bias, self.stride, self.padding, self.dilation))
        return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)

    def _has_few_taps(self, stacked: Tensor) -> bool:
        """Whether `_by_taps` may take the place of this layer, and leaves out enough taps."""
        if not self._is_plain([stacked]) or self.padding[0] != self.dilation[0]:
            return False
        height, width = stacked.shape[-2:]
        if self.dilation[0] >= max(height, width):
            return True
        taps = _taps(height, self.dilation[0]) * _taps(width, self.dilation[0])
        return (
            self.in_channels >= _TAP_CHANNELS
            and stacked.shape[0] * height * width >= _TAP_PIXELS
            and taps <= _FEW_TAPS * 9 * height * width
        )

    def _has_heavy_weights(self, stacked: Tensor) -> bool:
        """Whether the map's channels are innermost, the weights' are not, and these are more."""
        return (
            not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and stacked.device.type == "cpu"
            and self.kernel_size != (1, 1)
            and self.weight.is_contiguous()
            and stacked.is_contiguous(memory_format=torch.channels_last)
            and self.weight.numel() >= _HEAVY * stacked.numel()
        )

    def _is_product(self, stacked: Tensor) -> bool:
        """Whether it is a matrix product with so many weights that none may be copied."""
        return (
            self.weight.numel() >= _WEIGHTS
            and self._is_plain([stacked], side=1)
            and self.padding == (0, 0)
            and self.weight.is_contiguous()
            and stacked.is_contiguous(memory_format=torch.channels_last)
        )

    def _is_plain(self, maps: Sequence[Tensor], side: int = 3) -> bool:
        """Whether it convolves with dense windows of stride 1, and nothing is learned."""
        return not (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or any(
                x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 4
                for x in (*maps, self.weight)
            )
            or torch.is_autocast_enabled("cpu")
            or self.kernel_size != (side, side)
            or self.stride != (1, 1)
            or self.groups != 1
            or self.dilation[0] != self.dilation[1]
            or isinstance(self.padding, str)
            or self.padding[0] != self.padding[1]
            or self.padding_mode != "zeros"
        )

    def saves_products(self, maps: Sequence[Tensor]) -> bool:
        """Whether `scaled` may take the place of this layer for some maps, and is faster."""
        if not self._is_plain(maps) or min(self.in_channels, self.out_channels) < _WIDTH:
            return False
        rate = self.dilation[0]
        more = 2 * (cast("tuple[int, ...]", self.padding)[0] - rate)
        sides = [side + more for side in maps[0].shape[-2:]]
        if min(sides) < 1 or maps[0].shape[0] * sides[0] * sides[1] < _PIXELS:
            return False
        # 36 products per tile of 4×4 pixels that are `rate` apart, against one per pixel and tap
        # that does not fall off the map.
        tiles = [_tiles(side, rate) for side in sides]
        taps = [_taps(side, rate) for side in sides]
        return 36 * tiles[0] * tiles[1] <= _WORTHWHILE * taps[0] * taps[1]


def _tiles(side: int, rate: int) -> int:
    """Tiles along an axis: each of the grids of pixels `rate` apart has its own."""
    return sum(-(-(side - phase) // (4 * rate)) for phase in range(min(side, rate)))


def _taps(side: int, rate: int) -> int:
    """Taps on a map, of all three of all pixels along an axis that keeps its size."""
    return side + 2 * max(0, side - rate)


def _all_or_middle(seen: dict[int, tuple[slice, slice]]) -> slice:
    """The taps along an axis of which any is on the map."""
    return slice(None) if len(seen) > 1 else slice(1, 2)


def _seen(side: int, rate: int) -> dict[int, tuple[slice, slice]]:
    """For each tap along an axis: the pixels for which it is on the map, and where it is."""
    if rate >= side:
        return {1: (slice(side), slice(side))}
    before, after = slice(side - rate), slice(rate, side)
    return {0: (after, before), 1: (slice(side), slice(side)), 2: (before, after)}
