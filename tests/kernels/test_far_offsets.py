"""Addresses are 64 bits wide: kernels read what lies beyond 2³¹ elements where it lies."""

import numpy as np
import pytest
import torch

from fastseg import ops
from fastseg.errors import BackendError

# A step that 32 bits hold; three of them they don't.
FAR = 2**30
_contiguous = torch.Tensor.contiguous


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch):
    """Moves the four entries along an axis 2³⁰ elements apart; what is between is never touched."""
    # Pages of memory that NumPy finds zero are not there until they are touched.
    memory = torch.from_numpy(np.zeros(3 * FAR + 4096, np.float16))
    # A copy would hide what is tested.
    monkeypatch.setattr(torch.Tensor, "contiguous", _only_if_near)

    def move(x: torch.Tensor, axis: int) -> torch.Tensor:
        assert x.shape[axis] == 4
        steps = list(x.narrow(axis, 0, 1).clone(memory_format=torch.contiguous_format).stride())
        steps[axis] = FAR
        return memory.as_strided(x.shape, steps).copy_(x)

    return move


def _only_if_near(x: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
    assert FAR not in x.stride(), "it was copied"
    return _contiguous(x, *arguments, **options)


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).half()


def attention(x: torch.Tensor) -> torch.Tensor:
    return ops.sequence_reduced_attention(x, some(1, 3, 16), some(1, 3, 16), num_heads=1)


def keys(x: torch.Tensor) -> torch.Tensor:
    return ops.sequence_reduced_attention(some(1, 5, 16), x, x, num_heads=1)


TARGET = torch.arange(48).view(1, 8, 6) % 2
# What is computed of a tensor, its shape, and the axis along which it is spread.
CASES = {
    "depthwise_conv_gelu": (
        lambda x: ops.depthwise_conv_gelu(x, some(8, 1, 3, 3), some(8)),
        (1, 4, 3, 8),
        1,
    ),
    "mix_ffn": (
        lambda x: ops.mix_ffn(
            *(x, some(16, 8), some(16), some(16, 1, 3, 3), some(16), some(8, 16), some(8), x)
        ),
        (1, 4, 3, 8),
        1,
    ),
    "sequence_reduction": (
        lambda x: ops.sequence_reduction(x, some(8, 8, 2, 2), some(8), some(8), some(8)),
        (1, 4, 4, 8),
        1,
    ),
    "attention, queries": (attention, (1, 4, 16), 1),
    "attention, keys and values": (keys, (1, 4, 16), 1),
    "upsample_sum, first": (
        lambda x: ops.upsample_sum([x, some(1, 2, 2, 8)], some(8)),
        (1, 4, 4, 8),
        1,
    ),
    "upsample_sum, second": (
        lambda x: ops.upsample_sum([some(1, 8, 6, 8), x], some(8)),
        (1, 4, 3, 8),
        1,
    ),
    "argmax": (lambda x: ops.upsample_argmax(x, (8, 6)), (1, 4, 4, 3), 1),
    "confusion": (lambda x: ops.upsample_confusion(x, TARGET), (1, 4, 4, 3), 1),
    "cross entropy": (lambda x: ops.upsample_cross_entropy(x, TARGET), (1, 4, 4, 3), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_far_entries_are_read(name, spread) -> None:
    function, shape, axis = CASES[name]
    x = some(*shape)
    with ops.use_backend("triton"):
        assert torch.equal(function(spread(x, axis)), function(x))


@pytest.mark.parametrize("name", ["argmax", "confusion", "cross entropy"])
def test_classes_larger_than_32_bits_are_refused(name, spread) -> None:
    function, *_ = CASES[name]
    with ops.use_backend("triton"), pytest.raises(BackendError, match="within 2³¹ elements"):
        function(spread(some(1, 2, 4, 3), 2))
