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
def _model(name: str, num_classes: int, **options: Any) -> Any:
    import torch

    import fastseg

    torch.manual_seed(0)
    return fastseg.create_model(name, num_classes=num_classes, **options).eval()


def _case() -> Iterator[Case]:
    import torch

    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    yield Case("random, 1x3x256x256", (image,))


def _evaluated(make: Callable[[], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    made: list[Callable[[Any], Any]] = []

    def run(image: Any) -> Any:
        import torch

        if not made:
            made.append(make())
        with torch.inference_mode():
            logits = made[0](image)
            return (logits["out"] if isinstance(logits, dict) else logits).numpy()

    return run


def _agree(ours: Any, theirs: Any) -> None:
    # The mean: where two maxima are equal but for rounding, SegNet keeps one or the other.
    apart = np.abs(ours - theirs).mean() / np.abs(theirs).mean()
    if not apart < 1e-2:
        raise DisagreementError(f"logits {apart:.1e} of their mean apart")


def _contest(
    model: str,
    num_classes: int,
    rival: str,
    theirs: Callable[[Any], Callable[[Any], Any]],
    requires: str = "torch",
    label: str | None = None,
    **options: Any,
) -> Contest:
    """A model, and what makes its rival from it."""

    def ours() -> Any:
        return _model(model, num_classes, **options)

    return Contest(
        name=f"{label or model}_256",
        cases=_case,
        ours=Contender("fastseg", _evaluated(ours), requires=("torch",)),
        rivals=(Contender(rival, _evaluated(lambda: theirs(ours())), requires=(requires,)),),
        agree=_agree,
    )


def _torchvision(name: str) -> Callable[[Any], Any]:
    def make(ours: Any) -> Any:
        from torchvision.models import segmentation

        theirs = getattr(segmentation, name)(weights=None, weights_backbone=None)
        theirs.load_state_dict(ours.state_dict())
        return theirs.eval()

    return make


def _smp_unet(ours: Any) -> Any:
    import segmentation_models_pytorch as smp

    from fastseg.checkpoints import public_unets

    theirs = smp.Unet("resnet34", encoder_weights=None, classes=ours.num_classes).eval()
    names = public_unets.convert({name: name for name in theirs.state_dict()})
    own = ours.state_dict()
    theirs.load_state_dict({theirs_: own[name] for name, theirs_ in names.items()})
    return theirs


def _field_unet(ours: Any) -> Any:
    from fastseg.checkpoints import public_unets
    from references.field_unet import FieldUNet

    widths = ours.config["widths"]
    theirs = FieldUNet(3, ours.num_classes, widths, bilinear=False).eval()
    names = public_unets.convert({name: name for name in theirs.state_dict()})
    own = ours.state_dict()
    theirs.load_state_dict({theirs_: own[name] for name, theirs_ in names.items()})
    return theirs


def _plain(name: str) -> Callable[[Any], Callable[[Any], Any]]:
    def make(ours: Any) -> Callable[[Any], Any]:
        from references import plain_models

        return lambda image: getattr(plain_models, name)(ours, image)

    return make


_SMALL_VIT = {"encoder": "vit_small_patch16_384", "image_size": 256}

CONTESTS = [
    _contest("fcn_resnet50", 21, "torchvision", _torchvision("fcn_resnet50"), "torchvision"),
    _contest("deeplab_v3", 21, "torchvision", _torchvision("deeplabv3_resnet50"), "torchvision"),
    _contest(
        "unet_padded",
        2,
        "segmentation_models_pytorch",
        _smp_unet,
        "segmentation_models_pytorch",
        label="unet_resnet34",
        encoder="resnet34",
    ),
    _contest("unet_padded", 2, PUBLIC_WAY, _field_unet),
    _contest("unetpp", 1, PUBLIC_WAY, _plain("unetpp")),
    _contest("unet3p", 1, PUBLIC_WAY, _plain("unet3p")),
    _contest("segnet", 12, PUBLIC_WAY, _plain("segnet")),
    _contest("deeplab_v3plus", 21, PUBLIC_WAY, _plain("deeplab_v3plus"), encoder="resnet50"),
    _contest("setr_pup", 150, PUBLIC_WAY, _plain("setr_pup"), **_SMALL_VIT),
    _contest("setr_mla", 150, PUBLIC_WAY, _plain("setr_mla"), **_SMALL_VIT),
]
