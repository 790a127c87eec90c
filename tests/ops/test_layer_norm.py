"""LayerNorm: PyTorch's own everywhere, and whole where a compiler would take it apart."""

import pytest
import torch
from torch.nn import functional as F

from fastseg import ops
from fastseg.layers.token_norm import TokenNorm

SHAPES = [(1, 1), (2, 3, 2), (2, 5, 7, 24), (3, 100, 33)]


def arguments(*shape, dtype=torch.float32):
    torch.manual_seed(sum(shape))
    return [torch.randn(s, dtype=dtype) for s in (shape, shape[-1:], shape[-1:])]


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_operator_equals_the_plain_version(shape, backend) -> None:
    given = arguments(*shape)
    got = torch.ops.fastseg.layer_norm(*given, 1e-3, backend)
    expected = ops.reference.layer_norm(*(x.double() for x in given), eps=1e-3)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=3e-6 * expected.abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_outside_of_a_compiler_it_is_pytorchs(shape) -> None:
    x, weight, bias = arguments(*shape)
    got = ops.layer_norm(x, weight, bias, eps=1e-3)
    assert torch.equal(got, F.layer_norm(x, weight.shape, weight, bias, 1e-3))


def operators(function, *given):
    """What a compiler is shown."""
    seen = []

    def look(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    function = torch.compile(function, fullgraph=True, backend=look)
    return function(*given), seen


def test_it_stays_whole_in_inference_only() -> None:
    given = arguments(2, 5, 8)
    got, seen = operators(ops.layer_norm, *given)
    assert "fastseg.layer_norm.default" in " ".join(seen)
    assert torch.equal(got, ops.layer_norm(*given))
    _, seen = operators(ops.layer_norm, *(x.requires_grad_() for x in given))
    assert "fastseg" not in " ".join(seen)
    _, seen = operators(ops.layer_norm, *arguments(2, 5, 8, dtype=torch.float64))
    assert "fastseg" not in " ".join(seen)


def test_the_residual_connection_stays_whole_in_inference_only() -> None:
    x, weight, bias = arguments(2, 5, 8)
    (total, normed), seen = operators(ops.layer_norm_residual, x, 2 * x, weight, bias)
    assert "fastseg.layer_norm_residual.default" in " ".join(seen)
    assert torch.equal(total, x + 2 * x)
    assert torch.equal(normed, ops.layer_norm(total, weight, bias))
    weight.requires_grad_()
    _, seen = operators(ops.layer_norm_residual, x, 2 * x, weight, bias)
    assert "fastseg" not in " ".join(seen)


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:Converting a tensor")
def test_it_is_registered_as_it_behaves() -> None:
    x, weight, bias = arguments(2, 3, 4)
    operator = torch.ops.fastseg.layer_norm.default
    torch.library.opcheck(operator, (x.transpose(0, 1), weight, bias, 1e-5, ""))


def test_the_layer_has_the_names_and_the_gradients_of_pytorchs() -> None:
    ours, theirs = TokenNorm(8, eps=1e-3), torch.nn.LayerNorm(8, eps=1e-3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 8)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


def test_no_loop_of_the_compilers_touches_a_layer_norm_of_segformer() -> None:
    import fastseg

    model = fastseg.create_model("segformer_b0", num_classes=3).eval()
    with torch.inference_mode():
        _, seen = operators(model.native_logits, torch.zeros(1, 3, 64, 64))
    assert not [name for name in seen if "layer_norm" in name and "fastseg" not in name]
