"""SegFormer's block on kernels from end to end, interpreted, against itself without them."""

import torch

from fastseg import ops
from fastseg.models.segformer import TransformerBlock


def block() -> TransformerBlock:
    torch.manual_seed(0)
    return TransformerBlock(
        16,
        num_heads=2,
        reduction=2,
        mlp_ratio=2,
        drop_path=0.5,
        norm_eps=1e-6,
        reduce_eps=1e-5,
        dropout=0.0,
        attention_dropout=0.0,
    )


def outputs_and_gradients(layer, tokens):
    torch.manual_seed(3)  # which samples skip a branch
    out = layer(tokens)
    found = torch.autograd.grad(out.square().sum(), [tokens, *layer.parameters()])
    names = ["tokens", *(name for name, _ in layer.named_parameters())]
    return {"out": out.detach(), **dict(zip(names, found, strict=True))}


def test_a_block_in_training() -> None:
    layer, tokens = block(), torch.randn(4, 5, 7, 16, requires_grad=True)
    expected = outputs_and_gradients(layer, tokens)
    with ops.use_backend("triton"):
        got = outputs_and_gradients(layer, tokens)
    assert not torch.equal(got["out"], expected["out"])
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4, msg=name)
