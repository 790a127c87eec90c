"""Addresses are 64 bits wide: kernels find what lies beyond 2³¹ elements where it lies.

Memory of zeros is not there until it is touched: tensors may be larger than the machine's.
"""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastseg import ops
from fastseg.errors import BackendError
from fastseg.kernels import (
    folded_decoder,
    layer_norm_residual,
    permutohedral_lattice,
    upsample_sum,
)

# A step that 32 bits hold; three of them they don't.
FAR = 2**30
_contiguous = torch.Tensor.contiguous


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch):
    """Moves the four entries along the second axis 2³⁰ elements apart."""
    memory = torch.from_numpy(np.zeros(3 * FAR + 4096, np.float16))
    taken = 0
    # A copy would hide what is tested.
    monkeypatch.setattr(torch.Tensor, "contiguous", _only_if_near)

    def move(x: torch.Tensor) -> torch.Tensor:
        nonlocal taken
        assert x.shape[:2] == (1, 4)
        steps = list(x[:, :1].clone(memory_format=torch.contiguous_format).stride())
        steps[1] = FAR
        # Not a view, which autograd would find changed by the next one.
        moved = memory.data[taken:].as_strided(x.shape, steps).copy_(x)
        taken += x[:, :1].numel()
        return moved

    return move


def _only_if_near(x: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
    assert FAR not in x.stride(), "it was copied"
    return _contiguous(x, *arguments, **options)


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).half()


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return ops.sequence_reduced_attention(query, key, value, num_heads=1)


CLASSIFIER = some(8), some(3, 8), some(3)


TARGET = torch.arange(48).view(1, 8, 6) % 2
# What is computed of a tensor, and its shape.
CASES = {
    "depthwise_conv_gelu": (
        lambda x: ops.depthwise_conv_gelu(x, some(8, 1, 3, 3), some(8)),
        (1, 4, 3, 8),
    ),
    "mix_ffn": (
        lambda x: ops.mix_ffn(
            *(x, some(16, 8), some(16), some(16, 1, 3, 3), some(16), some(8, 16), some(8), x)
        ),
        (1, 4, 3, 8),
    ),
    "sequence_reduction": (
        lambda x: ops.sequence_reduction(x, some(8, 8, 2, 2), some(8), some(8), some(8)),
        (1, 4, 4, 8),
    ),
    "attention, queries": (lambda x: attend(x, some(1, 3, 16), some(1, 3, 16)), (1, 4, 16)),
    "attention, keys and values": (lambda x: attend(some(1, 5, 16), x, x), (1, 4, 16)),
    "upsample_sum, first": (
        lambda x: ops.upsample_sum([x, some(1, 2, 2, 8)], some(8)),
        (1, 4, 4, 8),
    ),
    "upsample_sum, second": (
        lambda x: ops.upsample_sum([some(1, 8, 6, 8), x], some(8)),
        (1, 4, 3, 8),
    ),
    # Its operator copies the gradient, which is also that of the first map.
    "upsample_sum, gradient": (
        lambda x: upsample_sum.upsample_sum_backward(x, 2, 2),
        (1, 4, 3, 8),
    ),
    # Its operator projects features first, which leaves maps side by side.
    "folded_decoder, first": (
        lambda x: folded_decoder.folded_decoder([x, some(1, 2, 2, 8)], *CLASSIFIER),
        (1, 4, 4, 8),
    ),
    "folded_decoder, second": (
        lambda x: folded_decoder.folded_decoder([some(1, 8, 6, 8), x], *CLASSIFIER),
        (1, 4, 3, 8),
    ),
    "argmax": (lambda x: ops.upsample_argmax(x, (8, 6)), (1, 4, 4, 3)),
    "confusion": (lambda x: ops.upsample_confusion(x, TARGET), (1, 4, 4, 3)),
    "cross entropy": (lambda x: ops.upsample_cross_entropy(x, TARGET), (1, 4, 4, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_far_entries_are_read(name, spread) -> None:
    function, shape = CASES[name]
    x = some(*shape)
    with ops.use_backend("triton"):
        assert torch.equal(function(spread(x)), function(x))


# A function of tensors, their shapes, and which are spread; the gradient is where it can be.
GRADIENTS = {
    "depthwise_conv_gelu": (ops.depthwise_conv_gelu, [(1, 4, 3, 8), (8, 1, 3, 3), (8,)], [0]),
    "attention, queries": (attend, [(1, 4, 16), (1, 3, 16), (1, 3, 16)], [0]),
    "attention, keys and values": (attend, [(1, 5, 16), (1, 4, 16), (1, 4, 16)], [1, 2]),
    "cross entropy": (lambda x: ops.upsample_cross_entropy(x, TARGET), [(1, 4, 4, 3)], [0]),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_far_entries(name, spread) -> None:
    function, shapes, far = GRADIENTS[name]
    near = [some(*shape) for shape in shapes]
    moved = [spread(x) if index in far else x for index, x in enumerate(near)]

    def gradients(tensors, move):
        tensors = [x.detach().requires_grad_() for x in tensors]
        out = function(*tensors)
        return torch.autograd.grad(out, tensors, move(some(*out.shape)))

    with ops.use_backend("triton"):
        expected = gradients(near, lambda grad: grad)
        found = gradients(moved, lambda grad: spread(grad) if grad.shape[:2] == (1, 4) else grad)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["argmax", "confusion", "cross entropy"])
def test_classes_larger_than_32_bits_are_refused(name, spread) -> None:
    function, _ = CASES[name]
    with ops.use_backend("triton"), pytest.raises(BackendError, match="within 2³¹ elements"):
        function(spread(some(1, 4, 2, 3)).transpose(1, 2))


# Samples of 1024 values of which there are 3 · 2³⁰.
MANY = 3 * 2**20
# What an operation launches for a batch.
BATCHES = {
    "depthwise_conv_gelu": lambda b, make: ops.depthwise_conv_gelu(
        make(b, 8, 8, 16), make(16, 1, 3, 3), make(16)
    ),
    "mix_ffn": lambda b, make: ops.mix_ffn(
        *(make(b, 8, 8, 16).detach(), make(16, 16), make(16), make(16, 1, 3, 3), make(16)),
        *(make(16, 16), make(16), make(b, 8, 8, 16)),
    ),
    "sequence_reduction": lambda b, make: ops.sequence_reduction(
        make(b, 8, 8, 16), make(16, 16, 2, 2), make(16), make(16), make(16)
    ),
    "attention": lambda b, make: attend(make(b, 64, 16), make(b, 4, 16), make(b, 4, 16)),
    "layer_norm_residual": lambda b, make: sum(
        ops.layer_norm_residual(
            make(b, 64, 16), make(b, 64, 16), make(16), make(16), factor=make(b).detach()
        )
    ),
    "upsample_sum": lambda b, make: ops.upsample_sum(
        [make(b, 8, 8, 16), make(b, 4, 4, 16)], make(16)
    ),
    "folded_decoder": lambda b, make: ops.folded_decoder(
        *([make(b, 8, 8, 16), make(b, 4, 4, 16)], [make(16, 16), make(16, 16)]),
        *(make(16), make(16, 16), make(16)),
    ),
    "argmax": lambda b, make: ops.upsample_argmax(make(b, 64, 4, 4), (5, 3)),
    "confusion": lambda b, make: ops.upsample_confusion(
        make(b, 64, 4, 4), make(b, 5, 3, dtype=torch.int64)
    ),
    "cross entropy": lambda b, make: ops.upsample_cross_entropy(
        make(b, 64, 4, 4), make(b, 5, 3, dtype=torch.int64)
    ),
}


@pytest.fixture
def benches(repository: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports modules of benches/: what records launches, and runs some of their programs."""
    monkeypatch.syspath_prepend(str(repository / "benches"))
    return importlib.import_module


@pytest.mark.parametrize("name", BATCHES)
def test_the_last_sample_of_many(name, benches, monkeypatch) -> None:
    # So many that each has but a few rounds.
    monkeypatch.setattr(layer_norm_residual, "PROGRAMS", 2**19)
    launches, watching = benches("kernel_launches"), benches("kernel_watching")

    def recorded(batch):
        run = BATCHES[name]
        workload = launches.Workload(name, "", lambda make: run(batch, make), torch.float16)
        return [watching.with_memory(launch) for launch in launches.record(workload)]

    for alone, last in zip(recorded(1), recorded(MANY), strict=True):
        values = torch.Generator().manual_seed(0)
        pairs = []
        for one, many in zip(alone.tensors, last.tensors, strict=True):
            pairs.append((one, tail(many, one.shape)))
            if one.is_floating_point():
                one.copy_(0.5 + torch.rand(one.shape, generator=values))
                pairs[-1][1].copy_(one)
        before = [one.clone() for one, _ in pairs]
        for launch in (alone, last):
            with watching.numbered_from(launch.programs - 1, launch.grid):
                launch.kernel[(1, 1, 1)](*launch.arguments, **launch.options)
        assert all(torch.equal(one, many) for one, many in pairs), last.name
        written = zip(before, alone.tensors, strict=True)
        assert any(not torch.equal(then, now) for then, now in written), last.name


def tail(x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """What lies last in a tensor along every axis."""
    for axis, size in enumerate(shape):
        x = x.narrow(axis, x.shape[axis] - size, size)
    return x


# Rows of 32 float32 values, more than 2³¹ of them.
ROWS = 2**26 + 8


def far_rows(*values: float) -> torch.Tensor:
    """(ROWS, 32) zeros, but for the last rows."""
    rows = torch.from_numpy(np.zeros((ROWS, 32), np.float32))
    rows[ROWS - len(values) :] = torch.tensor(values)[:, None]
    return rows


def integers(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_slices_of_far_vertices() -> None:
    corners = integers(ROWS - 2, ROWS - 1, 0, ROWS - 1).view(2, 2)
    out = permutohedral_lattice.slice_vertices(
        far_rows(1, 2), torch.ones(2, 2), corners, 1.0, start=None
    )
    assert out.tolist() == [[1.0] * 32, [4.0] * 32]


def test_sums_of_far_points() -> None:
    weights = torch.from_numpy(np.ones((2, 1), np.float32)).expand(2, ROWS)
    # The second corner of the last point but one, and the first of the last.
    order, starts = integers(2 * ROWS - 2, ROWS - 1), integers(0, 2)
    out = permutohedral_lattice.splat(far_rows(1, 2), weights, order, [starts], integers(0))
    assert out.tolist() == [[3.0] * 32]


def test_sums_of_far_sums() -> None:
    out = permutohedral_lattice._sums(far_rows(1, 2), integers(ROWS - 2, ROWS))
    assert out.tolist() == [[3.0] * 32]


def test_a_blur_of_far_vertices(benches) -> None:
    launches, watching = benches("kernel_launches"), benches("kernel_watching")
    found = []
    with FakeTensorMode(), launches.listening(None, found.append, every=False):
        vertices, neighbours = torch.empty(ROWS, 32), torch.empty(1, 2, ROWS, dtype=torch.int32)
        permutohedral_lattice.blur(vertices, neighbours, reverse=False)
    (launch,) = map(watching.with_memory, found)
    vertices, neighbours, out = launch.tensors
    vertices[-3:] = torch.tensor([1.0, 2, 4])[:, None]
    neighbours[:, -1] = integers(ROWS - 3, ROWS - 2)
    with watching.numbered_from(launch.programs - 1, launch.grid):
        launch.kernel[(1, 1, 1)](*launch.arguments, **launch.options)
    assert out[-1].tolist() == [4 + 0.5 * 3] * 32
