"""DeconvNet: a classifier run backwards, from one vector per window up to the picture.

Noh, Hong, Han: Learning Deconvolution Network for Semantic Segmentation, ICCV 2015.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from fastseg.layers import FreshBatchNorm2d, max_pool_with_indices, max_unpool
from fastseg.models import _vgg
from fastseg.models._base import SegmentationModel, count
from fastseg.models._registry import register


@register("deconvnet")
class DeconvNet(SegmentationModel):
    """VGG-16 with its fully connected layers, and its mirror image of transposed convolutions.

    SegNet's older sibling: it goes through the fully connected layers, which see a whole window and
    hold nine tenths of the weights, and its way up is made of transposed convolutions.

    Args:
        num_classes: K.
        in_channels: C.
        window: side of the fully connected layers' window in cells of 32 pixels. The published 7
            sees all of a 224×224 picture at once; less takes smaller pictures.
        width: factor on all channels; below 1 for tests and small tasks.
        pretrained: whether timm downloads VGG-16's ImageNet weights for the convolutions.

    Convention:
        Pictures are at least 32 · `window` pixels high and wide; larger ones are seen window by
        window.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        window: int = 7,
        width: float = 1.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__(
            "deconvnet",
            num_classes=num_classes,
            in_channels=in_channels,
            options={"window": count(window, "window"), "width": width},
        )
        blocks = _vgg.scaled(_vgg.VGG16_BLOCKS, width)
        channels = [in_channels, *(block[-1] for block in blocks)]
        fully = max(1, round(4096 * width))
        self.encoder = nn.ModuleList(
            _vgg.convolutions(channels[index], block, norm=True)
            for index, block in enumerate(blocks)
        )
        self.fully = nn.Sequential(
            *_normed(nn.Conv2d(channels[5], fully, window)),
            *_normed(nn.Conv2d(fully, fully, 1)),
            *_normed(nn.ConvTranspose2d(fully, channels[5], window)),
        )
        self.decoder = nn.ModuleList(
            _transposed([*reversed(block), channels[index] if index else block[0]])
            for index, block in reversed(list(enumerate(blocks)))
        )
        self.classifier = nn.Conv2d(blocks[0][0], num_classes, 1)
        self.minimum_size = 32 * window
        _vgg.start_for_relu(self)
        if pretrained:
            _vgg.load_convolutions(list(self.encoder), _vgg.download())

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the image's own size."""
        features = image
        kept: list[tuple[Tensor, tuple[int, int]]] = []
        for block in self.encoder:
            features = self.stage(block, features)
            size = (features.shape[-2], features.shape[-1])
            features, indices = max_pool_with_indices(features)
            kept.append((indices, size))
        features = self.stage(self.fully, features)
        for block in self.decoder:
            indices, size = kept.pop()
            features = self.stage(block, max_unpool(features, indices, output_size=size))
        return self.classifier(features), {}


def _normed(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [layer, FreshBatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]


def _transposed(widths: list[int]) -> nn.Sequential:
    """Transposed 3×3 convolutions from one width to the next, which keep the size."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += _normed(nn.ConvTranspose2d(before, after, 3, padding=1))
    return nn.Sequential(*layers)
