"""Models in evaluation, against the same network as torchvision and segmentation_models_pytorch
compute it, or as public implementations do: enlarge, concatenate, convolve, one after the other.

All contenders of a contest have the same weights, and their logits agree before they are timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from contests import Case, Contender, Contest, DisagreementError

# The plain versions are those that the tests compare with.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

PUBLIC_WAY = "the public way"


@cache
def built(name: str, num_classes: int, **options: Any) -> Any:
    """Fastseg's model in evaluation, with random weights."""
    import torch

    import fastseg

    torch.manual_seed(0)
    return fastseg.create_model(name, num_classes=num_classes, **options).eval()


def _case() -> Iterator[Case]:
    import torch

    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    yield Case("random, 1x3x256x256", (image,))


def _contender(
    name: str, make: Callable[[], Callable[[Any], Any]], requires: str, warm: int
) -> Contender:
    """A network in evaluation. It is built, and what it loads is loaded, before it is measured."""

    @cache
    def network() -> Callable[[Any], Any]:
        import torch

        made = make()
        with torch.inference_mode():
            made(torch.zeros(1, 3, warm, warm))
        return made

    def run(network: Callable[[Any], Any], image: Any) -> Any:
        import torch

        with torch.inference_mode():
            logits = network(image)
        return (logits["out"] if isinstance(logits, dict) else logits).numpy()

    return Contender(name, run, prepare=lambda image: (network(), image), requires=(requires,))


def _agree(ours: Any, theirs: Any) -> None:
    # The mean: where two maxima are equal but for rounding, SegNet keeps one or the other.
    apart = np.abs(ours - theirs).mean() / np.abs(theirs).mean()
    if not apart < 1e-2:
        raise DisagreementError(f"logits {apart:.1e} of their mean apart")


def _contest(
    model: str,
    num_classes: int,
    rivals: dict[str, Callable[[Any], Callable[[Any], Any]]],
    label: str | None = None,
    warm: int = 64,
    **options: Any,
) -> Contest:
    """A model, and by the rivals' names what makes each of them from it."""

    def ours() -> Any:
        return built(model, num_classes, **options)

    def rival(name: str, make: Callable[[Any], Callable[[Any], Any]]) -> Contender:
        requires = "torch" if name == PUBLIC_WAY else name
        return _contender(name, lambda: make(ours()), requires, warm)

    return Contest(
        name=f"{label or model}_256",
        cases=_case,
        ours=_contender("fastseg", ours, "torch", warm),
        rivals=tuple(rival(name, make) for name, make in rivals.items()),
        agree=_agree,
        weighed=tuple(rivals),
    )


def torchvision(name: str) -> Callable[[Any], Any]:
    """Makes torchvision's network of one of ours."""

    def make(ours: Any) -> Any:
        from torchvision.models import segmentation

        theirs = getattr(segmentation, name)(weights=None, weights_backbone=None)
        theirs.load_state_dict(ours.state_dict())
        return theirs.eval()

    return make


def smp_unet(ours: Any) -> Any:
    """The U-Net of segmentation_models_pytorch on a ResNet-34."""
    import segmentation_models_pytorch as smp

    from fastseg.checkpoints import public_unets

    theirs = smp.Unet("resnet34", encoder_weights=None, classes=ours.num_classes).eval()
    names = public_unets.convert({name: name for name in theirs.state_dict()})
    own = ours.state_dict()
    theirs.load_state_dict({theirs_: own[name] for name, theirs_ in names.items()})
    return theirs


def _smp_deeplab_v3(ours: Any) -> Any:
    import segmentation_models_pytorch as smp

    theirs = smp.DeepLabV3(
        "resnet50", encoder_weights=None, encoder_output_stride=8, classes=ours.num_classes
    ).eval()
    # A stage's first block has the rate of the stage before, as in the published network.
    for block, rate in ((theirs.encoder.layer3[0], 1), (theirs.encoder.layer4[0], 2)):
        block.conv2.dilation = block.conv2.padding = (rate, rate)
    theirs.encoder.load_state_dict(ours.backbone.state_dict())
    for mine, name in (
        (ours.classifier[:3], "decoder"),
        (ours.classifier[4:], "segmentation_head"),
    ):
        _copy_in_order(mine, getattr(theirs, name))
    return theirs


def monai_unet(ours: Any) -> Any:
    """MONAI's U-Net of these widths; its last level enlarges to twice the channels."""
    from monai.networks.nets import BasicUNet

    widths = tuple(ours.config["widths"])
    theirs = BasicUNet(2, 3, ours.num_classes, (*widths, widths[0]), **_MONAI).eval()
    ups = [part for pair in zip(ours.up, ours.fuse, strict=True) for part in pair]
    _copy_in_order([ours.down, *ups, ours.classifier], theirs)
    return theirs


def monai_unetpp(ours: Any) -> Any:
    """MONAI's U-Net++ of these widths; its top row enlarges to twice the channels."""
    from monai.networks.nets import BasicUNetPlusPlus

    widths = tuple(ours.config["widths"])
    theirs = BasicUNetPlusPlus(2, 3, ours.num_classes, (*widths, widths[0]), **_MONAI).eval()
    for key, node in ours.nodes.items():
        if key in ours.ups:
            upcat = getattr(theirs, f"upcat_{key}")
            _copy_in_order([ours.ups[key], node], [upcat.upsample, upcat.convs])
        else:
            _copy_in_order(node, getattr(theirs, f"conv_{key}"))
    _copy_in_order(ours.heads, theirs.final_conv_0_4)
    return lambda image: theirs(image)[-1]


_MONAI: dict[str, Any] = {"act": ("relu", {"inplace": True}), "norm": "batch"}


def _copy_in_order(ours: Any, theirs: Any) -> None:
    """Copies weights layer by layer, in their order; what a larger one has more is 0."""
    import torch
    from torch import nn

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)

    def layers(parts: Any) -> list[Any]:
        modules = nn.ModuleList(parts) if isinstance(parts, list) else parts
        return [layer for layer in modules.modules() if isinstance(layer, kinds)]

    with torch.no_grad():
        for mine, other in zip(layers(ours), layers(theirs), strict=True):
            own = mine.state_dict()
            for name, tensor in other.state_dict().items():
                tensor.zero_()
                if name in own:
                    tensor[tuple(slice(size) for size in own[name].shape)] = own[name]


def field_unet(ours: Any) -> Any:
    """The padded U-Net as most public code writes it."""
    from fastseg.checkpoints import public_unets
    from references.field_unet import FieldUNet

    widths = ours.config["widths"]
    theirs = FieldUNet(3, ours.num_classes, widths, bilinear=False).eval()
    names = public_unets.convert({name: name for name in theirs.state_dict()})
    own = ours.state_dict()
    theirs.load_state_dict({theirs_: own[name] for name, theirs_ in names.items()})
    return theirs


def plain(name: str) -> Callable[[Any], Callable[[Any], Any]]:
    """Makes the plain version of one of ours: a function of a picture."""

    def make(ours: Any) -> Callable[[Any], Any]:
        from references import plain_models

        return lambda image: getattr(plain_models, name)(ours, image)

    return make


# The plain SETR takes no other size than its own.
_SMALL_VIT: dict[str, Any] = {"encoder": "vit_small_patch16_384", "image_size": 256, "warm": 256}

SMP = "segmentation_models_pytorch"

CONTESTS = [
    _contest("fcn_resnet50", 21, {"torchvision": torchvision("fcn_resnet50")}),
    _contest(
        "deeplab_v3",
        21,
        {"torchvision": torchvision("deeplabv3_resnet50"), SMP: _smp_deeplab_v3},
    ),
    _contest("unet_padded", 2, {SMP: smp_unet}, label="unet_resnet34", encoder="resnet34"),
    _contest("unet_padded", 2, {PUBLIC_WAY: field_unet, "monai": monai_unet}),
    _contest("unetpp", 1, {PUBLIC_WAY: plain("unetpp")}),
    _contest("unetpp", 1, {"monai": monai_unetpp}, label="unetpp_transposed", up="transposed"),
    _contest("unet3p", 1, {PUBLIC_WAY: plain("unet3p")}),
    _contest("segnet", 12, {PUBLIC_WAY: plain("segnet")}),
    _contest("deeplab_v3plus", 21, {PUBLIC_WAY: plain("deeplab_v3plus")}, encoder="resnet50"),
    _contest("setr_pup", 150, {PUBLIC_WAY: plain("setr_pup")}, **_SMALL_VIT),
    _contest("setr_mla", 150, {PUBLIC_WAY: plain("setr_mla")}, **_SMALL_VIT),
]
