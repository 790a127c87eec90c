"""Every model at a width that tests can afford, and pictures to feed it."""

from typing import Any

import torch
from torch import Tensor

import fastseg
from fastseg.models import SegmentationModel

NUM_CLASSES = 3
# By the name that a test is known by: the model's name and the options that make it small.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "fcn32s": ("fcn32s", {"width": 1 / 16}),
    "fcn16s": ("fcn16s", {"width": 1 / 16}),
    "fcn8s": ("fcn8s", {"width": 1 / 16}),
    "fcn8s at once": ("fcn8s", {"width": 1 / 16, "at_once": True}),
    "fcn_resnet50": ("fcn_resnet50", {"encoder": "test_resnet", "auxiliary": True}),
    "fcn_resnet101": ("fcn_resnet101", {"encoder": "test_resnet", "output_stride": 16}),
    "segnet": ("segnet", {"width": 1 / 8}),
    "deconvnet": ("deconvnet", {"width": 1 / 8, "window": 1}),
    "unet": ("unet", {"widths": [8, 16, 32]}),
    "unet_padded": ("unet_padded", {"widths": [8, 16, 32]}),
    "unet_padded bilinear": ("unet_padded", {"widths": [8, 16, 32], "up": "bilinear"}),
    "unet_padded on an encoder": (
        "unet_padded",
        {"encoder": "test_resnet", "widths": [32, 16, 16, 8, 8]},
    ),
    "unetpp": ("unetpp", {"widths": [8, 16, 32], "deep_supervision": True}),
    "unetpp transposed": ("unetpp", {"widths": [8, 16, 32], "up": "transposed", "norm": False}),
    "unet3p": (
        "unet3p",
        {"widths": [8, 16, 32], "branch": 8, "deep_supervision": True, "classification": True},
    ),
    "deeplab_v1": ("deeplab_v1", {"width": 1 / 8}),
    "deeplab_v2": ("deeplab_v2", {"encoder": "test_resnet", "scales": [1.0, 0.5]}),
    "deeplab_v3": ("deeplab_v3", {"encoder": "test_resnet", "auxiliary": True}),
    "deeplab_v3plus": ("deeplab_v3plus", {"encoder": "test_resnet"}),
    "setr_naive": (
        "setr_naive",
        {"encoder": "test_vit", "image_size": 64, "channels": 32, "auxiliary": True},
    ),
    "setr_pup": ("setr_pup", {"encoder": "test_vit", "image_size": 64, "channels": 32}),
    "setr_mla": (
        "setr_mla",
        {"encoder": "test_vit", "image_size": 64, "channels": 32, "auxiliary": True},
    ),
    "segformer_b0": (
        "segformer_b0",
        {"widths": [16, 32, 80, 128], "depths": [1, 1, 1, 1], "decoder_width": 32},
    ),
}
# One of each kind, for what takes long and depends on the operations only.
ONE_OF_A_KIND = [
    case
    for case in SMALL
    if case not in ("fcn32s", "fcn16s", "fcn8s at once", "fcn_resnet101", "segformer_b0")
]


def small(case: str, *, num_classes: int = NUM_CLASSES, in_channels: int = 3) -> SegmentationModel:
    """The small model, the same at each call; no head is silent."""
    name, options = SMALL[case]
    torch.manual_seed(0)
    model = fastseg.create_model(name, num_classes=num_classes, in_channels=in_channels, **options)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # FCN's scores start at zero: what follows would be compared with zeros.
            if "score" in key:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def logits_of(output: Any) -> Tensor:
    """The logits, whether or not there are auxiliary outputs."""
    return output if isinstance(output, Tensor) else output.logits


def settled(model: SegmentationModel) -> SegmentationModel:
    """The model in evaluation mode, with statistics of BatchNorm that are not the initial ones."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def picture(batch: int, height: int, width: int, *, channels: int = 3, seed: int = 0) -> Tensor:
    """(B, C, H, W) normal values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator)
