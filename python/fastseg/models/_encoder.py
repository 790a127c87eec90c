"""Backbones from timm: any of them by name, as a list of maps of growing stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastseg.errors import ParameterError
from fastseg.layers import Conv2d, FreshBatchNorm2d
from fastseg.models._registry import nearest


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
        if timm.model_entrypoint(checked_name(name)).__module__ == "timm.models.resnet":
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
        self.channels: list[int] = list(model.feature_info.channels())
        self.strides: list[int] = list(model.feature_info.reduction())
        self.model = model

    def forward(self, image: Tensor) -> list[Tensor]:
        """Computes the maps of (B, C, H, W), each (B, channels[i], H / strides[i], …)."""
        features: list[Tensor] = self.model(image)
        return features
