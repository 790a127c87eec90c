"""What holds for all operations: values, gradients, registration, backends, dtypes."""

import contextlib

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastseg import ops
from fastseg.errors import BackendError, ParameterError

# Largest difference to the plain version in float64, relative to its largest value.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 3e-2, torch.float16: 4e-3}


# Backends that run every operation on this machine.
RUNNING = ["reference", "torch", "rust"]


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    got, expected = got.detach(), expected.detach()
    scale = expected.double().abs().max().clamp(min=1)
    return float((got.double() - expected.double()).abs().max() / scale)


def gradients(case, dtype):
    out, leaves = case.run(dtype)
    torch.manual_seed(1)
    found = torch.autograd.grad(out, leaves, torch.randn(out.shape).to(out.dtype))
    return out.detach(), found


@pytest.mark.parametrize("backend", RUNNING)
def test_values_and_gradients_equal_the_plain_version(case, backend) -> None:
    if case.counts:
        with ops.use_backend("reference"):
            expected = case.run(torch.float32)[0]
        assert torch.equal(run(case, backend), expected)
        return
    reference = getattr(ops.reference, case.name)
    torch.manual_seed(1)
    plain = [
        [t.double().detach().requires_grad_() for t in a]
        if isinstance(a, list)
        else (a.double().detach().requires_grad_() if a.is_floating_point() else a)
        for a in case.public
    ]
    expected = reference(*plain, **case.options)
    leaves = [t for a in plain for t in (a if isinstance(a, list) else [a])]
    leaves = [t for t in leaves if t.is_floating_point()]
    weights = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, leaves, weights.double())
    with ops.use_backend(backend):
        got, found = gradients(case, torch.float32)
    tolerance = TOLERANCE[torch.float32]
    assert got.is_contiguous()
    assert difference(got, expected) <= tolerance
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        assert difference(mine, theirs) <= 4 * tolerance


def run(case, backend):
    with ops.use_backend(backend):
        return case.run()[0]


def test_plain_versions_have_exact_gradients(case) -> None:
    if case.counts:
        assert not case.run(torch.float64)[0].requires_grad
        return
    reference = getattr(ops.reference, case.name)
    flat, rebuild = [], []
    for a in case.public:
        many = a if isinstance(a, list) else [a]
        flat += [t.detach().double().requires_grad_() if t.is_floating_point() else t for t in many]
        rebuild.append(len(many) if isinstance(a, list) else 0)

    def function(*tensors):
        rest, arguments = list(tensors), []
        for count in rebuild:
            arguments.append([rest.pop(0) for _ in range(count)] if count else rest.pop(0))
        return reference(*arguments, **case.options)

    assert torch.autograd.gradcheck(function, tuple(flat), fast_mode=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:Converting a tensor")
@pytest.mark.parametrize("backend", RUNNING)
def test_operators_are_registered_as_they_behave(case, backend) -> None:
    operator = getattr(torch.ops.fastseg, case.name).default
    torch.library.opcheck(operator, (*case.operator, backend))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_on_a_cpu(case, dtype) -> None:
    with ops.use_backend("reference"):
        expected = case.run(torch.float64)[0]
    got = case.run(dtype)[0]
    if case.counts:
        assert got.shape == expected.shape
        return
    assert got.dtype == dtype
    assert difference(got, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("backend", ["rust", "triton"])
def test_a_backend_that_cannot_run_raises(case, backend) -> None:
    expected = "triton backend" if backend == "triton" else "float32 tensors on a CPU"
    with ops.use_backend(backend), pytest.raises(BackendError, match=expected):
        case.run(torch.float64)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ParameterError, match="'cuda'"), ops.use_backend("cuda"):
        pass


def test_the_choice_ends_with_the_block() -> None:
    with pytest.raises(ZeroDivisionError), ops.use_backend("triton"):
        1 / 0  # noqa: B018
    assert ops.upsample_argmax(torch.zeros(1, 2, 1, 1), (2, 2)).shape == (1, 2, 2)


def test_decomposed_operations_equal_the_others(case) -> None:
    got = case.run()[0]
    with ops.decomposed():
        plain = case.run()[0]
    assert difference(plain, got) <= TOLERANCE[torch.float32]


def test_operations_compile_without_graph_breaks(case) -> None:
    torch._dynamo.reset()
    function = getattr(ops, case.name)
    compiled = torch.compile(
        lambda *arguments: function(*arguments, **case.options), fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(*case.public), function(*case.public, **case.options))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's, about its attention
@pytest.mark.parametrize("backend", ["", "torch"])
def test_operations_work_inside_transforms_of_functions(case, backend) -> None:
    tensors, structure = tree_flatten(list(case.public))
    differentiable = [
        i for i, t in enumerate(tensors) if isinstance(t, torch.Tensor) and t.is_floating_point()
    ]

    def loss(*given):
        arguments = tree_unflatten(merged(tensors, differentiable, given), structure)
        return getattr(ops, case.name)(*arguments, **case.options).float().square().sum()

    given = [tensors[i].detach().requires_grad_() for i in differentiable]
    total = loss(*given)
    with ops.use_backend(backend) if backend else contextlib.nullcontext():
        twice = torch.vmap(loss)(*(torch.stack([t, t]) for t in given))
        assert difference(twice, total.expand(2)) <= 4 * TOLERANCE[torch.float32]
        if total.requires_grad:
            found = torch.func.grad(loss, argnums=tuple(range(len(given))))(*given)
            expected = torch.autograd.grad(total, given)
            for mine, theirs in zip(found, expected, strict=True):
                assert difference(mine, theirs) <= 4 * TOLERANCE[torch.float32]


def merged(values, places, others):
    values = list(values)
    for place, other in zip(places, others, strict=True):
        values[place] = other
    return values


@pytest.mark.parametrize("backend", ["reference", "rust", "triton"])
def test_other_backends_refuse_transforms_of_functions(case, backend) -> None:
    function = getattr(ops, case.name)
    with ops.use_backend(backend), pytest.raises(BackendError, match=r"transforms of torch\.func"):
        torch.vmap(lambda _: function(*case.public, **case.options))(torch.zeros(2))
