"""Backbones from timm: any of them by name, as a list of maps of growing stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastseg.errors import ParameterError, ShapeError
from fastseg.layers import BatchNorm2d, Conv2d, FreshBatchNorm2d
from fastseg.models._registry import nearest

# What lets transformers take pictures of other sizes than that of their pretraining.
_ANY_SIZE: dict[str, dict[str, bool]] = {
    "timm.models.swin_transformer": {"strict_img_size": False},
    "timm.models.swin_transformer_v2": {"strict_img_size": False},
    "timm.models.vision_transformer": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "timm.models.deit": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "timm.models.eva": {"dynamic_img_size": True},
}


def checked_name(encoder: str) -> str:
    """Raises `ParameterError`, with the nearest names, for what timm does not have."""
    import timm

    base = str(encoder).split(".")[0]
    if not timm.is_model(base):
        raise ParameterError(
            f"encoder: timm has no model called {encoder!r}{nearest(base, timm.list_models())}; "
            "timm.list_models() names them all"
        )
    return encoder


class Encoder(nn.Module):
    """The feature maps of a timm model.

    The weights' keys are the timm model's own, without a prefix, and for a ResNet torchvision's.

    Args:
        name: the timm model's.
        in_channels: channels of the picture.
        indices: which of the model's maps to give, from the finest on.
        output_stride: 8 or 16 to trade the last strides for rates; None leaves them.
        pretrained: whether timm downloads its weights.

    Attributes:
        channels: channels of each map.
        strides: input pixels per pixel of each map.

    Raises:
        ParameterError: an unknown name, or a model that cannot give such maps.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int,
        indices: Sequence[int] | None = None,
        output_stride: int | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        import timm

        options: dict[str, Any] = {"output_stride": output_stride} if output_stride else {}
        family = timm.model_entrypoint(checked_name(name)).__module__
        options.update(_ANY_SIZE.get(family, {}))
        if family == "timm.models.resnet":
            # There BatchNorm reads nothing but what a convolution has just made.
            options["norm_layer"] = FreshBatchNorm2d
        if indices is not None:
            options["out_indices"] = tuple(indices)
        try:
            model: Any = timm.create_model(
                name,
                features_only=True,
                in_chans=in_channels,
                pretrained=pretrained,
                **options,
            )
        except (AssertionError, IndexError, NotImplementedError, RuntimeError, TypeError) as error:
            raise ParameterError(
                f"encoder: {name} cannot be a contracting path with maps {indices} and output "
                f"stride {output_stride}: {type(error).__name__}: {error}"
            ) from error
        for parent in list(model.modules()):
            for child_name, child in parent.named_children():
                if type(child) is nn.Conv2d:
                    setattr(parent, child_name, Conv2d.of(child))
                elif type(child) is nn.BatchNorm2d:
                    # Ours adds no state: behind a mean over the picture, a batch of one trains.
                    child.__class__ = BatchNorm2d
        self.channels: list[int] = list(model.feature_info.channels())
        self.strides: list[int] = list(model.feature_info.reduction())
        self.model = model

    def forward(self, image: Tensor) -> list[Tensor]:
        """Computes the maps of (B, C, H, W), each (B, channels[i], H / strides[i], …)."""
        return feature_maps(self.model, image)


def feature_maps(backbone: Any, image: Tensor) -> list[Tensor]:
    """Computes the maps of a timm model, each (B, C, h, w).

    Raises:
        ShapeError: the model cannot take pictures of that size.
    """
    if torch.compiler.is_compiling():
        features = backbone(image)
    else:
        try:
            features = backbone(image)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            if image.device != next(backbone.parameters()).device:
                raise
            height, width = image.shape[-2:]
            coarsest = backbone.feature_info.reduction()[-1]
            raise ShapeError(
                f"image: the encoder cannot take {height}x{width} pixels ({type(error).__name__}: "
                f"{error}); most take heights and widths that {coarsest} divides, some only the "
                "size that they were made for: enlarge or pad the picture, or take another encoder"
            ) from error
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return [features.permute(0, 3, 1, 2) for features in features]
    return list(features)
