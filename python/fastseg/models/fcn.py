"""FCN: a classifier made convolutional, its coarse scores refined by earlier layers.

Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from fastseg._checks import share
from fastseg.errors import CheckpointError, DtypeError, ParameterError
from fastseg.layers import BilinearConvTranspose2d, ConvNormAct
from fastseg.models import _vgg
from fastseg.models._base import SegmentationModel, choice
from fastseg.models._encoder import Encoder, feature_maps
from fastseg.models._registry import register

# conv1_1 pads by so much that the 7×7 of fc6 fits into any picture.
_PADDING = 100
# Where the skips of the Caffe networks are cropped: scores of pool4, of pool3, and the picture.
_CROPS = {32: (0, 0, 19), 16: (5, 0, 27), 8: (5, 9, 31)}
# The at-once networks scale what comes out of pool3 and pool4 instead of training in stages.
_AT_ONCE_SCALES = {"pool4": 0.01, "pool3": 0.0001}


class FCN(SegmentationModel):
    """FCN-32s, 16s and 8s on VGG-16, with the padding and crops of the published networks.

    Args:
        finest: 32, 16 or 8: the stride of the finest scores that are used.
        num_classes: K.
        in_channels: C.
        at_once: trains all strides together: scores of pool4 and pool3 are scaled by 0.01 and
            0.0001. False is the published way in stages, for which see `start_from`.
        dropout: probability after fc6 and fc7.
        width: factor on all channels; below 1 for tests and small tasks.
        pretrained: whether timm downloads VGG-16's ImageNet weights, fc6 and fc7 included.

    Convention:
        Scores start at zero, enlargements as bilinear interpolation.
    """

    def __init__(
        self,
        finest: int,
        *,
        num_classes: int,
        in_channels: int = 3,
        at_once: bool = False,
        dropout: float = 0.5,
        width: float = 1.0,
        pretrained: bool = False,
    ) -> None:
        choice(finest, "finest", (32, 16, 8))
        share("dropout", dropout)
        super().__init__(
            f"fcn{finest}s",
            num_classes=num_classes,
            in_channels=in_channels,
            options={"at_once": at_once, "dropout": dropout, "width": width},
        )
        self.finest = finest
        self.at_once = at_once
        blocks = _vgg.scaled(_vgg.VGG16_BLOCKS, width)
        fully = max(1, round(4096 * width))
        channels = [in_channels, *(block[-1] for block in blocks)]
        self.blocks = nn.ModuleList(
            _vgg.convolutions(channels[index], block, padding=_PADDING if index == 0 else 1)
            for index, block in enumerate(blocks)
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.fc6 = nn.Conv2d(channels[5], fully, 7)
        self.fc7 = nn.Conv2d(fully, fully, 1)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Conv2d(fully, num_classes, 1)
        if finest <= 16:
            self.score_pool4 = nn.Conv2d(channels[4], num_classes, 1)
            self.up2 = BilinearConvTranspose2d(num_classes, stride=2)
        if finest == 8:
            self.score_pool3 = nn.Conv2d(channels[3], num_classes, 1)
            self.up4 = BilinearConvTranspose2d(num_classes, stride=2)
        self.up = BilinearConvTranspose2d(num_classes, stride=finest)
        _vgg.start_for_relu(self.fc6)
        _vgg.start_for_relu(self.fc7)
        for name, layer in self.named_children():
            if name.startswith("score") and isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if pretrained:
            self.load_vgg16(_vgg.download())

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the image's own size; nothing is left to enlarge."""
        at_pool4, at_pool3, at_image = _CROPS[self.finest]
        pooled = []
        features = image
        for block in self.blocks:
            features = self.pool(self.stage(block, features))
            pooled.append(features)
        features = self.dropout(torch.relu_(self.fc6(features)))
        features = self.dropout(torch.relu_(self.fc7(features)))
        scores = self.score(features)
        if self.finest <= 16:
            skip = self.score_pool4(self._scaled(pooled[3], "pool4"))
            scores = _add_at(self.up2(scores), skip, at_pool4)
        if self.finest == 8:
            skip = self.score_pool3(self._scaled(pooled[2], "pool3"))
            scores = _add_at(self.up4(scores), skip, at_pool3)
        height, width = image.shape[-2:]
        logits: Tensor = self.up(scores)
        return logits[..., at_image : at_image + height, at_image : at_image + width], {}

    def _scaled(self, features: Tensor, layer: str) -> Tensor:
        return features * _AT_ONCE_SCALES[layer] if self.at_once else features

    def start_from(self, coarser: FCN) -> FCN:
        """Takes over a trained network of twice the stride, for the next stage of training.

        The new skip's scores start at zero and the new enlargement as bilinear interpolation, so
        that the network begins as good as the coarser one.

        Args:
            coarser: FCN-32s for an FCN-16s, FCN-16s for an FCN-8s.

        Returns:
            The model itself.

        Raises:
            DtypeError: it is no FCN on VGG-16.
            ParameterError: it is not of twice the stride.
            CheckpointError: other classes, channels or widths.
        """
        if not isinstance(coarser, FCN):
            raise DtypeError(
                f"coarser: expected an FCN-{2 * self.finest}s model, got {type(coarser).__name__}"
            )
        if coarser.finest != 2 * self.finest:
            raise ParameterError(
                f"coarser: fcn{self.finest}s starts from fcn{2 * self.finest}s, got "
                f"fcn{coarser.finest}s"
            )
        # The last enlargement has another stride; it keeps its bilinear start.
        taken = {
            name: tensor for name, tensor in coarser.state_dict().items() if name != "up.weight"
        }
        own = self.state_dict()
        unlike = [name for name in taken if taken[name].shape != own[name].shape]
        if unlike:
            raise CheckpointError(
                f"coarser: {unlike[0]} is {tuple(taken[unlike[0]].shape)}, expected "
                f"{tuple(own[unlike[0]].shape)}: build both with the same classes, channels and "
                "width"
            )
        self.load_state_dict(taken, strict=False)
        return self

    def load_vgg16(self, state: Mapping[str, Tensor]) -> None:
        """Takes the convolutions and fully connected layers of a VGG-16 classifier.

        Args:
            state: a state dict of timm's or torchvision's `vgg16`.

        Raises:
            DtypeError: it is no state dict.
            CheckpointError: the state dict holds other layers.
        """
        if not isinstance(state, Mapping):
            raise DtypeError(f"state: expected a state dict, got {type(state).__name__}")
        given = dict(state)
        _vgg.load_convolutions(list(self.blocks), given)
        for layer, names in (
            (self.fc6, ("pre_logits.fc1", "classifier.0")),
            (self.fc7, ("pre_logits.fc2", "classifier.3")),
        ):
            name = next((name for name in names if f"{name}.weight" in given), None)
            if name is None:
                raise CheckpointError(f"state: expected {' or '.join(names)}, got neither")
            weight, bias = given[f"{name}.weight"], given[f"{name}.bias"]
            if weight.numel() != layer.weight.numel():
                raise CheckpointError(
                    f"state: {name}.weight is {tuple(weight.shape)}, expected "
                    f"{tuple(layer.weight.shape)} or the same numbers as a matrix"
                )
            layer.load_state_dict({"weight": weight.reshape(layer.weight.shape), "bias": bias})


def _add_at(scores: Tensor, skip: Tensor, offset: int) -> Tensor:
    """Adds the window of the skip that starts at an offset and fits the scores."""
    height, width = scores.shape[-2:]
    return scores + skip[..., offset : offset + height, offset : offset + width]


class FCNHead(nn.Sequential):
    """A 3×3 convolution to a quarter of the channels, dropout, and a 1×1 to the classes.

    Children 0 (convolution), 1 (BatchNorm) and 4 (classes) hold weights, as in torchvision.

    Args:
        in_channels: channels of the features.
        num_classes: K.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        inner = max(1, in_channels // 4)
        block = ConvNormAct(in_channels, inner)
        super().__init__(
            block[0], block[1], block[2], nn.Dropout(0.1), nn.Conv2d(inner, num_classes, 1)
        )


class FCNResNet(SegmentationModel):
    """FCN on a dilated ResNet, with torchvision's layers and keys.

    Args:
        name: the registered name.
        encoder: a timm model; ResNets have torchvision's keys.
        num_classes: K.
        in_channels: C.
        auxiliary: whether a second head reads the map before the last; its output is
            `auxiliary["aux"]` in training.
        output_stride: 8, 16 or 32.
        pretrained: whether timm downloads the encoder's ImageNet weights.
    """

    def __init__(
        self,
        name: str,
        *,
        encoder: str,
        num_classes: int,
        in_channels: int = 3,
        auxiliary: bool = False,
        output_stride: int = 8,
        pretrained: bool = False,
    ) -> None:
        choice(output_stride, "output_stride", (8, 16, 32))
        super().__init__(
            name,
            num_classes=num_classes,
            in_channels=in_channels,
            options={
                "encoder": encoder,
                "auxiliary": auxiliary,
                "output_stride": output_stride,
            },
        )
        found = Encoder(
            encoder,
            in_channels=in_channels,
            indices=(-2, -1) if auxiliary else (-1,),
            output_stride=output_stride,
            pretrained=pretrained,
        )
        self.backbone = found.model
        self.classifier = FCNHead(found.channels[-1], num_classes)
        self.aux_classifier = FCNHead(found.channels[0], num_classes) if auxiliary else None
        self.stride = self.normalized_stride = output_stride

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the backbone's stride."""
        *finer, features = feature_maps(self.backbone, image)
        logits = self.stage(self.classifier, features)
        if self.aux_classifier is None or not self.training:
            return logits, {}
        return logits, {"aux": self.stage(self.aux_classifier, *finer)}


register("fcn32s")(partial(FCN, 32))
register("fcn16s")(partial(FCN, 16))
register("fcn8s")(partial(FCN, 8))
register("fcn_resnet50")(partial(FCNResNet, "fcn_resnet50", encoder="resnet50"))
register("fcn_resnet101")(partial(FCNResNet, "fcn_resnet101", encoder="resnet101"))
