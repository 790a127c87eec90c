"""SegNet: maxima go back to where they came from.

Badrinarayanan, Kendall, Cipolla: SegNet, TPAMI 2017.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastseg.layers import ConvNormAct, max_pool_with_indices, max_unpool
from fastseg.models import _vgg
from fastseg.models._base import SegmentationModel
from fastseg.models._registry import register


@register("segnet")
class SegNet(SegmentationModel):
    """VGG-16's thirteen convolutions down, their mirror image up, pooling indices between them.

    Args:
        num_classes: K.
        in_channels: C.
        width: factor on all channels; below 1 for tests and small tasks.
        pretrained: whether timm downloads VGG-16's ImageNet weights for the way down.
    """

    minimum_size = 32

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__(
            "segnet",
            num_classes=num_classes,
            in_channels=in_channels,
            options={"width": width},
        )
        blocks = _vgg.scaled(_vgg.VGG16_BLOCKS, width)
        channels = [in_channels, *(block[-1] for block in blocks)]
        self.encoder = nn.ModuleList(
            _vgg.convolutions(channels[index], block, norm=True)
            for index, block in enumerate(blocks)
        )
        self.decoder = nn.ModuleList(
            _vgg.convolutions(
                channels[index + 1], [*block[:-1], channels[index]][: len(block)], norm=True
            )
            for index, block in reversed(list(enumerate(blocks)))
            if index > 0
        )
        first = blocks[0]
        self.last = ConvNormAct(first[1], first[0], bias=True)
        self.classifier = nn.Conv2d(first[0], num_classes, 3, padding=1)
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
        for block in self.decoder:
            indices, size = kept.pop()
            features = self.stage(block, max_unpool(features, indices, output_size=size))
        indices, size = kept.pop()
        features = self.stage(self.last, max_unpool(features, indices, output_size=size))
        return self.classifier(features), {}
