"""Any encoder of timm as a contracting path: layouts, sizes, and what cannot be."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastseg
from fastseg.errors import ShapeError
from models.specs import logits_of, picture

# Maps from stride 1, 2 or 4 on, all of one stride, channels last, and of no particular width.
FAMILIES = [
    "test_resnet",
    "test_efficientnet",
    "test_convnext",
    "test_vit",
    "mobilenetv3_small_050",
    "swin_tiny_patch4_window7_224",
    "regnetx_002",
    "vgg11",
]


def _model(encoder: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return fastseg.create_model("unet_padded", num_classes=3, encoder=encoder, **options)


@pytest.mark.parametrize("encoder", FAMILIES)
def test_every_family_trains_and_answers(encoder: str) -> None:
    model = _model(encoder).train()
    logits = logits_of(model(picture(1, 64, 96)))
    assert logits.shape == (1, 3, 64, 96)
    logits.square().mean().backward()
    assert model.steps[0][0][0].weight.grad.any()
    image = picture(1, 96, 64)
    with torch.inference_mode():
        ours = model.eval()(image)
        with fastseg.ops.use_backend("torch"):
            theirs = model(image)
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_efficientnet", "test_vit"])
def test_any_size(encoder: str) -> None:
    model = _model(encoder).eval()
    with torch.inference_mode():
        for size in [(97, 34), (5, 7), (1, 1)]:
            assert model(picture(1, *size)).shape == (1, 3, *size)


def test_channels_last_maps_are_turned() -> None:
    model = _model("swin_tiny_patch4_window7_224").eval()
    with torch.inference_mode():
        maps = model.encoder(picture(1, 64, 96))
    shapes = [(96, 16, 24), (192, 8, 12), (384, 4, 6), (768, 2, 3)]
    assert [tuple(one.shape[1:]) for one in maps] == shapes


def test_as_many_steps_as_doublings() -> None:
    assert _model("test_vit").config["widths"] == [128, 64, 32, 16]
    assert _model("test_resnet").config["widths"] == [256, 128, 64, 32, 16]


@pytest.mark.parametrize("name", ["unet_padded", "deeplab_v3", "fcn_resnet50", "deeplab_v2"])
def test_sizes_too_small_for_the_encoder(name: str) -> None:
    model = fastseg.create_model(name, num_classes=2, encoder="test_convnext").eval()
    with pytest.raises(ShapeError, match=r"image: the encoder cannot take 3x3 pixels .* divides"):
        model(picture(1, 3, 3))


def test_sizes_that_the_encoder_does_not_divide() -> None:
    model = _model("hrnet_w18_small", widths=[8] * 5).eval()
    with pytest.raises(ShapeError, match=r"cannot take 70x64 pixels .* that 32 divides"):
        model(picture(1, 70, 64))


def test_a_lack_of_memory_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("test_resnet").eval()

    def fail(image: Tensor) -> list[Tensor]:
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(model.encoder.model, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        model(picture(1, 64, 64))


def test_norms_behind_a_mean_train_on_one_picture() -> None:
    model = _model("resnest14d", widths=[8] * 5).train()
    assert nn.BatchNorm2d not in {type(module) for module in model.encoder.modules()}
    assert model(picture(1, 64, 64)).isfinite().all()


def test_another_device_is_not_taken_for_a_size() -> None:
    model = _model("test_resnet").eval()
    model.encoder.to("meta")
    with pytest.raises(RuntimeError) as caught:
        model(picture(1, 64, 64))
    assert not isinstance(caught.value, ShapeError)
