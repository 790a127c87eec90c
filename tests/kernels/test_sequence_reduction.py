"""The reduction of keys and values: its kernel, interpreted, and PyTorch's way, both checked."""

import pytest
import torch
from torch import Tensor

from fastseg import ops
from fastseg.errors import BackendError, DtypeError, ShapeError

# Largest difference to the plain version in float64 on the same values, relative to its largest.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 4e-3}
# Samples, rows, columns, channels, outputs, side of the squares.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 9, 7, 6, 10, 2),  # a row and a column that fill no square
    (1, 24, 9, 20, 33, 8),  # several parts of a square's channels
    (2, 9, 12, 3, 5, 3),  # several blocks of outputs
]
BACKENDS = ["", "reference", "torch", "triton"]


def arguments(batch, height, width, channels, outputs, side, dtype=torch.float32):
    torch.manual_seed(channels)
    sizes = {
        "tokens": (batch, height, width, channels),
        "weight": (outputs, channels, side, side),
        "bias": (outputs,),
        "norm_weight": (outputs,),
        "norm_bias": (outputs,),
    }
    return {name: torch.randn(size).to(dtype).requires_grad_() for name, size in sizes.items()}


def values_and_gradients(function, given):
    out = function(**given, eps=1e-3)
    torch.manual_seed(1)
    along = torch.randn(out.shape).to(out.dtype)
    found = torch.autograd.grad(out, list(given.values()), along)
    return {"out": out.detach(), **dict(zip(given, found, strict=True))}


def run(backend, given) -> dict[str, Tensor]:
    if not backend:
        return values_and_gradients(ops.sequence_reduction, given)
    with ops.use_backend(backend):
        return values_and_gradients(ops.sequence_reduction, given)


def assert_equal_to_the_plain_version(backend, given) -> None:
    exact = {name: x.detach().double().requires_grad_() for name, x in given.items()}
    expected = values_and_gradients(ops.reference.sequence_reduction, exact)
    for name, value in run(backend, given).items():
        scale = expected[name].abs().max().clamp(min=1)
        difference = (value.double() - expected[name]).abs().max() / scale
        assert difference <= TOLERANCE[value.dtype], name
        assert value.dtype == given["tokens"].dtype
        assert value.shape == expected[name].shape


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, backend) -> None:
    assert_equal_to_the_plain_version(backend, arguments(*shape))


def test_half_precision() -> None:
    assert_equal_to_the_plain_version("triton", arguments(1, 9, 7, 20, 33, 2, torch.float16))


def test_the_plain_version_is_a_convolution() -> None:
    given = {name: x.double() for name, x in arguments(2, 9, 7, 6, 10, 2).items()}
    picture = given["tokens"].permute(0, 3, 1, 2)
    hidden = torch.nn.functional.conv2d(picture, given["weight"], given["bias"], stride=2)
    norm = given["norm_weight"], given["norm_bias"]
    expected = torch.nn.functional.layer_norm(hidden.permute(0, 2, 3, 1), (10,), *norm, 1e-3)
    got = ops.reference.sequence_reduction(**given, eps=1e-3)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_tokens_and_weights_that_are_not_contiguous() -> None:
    given = arguments(2, 9, 7, 6, 10, 2)
    expected = run("triton", given)
    wide = torch.zeros(2, 11, 9, 14)
    wide[:, 1:10, 1:8, 4:10] = given["tokens"].detach()
    weight = given["weight"].detach().contiguous(memory_format=torch.channels_last)
    for tokens in (
        wide[:, 1:10, 1:8, 4:10],
        given["tokens"].detach().permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
    ):
        assert not tokens.is_contiguous()
        apart = {
            **given,
            "tokens": tokens.requires_grad_(),
            "weight": weight.detach().requires_grad_(),
        }
        got = run("triton", apart)
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value)


def test_vectors_that_are_not_contiguous() -> None:
    given = arguments(1, 4, 6, 3, 5, 2)
    apart = dict(given)
    for name in ("bias", "norm_weight", "norm_bias"):
        apart[name] = torch.stack([given[name].detach()] * 2, dim=1)[:, 0].requires_grad_()
    expected, got = run("triton", given), run("triton", apart)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, in the interpreter
def test_values_that_are_no_numbers_stay_in_their_square() -> None:
    given = {name: x.detach() for name, x in arguments(1, 4, 6, 3, 5, 2).items()}
    given["tokens"][0, 2, 3, 1] = float("nan")
    with ops.use_backend("triton"):
        out = ops.sequence_reduction(**given)
    assert out[0, 1, 1].isnan().all()
    assert out.isnan().sum() == 5


def test_nothing_is_launched_for_nothing() -> None:
    got = run("triton", arguments(0, 4, 4, 3, 5, 2))
    assert got["out"].shape == (0, 2, 2, 5)
    assert not got["weight"].any()


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:Converting a tensor")
def test_it_is_registered_as_it_behaves() -> None:
    operator = torch.ops.fastseg.sequence_reduction.default
    torch.library.opcheck(operator, (*arguments(2, 5, 4, 3, 6, 2).values(), 1e-5, "torch"))


def test_the_engine_has_no_version_of_its_own() -> None:
    given = arguments(1, 5, 4, 3, 6, 2)
    expected, got = run("", given), run("rust", given)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_it_compiles_without_graph_breaks() -> None:
    torch._dynamo.reset()
    given = arguments(1, 5, 4, 3, 6, 2)
    compiled = torch.compile(ops.sequence_reduction, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**given), ops.sequence_reduction(**given))


def test_inference_mode_and_transforms_of_functions() -> None:
    given = {name: x.detach() for name, x in arguments(2, 4, 4, 3, 5, 2).items()}
    with ops.use_backend("triton"), torch.inference_mode():
        out = ops.sequence_reduction(**given)
    with ops.use_backend("triton"), pytest.raises(BackendError, match=r"torch\.func"):
        torch.vmap(lambda x: ops.sequence_reduction(**{**given, "tokens": x}))(
            given["tokens"][:, None]
        )
    each = torch.vmap(lambda x: ops.sequence_reduction(**{**given, "tokens": x}))(
        given["tokens"][:, None]
    )
    torch.testing.assert_close(each[:, 0], out)
    found = torch.func.grad(lambda x: ops.sequence_reduction(**{**given, "tokens": x})[0, 0, 0, 0])
    assert found(given["tokens"]).abs().sum() > 0


def changed(**changes):
    given = {name: x.detach() for name, x in arguments(1, 4, 4, 3, 5, 2).items()}
    return {**given, **changes}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (changed(tokens=torch.zeros(4, 4, 3)), ShapeError, r"tokens: expected \(B, H, W, C\)"),
        (changed(tokens=torch.zeros(1, 4, 4, 3).long()), DtypeError, "floating point"),
        (changed(weight=torch.zeros(5, 4, 2, 2)), ShapeError, r"weight: expected \(D, 3, s, s\)"),
        (changed(weight=torch.zeros(5, 3, 2, 1)), ShapeError, r"weight: expected \(D, 3, s, s\)"),
        (changed(norm_bias=torch.zeros(4)), ShapeError, r"norm_bias: expected \(5,\)"),
        (changed(tokens=torch.zeros(1, 1, 4, 3)), ShapeError, "at least 2x2"),
    ],
)
def test_wrong_arguments_are_named(given, error, message) -> None:
    with pytest.raises(error, match=message):
        ops.sequence_reduction(**given)


def test_what_the_kernel_cannot_do_is_said_or_goes_elsewhere() -> None:
    wide = {name: x.detach() for name, x in arguments(1, 2, 2, 1, 513, 1).items()}
    with ops.use_backend("triton"), pytest.raises(BackendError, match="at most 512 output"):
        ops.sequence_reduction(**wide)
    assert ops.sequence_reduction(**wide).shape == (1, 2, 2, 513)
    double = {name: x.double() for name, x in wide.items()}
    with ops.use_backend("triton"), pytest.raises(BackendError, match=r"torch\.float64"):
        ops.sequence_reduction(**double)
    elsewhere = changed(weight=torch.zeros(5, 3, 2, 2, device="meta"))
    with ops.use_backend("triton"), pytest.raises(BackendError, match="one device, got cpu, meta"):
        ops.sequence_reduction(**elsewhere)
