"""The building blocks that models share, each against its plain definition."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg import layers
from fastseg.errors import ParameterError, ShapeError
from fastseg.layers import conv2d


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_transposed_convolution_starts_as_bilinear_interpolation(stride: int) -> None:
    up = layers.BilinearConvTranspose2d(3, stride=stride, padding=stride // 2)
    image = torch.rand(2, 3, 7, 5)
    enlarged = F.interpolate(image, scale_factor=stride, mode="bilinear", align_corners=False)
    inner = (..., slice(stride, -stride), slice(stride, -stride))
    assert torch.allclose(up(image)[inner], enlarged[inner], atol=1e-6)
    up.weight.data.normal_()
    up.reset_parameters()
    assert torch.allclose(up(image)[inner], enlarged[inner], atol=1e-6)


@pytest.mark.parametrize(
    ("size", "line"),
    [(1, [1.0]), (3, [0.5, 1.0, 0.5]), (4, [0.25, 0.75, 0.75, 0.25])],
)
def test_the_bilinear_kernel(size: int, line: list[float]) -> None:
    expected = torch.tensor(line)
    assert torch.allclose(layers.bilinear_kernel(size), expected[:, None] * expected)
    with pytest.raises(ParameterError, match="size: expected at least 1"):
        layers.bilinear_kernel(0)


@pytest.mark.parametrize("rate", [1, 2, 12])
def test_an_atrous_convolution_sees_its_field(rate: int) -> None:
    conv = layers.AtrousConv2d(1, 1, 3, rate=rate, bias=False)
    nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 41, 41, requires_grad=True)
    out = conv(image)
    assert out.shape == image.shape
    out[0, 0, 20, 20].backward()
    assert image.grad is not None
    seen = image.grad[0, 0].nonzero()
    assert len(seen) == 9
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [conv.field, conv.field]


@pytest.mark.parametrize(
    "stack",
    [
        [(3, 1, 1)],
        [(3, 1, 1), (2, 2, 1), (3, 1, 1)],
        [(3, 2, 1), (3, 1, 2), (3, 1, 4)],
        [(7, 1, 1), (2, 2, 1), (3, 1, 3)],
    ],
)
def test_the_receptive_field_is_where_gradients_arrive(stack: list[tuple[int, int, int]]) -> None:
    convs = [nn.Conv2d(1, 1, k, stride=s, dilation=r, bias=False) for k, s, r in stack]
    for conv in convs:
        nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 64, 64, requires_grad=True)
    out: Tensor = nn.Sequential(*convs)(image)

    def columns(x: int) -> Tensor:
        (gradient,) = torch.autograd.grad(out[0, 0, 0, x], image, retain_graph=True)
        return gradient[0, 0].sum(0).nonzero().flatten()

    field = layers.receptive_field(stack)
    first, second = columns(0), columns(1)
    assert field.size == first[-1] - first[0] + 1
    assert field.stride == second[0] - first[0]


def test_fields_and_rates_below_one() -> None:
    with pytest.raises(ParameterError, match="numbers from 1 on"):
        layers.receptive_field([(3, 0, 1)])
    with pytest.raises(ParameterError, match="kernel_size: expected an odd number, got 4"):
        layers.AtrousConv2d(1, 1, 4, rate=1)
    with pytest.raises(ParameterError, match="rate: expected at least 1"):
        layers.AtrousConv2d(1, 1, 3, rate=0)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_unpooling_is_pytorchs(
    size: tuple[int, int], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    image = torch.rand(2, 3, *size).to(dtype, memory_format=layout)
    values, indices = layers.max_pool_with_indices(image)
    plain = F.max_unpool2d(values.float(), indices, 2, output_size=size)
    unpooled = layers.max_unpool(values, indices, output_size=size)
    assert unpooled.dtype == dtype
    assert torch.equal(unpooled.float(), plain)
    assert unpooled.is_contiguous(memory_format=layout) or values.is_contiguous()
    with pytest.raises(ShapeError, match="indices: expected the shape of features"):
        layers.max_unpool(values, indices[:1], output_size=size)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_unpooling_has_gradients(layout: torch.memory_format) -> None:
    image = torch.rand(1, 2, 5, 4, dtype=torch.float64).to(memory_format=layout).requires_grad_()

    def through(image: Tensor) -> Tensor:
        values, indices = layers.max_pool_with_indices(image)
        return layers.max_unpool(values, indices, output_size=(5, 4))

    assert torch.autograd.gradcheck(through, (image,))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("small", "size"), [((4, 4), (16, 16)), ((3, 5), (11, 38)), ((1, 1), (4, 3)), ((6, 6), (5, 6))]
)
def test_convolving_before_enlarging_is_convolving_after(
    align_corners: bool, small: tuple[int, int], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 5, *small, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    enlarged = F.interpolate(image, size, mode="bilinear", align_corners=align_corners)
    after = F.conv2d(enlarged, weight, padding=1)
    before = layers.enlarged_conv(image, weight, size=size, align_corners=align_corners)
    assert torch.allclose(before, after, atol=1e-12)
    upstream = torch.rand_like(after)
    for one, other in zip(
        torch.autograd.grad(before, (image, weight), upstream),
        torch.autograd.grad(after, (image, weight), upstream),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-11)
    with pytest.raises(ShapeError, match="weight: expected"):
        layers.enlarged_conv(image, weight[:, :4], size=size)


def test_fusion() -> None:
    deep, skip = torch.ones(1, 2, 4, 4), torch.arange(72.0).reshape(1, 2, 6, 6)
    middle = skip[..., 1:5, 1:5]
    assert torch.equal(layers.fuse_by_addition(deep, skip), middle + 1)
    assert torch.equal(layers.fuse_by_concatenation(deep, skip), torch.cat([middle, deep], dim=1))
    with pytest.raises(ShapeError, match="size: expected at most"):
        layers.fuse_by_addition(deep, skip[..., :3, :])
    with pytest.raises(ShapeError, match="project it with a 1x1 convolution"):
        layers.fuse_by_addition(deep, skip[:, :1])
    with pytest.raises(ShapeError, match="skip: expected a batch of 1, got 2"):
        layers.fuse_by_concatenation(deep, skip.expand(2, -1, -1, -1))


def test_the_pyramids() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 4, 9, 7)
    total = layers.ASPPSum(4, 3, rates=(1, 3))
    assert torch.allclose(total(image), total.convs[0](image) + total.convs[1](image))
    with pytest.raises(ParameterError, match="rates: expected at least one"):
        layers.ASPPSum(4, 3, rates=())
    pooling = layers.ImagePooling(4, 3).eval()
    pooled: Any = pooling(image)
    assert torch.equal(pooled, pooled[..., :1, :1].expand_as(pooled))


def test_normalisation_of_a_single_value_trains() -> None:
    norm = layers.BatchNorm2d(3)
    assert torch.allclose(norm(torch.full((1, 3, 1, 1), 2.0)), torch.tensor(2.0), atol=1e-4)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    norm(torch.full((2, 3, 1, 1), 2.0))
    assert not torch.equal(norm.running_mean, torch.zeros(3))


def test_fresh_maps_are_normalised_in_place() -> None:
    torch.manual_seed(0)
    fresh, plain = layers.FreshBatchNorm2d(3), nn.BatchNorm2d(3)
    nn.init.normal_(fresh.weight)
    fresh(torch.rand(4, 3, 5, 5))
    plain.load_state_dict(fresh.state_dict())
    fresh.eval(), plain.eval()
    image = torch.rand(2, 3, 5, 5)
    expected = plain(image)
    assert torch.allclose(fresh(image), expected, atol=1e-6)
    with torch.inference_mode():
        given = image.clone()
        assert fresh(given).data_ptr() == given.data_ptr()
        assert torch.allclose(given, expected, atol=1e-6)


def test_checkpointing_keeps_the_count_of_batches() -> None:
    norm = nn.BatchNorm2d(2)
    image = torch.rand(3, 2, 4, 4, requires_grad=True)
    layers.checkpointed(norm, image).sum().backward()
    assert norm.num_batches_tracked == 1
    assert norm.momentum == 0.1
    expected = 0.1 * image.detach().mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, expected, atol=1e-6)


# Convolutions in evaluation


def _without_gradients(layer: nn.Module, maps: Any) -> Tensor:
    with torch.inference_mode():
        out: Tensor = layer.eval()(maps)
    return out


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"padding": 0}, {"padding": 2, "dilation": 2}, {"bias": False}]
)
def test_a_convolution_with_fewer_products(options: dict[str, Any]) -> None:
    conv = layers.Conv2d(20, 33, 3, **options)
    image = torch.randn(2, 20, 30, 37)
    with torch.inference_mode():
        assert conv.saves_products([image])
    expected = nn.Conv2d.forward(conv.double(), image.double())
    out = _without_gradients(conv.float(), image)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out.double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rate", "size"),
    [(12, (32, 33)), (24, (32, 40)), (36, (32, 32)), (20, (15, 90)), (9, (8, 9)), (90, (90, 15))],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_which_most_taps_fall_off(
    monkeypatch: pytest.MonkeyPatch, rate: int, size: tuple[int, int], bias: bool
) -> None:
    conv = layers.Conv2d(300, 24, 3, padding=rate, dilation=rate, bias=bias)
    image = torch.randn(1, 300, *size)
    expected = nn.Conv2d.forward(conv.double(), image.double())
    # PyTorch's own layer must not be what is compared.
    monkeypatch.setattr(nn.Conv2d, "forward", None)
    for form in (torch.contiguous_format, torch.channels_last):
        out = _without_gradients(conv.float(), image.contiguous(memory_format=form))
        assert torch.allclose(out.double(), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_weights_of_many_filters_stay_in_their_order(
    monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    conv = layers.Conv2d(64, 96, 3, padding=1, stride=stride)
    image = torch.randn(1, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    expected = nn.Conv2d.forward(conv.double(), image.double())
    forms = []
    plain = nn.Conv2d.forward

    def watched(conv: nn.Conv2d, image: Tensor) -> Tensor:
        forms.append(image.is_contiguous())
        return plain(conv, image)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    out = _without_gradients(conv.float(), image)
    assert forms == [True]
    assert torch.allclose(out.double(), expected, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    conv(image)
    assert forms == [True, False], "where gradients are needed nothing changes"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_many_weights_are_given_in_parts(
    monkeypatch: pytest.MonkeyPatch, stride: int, bias: bool
) -> None:
    monkeypatch.setattr(conv2d, "_WEIGHTS", 64 * 9 * 40)
    conv = layers.Conv2d(64, 96, 3, padding=1, stride=stride, bias=bias)
    image = torch.randn(1, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    expected = nn.Conv2d.forward(conv.double(), image.double())
    given = []
    plain = F.conv2d

    def watched(image: Tensor, weight: Tensor, *options: Any) -> Tensor:
        given.append(len(weight))
        return plain(image, weight, *options)

    monkeypatch.setattr(F, "conv2d", watched)
    out = _without_gradients(conv.float(), image)
    assert given == [40, 40, 16]
    assert torch.allclose(out.double(), expected, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bias", [True, False])
def test_a_single_pixel_with_many_weights_is_a_product(
    monkeypatch: pytest.MonkeyPatch, bias: bool
) -> None:
    monkeypatch.setattr(conv2d, "_WEIGHTS", 20 * 30)
    conv = layers.Conv2d(20, 30, 1, bias=bias)
    image = torch.randn(2, 20, 5, 7).contiguous(memory_format=torch.channels_last)
    expected = nn.Conv2d.forward(conv.double(), image.double())
    with monkeypatch.context() as changed:
        changed.setattr(nn.Conv2d, "forward", None)
        out = _without_gradients(conv.float(), image)
    assert torch.allclose(out.double(), expected, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert conv(image).requires_grad, "where gradients are needed it is PyTorch's"


def test_the_pyramid_without_gradients() -> None:
    pyramid = layers.ASPP(20, rates=(2, 30), out_channels=8).eval()
    image = torch.randn(2, 20, 12, 15)
    expected = pyramid(image)
    assert torch.allclose(_without_gradients(pyramid, image), expected, atol=1e-5)


def test_where_pytorch_convolves() -> None:
    image = torch.randn(1, 20, 32, 32)
    plain = layers.Conv2d(20, 20, 3, padding=1)
    assert not plain.saves_products([image])  # gradients are wanted
    with torch.inference_mode():
        assert plain.saves_products([image])
        assert not plain.saves_products([image.double()])
        assert not plain.saves_products([image[..., :8, :8]])
        with torch.autocast("cpu", torch.bfloat16):
            assert not plain.saves_products([image])
        for options in (
            {"stride": 2},
            {"groups": 2},
            {"padding": "same"},
            {"padding_mode": "reflect"},
            {"padding": (1, 2)},
            {"dilation": (1, 2)},
            {"padding": 24, "dilation": 24},  # most taps fall off the map
        ):
            conv = layers.Conv2d(20, 20, 3, **{"padding": 1, **options})  # type: ignore[arg-type]
            assert not conv.saves_products([image]), options
        assert not layers.Conv2d(20, 20, 5).saves_products([image])
        assert not layers.Conv2d(20, 1, 3).saves_products([image])


def test_a_layer_of_its_parameters() -> None:
    conv = nn.Conv2d(16, 32, 3, padding=2, dilation=2, bias=False).eval()
    ours = layers.Conv2d.of(conv)
    assert ours.weight is conv.weight
    assert not ours.training
    image = torch.randn(1, 16, 20, 20)
    assert torch.allclose(_without_gradients(ours, image), conv(image), atol=1e-5)


def _settled_block(*channels: int, **options: Any) -> layers.ConvNormAct:
    block = layers.ConvNormAct(*channels, **options)
    assert block.norm.running_mean is not None
    assert block.norm.running_var is not None
    block.norm.running_mean.normal_()
    block.norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(block.norm.weight)
    nn.init.normal_(block.norm.bias)
    return block.eval()


@pytest.mark.parametrize("bias", [True, False])
def test_a_block_in_one_step(bias: bool) -> None:
    block = _settled_block(16, 24, bias=bias)
    block.append(nn.Dropout(0.5).eval())
    image = torch.randn(2, 16, 20, 21)
    assert torch.allclose(_without_gradients(block, image), block(image), atol=1e-5)


def test_a_block_reads_maps_as_if_stacked() -> None:
    block = _settled_block(18, 24)
    maps = [torch.randn(2, channels, 20, 21) for channels in (16, 2)]
    expected = block(torch.cat(maps, dim=1))
    assert torch.equal(block(maps), expected)
    assert torch.allclose(_without_gradients(block, maps), expected, atol=1e-5)


@pytest.mark.parametrize("child", [0, 1, 2])
def test_who_watches_a_layer_of_a_block_sees_it(child: int) -> None:
    block = _settled_block(16, 24)
    image, seen = torch.randn(1, 16, 20, 20), []
    expected = block(image)
    block[child].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    assert torch.allclose(_without_gradients(block, image), expected, atol=1e-5)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("child", "other"),
    [
        (0, nn.Conv2d(16, 24, 3, padding=1)),
        (1, nn.SyncBatchNorm(24)),
        (1, nn.Identity()),
        (2, nn.GELU()),
    ],
)
def test_a_layer_of_a_block_may_be_exchanged(child: int, other: nn.Module) -> None:
    block = _settled_block(16, 24)
    block[child] = other.eval()
    maps = [torch.randn(1, channels, 20, 20) for channels in (14, 2)]
    expected = block[2](block[1](block[0](torch.cat(maps, dim=1))))
    assert torch.allclose(_without_gradients(block, maps), expected, atol=1e-5)
