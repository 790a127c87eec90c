"""U-Net 3+: every decoder node reads every scale.

Huang et al.: UNet 3+: A Full-Scale Connected UNet for Medical Image Segmentation, ICASSP 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.errors import ParameterError
from fastseg.layers import ConvNormAct, enlarged_conv
from fastseg.models._base import SegmentationModel, count, counts
from fastseg.models._registry import register

# From this factor on, convolving before enlarging is faster than after.
_EARLY = 4


@register("unet3p")
class UNet3Plus(SegmentationModel):
    """U-Net 3+ with full-scale deep supervision and the classification-guided module.

    A decoder node reads the encoder's maps of its level and above, pooled, and the decoder's of the
    levels below, enlarged; each is brought to the same few channels by a 3×3 convolution.

    Args:
        num_classes: K.
        in_channels: C.
        widths: channels of each level of the encoder, from the top down.
        branch: channels of each scale in a decoder node.
        deep_supervision: a head on every decoder node and on the encoder's deepest map.
        classification: the classification-guided module: is there any foreground in the picture?

    Convention:
        In training `auxiliary` holds "level1" … (deep supervision; level 0 is `logits`) at the
        input's size, and "classification" (B, 2), the logits of "nothing" and "something", which
        needs a cross-entropy loss of its own.

        The classification gates probabilities, not logits: with g the probability of "something"
        and one class, sigmoid(logits) is g · sigmoid(ungated). With more classes, class 0 is the
        background: the others' probabilities are multiplied by g and the rest goes to class 0. All
        of it is differentiable.

    Example:
        >>> import torch, fastseg
        >>> model = fastseg.create_model(
        ...     "unet3p", num_classes=1, widths=[4, 8, 16], branch=4, classification=True
        ... )
        >>> model(torch.zeros(2, 3, 32, 32)).auxiliary["classification"].shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        branch: int = 64,
        deep_supervision: bool = False,
        classification: bool = False,
    ) -> None:
        levels = counts(widths, "widths")
        if len(levels) < 2:
            raise ParameterError(f"widths: expected at least two levels, got {levels}")
        super().__init__(
            "unet3p",
            num_classes=num_classes,
            in_channels=in_channels,
            options={
                "widths": levels,
                "branch": count(branch, "branch"),
                "deep_supervision": deep_supervision,
                "classification": classification,
            },
        )
        channels = [in_channels, *levels]
        bottom = len(levels) - 1
        node = branch * len(levels)
        self.encoder = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(channels[level], width, bias=True),
                ConvNormAct(width, width, bias=True),
            )
            for level, width in enumerate(levels)
        )
        self.branches = nn.ModuleList(
            nn.ModuleList(
                ConvNormAct(
                    levels[source] if source <= level or source == bottom else node,
                    branch,
                    bias=True,
                )
                for source in range(len(levels))
            )
            for level in range(bottom)
        )
        self.nodes = nn.ModuleList(ConvNormAct(node, node, bias=True) for _ in range(bottom))
        self.heads = nn.ModuleList(
            nn.Conv2d(levels[-1] if level == bottom else node, num_classes, 3, padding=1)
            for level in range(len(levels) if deep_supervision else 1)
        )
        self.classifier = (
            nn.Sequential(nn.Dropout(0.5), nn.Conv2d(levels[-1], 2, 1), nn.AdaptiveMaxPool2d(1))
            if classification
            else None
        )

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the image's size; in training those of all levels, enlarged later."""
        encoded = []
        features = image
        for level, block in enumerate(self.encoder):
            if level:
                features = F.max_pool2d(features, 2, ceil_mode=True)
            features = self.stage(block, features)
            encoded.append(features)
        bottom = len(encoded) - 1
        decoded = {bottom: encoded[bottom]}
        for level in reversed(range(bottom)):
            decoded[level] = self.stage(self._decode, level, encoded, decoded)
        seen = self.classifier(encoded[bottom]).flatten(1) if self.classifier is not None else None
        supervised = range(len(self.heads)) if self.training else range(1)
        size = (image.shape[-2], image.shape[-1])
        outputs = []
        for level in supervised:
            logits = self.heads[level](decoded[level])
            if level:
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            outputs.append(logits if seen is None else gate(logits, seen))
        auxiliary = {f"level{level}": outputs[level] for level in supervised if level}
        if seen is not None and self.training:
            auxiliary["classification"] = seen
        return outputs[0], auxiliary

    def _decode(self, level: int, encoded: list[Tensor], decoded: dict[int, Tensor]) -> Tensor:
        size = (encoded[level].shape[-2], encoded[level].shape[-1])
        parts = []
        blocks = cast("list[ConvNormAct]", self.branches[level])
        for source, block in enumerate(blocks):
            if source < level:
                window = 2 ** (level - source)
                pooled = F.max_pool2d(encoded[source], window, ceil_mode=True)
                parts.append(block(pooled))
            elif source == level:
                parts.append(block(encoded[source]))
            elif source - level < _EARLY.bit_length() - 1:
                up = F.interpolate(decoded[source], size, mode="bilinear", align_corners=False)
                parts.append(block(up))
            else:
                parts.append(_enlarged_block(block, decoded[source], size))
        out: Tensor = self.nodes[level](parts)
        return out


def _enlarged_block(block: ConvNormAct, features: Tensor, size: tuple[int, int]) -> Tensor:
    """What the block makes of an enlarged map, which is never made."""
    out = enlarged_conv(features, block.conv.weight, size=size)
    if block.conv.bias is not None:
        out = out + block.conv.bias[:, None, None]
    return F.relu(block.norm(out), inplace=True)


def gate(logits: Tensor, classification: Tensor) -> Tensor:
    """Multiplies foreground probabilities by the probability that there is any, among logits.

    Args:
        logits: (B, K, H, W); one class is a sigmoid's, of more the first is the background.
        classification: (B, 2) logits of "nothing" and "something".

    Returns:
        (B, K, H, W) logits of the gated probabilities.

    Example:
        >>> import torch
        >>> from fastseg.models.unet3p import gate
        >>> undecided = gate(torch.zeros(1, 1, 1, 1), torch.zeros(1, 2))
        >>> round(undecided.sigmoid().item(), 4)
        0.25
    """
    nothing, something = F.log_softmax(classification, dim=1)[:, :, None, None, None].unbind(1)
    if logits.shape[1] == 1:
        foreground = something + F.logsigmoid(logits)
        background = torch.logaddexp(nothing, something + F.logsigmoid(-logits))
        return foreground - background
    log_probs = F.log_softmax(logits, dim=1)
    background = torch.logaddexp(nothing, something + log_probs[:, :1])
    return torch.cat([background, something + log_probs[:, 1:]], dim=1)
