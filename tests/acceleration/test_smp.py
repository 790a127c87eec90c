"""`accelerate` on the SegFormer of segmentation_models.pytorch."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fastseg
from references.hugging_face_segformer import randomised

smp = pytest.importorskip("segmentation_models_pytorch")
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def plain():
    model = smp.Segformer(
        "mit_b0", encoder_weights=None, classes=5, decoder_segmentation_channels=48
    )
    return randomised(model).eval()


@pytest.fixture
def model(plain):
    return copy.deepcopy(plain)


def picture(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def accelerated(model):
    layers = fastseg.acceleration_report(model).layers
    return sum(layer.status == "accelerated" for layer in layers)


def test_outputs_are_the_same(plain, model) -> None:
    assert fastseg.accelerate(model) is model
    # Attention and Mix-FFN of eight blocks, and the decoder.
    assert accelerated(model) == len(fastseg.acceleration_report(model).layers) == 17
    for size in [(64, 64), (64, 96), (96, 160)]:
        with torch.inference_mode():
            expected, found = plain(picture(*size)), model(picture(*size))
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
        assert not torch.equal(found, expected)


def test_double_precision_is_exact(plain, model) -> None:
    image = picture(64, 96).double()
    with torch.inference_mode():
        found, expected = (
            fastseg.accelerate(model.double())(image),
            copy.deepcopy(plain).double()(image),
        )
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_gradients_and_statistics(plain, model) -> None:
    other = copy.deepcopy(plain).double().train()
    model = fastseg.accelerate(model.double()).train()
    image = picture(64, 64).double()
    for one in (other, model):
        for module in one.modules():
            if isinstance(module, nn.Dropout) or type(module).__name__ == "DropPath":
                module.eval()
        one(image).square().mean().backward()
    largest = max(p.grad.abs().max() for p in other.parameters())
    for (name, wanted), found in zip(other.named_parameters(), model.parameters(), strict=True):
        assert float((found.grad - wanted.grad).abs().max()) <= 1e-12 * largest, name
    for (name, wanted), found in zip(other.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, msg=name)


def test_restored_models_have_the_same_bits(plain, model) -> None:
    fastseg.restore(fastseg.accelerate(model))
    assert accelerated(model) == 0
    with torch.inference_mode():
        assert torch.equal(model(picture(64, 64)), plain(picture(64, 64)))


def test_pickles_are_plain_and_state_stays(plain, model) -> None:
    fastseg.accelerate(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert accelerated(pickle.loads(pickle.dumps(model))) == 0


def test_other_models_on_the_encoder(plain) -> None:
    model = smp.Unet("mit_b0", encoder_weights=None, classes=2).eval()
    with torch.inference_mode():
        expected = model(picture(64, 64))
        found = fastseg.accelerate(model)(picture(64, 64))
    assert accelerated(model) == 16
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_exchanged_layers_are_called(plain, model) -> None:
    class Louder(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    for one in (plain := copy.deepcopy(plain), model):
        one.decoder.mlp_stage[0].linear.__class__ = Louder
        one.encoder.block1[0].attn.q.__class__ = Louder
    fastseg.accelerate(model)
    with torch.inference_mode():
        expected, found = plain(picture(64, 64)), model(picture(64, 64))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert "exchanged or has hooks" in str(fastseg.acceleration_report(model))


def test_it_compiles_in_one_graph(model) -> None:
    fastseg.accelerate(model)
    image = picture(64, 64)
    torch._dynamo.reset()
    with torch.inference_mode():
        found = torch.compile(model.decoder, fullgraph=True, backend="eager")(model.encoder(image))
        torch.testing.assert_close(found, model.decoder(model.encoder(image)))
