"""Public state dicts load, and give the public model's logits.

In float64: the logits of a network of random weights are ill-conditioned, and rounding in float32
alone moves those of a ResNet by 1e-4.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastseg
from fastseg.checkpoints import public_unets
from fastseg.models import SegmentationModel
from models.specs import picture
from references.field_unet import FieldUNet


def _shaken(model: nn.Module, channels: int = 3) -> nn.Module:
    """Another library's model in evaluation mode, with statistics of a batch it has seen."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(picture(2, 64, 64, channels=channels, seed=1))
    for norm in norms:
        norm.momentum = 0.1
    return model.double().eval()


def _differ(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize(
    ("theirs", "name", "options"),
    [
        ("fcn_resnet50", "fcn_resnet50", {}),
        ("fcn_resnet101", "fcn_resnet101", {}),
        ("deeplabv3_resnet50", "deeplab_v3", {}),
        ("deeplabv3_resnet101", "deeplab_v3", {"encoder": "resnet101"}),
    ],
)
def test_torchvision(theirs: str, name: str, options: dict[str, Any]) -> None:
    segmentation = pytest.importorskip("torchvision").models.segmentation
    torch.manual_seed(0)
    build = getattr(segmentation, theirs)
    with torch.device("meta"):
        plain = build(weights=None, weights_backbone=None)
        ours = fastseg.create_model(name, num_classes=21, **options)
        assert ours.state_dict().keys() == plain.state_dict().keys()
    reference = _shaken(build(weights=None, weights_backbone=None, aux_loss=True))
    ours = fastseg.create_model(name, num_classes=21, auxiliary=True, **options).eval()
    ours.double().load_state_dict(reference.state_dict())
    image = picture(1, 65, 47).double()
    with torch.inference_mode():
        expected = reference(image)
        finer, _ = ours.backbone(image)  # type: ignore[operator]
        auxiliary = ours.to_input_size(ours.aux_classifier(finer), image)  # type: ignore[operator]
        assert _differ(ours(image), expected["out"]) < 1e-5
        assert _differ(auxiliary, expected["aux"]) < 1e-5


def _loaded(state: dict[str, Tensor], name: str) -> SegmentationModel:
    assert public_unets.recognise(state) == name
    options = public_unets.options_of(state)
    model = fastseg.create_model(name, num_classes=public_unets.classes_of(state), **options)
    model.load_state_dict(public_unets.convert(state))
    return model.double().eval()


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(48, 64), (51, 37)])
def test_the_padded_unet_of_the_field(bilinear: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    reference = _shaken(FieldUNet(2, 3, [8, 16, 32, 64], bilinear=bilinear), 2)
    ours = _loaded(reference.state_dict(), "unet_padded")
    image = picture(2, *size, channels=2).double()
    with torch.inference_mode():
        assert _differ(ours(image), reference(image)) < 1e-5


@pytest.mark.parametrize(("encoder", "channels"), [("resnet18", 3), ("resnet50", 1)])
def test_unet_of_smp(encoder: str, channels: int) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    theirs = smp.Unet(encoder, encoder_weights=None, classes=3, in_channels=channels)
    reference = _shaken(theirs, channels)
    ours = _loaded(reference.state_dict(), "unet_padded")
    image = picture(1, 64, 96, channels=channels).double()
    with torch.inference_mode():
        assert _differ(ours(image), reference(image)) < 1e-5


def test_vgg16_and_vit_of_timm() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vgg = timm.create_model("vgg16").state_dict()
    fcn = fastseg.create_model("fcn32s", num_classes=2)
    fcn.load_vgg16(vgg)  # type: ignore[operator]
    convolution = fcn.blocks[4][4].weight  # type: ignore[index,union-attr]
    assert torch.equal(convolution, vgg["features.28.weight"])
    assert torch.equal(fcn.fc6.weight, vgg["pre_logits.fc1.weight"])  # type: ignore[union-attr]
    vit = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    setr = fastseg.create_model(
        "setr_naive", num_classes=2, encoder="test_vit", image_size=64, channels=8
    ).eval()
    setr.encoder.load_state_dict(vit.state_dict())  # type: ignore[union-attr]
    seen: list[Tensor] = []
    setr.encoder.norm.register_forward_hook(  # type: ignore[union-attr]
        lambda _module, _inputs, output: seen.append(output)
    )
    image = picture(1, 64, 64)
    with torch.inference_mode():
        setr(image)
        assert _differ(seen[0], vit.forward_features(image)) < 1e-5


def test_other_state_dicts_are_not_taken_for_one() -> None:
    assert public_unets.recognise({"weight": torch.zeros(1)}) is None
    assert public_unets.recognise({"segmentation_head.0.weight": torch.zeros(1)}) is None
