"""SegFormer's layers, each alone."""

import pytest
import torch

from fastseg.errors import ParameterError, ShapeError
from fastseg.layers import (
    AllMLPDecoder,
    DropPath,
    EfficientSelfAttention,
    MixFFN,
    MMSegDecoder,
    OverlapPatchEmbed,
)
from references import plain_segformer


def features(sizes=((9, 13), (5, 7), (3, 4), (2, 2)), channels=(3, 4, 5, 6)):
    torch.manual_seed(0)
    return [
        torch.randn(2, c, h, w, requires_grad=True)
        for c, (h, w) in zip(channels, sizes, strict=True)
    ]


def randomise(decoder) -> None:
    torch.manual_seed(1)
    for name, tensor in decoder.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(0.1, 0.5)


@pytest.mark.parametrize(
    ("build", "plain"),
    [
        (AllMLPDecoder, plain_segformer.all_mlp_decoder),
        (MMSegDecoder, plain_segformer.mmseg_decoder),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_the_fold_is_the_same_function(build, plain, training) -> None:
    decoder = build((3, 4, 5, 6), 8, num_classes=7, dropout=0.0).double().train(training)
    randomise(decoder)
    inputs = [x.detach().double().requires_grad_() for x in features()]
    leaves = [*inputs, *decoder.parameters()]
    state = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    got = decoder(inputs)
    weights = torch.randn_like(got)
    found = torch.autograd.grad(got, leaves, weights)
    after = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    decoder.load_state_dict(state)
    expected = plain(decoder, inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    # Running statistics move as without the fold.
    for name, tensor in decoder.state_dict().items():
        torch.testing.assert_close(after[name], tensor)
    wanted = torch.autograd.grad(expected, leaves, weights)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_a_decoder_refuses_other_features() -> None:
    decoder = AllMLPDecoder([3, 4], 8, num_classes=2)
    with pytest.raises(ShapeError, match=r"\[3, 4\]"):
        decoder(features()[:1])


def test_dropout_of_the_classifier_acts_in_training_only() -> None:
    decoder = AllMLPDecoder((3, 4, 5, 6), 8, num_classes=7, dropout=0.9)
    inputs = features()
    assert not torch.equal(decoder(inputs), decoder(inputs))
    decoder.eval()
    assert torch.equal(decoder(inputs), decoder(inputs))


@pytest.mark.parametrize(("height", "width", "reduction"), [(9, 13, 4), (4, 4, 4), (5, 3, 1)])
def test_attention_equals_pytorchs(height, width, reduction) -> None:
    torch.manual_seed(0)
    layer = EfficientSelfAttention(12, num_heads=3, reduction=reduction).double()
    x = torch.randn(2, height, width, 12, dtype=torch.float64)
    reduced = x
    if layer.reduce is not None:
        picture = layer.reduce(x.permute(0, 3, 1, 2).contiguous())
        reduced = layer.reduce_norm(picture.permute(0, 2, 3, 1))
    plain = torch.nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    linears = (layer.query, layer.key, layer.value)
    plain.in_proj_weight.data = torch.cat([linear.weight for linear in linears]).detach()
    plain.in_proj_bias.data = torch.cat([linear.bias for linear in linears]).detach()
    plain.out_proj.load_state_dict(layer.proj.state_dict())
    keys = reduced.flatten(1, 2)
    expected = plain(x.flatten(1, 2), keys, keys)[0].reshape(x.shape)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_attention_dropout_acts_in_training_only() -> None:
    layer = EfficientSelfAttention(8, num_heads=2, attention_dropout=0.5)
    x = torch.randn(1, 4, 4, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_attention_says_what_is_too_small() -> None:
    layer = EfficientSelfAttention(8, num_heads=2, reduction=4)
    with pytest.raises(ShapeError, match="at least 4x4"):
        layer(torch.zeros(1, 3, 9, 8))
    with pytest.raises(ParameterError, match="divisor of dim=8"):
        EfficientSelfAttention(8, num_heads=3)


def test_mix_ffn_equals_its_parts() -> None:
    torch.manual_seed(0)
    layer = MixFFN(6, 24).double()
    x = torch.randn(2, 5, 7, 6, dtype=torch.float64)
    hidden = layer.dwconv(layer.fc1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    expected = layer.fc2(torch.nn.functional.gelu(hidden))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "tokens"), [((32, 64), (8, 16)), ((33, 61), (9, 16))])
def test_patches_round_up(size, tokens) -> None:
    layer = OverlapPatchEmbed(3, 8, patch_size=7, stride=4)
    assert layer(torch.zeros(2, 3, *size)).shape == (2, *tokens, 8)
    with pytest.raises(ShapeError, match=r"\(B, 3, H, W\)"):
        layer(torch.zeros(1, 4, 32, 32))


def test_drop_path_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25)
    x = torch.ones(4000, 2)
    out = layer(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    layer.eval()
    assert layer(x) is x
