"""The published networks, to the parameter."""

from typing import Any

import pytest
import torch

import fastseg

PUBLISHED: list[tuple[str, int, dict[str, Any], int]] = [
    ("fcn32s", 21, {}, 136_152_917),
    ("fcn16s", 21, {}, 134_815_994),
    ("fcn8s", 21, {}, 134_489_759),
    ("fcn_resnet50", 21, {}, 32_957_013),
    ("fcn_resnet50", 21, {"auxiliary": True}, 35_322_218),
    ("segnet", 12, {}, 29_449_932),
    ("deconvnet", 21, {}, 251_805_653),  # "approximately 252M" in the paper
    ("unet", 2, {"in_channels": 1}, 31_030_658),
    ("unet_padded", 2, {}, 31_037_698),
    ("unet_padded", 1, {}, 31_037_633),
    ("unet_padded", 2, {"in_channels": 1}, 31_036_546),
    ("unet_padded", 2, {"up": "bilinear"}, 17_263_042),
    ("unetpp", 1, {}, 9_163_329),
    ("unetpp", 1, {"deep_supervision": True}, 9_163_428),
    ("unetpp", 1, {"in_channels": 1, "norm": False, "up": "transposed"}, 9_041_601),
    ("unet3p", 1, {}, 26_971_777),
    ("unet3p", 1, {"deep_supervision": True}, 26_989_637),
    ("unet3p", 1, {"deep_supervision": True, "classification": True}, 26_991_687),
    ("deeplab_v1", 21, {}, 20_505_429),
    ("deeplab_v2", 21, {}, 44_048_532),
    ("deeplab_v3", 21, {}, 39_638_869),
    ("deeplab_v3", 21, {"auxiliary": True}, 42_004_074),
    ("deeplab_v3", 21, {"encoder": "resnet101"}, 58_630_997),
    ("deeplab_v3", 21, {"encoder": "resnet101", "auxiliary": True}, 60_996_202),
    ("deeplab_v3plus", 21, {}, 59_344_309),
    ("setr_naive", 150, {}, 304_450_966),
    ("setr_pup", 150, {}, 308_319_894),
    ("setr_mla", 150, {}, 310_030_486),
]


@pytest.mark.parametrize(("name", "num_classes", "options", "expected"), PUBLISHED)
def test_parameters(name: str, num_classes: int, options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        model = fastseg.create_model(name, num_classes=num_classes, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
