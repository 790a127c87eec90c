"""U-Net: a contracting path, an expanding one, and skips that are concatenated.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation,
MICCAI 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg._checks import share
from fastseg.errors import ParameterError, ShapeError
from fastseg.layers import Conv2d, center_crop
from fastseg.models._base import SegmentationModel, count, counts
from fastseg.models._registry import register

_WIDTHS = (64, 128, 256, 512, 1024)


@register("unet")
class UNet(SegmentationModel):
    """The published U-Net: convolutions without padding, crops, and mirrored borders.

    Without padding every output pixel has seen real pixels only, and the output is smaller than the
    input. The paper extends the picture beyond its border by mirroring; so does `forward`, such
    that any picture gives logits of its size.

    Args:
        num_classes: K.
        in_channels: C.
        widths: channels of each level, from the top down.
        dropout: probability at the end of the contracting path.
        mirror: False leaves the border alone: `forward` takes the sizes that fit, such as 572, and
            returns the smaller map, such as 388.

    Convention:
        With five levels an input of 16·s + 124 pixels gives 16·s − 60 (s from 4 on); `border` says
        how many pixels are lost at each side.

    Example:
        >>> import torch, fastseg
        >>> model = fastseg.create_model("unet", num_classes=2, in_channels=1, widths=[4, 8, 16])
        >>> model(torch.zeros(1, 1, 30, 41)).shape
        torch.Size([1, 2, 30, 41])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = _WIDTHS,
        dropout: float = 0.5,
        mirror: bool = True,
    ) -> None:
        levels = counts(widths, "widths")
        share("dropout", dropout)
        super().__init__(
            "unet",
            num_classes=num_classes,
            in_channels=in_channels,
            options={"widths": levels, "dropout": dropout, "mirror": mirror},
        )
        self.mirror = mirror
        channels = [in_channels, *levels]
        self.down = nn.ModuleList(
            _valid_pair(channels[level], width) for level, width in enumerate(levels)
        )
        self.dropout = nn.Dropout(dropout)
        pairs = list(zip(levels[:0:-1], levels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, stride=2) for low, high in pairs)
        self.fuse = nn.ModuleList(_valid_pair(2 * high, high) for _, high in pairs)
        self.classifier = nn.Conv2d(levels[0], num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # σ = √(2/N), N the number of incoming nodes of one neuron. An up-convolution's taps
                # do not overlap: each output pixel comes from one pixel of all channels.
                nodes = module.in_channels
                if isinstance(module, nn.Conv2d):
                    nodes *= math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / nodes))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        # At the bottom, d levels down, four pixels are lost per pair; above it, each pair on
        # either path loses four of its level's pixels.
        self.step = 1 << (len(levels) - 1)
        lost_down = sum(4 * (1 << level) for level in range(len(levels)))
        lost_up = sum(4 * (1 << level) for level in range(len(levels) - 1))
        self.border = (lost_down + lost_up) // 2
        # The smallest bottom whose way up still leaves a pixel, and whose picture it comes from.
        self._input_offset = lost_down
        self._output_offset = lost_up

    def fitting_size(self, output: int) -> int:
        """The smallest input side that fits and whose output has at least `output` pixels.

        Args:
            output: pixels.

        Returns:
            Pixels: the output's side is `2 · border` less.

        Example:
            >>> from fastseg import create_model
            >>> create_model("unet", num_classes=2).fitting_size(388)
            572
        """
        bottom = (output + self._output_offset + self.step - 1) // self.step
        return bottom * self.step + self._input_offset

    def check_size(self, image: Tensor) -> None:
        """Raises `ShapeError` for sizes that valid convolutions cannot take, without mirroring."""
        if self.mirror:
            super().check_size(image)
            return
        for side in image.shape[-2:]:
            fits = self.fitting_size(side - 2 * self.border) if side > 2 * self.border else 0
            if fits != side:
                smallest = self.fitting_size(1)
                raise ShapeError(
                    f"image: without mirroring, heights and widths of {smallest} + "
                    f"{self.step}·n pixels fit ({smallest}, {smallest + self.step}, "
                    f"{smallest + 2 * self.step}, …), got {tuple(image.shape[-2:])}; crop or pad "
                    "the picture, or build the model with mirror=True"
                )

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the image's size, or of its middle without mirroring."""
        if not self.mirror:
            return self._valid(image), {}
        height, width = image.shape[-2:]
        window = mirrored_window(
            image,
            top=-self.border,
            left=-self.border,
            height=self.fitting_size(height),
            width=self.fitting_size(width),
        )
        logits = self._valid(window)
        if torch.compiler.is_exporting():
            # A view would record whether the picture of the export happened to fill the window.
            rows = torch.arange(height, device=image.device)
            columns = torch.arange(width, device=image.device)
            return logits.index_select(-2, rows).index_select(-1, columns), {}
        return logits[..., :height, :width], {}

    def _valid(self, image: Tensor) -> Tensor:
        features = image
        skips = []
        for level, block in enumerate(self.down):
            if level:
                features = F.max_pool2d(features, 2)
            features = self.stage(block, features)
            # The paper drops at the end of the contracting path: its last two levels.
            if level >= len(self.down) - 2:
                features = self.dropout(features)
            skips.append(features)
        features = skips.pop()
        for up, fuse in zip(self.up, self.fuse, strict=True):
            features = up(features)
            size = (features.shape[-2], features.shape[-1])
            features = self.stage(fuse, [center_crop(skips.pop(), size), features])
        logits: Tensor = self.classifier(features)
        return logits

    def predict_tiles(self, image: Tensor, *, tile: int = 388) -> Tensor:
        """Computes logits of a picture of any size tile by tile: the paper's overlap-tile strategy.

        Each tile reads its own surroundings, mirrored beyond the picture's border, so that the
        tiles join without a seam: the result is that of one pass, in the memory of one tile.

        Args:
            image: (B, C, H, W) float.
            tile: side in pixels of a tile of the output; rounded up to what fits.

        Returns:
            (B, K, H, W) logits.

        Raises:
            ParameterError: the tile is below 1 pixel.
            ShapeError: as `forward`.
        """
        tile = count(tile, "tile")
        if not self.mirror:
            raise ParameterError(
                "mirror: predict_tiles needs mirror=True; this model was built without, and its "
                "outputs are smaller than the picture"
            )
        self.check_image(image)
        height, width = image.shape[-2:]
        side = self.fitting_size(tile)
        # Tiles start at multiples of the poolings' step: all see the same grid.
        out = (side - 2 * self.border) // self.step * self.step or self.step
        side = self.fitting_size(out)
        logits = image.new_empty(image.shape[0], self.num_classes, height, width)
        for top in range(0, height, out):
            for left in range(0, width, out):
                window = mirrored_window(
                    image,
                    top=top - self.border,
                    left=left - self.border,
                    height=side,
                    width=side,
                )
                rows, columns = min(out, height - top), min(out, width - left)
                logits[..., top : top + rows, left : left + columns] = self._valid(window)[
                    ..., :rows, :columns
                ]
        return logits


def _valid_pair(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        Conv2d(in_channels, out_channels, 3),
        nn.ReLU(inplace=True),
        Conv2d(out_channels, out_channels, 3),
        nn.ReLU(inplace=True),
    )


def mirrored_window(image: Tensor, *, top: int, left: int, height: int, width: int) -> Tensor:
    """Cuts a window that may reach beyond the picture, which is mirrored there.

    Args:
        image: (…, H, W).
        top: first row of the window; may be negative.
        left: first column.
        height: rows.
        width: columns.

    Returns:
        (…, height, width).

    Convention:
        The pixels of the border are not repeated: … c b | a b c | b a …; far out, the picture is
        mirrored again and again.
    """
    rows = _mirrored(top, height, image.shape[-2], image.device)
    columns = _mirrored(left, width, image.shape[-1], image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def _mirrored(start: int, length: int, size: int, device: torch.device) -> Tensor:
    steps = torch.arange(length, device=device) + start
    # A triangle wave of period 2·(size − 1); a single pixel is its own mirror image.
    last = size - 1
    # As a tensor: ONNX knows no remainder by a number that is known only when it runs.
    period = torch.full((1,), max(2 * last, 1), dtype=torch.long, device=device)
    phase = torch.remainder(steps, period)
    return last - (phase - last).abs()
