"""State dicts of torchvision's FCN and DeepLab v3 on ResNets, whose names are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Blocks in the third layer of a ResNet, which tell its size.
_THIRD_LAYER = {6: "resnet50", 23: "resnet101"}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """The registered name of the model that a state dict belongs to, or None."""
    if "backbone.conv1.weight" not in state or "classifier.4.weight" not in state:
        return None
    if _encoder(state) is None:
        return None
    if "classifier.0.convs.0.0.weight" in state:
        return "deeplab_v3"
    return f"fcn_{_encoder(state)}" if "classifier.0.weight" in state else None


def options_of(name: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of `create_model`, from the tensors."""
    options: dict[str, Any] = {
        "in_channels": state["backbone.conv1.weight"].shape[1],
        "auxiliary": "aux_classifier.0.weight" in state,
    }
    encoder = _encoder(state)
    return options | ({"encoder": encoder} if name == "deeplab_v3" else {})


def classes_of(state: Mapping[str, Tensor]) -> int:
    """The number of classes."""
    return state["classifier.4.weight"].shape[0]


def _encoder(state: Mapping[str, Tensor]) -> str | None:
    depth = 0
    while f"backbone.layer3.{depth}.conv1.weight" in state:
        depth += 1
    return _THIRD_LAYER.get(depth)
