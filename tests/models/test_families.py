"""What is particular to a family: the papers' sizes, crops, modes and traps."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastseg
from fastseg.errors import CheckpointError, DtypeError, ParameterError, ShapeError
from fastseg.models.unet import mirrored_window
from fastseg.models.unet3p import gate
from models.specs import picture, settled, small
from references import plain_models


def _exact(case: str, **options: Any) -> Any:
    return settled(small(case)).double()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unetpp", {"widths": [4, 8, 12, 16]}),
        ("unet3p", {"widths": [4, 8, 12, 16, 20], "branch": 4}),
        ("segnet", {"width": 1 / 16}),
        ("deeplab_v3plus", {"encoder": "test_resnet"}),
        ("setr_pup", {"encoder": "test_vit", "image_size": 64, "channels": 16}),
        ("setr_mla", {"encoder": "test_vit", "image_size": 64, "channels": 16}),
    ],
)
def test_shortcuts_change_nothing(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = settled(fastseg.create_model(name, num_classes=3, **options)).double()
    sizes = [(64, 64)] if name.startswith("setr") else [(64, 64), (53, 70)]
    for size in sizes:
        image = picture(2, *size).double()
        with torch.inference_mode():
            expected = getattr(plain_models, name)(model, image)
            assert torch.allclose(model(image), expected, atol=1e-9)


@pytest.mark.parametrize(("side", "layout"), [(64, "the caller's"), (368, "channels last")])
def test_small_batches_are_trained_in_the_callers_layout(side: int, layout: str) -> None:
    model = fastseg.create_model("unet_padded", num_classes=2, widths=[2, 4])
    seen: list[bool] = []
    model.down[0].register_forward_hook(lambda _, __, maps: seen.append(maps.is_contiguous()))
    image = picture(1, side, side)
    model(image)
    model(image.to(memory_format=torch.channels_last))
    with torch.inference_mode():
        model.eval()(image)
    assert seen == [layout == "the caller's", False, False]


# FCN


@pytest.mark.parametrize("case", ["fcn32s", "fcn16s", "fcn8s", "fcn8s at once"])
def test_fcn_is_the_caffe_network(case: str) -> None:
    model = _exact(case)
    assert model.blocks[0][0].padding == (100, 100)
    for size in [(64, 64), (53, 70)]:
        image = picture(1, *size).double()
        with torch.inference_mode():
            assert torch.allclose(model(image), plain_models.fcn(model, image), atol=1e-12)


@pytest.mark.parametrize("size", [(64, 64), (33, 100)])
@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_fcn_scores_lie_where_the_picture_is(name: str, size: tuple[int, int]) -> None:
    # The published crops: the middle of the logits answers to the middle of the picture.
    model = _exact(name)
    image = picture(1, *size).double().requires_grad_()
    logits = model(image)
    y, x = size[0] // 2, size[1] // 2
    logits[0, :, y, x].sum().backward()
    rows = image.grad[0].abs().sum((0, 2))
    weights = rows / rows.sum()
    center = float((weights * torch.arange(size[0])).sum())
    assert abs(center - y) < 16


@pytest.mark.parametrize(
    ("coarser", "finer", "skip"),
    [("fcn32s", "fcn16s", "score_pool4"), ("fcn16s", "fcn8s", "score_pool3")],
)
def test_fcn_starts_from_the_coarser_net(coarser: str, finer: str, skip: str) -> None:
    coarse, fine = small(coarser).eval(), small(finer).eval()
    for parameter in getattr(fine, skip).parameters():
        torch.nn.init.zeros_(parameter)  # as a fresh net has it
    fine.start_from(coarse)  # type: ignore[operator]
    image = picture(1, 96, 96)
    with torch.inference_mode():
        one, other = coarse(image), fine(image)
    # Twice and sixteen times is nearly thirty-two times.
    assert (one - other).abs().mean() < 0.1 * one.abs().mean()


def test_fcn_starts_from_nothing_else() -> None:
    fine = small("fcn16s")
    with pytest.raises(ParameterError, match="fcn16s starts from fcn32s, got fcn8s"):
        fine.start_from(small("fcn8s"))  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="same classes, channels and width"):
        fine.start_from(small("fcn32s", num_classes=7))  # type: ignore[operator]
    with pytest.raises(DtypeError, match="coarser: expected an FCN-32s model, got SegNet"):
        fine.start_from(small("segnet"))  # type: ignore[operator]
    with pytest.raises(DtypeError, match="state: expected a state dict, got NoneType"):
        fine.load_vgg16(None)  # type: ignore[operator]


def test_fcn_scores_start_at_zero() -> None:
    model = fastseg.create_model("fcn8s", num_classes=2, width=1 / 16).eval()
    assert not model(picture(1, 32, 32)).any()


def test_vgg16_weights_of_another_net_are_refused() -> None:
    model = small("fcn32s")
    with pytest.raises(CheckpointError, match="13 convolutions of VGG-16"):
        model.load_vgg16({"features.0.weight": torch.zeros(8, 3, 3, 3)})  # type: ignore[operator]


# U-Net


def test_unet_has_the_papers_sizes() -> None:
    with torch.device("meta"):
        model: Any = fastseg.create_model("unet", num_classes=2, in_channels=1, mirror=False)
        model.eval()
        assert model(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
        assert model(torch.empty(1, 1, 188, 204)).shape == (1, 2, 4, 20)
        with pytest.raises(ShapeError, match=r"188 \+ 16·n pixels fit \(188, 204, 220, …\)"):
            model(torch.empty(1, 1, 512, 512))
        with pytest.raises(ShapeError, match="got \\(16, 188\\)"):
            model(torch.empty(1, 1, 16, 188))
    assert (model.fitting_size(388), model.border) == (572, 92)


def test_unet_tiles_join_without_a_seam() -> None:
    model: Any = _exact("unet")
    image = picture(2, 75, 50).double()
    with torch.inference_mode():
        whole = model(image)
        for tile in (4, 17, 32, 200):
            assert torch.allclose(model.predict_tiles(image, tile=tile), whole, atol=1e-12)
    for tile in (0, 1.5, "all", True):
        with pytest.raises(ParameterError, match="tile: expected a whole number from 1 on"):
            model.predict_tiles(image, tile=tile)
    valid: Any = fastseg.create_model("unet", num_classes=2, widths=[4, 8], mirror=False)
    with pytest.raises(ParameterError, match="predict_tiles needs mirror=True"):
        valid.predict_tiles(image)


def test_mirroring() -> None:
    line = torch.arange(3.0).reshape(1, 3)
    window = mirrored_window(line, top=0, left=-3, height=2, width=9)
    assert window.tolist() == [[1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0]] * 2


def test_unet_weights_have_the_papers_spread() -> None:
    torch.manual_seed(0)
    model: Any = fastseg.create_model("unet", num_classes=2)
    for layer, nodes in ((model.down[2][0], 9 * 128), (model.up[0], 1024)):
        assert abs(float(layer.weight.detach().std()) / (2 / nodes) ** 0.5 - 1) < 0.02


# U-Net++


@pytest.mark.parametrize("depth", [1, 2])
def test_a_pruned_net_is_the_head_of_that_depth(depth: int) -> None:
    model: Any = _exact("unetpp")
    image = picture(1, 64, 64).double()
    pruned = model.prune(depth)
    with torch.inference_mode():
        row = model.top_row(image)
        assert torch.allclose(pruned(image), model.heads[f"L{depth}"](row[depth]), atol=1e-12)
    assert pruned.config["depth"] == depth
    smaller = sum(p.numel() for p in pruned.parameters())
    assert (smaller < sum(p.numel() for p in model.parameters())) == (depth < 2)


def test_the_mean_of_the_heads() -> None:
    model: Any = _exact("unetpp")
    image = picture(1, 32, 32).double()
    with torch.inference_mode():
        heads = [model.prune(depth)(image) for depth in (1, 2)]
        assert torch.allclose(model.mean_logits(image), (heads[0] + heads[1]) / 2, atol=1e-12)
    single: Any = fastseg.create_model("unetpp", num_classes=2, widths=[4, 8, 16])
    with pytest.raises(ParameterError, match="deep_supervision"):
        single.mean_logits(picture(1, 32, 32))
    with pytest.raises(ParameterError, match="no head at L1"):
        single.prune(1)
    with pytest.raises(ParameterError, match="depth: expected one of 1, 2, got 3"):
        model.prune(3)


# U-Net 3+


@pytest.mark.parametrize("classes", [1, 3])
def test_the_gate_multiplies_probabilities(classes: int) -> None:
    logits = picture(2, 5, 4, channels=classes).double() * 3
    seen = torch.tensor([[0.0, 0.7], [3.0, -2.0]], dtype=torch.float64)
    share = seen.softmax(1)[:, 1, None, None]
    gated = gate(logits, seen)
    if classes == 1:
        assert torch.allclose(gated.sigmoid()[:, 0], share * logits.sigmoid()[:, 0])
        return
    probs = gated.softmax(1)
    for label in range(1, classes):
        assert torch.allclose(probs[:, label], share * logits.softmax(1)[:, label])


def test_no_organ_means_no_foreground_and_the_classifier_learns() -> None:
    logits = torch.full((1, 1, 3, 3), 8.0)
    surely_nothing = torch.tensor([[20.0, -20.0]], requires_grad=True)
    gated = gate(logits, surely_nothing)
    assert (gated.sigmoid() < 1e-6).all()
    gated.sum().backward()
    assert surely_nothing.grad is not None
    assert surely_nothing.grad.abs().sum() > 0


def test_unet3p_names_its_outputs() -> None:
    output: Any = small("unet3p").train()(picture(2, 64, 64))
    assert list(output.auxiliary) == ["level1", "level2", "classification"]
    assert output.auxiliary["classification"].shape == (2, 2)


# DeepLab


def test_deeplab_v2_takes_the_largest_score_of_all_scales() -> None:
    model: Any = small("deeplab_v2").train()
    output = model(picture(2, 64, 64))
    assert list(output.auxiliary) == ["scale1", "scale0.5"]
    # Enlarging comes after the maximum, so at the corners alone both are the same numbers.
    largest = torch.stack(list(output.auxiliary.values())).amax(0)
    corners = (..., slice(None, None, 63), slice(None, None, 63))
    assert torch.allclose(output.logits[corners], largest[corners], atol=1e-5)


def test_a_batch_of_one_that_cannot_be_normalised() -> None:
    model = small("deeplab_v3").train()
    with pytest.raises(ShapeError, match="from 9 pixels on, or a batch of two"):
        model(picture(1, 8, 8))
    model(picture(1, 9, 8))
    model(picture(2, 8, 8))


def test_rates_follow_the_stride() -> None:
    rates = [
        fastseg.create_model(
            "deeplab_v3", num_classes=2, encoder="test_resnet", output_stride=stride
        ).config["rates"]
        for stride in (8, 16)
    ]
    assert rates == [[12, 24, 36], [6, 12, 18]]


def test_the_crf_refines_deeplab() -> None:
    model = settled(small("deeplab_v1"))
    image = (picture(1, 64, 64).sigmoid() * 255).to(torch.uint8)
    with torch.inference_mode():
        probs = model(image.float() / 255)[0].softmax(0)
    refined = fastseg.crf.refine(probs, image[0].permute(1, 2, 0), preset="deeplab-v2")
    assert isinstance(refined, Tensor)
    assert refined.shape == probs.shape


# SETR


def test_published_blocks() -> None:
    with torch.device("meta"):
        for name, blocks in [
            ("setr_naive", ["block10", "block15", "block20"]),
            ("setr_pup", ["block10", "block15", "block20", "block24"]),
            ("setr_mla", ["block6", "block12", "block18", "block24"]),
        ]:
            model: Any = fastseg.create_model(name, num_classes=2, auxiliary=True)
            assert list(model.auxiliary) == blocks
        base: Any = fastseg.create_model("setr_mla", num_classes=2, encoder="vit_base_patch16_384")
        assert base.taps == (3, 6, 9, 12)


def test_positions_of_the_own_size_stay() -> None:
    model: Any = _exact("setr_naive")
    image = picture(1, 64, 64).double()
    tokens, grid = model._embed(image)
    vit = model.encoder
    prefix = vit.cls_token
    patches = vit.patch_embed.proj(image).flatten(2).transpose(1, 2)
    plain = torch.cat([prefix, patches], dim=1) + vit.pos_embed
    assert grid == (4, 4)
    assert torch.allclose(tokens, plain)
