"""SETR: a transformer over patches as the encoder, and three decoders.

Zheng et al.: Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with
Transformers, CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.errors import ParameterError
from fastseg.layers import ConvNormAct, enlarged_conv
from fastseg.models._base import SegmentationModel, choice, count
from fastseg.models._encoder import checked_name
from fastseg.models._registry import register

# After which of 24 blocks the published auxiliary heads read.
_AUXILIARY = {"naive": (10, 15, 20), "pup": (10, 15, 20, 24), "mla": (6, 12, 18, 24)}
_TAPS = (6, 12, 18, 24)


class SETR(SegmentationModel):
    """A timm vision transformer with the decoder "naive", "pup" or "mla".

    Naive classifies each patch; PUP doubles the map four times with a convolution between; MLA adds
    maps from four depths of the transformer, the deepest first.

    Args:
        decoder: one of the three.
        num_classes: K.
        in_channels: C.
        encoder: a timm ViT with a class token, such as "vit_large_patch16_384" or
            "vit_base_patch16_384".
        image_size: side in pixels for which position embeddings are kept; other sizes interpolate
            them.
        channels: of the decoder; MLA's heads have half.
        auxiliary: whether heads read earlier blocks, too: `auxiliary` in training, by "block10" …;
            the published weight of their losses is 0.4.
        pretrained: whether timm downloads the encoder's weights.

    Convention:
        A side that is no multiple of the patch's is enlarged to the next one, bilinearly.
    """

    def __init__(
        self,
        decoder: str,
        *,
        num_classes: int,
        in_channels: int = 3,
        encoder: str = "vit_large_patch16_384",
        image_size: int = 512,
        channels: int = 256,
        auxiliary: bool = False,
        pretrained: bool = False,
    ) -> None:
        choice(decoder, "decoder", tuple(_AUXILIARY))
        super().__init__(
            f"setr_{decoder}",
            num_classes=num_classes,
            in_channels=in_channels,
            options={
                "encoder": encoder,
                "image_size": count(image_size, "image_size"),
                "channels": count(channels, "channels"),
                "auxiliary": auxiliary,
            },
        )
        self.encoder: Any = _vision_transformer(encoder, in_channels, image_size, pretrained)
        self.patch = int(self.encoder.patch_embed.patch_size[0])
        if image_size < self.patch:
            raise ParameterError(
                f"image_size: expected at least a patch of {encoder}, {self.patch} pixels, got "
                f"{image_size}"
            )
        depth = len(self.encoder.blocks)
        wide = int(self.encoder.embed_dim)
        self.decoder: NaiveDecoder | PUPDecoder | MLADecoder
        self.taps: tuple[int, ...] = (depth,)
        if decoder == "naive":
            self.decoder = NaiveDecoder(wide, channels, num_classes)
            self.stride = self.patch
        elif decoder == "pup":
            self.decoder = PUPDecoder(wide, channels, num_classes)
            self.stride = max(1, self.patch // 8)
        else:
            # Each tap has a LayerNorm of its own, so the encoder's last one would be idle.
            self.encoder.norm = nn.Identity()
            self.taps = _blocks(_TAPS, depth)
            self.decoder = MLADecoder(wide, channels, num_classes, taps=len(self.taps))
            self.stride = max(1, self.patch // 4)
        self.auxiliary = nn.ModuleDict(
            {
                f"block{block}": _patch_head(wide, channels, num_classes)
                for block in (_blocks(_AUXILIARY[decoder], depth) if auxiliary else ())
            }
        )

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes logits at the decoder's stride."""
        tokens, grid = self._embed(image)
        maps: dict[int, Tensor] = {}
        wanted = {int(name.removeprefix("block")) for name in self.auxiliary}
        wanted = wanted | set(self.taps) if self.training else set(self.taps)
        for number, block in enumerate(self.encoder.blocks, start=1):
            tokens = self.stage(block, tokens)
            if number == len(self.encoder.blocks):
                tokens = self.encoder.norm(tokens)
            if number in wanted:
                maps[number] = tokens[:, 1:]
        logits = self.decoder([maps[number] for number in self.taps], grid)
        if not self.training:
            return logits, {}
        return logits, {
            name: head(_as_map(maps[int(name.removeprefix("block"))], grid))
            for name, head in self.auxiliary.items()
        }

    def _embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches with their positions, after the class token."""
        rows, columns = ((side + self.patch - 1) // self.patch for side in image.shape[-2:])
        size = (rows * self.patch, columns * self.patch)
        # An export is for all sizes and resizes always; to the same size changes nothing.
        exporting = torch.compiler.is_exporting()
        if exporting or size != (image.shape[-2], image.shape[-1]):
            image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        encoder = self.encoder
        tokens = encoder.patch_embed.proj(image).flatten(2).transpose(1, 2)
        positions = encoder.pos_embed
        own = tuple(int(side) for side in encoder.patch_embed.grid_size)
        if exporting or own != (rows, columns):
            grid = positions[:, 1:].transpose(1, 2).unflatten(2, own)
            grid = F.interpolate(
                grid.float(), (rows, columns), mode="bicubic", align_corners=False
            ).to(positions.dtype)
            positions = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
        token = encoder.cls_token.expand(image.shape[0], -1, -1)
        tokens = torch.cat([token, tokens], dim=1) + positions
        return encoder.norm_pre(encoder.pos_drop(tokens)), (rows, columns)


class NaiveDecoder(nn.Module):
    """Two 1×1 convolutions; the logits are enlarged by the patch's side at once.

    Args:
        in_channels: width of the transformer.
        channels: width between the convolutions.
        num_classes: K.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = _patch_head(in_channels, channels, num_classes)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Computes (B, K, h, w) from the last tokens (B, h·w, in_channels)."""
        logits: Tensor = self.head(_as_map(tokens[-1], grid))
        return logits


class PUPDecoder(nn.Module):
    """Progressive upsampling: four 3×3 convolutions, the map doubled after each.

    The classifier is a 1×1 convolution and interpolation keeps sums, so it is applied before the
    last doubling: the same logits at a quarter of the work.

    Args:
        in_channels: width of the transformer.
        channels: width of the convolutions.
        num_classes: K.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * 4]
        self.convs = nn.ModuleList(
            ConvNormAct(widths[step], widths[step + 1], bias=True) for step in range(4)
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Computes (B, K, 8·h, 8·w) from the last tokens (B, h·w, in_channels)."""
        features = _as_map(tokens[-1], grid)
        for step, conv in enumerate(self.convs):
            if step:
                features = F.interpolate(
                    features, scale_factor=2, mode="bilinear", align_corners=False
                )
            features = conv(features)
        logits: Tensor = self.classifier(features)
        return logits


class MLADecoder(nn.Module):
    """Multi-level aggregation: maps of several depths, summed from the deepest, then stacked.

    Args:
        in_channels: width of the transformer.
        channels: width of each stream; its head has half.
        num_classes: K.
        taps: number of depths.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, taps: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(in_channels, eps=1e-6) for _ in range(taps))
        self.reduce = nn.ModuleList(ConvNormAct(in_channels, channels, 1) for _ in range(taps))
        self.smooth = nn.ModuleList(ConvNormAct(channels, channels) for _ in range(taps))
        self.heads = nn.ModuleList(
            nn.Sequential(ConvNormAct(channels, half), ConvNormAct(half, half)) for _ in range(taps)
        )
        self.classifier = nn.Conv2d(taps * half, num_classes, 3, padding=1)

    def forward(self, tokens: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Computes (B, K, 4·h, 4·w) from tokens (B, h·w, in_channels) of each depth."""
        reduced = [
            reduce(_as_map(norm(tap), grid))
            for reduce, norm, tap in zip(self.reduce, self.norms, tokens, strict=True)
        ]
        total = reduced[-1]
        sums = [total]
        for finer in reduced[-2::-1]:
            total = total + finer
            sums.append(total)
        streams = [
            head(smooth(stream))
            for head, smooth, stream in zip(self.heads, self.smooth, reversed(sums), strict=True)
        ]
        # The streams are enlarged four times and classified by a 3×3: the other way round is the
        # same, and cheaper.
        stacked = torch.cat(streams, dim=1)
        size = (4 * stacked.shape[-2], 4 * stacked.shape[-1])
        logits = enlarged_conv(stacked, self.classifier.weight, size=size)
        bias = self.classifier.bias
        return logits if bias is None else logits + bias[:, None, None]


def _patch_head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(in_channels, channels, 1, bias=True), nn.Conv2d(channels, num_classes, 1)
    )


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    batch, _, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(batch, channels, *grid)


def _blocks(of_24: Sequence[int], depth: int) -> tuple[int, ...]:
    """The published blocks, in proportion to another depth."""
    return tuple(dict.fromkeys(max(1, round(block * depth / 24)) for block in of_24))


def _vision_transformer(name: str, in_channels: int, image_size: int, pretrained: bool) -> Any:
    import timm

    try:
        model = timm.create_model(
            checked_name(name),
            img_size=image_size,
            in_chans=in_channels,
            num_classes=0,
            pretrained=pretrained,
        )
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ParameterError(
            f"encoder: {name} cannot be SETR's at {image_size} pixels: "
            f"{type(error).__name__}: {error}"
        ) from error
    needed = ("blocks", "pos_embed", "cls_token", "patch_embed", "norm_pre")
    if (
        any(getattr(model, attribute, None) is None for attribute in needed)
        or getattr(model, "num_prefix_tokens", 0) != 1
        or getattr(model, "no_embed_class", False)
    ):
        raise ParameterError(
            f"encoder: {name} is not a vision transformer with a class token, position embeddings "
            "for it and all patches, and nothing else; vit_large_patch16_384 and "
            "vit_base_patch16_384 are"
        )
    return model


register("setr_naive")(partial(SETR, "naive"))
register("setr_pup")(partial(SETR, "pup"))
register("setr_mla")(partial(SETR, "mla"))
