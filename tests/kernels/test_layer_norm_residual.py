"""Residual connection and LayerNorm: the kernels, interpreted, and PyTorch's way, both checked."""

import pytest
import torch

from fastseg import ops
from fastseg.errors import BackendError, DtypeError, ParameterError, ShapeError
from fastseg.kernels import layer_norm_residual as kernels

# Largest difference to the plain version in float64 on the same values, relative to its largest.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
SHAPES = [(1, 1), (2, 3, 2), (2, 5, 7, 24), (3, 100, 33), (1, 2, 600)]
BACKENDS = ["", "reference", "torch", "triton"]


def arguments(*shape, dtype=torch.float32, scaled=True):
    torch.manual_seed(sum(shape))
    given = {name: torch.randn(shape).to(dtype) for name in ("x", "branch")}
    given |= {name: torch.randn(shape[-1]).to(dtype) for name in ("weight", "bias")}
    given = {name: x.requires_grad_() for name, x in given.items()}
    return given, torch.linspace(0, 2, shape[0]).to(dtype) if scaled else None


def values_and_gradients(function, given, factor):
    total, normed = function(**given, factor=factor, eps=1e-3)
    torch.manual_seed(1)
    along = [torch.randn(out.shape).to(out.dtype) for out in (total, normed)]
    found = torch.autograd.grad([total, normed], list(given.values()), along)
    named = dict(zip(given, found, strict=True))
    return {"total": total.detach(), "normed": normed.detach(), **named}


def run(backend, given, factor):
    if not backend:
        return values_and_gradients(ops.layer_norm_residual, given, factor)
    with ops.use_backend(backend):
        return values_and_gradients(ops.layer_norm_residual, given, factor)


def assert_equal_to_the_plain_version(backend, given, factor) -> None:
    exact = {name: x.detach().double().requires_grad_() for name, x in given.items()}
    share = None if factor is None else factor.double()
    expected = values_and_gradients(ops.reference.layer_norm_residual, exact, share)
    for name, value in run(backend, given, factor).items():
        scale = expected[name].abs().max().clamp(min=1)
        difference = (value.double() - expected[name]).abs().max() / scale
        assert difference <= TOLERANCE[value.dtype], name
        assert value.dtype == given.get(name, given["x"]).dtype
        assert value.shape == expected[name].shape


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, scaled, backend) -> None:
    assert_equal_to_the_plain_version(backend, *arguments(*shape, scaled=scaled))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype) -> None:
    assert_equal_to_the_plain_version("triton", *arguments(2, 9, 24, dtype=dtype))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_branch_of_lower_precision(scaled, backend) -> None:
    given, factor = arguments(2, 9, 24, scaled=scaled)
    given["branch"] = given["branch"].detach().half().requires_grad_()
    assert_equal_to_the_plain_version(backend, given, factor)


def test_several_rounds_of_a_program(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    assert_equal_to_the_plain_version("triton", *arguments(2, 150, 33))


def test_what_is_not_contiguous() -> None:
    given, factor = arguments(2, 5, 24)
    expected = run("triton", given, factor)
    given["x"] = given["x"].detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    given["branch"] = torch.stack([given["branch"].detach()] * 2, dim=3)[..., 0].requires_grad_()
    assert not given["x"].is_contiguous()
    assert not given["branch"].is_contiguous()
    got = run("triton", given, factor)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_the_engine_has_no_version_of_its_own() -> None:
    given = arguments(2, 5, 24)
    expected, got = run("", *given), run("rust", *given)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, in the interpreter
def test_values_that_are_no_numbers_stay_in_their_row() -> None:
    given, factor = arguments(1, 5, 24)
    given = {name: x.detach() for name, x in given.items()}
    given["x"][0, 3, 7] = float("nan")
    with ops.use_backend("triton"):
        total, normed = ops.layer_norm_residual(**given, factor=factor)
    assert total.isnan().sum() == 1
    assert normed[0, 3].isnan().all()
    assert normed.isnan().sum() == 24


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_nothing_is_launched_for_nothing(shape) -> None:
    got = run("triton", *arguments(*shape))
    assert got["total"].shape == got["branch"].shape == shape
    assert not got["weight"].any()


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:Converting a tensor")
@pytest.mark.parametrize("scaled", [True, False])
def test_it_is_registered_as_it_behaves(scaled) -> None:
    given, factor = arguments(2, 3, 4, scaled=scaled)
    x, branch, weight, bias = given.values()
    torch.library.opcheck(
        torch.ops.fastseg.layer_norm_residual.default,
        (x, branch, factor, weight, bias, 1e-5, torch.float32, "torch"),
    )


def test_it_compiles_without_graph_breaks() -> None:
    torch._dynamo.reset()
    given, factor = arguments(2, 3, 4)
    compiled = torch.compile(ops.layer_norm_residual, fullgraph=True, backend="eager")
    expected = ops.layer_norm_residual(**given, factor=factor)
    torch.testing.assert_close(compiled(**given, factor=factor), expected)


def test_inference_mode_and_transforms_of_functions() -> None:
    given = {name: x.detach() for name, x in arguments(2, 3, 4)[0].items()}

    def normed(x):
        return ops.layer_norm_residual(**{**given, "x": x, "branch": x})[1]

    with ops.use_backend("triton"):
        with torch.inference_mode():
            expected = normed(given["x"])
        with pytest.raises(BackendError, match=r"torch\.func"):
            torch.vmap(normed)(given["x"][:, None])
    torch.testing.assert_close(torch.vmap(normed)(given["x"][:, None])[:, 0], expected)
    assert torch.func.grad(lambda x: normed(x).square().sum())(given["x"]).abs().sum() > 0


def changed(**changes):
    given, factor = arguments(2, 3, 4)
    return {**{name: x.detach() for name, x in given.items()}, "factor": factor, **changes}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (changed(branch=torch.zeros(2, 4, 4)), ShapeError, r"expected \(B, …, C\) both"),
        (changed(x=torch.zeros(4), branch=torch.zeros(4)), ShapeError, r"expected \(B, …, C\)"),
        (changed(branch=torch.zeros(2, 3, 4).long()), DtypeError, "floating point"),
        (changed(weight=torch.zeros(3)), ShapeError, r"weight, bias: expected \(4,\)"),
        (changed(factor=torch.zeros(3)), ShapeError, r"factor: expected \(2,\)"),
        (changed(factor=torch.zeros(2).requires_grad_()), ParameterError, r"\.detach\(\)"),
    ],
)
def test_wrong_arguments_are_named(given, error, message) -> None:
    with pytest.raises(error, match=message):
        ops.layer_norm_residual(**given)


def test_what_the_kernel_cannot_do_is_said_or_goes_elsewhere() -> None:
    x, weight = torch.randn(1, 2049), torch.ones(2049)
    with ops.use_backend("triton"), pytest.raises(BackendError, match="at most 2048 channels"):
        ops.layer_norm_residual(x, x, weight, weight)
    assert ops.layer_norm_residual(x, x, weight, weight)[1].shape == (1, 2049)
    double = changed(x=torch.zeros(2, 3, 4).double())
    with ops.use_backend("triton"), pytest.raises(BackendError, match=r"torch\.float64"):
        ops.layer_norm_residual(**double)
    elsewhere = changed(branch=torch.zeros(2, 3, 4, device="meta"))
    with ops.use_backend("triton"), pytest.raises(BackendError, match="one device, got cpu, meta"):
        ops.layer_norm_residual(**elsewhere)
