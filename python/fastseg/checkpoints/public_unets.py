"""State dicts of other libraries' U-Nets, whose layers are ours by other names.

Known are the padded U-Net of the field (`inc`, `down1` …, `up1` …, `outc`), and the Unet of
segmentation_models.pytorch on a ResNet. That library's DeepLabV3 is another network than
torchvision's and ours: it dilates the first block of a stage, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Blocks of the second and third layer of a ResNet, and whether they have three convolutions.
_RESNETS = {
    (2, 2, False): "resnet18",
    (4, 6, False): "resnet34",
    (4, 6, True): "resnet50",
    (4, 23, True): "resnet101",
    (8, 36, True): "resnet152",
}
# Places in a pair of convolution, BatchNorm and ReLU, counted through and by pairs.
_PLACES = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1"}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """The registered name of the model that a state dict belongs to, or None.

    Args:
        state: tensors by name.

    Returns:
        "unet_padded" or None.
    """
    if "inc.double_conv.0.weight" in state and "outc.conv.weight" in state:
        return "unet_padded"
    if "segmentation_head.0.weight" not in state or _resnet(state) is None:
        return None
    # Attention in the decoder is an option of that library which is not built here.
    if any("attention" in name for name in state):
        return None
    return "unet_padded" if "decoder.blocks.0.conv1.0.weight" in state else None


def classes_of(state: Mapping[str, Tensor]) -> int:
    """The number of classes of a recognised state dict."""
    name = "outc.conv.weight" if "outc.conv.weight" in state else "segmentation_head.0.weight"
    return int(state[name].shape[0])


def options_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of `create_model` for a recognised state dict, from its tensors."""
    if "inc.double_conv.0.weight" not in state:
        steps = _count(state, "decoder.blocks.{}.conv2.0.weight", 0)
        return {
            "in_channels": int(state["encoder.conv1.weight"].shape[1]),
            "encoder": _resnet(state),
            "widths": [
                int(state[f"decoder.blocks.{step}.conv2.0.weight"].shape[0])
                for step in range(steps)
            ],
        }
    first = state["inc.double_conv.0.weight"]
    levels = _count(state, "down{}.maxpool_conv.1.double_conv.0.weight", 1) - 1
    widths = [int(first.shape[0])] + [
        int(state[f"down{level}.maxpool_conv.1.double_conv.0.weight"].shape[0])
        for level in range(1, levels + 1)
    ]
    bilinear = "up1.up.weight" not in state
    if bilinear:
        widths[-1] *= 2
    return {
        "in_channels": int(first.shape[1]),
        "widths": widths,
        "up": "bilinear" if bilinear else "transposed",
    }


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under our names.

    Args:
        state: tensors by name, recognised.

    Returns:
        The same tensors; what has no counterpart keeps its name, for the loader to complain about.
    """
    return {_renamed(key): tensor for key, tensor in state.items()}


_RULES = [
    (r"encoder\.", "encoder.model."),
    (r"decoder\.blocks\.(\d+)\.conv1\.", r"steps.\1.0."),
    (r"decoder\.blocks\.(\d+)\.conv2\.", r"steps.\1.1."),
    (r"segmentation_head\.0\.", "classifier."),
    (r"outc\.conv\.", "classifier."),
]


def _renamed(key: str) -> str:
    for pattern, replacement in _RULES:
        renamed, found = re.subn(f"^{pattern}", replacement, key)
        if found:
            return renamed
    pair = re.fullmatch(r"(?:inc|(down|up)(\d+).*?)\.double_conv\.([0134])\.(\w+)", key)
    if pair:
        side, level, place, tensor = pair.groups()
        part = f"fuse.{int(level) - 1}" if side == "up" else f"down.{level or 0}"
        return f"{part}.{_PLACES[place]}.{tensor}"
    up = re.fullmatch(r"up(\d+)\.up\.(\w+)", key)
    return f"up.{int(up[1]) - 1}.{up[2]}" if up else key


def _count(state: Mapping[str, Tensor], pattern: str, start: int) -> int:
    index = start
    while pattern.format(index) in state:
        index += 1
    return index


def _resnet(state: Mapping[str, Tensor]) -> str | None:
    if "encoder.conv1.weight" not in state:
        return None
    second, third = (_count(state, f"encoder.layer{n}.{{}}.conv1.weight", 0) for n in (2, 3))
    return _RESNETS.get((second, third, "encoder.layer1.0.conv3.weight" in state))
