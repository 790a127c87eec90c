"""DeepLab v1, v2, v3 and v3+: atrous convolutions instead of further pooling.

Chen et al., ICLR 2015 (v1); TPAMI 2018 (v2); 2017 (v3); ECCV 2018 (v3+). v1 and v2 end with a dense
CRF: `fastseg.crf.refine(probs, image, preset="deeplab-v2")`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg._checks import positive
from fastseg.errors import ParameterError
from fastseg.layers import ASPP, ASPPSum, AtrousConv2d, ConvNormAct
from fastseg.models import _vgg
from fastseg.models._base import SegmentationModel, choice, count, counts
from fastseg.models._encoder import Encoder, feature_maps
from fastseg.models._registry import register
from fastseg.models.fcn import FCNHead

_OUTPUT_STRIDES = (8, 16, 32)
# Sizes are computed with fractions of thousandths.
_LEAST_SCALE = 0.01


@register("deeplab_v1")
class DeepLabV1(SegmentationModel):
    """DeepLab-LargeFOV on VGG-16: stride 8, and a 3×3 of rate 12 for the first full layer.

    Args:
        num_classes: K.
        in_channels: C.
        width: factor on all channels; below 1 for tests and small tasks.
        pretrained: whether timm downloads VGG-16's ImageNet weights for the convolutions.

    Convention:
        Logits at stride 8 are enlarged with aligned corners, as the published network's are.
    """

    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__(
            "deeplab_v1",
            num_classes=num_classes,
            in_channels=in_channels,
            options={"width": width},
        )
        blocks = _vgg.scaled(_vgg.VGG16_BLOCKS, width)
        channels = [in_channels, *(block[-1] for block in blocks)]
        full = max(1, round(1024 * width))
        self.blocks = nn.ModuleList(
            _vgg.convolutions(channels[index], block, rate=2 if index == 4 else 1)
            for index, block in enumerate(blocks)
        )
        self.classifier = nn.Sequential(
            AtrousConv2d(channels[5], full, 3, rate=12),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(full, full, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(full, num_classes, 1),
        )
        _vgg.start_for_relu(self.classifier)
        self.stride = 8
        if pretrained:
            _vgg.load_convolutions(list(self.blocks), _vgg.download())

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at stride 8."""
        features = image
        for index, block in enumerate(self.blocks):
            features = self.stage(block, features)
            # The last two poolings lost their stride; the next convolutions have a rate instead.
            features = F.max_pool2d(
                features, 3, stride=2 if index < 3 else 1, padding=1, ceil_mode=index < 3
            )
        features = F.avg_pool2d(features, 3, stride=1, padding=1)
        return self.stage(self.classifier, features), {}


class _OnEncoder(SegmentationModel):
    """What v2, v3 and v3+ share: a dilated encoder, with torchvision's keys for a ResNet."""

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        in_channels: int,
        encoder: str,
        output_stride: int,
        indices: Sequence[int],
        pretrained: bool,
        options: dict[str, object],
    ) -> None:
        choice(output_stride, "output_stride", _OUTPUT_STRIDES)
        super().__init__(
            name,
            num_classes=num_classes,
            in_channels=in_channels,
            options={"encoder": encoder, "output_stride": output_stride, **options},
        )
        found = Encoder(
            encoder,
            in_channels=in_channels,
            indices=indices,
            output_stride=output_stride,
            pretrained=pretrained,
        )
        self.backbone = found.model
        self.channels = found.channels
        self.stride = self.normalized_stride = output_stride


@register("deeplab_v2")
class DeepLabV2(_OnEncoder):
    """ResNet at stride 8, four atrous convolutions added, the maximum over several scales.

    Args:
        num_classes: K.
        in_channels: C.
        encoder: a timm model that takes an output stride.
        output_stride: 8, 16 or 32.
        rates: of the atrous convolutions.
        scales: factors by which the picture is resized; each pixel takes the largest score.
        pretrained: whether timm downloads the encoder's ImageNet weights.

    Convention:
        With more than one scale `auxiliary` holds each one's logits in training, as "scale1",
        "scale0.75" …: the published training has a loss for each and one for the maximum.
    """

    align_corners = True

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        encoder: str = "resnet101",
        output_stride: int = 8,
        rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (1.0, 0.75, 0.5),
        pretrained: bool = False,
    ) -> None:
        factors = _factors(scales)
        distances = counts(rates, "rates")
        super().__init__(
            "deeplab_v2",
            num_classes=num_classes,
            in_channels=in_channels,
            encoder=encoder,
            output_stride=output_stride,
            indices=(-1,),
            pretrained=pretrained,
            options={"rates": distances, "scales": factors},
        )
        self.scales = tuple(factors)
        self.classifier = ASPPSum(self.channels[0], num_classes, rates=distances)
        for conv in self.classifier.convs:
            nn.init.normal_(conv.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        # The smallest copy of the picture has at least a pixel, and in a batch of one more than a
        # single cell at the encoder's end.
        self.minimum_size = math.ceil(1 / min(factors))
        self.normalized_stride = output_stride * self.minimum_size

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the encoder's stride of the picture at the first scale."""
        height, width = image.shape[-2:]
        logits: list[Tensor] = []
        for scale in self.scales:
            resized = image
            if scale != 1:
                up, down = Fraction(scale).limit_denominator(1000).as_integer_ratio()
                size = (height * up // down, width * up // down)
                resized = F.interpolate(image, size, mode="bilinear", align_corners=True)
            scores = self.stage(self.classifier, feature_maps(self.backbone, resized)[0])
            if logits:
                scores = F.interpolate(
                    scores, logits[0].shape[-2:], mode="bilinear", align_corners=True
                )
            logits.append(scores)
        best = logits[0]
        for other in logits[1:]:
            best = torch.maximum(best, other)
        if len(logits) == 1 or not self.training:
            return best, {}
        return best, {
            f"scale{scale:g}": scores for scale, scores in zip(self.scales, logits, strict=True)
        }


@register("deeplab_v3")
class DeepLabV3(_OnEncoder):
    """ResNet with rates, and the pyramid with the image's mean: torchvision's layers and keys.

    Args:
        num_classes: K.
        in_channels: C.
        encoder: a timm model that takes an output stride.
        output_stride: 8, 16 or 32.
        rates: of the pyramid; None is 12, 24, 36 at stride 8 and half of that at 16.
        auxiliary: whether a second head reads the map before the last; its output is
            `auxiliary["aux"]` in training.
        pretrained: whether timm downloads the encoder's ImageNet weights.

    Convention:
        A batch of one trains: the mean over the image, one value per channel, is normalised with
        the running statistics.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        encoder: str = "resnet50",
        output_stride: int = 8,
        rates: Sequence[int] | None = None,
        auxiliary: bool = False,
        pretrained: bool = False,
    ) -> None:
        distances = _rates(rates, output_stride)
        super().__init__(
            "deeplab_v3",
            num_classes=num_classes,
            in_channels=in_channels,
            encoder=encoder,
            output_stride=output_stride,
            indices=(-2, -1) if auxiliary else (-1,),
            pretrained=pretrained,
            options={"rates": distances, "auxiliary": auxiliary},
        )
        block = ConvNormAct(256, 256)
        self.classifier = nn.Sequential(
            ASPP(self.channels[-1], rates=distances),
            block[0],
            block[1],
            block[2],
            nn.Conv2d(256, num_classes, 1),
        )
        self.aux_classifier = FCNHead(self.channels[0], num_classes) if auxiliary else None

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the encoder's stride."""
        *finer, features = feature_maps(self.backbone, image)
        logits = self.stage(self.classifier, features)
        if self.aux_classifier is None or not self.training:
            return logits, {}
        return logits, {"aux": self.stage(self.aux_classifier, *finer)}


@register("deeplab_v3plus")
class DeepLabV3Plus(_OnEncoder):
    """DeepLab v3 with a small decoder that adds a map of stride 4, for sharper outlines.

    Args:
        num_classes: K.
        in_channels: C.
        encoder: a timm model that takes an output stride and has a map of stride 4.
        output_stride: 8, 16 or 32.
        rates: of the pyramid; None is 12, 24, 36 at stride 8 and half of that at 16.
        low_channels: to how many channels the map of stride 4 is reduced.
        pretrained: whether timm downloads the encoder's ImageNet weights.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        encoder: str = "resnet101",
        output_stride: int = 16,
        rates: Sequence[int] | None = None,
        low_channels: int = 48,
        pretrained: bool = False,
    ) -> None:
        distances = _rates(rates, output_stride)
        super().__init__(
            "deeplab_v3plus",
            num_classes=num_classes,
            in_channels=in_channels,
            encoder=encoder,
            output_stride=output_stride,
            indices=(1, -1),
            pretrained=pretrained,
            options={"rates": distances, "low_channels": count(low_channels, "low_channels")},
        )
        self.aspp = ASPP(self.channels[1], rates=distances)
        self.low = ConvNormAct(self.channels[0], low_channels, 1)
        self.fuse = ConvNormAct(256 + low_channels, 256)
        self.refine = ConvNormAct(256, 256)
        self.classifier = nn.Conv2d(256, num_classes, 1)
        self.stride = 4

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at stride 4."""
        low, deep = feature_maps(self.backbone, image)
        # Each map is let go before the next is made, the widest first.
        low = self.low(low)
        deep = self.stage(self.aspp, deep)
        size = (low.shape[-2], low.shape[-1])
        enlarged = F.interpolate(deep, size, mode="bilinear", align_corners=False)
        deep = self.stage(self.fuse, [enlarged, low])
        del enlarged, low
        return self.classifier(self.stage(self.refine, deep)), {}


def _factors(scales: Sequence[float]) -> list[float]:
    if not isinstance(scales, Sequence) or isinstance(scales, str) or not scales:
        raise ParameterError(f"scales: expected a sequence of factors above 0, got {scales!r}")
    factors = [positive(f"scales[{index}]", scale) for index, scale in enumerate(scales)]
    if min(factors) < _LEAST_SCALE:
        raise ParameterError(f"scales: expected factors from {_LEAST_SCALE} on, got {scales!r}")
    return factors


def _rates(rates: Sequence[int] | None, output_stride: int) -> list[int]:
    if rates is not None:
        return counts(rates, "rates")
    choice(output_stride, "output_stride", _OUTPUT_STRIDES)
    return [max(1, rate * 8 // output_stride) for rate in (12, 24, 36)]
