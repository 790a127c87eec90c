"""The U-Net of the field: padded convolutions with BatchNorm, and any timm encoder.

Ronneberger, Fischer, Brox: U-Net, MICCAI 2015; BatchNorm and padding are later habits.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.errors import ParameterError
from fastseg.layers import ConvNormAct
from fastseg.models._base import SegmentationModel, choice, counts
from fastseg.models._encoder import Encoder
from fastseg.models._registry import register

_WIDTHS = (64, 128, 256, 512, 1024)
# Of the decoder of an encoder, at the picture's own size; each level below has twice as many.
_FINEST_WIDTH = 16


@register("unet_padded")
def unet_padded(
    *,
    num_classes: int,
    in_channels: int = 3,
    widths: Sequence[int] | None = None,
    up: str | None = None,
    encoder: str | None = None,
    pretrained: bool = False,
) -> PaddedUNet | EncoderUNet:
    """Builds the padded U-Net, with its own contracting path or a timm encoder.

    Args:
        num_classes: K.
        in_channels: C.
        widths: channels of each level, from the top down: 64 … 1024; with an encoder those of the
            decoder, from the bottom up: 256 … 16.
        up: "transposed" (learned, the default) or "bilinear"; with an encoder "nearest" (the
            default) or "bilinear".
        encoder: a timm model; None is the plain contracting path.
        pretrained: whether timm downloads the encoder's weights.

    Returns:
        The model.
    """
    if encoder is not None:
        return EncoderUNet(
            encoder,
            num_classes=num_classes,
            in_channels=in_channels,
            widths=widths,
            up="nearest" if up is None else up,
            pretrained=pretrained,
        )
    if pretrained:
        raise ParameterError(
            "pretrained: there are no weights without an encoder; pass encoder='resnet34', say"
        )
    return PaddedUNet(
        num_classes=num_classes,
        in_channels=in_channels,
        widths=_WIDTHS if widths is None else widths,
        up="transposed" if up is None else up,
    )


class PaddedUNet(SegmentationModel):
    """Padded convolutions with BatchNorm: the skip is concatenated first, then the deeper map.

    Args:
        num_classes: K.
        in_channels: C.
        widths: channels of each level, from the top down.
        up: "transposed" learns how to enlarge and halves the channels; "bilinear" interpolates,
            and the convolutions halve the channels.

    Convention:
        Where a level's size is odd, the enlarged map is one pixel smaller than the skip: it is
        padded with zeros at the bottom and right.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = _WIDTHS,
        up: str = "transposed",
    ) -> None:
        levels = counts(widths, "widths")
        bilinear = choice(up, "up", ("transposed", "bilinear")) == "bilinear"
        super().__init__(
            "unet_padded",
            num_classes=num_classes,
            in_channels=in_channels,
            options={"widths": levels, "up": up},
        )
        # Interpolation keeps the channels, so the level below must have as many as the skip.
        shrink = 2 if bilinear and len(levels) > 1 else 1
        channels = [in_channels, *levels[:-1], max(1, levels[-1] // shrink)]
        self.down = nn.ModuleList(
            _pair(channels[level], channels[level + 1], channels[level + 1])
            for level in range(len(levels))
        )
        self.up = nn.ModuleList()
        self.fuse = nn.ModuleList()
        deep = channels[-1]
        for level in reversed(range(len(levels) - 1)):
            skip = levels[level]
            if bilinear:
                out = max(1, skip // 2) if level else skip
                self.up.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
                self.fuse.append(_pair(skip + deep, max(1, (skip + deep) // 2), out))
                deep = out
            else:
                self.up.append(nn.ConvTranspose2d(deep, skip, 2, stride=2))
                self.fuse.append(_pair(2 * skip, skip, skip))
                deep = skip
        self.classifier = nn.Conv2d(deep, num_classes, 1)
        self.minimum_size = 2 ** (len(levels) - 1)

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the image's own size."""
        features = image
        skips = []
        for level, block in enumerate(self.down):
            if level:
                features = F.max_pool2d(features, 2)
            features = self.stage(block, features)
            skips.append(features)
        features = skips.pop()
        for up, fuse in zip(self.up, self.fuse, strict=True):
            skip = skips.pop()
            features = up(features)
            height, width = skip.shape[-2:]
            rest = (0, width - features.shape[-1], 0, height - features.shape[-2])
            features = self.stage(fuse, [skip, F.pad(features, rest)])
        return self.classifier(features), {}


class EncoderUNet(SegmentationModel):
    """A timm encoder as the contracting path, and a decoder that takes all of its maps.

    Args:
        encoder: a timm model that gives features, such as "resnet34" or "convnext_tiny".
        num_classes: K.
        in_channels: C.
        widths: channels of the decoder's steps, from the bottom up; as many as doublings lead from
            the encoder's coarsest map to the picture. None: … 64, 32, 16.
        up: "nearest" or "bilinear".
        pretrained: whether timm downloads the encoder's weights.

    Convention:
        Each step enlarges to the size of the skip, so any size fits. Where the encoder has no map
        of a step's stride (those that start at 4), the step has no skip.
    """

    def __init__(
        self,
        encoder: str,
        *,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] | None = None,
        up: str = "nearest",
        pretrained: bool = False,
    ) -> None:
        choice(up, "up", ("nearest", "bilinear"))
        contracting = Encoder(encoder, in_channels=in_channels, pretrained=pretrained)
        coarsest = contracting.strides[-1]
        strides = [coarsest >> step for step in range(1, coarsest.bit_length())]
        if widths is None:
            widths = [_FINEST_WIDTH << step for step in reversed(range(len(strides)))]
        levels = counts(widths, "widths")
        super().__init__(
            "unet_padded",
            num_classes=num_classes,
            in_channels=in_channels,
            options={"widths": levels, "up": up, "encoder": encoder},
        )
        self.up, self.strides = up, strides
        self.encoder = contracting
        if len(levels) != len(self.strides):
            raise ParameterError(
                f"widths: {encoder} ends at stride {coarsest}, so its decoder has "
                f"{len(self.strides)} steps, got {len(levels)} widths"
            )
        skips = dict(zip(self.encoder.strides, self.encoder.channels, strict=True))
        deep = [self.encoder.channels[-1], *levels]
        self.steps = nn.ModuleList(
            _pair(deep[step] + skips.get(stride, 0), width, width)
            for step, (stride, width) in enumerate(zip(self.strides, levels, strict=True))
        )
        self.classifier = nn.Conv2d(levels[-1], num_classes, 3, padding=1)
        self.normalized_stride = coarsest

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the image's own size."""
        maps = dict(zip(self.encoder.strides, self.encoder(image), strict=True))
        features = maps.pop(self.encoder.strides[-1])
        align = None if self.up == "nearest" else False
        for stride, step in zip(self.strides, self.steps, strict=True):
            skip = maps.pop(stride, None)
            if skip is None:
                height, width = ((side + stride - 1) // stride for side in image.shape[-2:])
            else:
                height, width = skip.shape[-2:]
            features = F.interpolate(features, (height, width), mode=self.up, align_corners=align)
            # Here the deeper map comes first, as in the public decoders of this kind.
            features = self.stage(step, [features] if skip is None else [features, skip])
        return self.classifier(features), {}


def _pair(in_channels: int, middle: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(in_channels, middle), ConvNormAct(middle, out_channels))
