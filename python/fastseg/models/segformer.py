"""SegFormer: a hierarchical transformer without position embeddings, and an all-MLP decoder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fastseg._checks import number, share
from fastseg.errors import ParameterError
from fastseg.layers.all_mlp_decoder import AllMLPDecoder, MMSegDecoder
from fastseg.layers.drop_path import DropPath
from fastseg.layers.efficient_self_attention import EfficientSelfAttention
from fastseg.layers.mix_ffn import MixFFN
from fastseg.layers.overlap_patch_embed import OverlapPatchEmbed
from fastseg.layers.token_norm import TokenNorm
from fastseg.models import _segformer_names
from fastseg.models._base import SegmentationModel, choice, count, counts
from fastseg.models._registry import register
from fastseg.ops.layer_norm_residual import layer_norm_residual

# Widths, depths and the decoder's width: table 6 of the paper.
SIZES: dict[str, tuple[list[int], list[int], int]] = {
    "b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}


class TransformerBlock(nn.Module):
    """Attention and Mix-FFN, each after a LayerNorm and around a residual connection.

    Args:
        dim: C, channels of the tokens.
        num_heads: heads of the attention.
        reduction: side of the squares of tokens that share a key and a value.
        mlp_ratio: hidden channels of the Mix-FFN per channel.
        drop_path: probability that a sample skips a branch, in training.
        norm_eps: of the two LayerNorms.
        reduce_eps: of the LayerNorm after the reduction.
        dropout: after each branch and inside the Mix-FFN.
        attention_dropout: of attention weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        reduction: int,
        mlp_ratio: float,
        drop_path: float,
        norm_eps: float,
        reduce_eps: float,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.norm1 = TokenNorm(dim, eps=norm_eps)
        self.attention = EfficientSelfAttention(
            dim,
            num_heads=num_heads,
            reduction=reduction,
            eps=reduce_eps,
            attention_dropout=attention_dropout,
        )
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.ffn = MixFFN(dim, int(dim * mlp_ratio), dropout=dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps (B, H, W, C) tokens to tokens of the same shape."""
        branch = self.dropout(self.attention(self.norm1(tokens)))
        tokens, normed = layer_norm_residual(
            tokens,
            branch,
            self.norm2.weight,
            self.norm2.bias,
            factor=self.drop_path.factor(branch),
            eps=self.norm2.eps,
        )
        if self.training:
            mixed: Tensor = tokens + self.drop_path(self.ffn(normed))
            return mixed
        # In one step where the layer can.
        out: Tensor = self.ffn(normed, tokens)
        return out


class TransformerStage(nn.Module):
    """Patches, blocks and a LayerNorm: one of the resolutions of a `MixTransformer`."""

    def __init__(
        self, patch_embed: OverlapPatchEmbed, blocks: Sequence[TransformerBlock], norm: nn.LayerNorm
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm


class MixTransformer(nn.Module):
    """SegFormer's encoder (MiT): four stages at 1/4, 1/8, 1/16 and 1/32 of the picture.

    Tokens stay in (B, H, W, C) from the first patch to the last; what comes out is a view.

    Args:
        in_channels: channels of the picture.
        widths: channels of each stage.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        reductions: side of the squares of tokens that share a key and a value, for each stage.
        mlp_ratios: hidden channels of the Mix-FFN per channel, for each stage.
        patch_sizes: windows of each stage's patches.
        strides: distances between them.
        drop_path_rate: of the last block; the others' grow linearly from 0.
        norm_eps: of LayerNorms in blocks and at the end of stages.
        embed_norm_eps: of LayerNorms of patches and of reduced keys and values.
        dropout: of hidden values.
        attention_dropout: of attention weights.

    Source:
        E. Xie et al.: SegFormer, 2021, section 3.1.

    Example:
        >>> import torch
        >>> from fastseg.models import MixTransformer
        >>> encoder = MixTransformer(widths=[32, 64, 160, 256], depths=[1, 1, 1, 1])
        >>> [tuple(x.shape) for x in encoder(torch.zeros(1, 3, 64, 96))][::3]
        [(1, 32, 16, 24), (1, 256, 2, 3)]
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        patch_sizes: Sequence[int] = (7, 3, 3, 3),
        strides: Sequence[int] = (4, 2, 2, 2),
        drop_path_rate: float = 0.1,
        norm_eps: float = 1e-5,
        embed_norm_eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        total = sum(depths)
        stages, before, block = [], in_channels, 0
        for i, width in enumerate(widths):
            patch_embed = OverlapPatchEmbed(
                before, width, patch_size=patch_sizes[i], stride=strides[i], eps=embed_norm_eps
            )
            blocks = []
            for _ in range(depths[i]):
                blocks.append(
                    TransformerBlock(
                        width,
                        num_heads=num_heads[i],
                        reduction=reductions[i],
                        mlp_ratio=mlp_ratios[i],
                        drop_path=drop_path_rate * block / max(total - 1, 1),
                        norm_eps=norm_eps,
                        reduce_eps=embed_norm_eps,
                        dropout=dropout,
                        attention_dropout=attention_dropout,
                    )
                )
                block += 1
            stages.append(TransformerStage(patch_embed, blocks, TokenNorm(width, eps=norm_eps)))
            before = width
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor, call: Callable[..., Any] | None = None) -> list[Tensor]:
        """Computes the map of each stage.

        Args:
            image: (B, in_channels, H, W) float.
            call: what calls a block, such as `fastseg.layers.checkpointed`; None calls it plainly.

        Returns:
            (B, C, h, w) float each, in channels-last memory.
        """
        maps = []
        for stage in self.stages:
            assert isinstance(stage, TransformerStage)
            tokens = stage.patch_embed(image)
            for block in stage.blocks:
                tokens = block(tokens) if call is None else call(block, tokens)
            image = stage.norm(tokens).permute(0, 3, 1, 2)
            maps.append(image)
        return maps

    def minimum_size(self) -> int:
        """The smallest height and width whose every stage has a key for its attention."""
        smallest, stride = 1, 1
        for stage in self.stages:
            assert isinstance(stage, TransformerStage)
            stride *= stage.patch_embed.proj.stride[0]
            for block in stage.blocks:
                reduce = block.attention.reduce if isinstance(block, TransformerBlock) else None
                side = reduce.kernel_size[0] if reduce is not None else 1
                smallest = max(smallest, stride * (side - 1) + 1)
        return smallest


class _MixTransformerModel(SegmentationModel):
    """What SegFormer and its classifier for pretraining share."""

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        in_channels: int,
        options: dict[str, Any],
        encoder: dict[str, Any],
    ) -> None:
        super().__init__(name, num_classes=num_classes, in_channels=in_channels, options=options)
        self.encoder = MixTransformer(self.in_channels, **encoder)
        self.minimum_size = self.encoder.minimum_size()
        self.stride = 4

    def state_to_save(self) -> dict[str, Tensor]:
        """The tensors under Hugging Face's names; mmsegmentation's variant under ours."""
        state = super().state_to_save()
        if not self._fits_transformers():
            return state
        return {_segformer_names.hub_name(name): tensor for name, tensor in state.items()}

    def state_from_saved(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `state_to_save` wrote, under our names."""
        if not self._fits_transformers():
            return state
        ours = {_segformer_names.hub_name(name): name for name in self.state_dict()}
        return {ours.get(name, name): tensor for name, tensor in state.items()}

    def config_to_save(self) -> dict[str, Any]:
        """Hugging Face's configuration, with ours inside."""
        if not self._fits_transformers():
            return super().config_to_save()
        eps = {self.config["norm_eps"], self.config["embed_norm_eps"]}
        if eps != {1e-5}:
            warnings.warn(
                f"saved with LayerNorms of eps {sorted(eps)}; transformers computes with 1e-5 "
                "whatever a configuration says, so its outputs will differ a little from fastseg's",
                stacklevel=3,
            )
        return _segformer_names.hub_config(self.config, self.id2label)

    def _fits_transformers(self) -> bool:
        return self.config.get("decoder") != "mmseg"

    def _features(self, image: Tensor) -> list[Tensor]:
        checkpointing = self.gradient_checkpointing and self.training
        features: list[Tensor] = self.encoder(image, self.stage if checkpointing else None)
        return features


class SegFormer(_MixTransformerModel):
    """SegFormer for segmentation: a `MixTransformer` and an `AllMLPDecoder`.

    Build it with `fastseg.create_model("segformer_b0", num_classes=…)`.

    Args:
        name: the name in the registry.
        num_classes: K.
        in_channels: channels of the picture.
        options: what `create_model` was given beyond those.
        encoder: arguments of `MixTransformer`.
        decoder: "all_mlp" or "mmseg", which is mmsegmentation's variant of it.
        decoder_width: D, channels of the decoder.
        classifier_dropout: before the classifier, in training.
        align_corners: how the logits are enlarged to the picture's size.

    Source:
        E. Xie, W. Wang, Z. Yu, A. Anandkumar, J. M. Alvarez, P. Luo: SegFormer: Simple and
        Efficient Design for Semantic Segmentation with Transformers, 2021. Outputs equal those of
        Hugging Face's transformers; the order of computation differs.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        in_channels: int,
        options: dict[str, Any],
        encoder: dict[str, Any],
        decoder: str,
        decoder_width: int,
        classifier_dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__(
            name,
            num_classes=num_classes,
            in_channels=in_channels,
            options=options,
            encoder=encoder,
        )
        self.align_corners = align_corners
        build = {"all_mlp": AllMLPDecoder, "mmseg": MMSegDecoder}[decoder]
        self.decoder = build(
            self.encoder.widths,
            decoder_width,
            num_classes=self.num_classes,
            dropout=classifier_dropout,
        )
        self.apply(_initialize)

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes (B, K, ⌈H/4⌉, ⌈W/4⌉) logits; there are no auxiliary ones."""
        return self.decoder(self._features(image)), {}


class SegFormerClassifier(_MixTransformerModel):
    """A `MixTransformer` that classifies whole pictures, for pretraining.

    Build it with `fastseg.create_model("segformer_b0", num_classes=1000, head="classification")`.

    Args:
        name: the name in the registry.
        num_classes: K.
        in_channels: channels of the picture.
        options: what `create_model` was given beyond those.
        encoder: arguments of `MixTransformer`.

    Convention:
        `forward` returns (B, K) logits of the picture, `native_logits` the same as (B, K, 1, 1).
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        in_channels: int,
        options: dict[str, Any],
        encoder: dict[str, Any],
    ) -> None:
        super().__init__(
            name,
            num_classes=num_classes,
            in_channels=in_channels,
            options=options,
            encoder=encoder,
        )
        self.classifier = nn.Linear(self.encoder.widths[-1], self.num_classes)
        self.apply(_initialize)

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes (B, K, 1, 1) logits of the mean of the last stage's tokens."""
        mean = self._features(image)[-1].mean(dim=(2, 3))
        return self.classifier(mean)[:, :, None, None], {}

    def forward(self, image: Tensor) -> Tensor:
        """Computes the (B, K) logits of whole (B, C, H, W) pictures."""
        return self.native_logits(image).flatten(1)


def _initialize(module: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02, and biases of zero."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _ratios(mlp_ratios: Sequence[float], widths: Sequence[int]) -> list[float]:
    if not isinstance(mlp_ratios, Sequence) or len(mlp_ratios) != len(widths):
        raise ParameterError(
            f"mlp_ratios: expected one for each of {len(widths)} stages, got {mlp_ratios!r}"
        )
    for ratio, width in zip(mlp_ratios, widths, strict=True):
        if number("mlp_ratios", ratio) * width < 1:
            raise ParameterError(
                f"mlp_ratios: expected at least one hidden channel, got {ratio} times {width}"
            )
    return list(mlp_ratios)


def _builder(name: str) -> Callable[..., SegmentationModel]:
    default_widths, default_depths, default_decoder_width = SIZES[name.removeprefix("segformer_")]

    def build(
        *,
        num_classes: int,
        in_channels: int = 3,
        head: str = "segmentation",
        decoder: str = "all_mlp",
        widths: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        decoder_width: int | None = None,
        num_heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        patch_sizes: Sequence[int] = (7, 3, 3, 3),
        strides: Sequence[int] = (4, 2, 2, 2),
        drop_path_rate: float = 0.1,
        classifier_dropout: float = 0.1,
        align_corners: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        norm_eps: float = 1e-5,
        embed_norm_eps: float = 1e-5,
    ) -> SegmentationModel:
        choice(head, "head", ["segmentation", "classification"])
        choice(decoder, "decoder", ["all_mlp", "mmseg"])
        widths = counts(default_widths if widths is None else widths, "widths")
        stages = len(widths)
        if share("drop_path_rate", drop_path_rate) == 1:
            raise ParameterError("drop_path_rate: expected less than 1, which drops everything")
        for option, rate in (
            ("dropout", dropout),
            ("attention_dropout", attention_dropout),
            ("classifier_dropout", classifier_dropout),
        ):
            share(option, rate)
        number("norm_eps", norm_eps, least=0)
        number("embed_norm_eps", embed_norm_eps, least=0)
        encoder: dict[str, Any] = {
            "widths": widths,
            "depths": counts(default_depths if depths is None else depths, "depths", length=stages),
            "num_heads": counts(num_heads, "num_heads", length=stages),
            "reductions": counts(reductions, "reductions", length=stages),
            "mlp_ratios": _ratios(mlp_ratios, widths),
            "patch_sizes": counts(patch_sizes, "patch_sizes", length=stages),
            "strides": counts(strides, "strides", length=stages),
            "drop_path_rate": drop_path_rate,
            "norm_eps": norm_eps,
            "embed_norm_eps": embed_norm_eps,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
        }
        if head == "classification":
            return SegFormerClassifier(
                name,
                num_classes=num_classes,
                in_channels=in_channels,
                options={"head": head, **encoder},
                encoder=encoder,
            )
        decoding: dict[str, Any] = {
            "decoder": decoder,
            "decoder_width": count(
                default_decoder_width if decoder_width is None else decoder_width, "decoder_width"
            ),
            "classifier_dropout": classifier_dropout,
            "align_corners": align_corners,
        }
        return SegFormer(
            name,
            num_classes=num_classes,
            in_channels=in_channels,
            options={**encoder, **decoding},
            encoder=encoder,
            **decoding,
        )

    return build


for _size in SIZES:
    register(f"segformer_{_size}")(_builder(f"segformer_{_size}"))
