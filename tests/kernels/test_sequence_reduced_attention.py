"""The attention's kernels, interpreted, against the plain version."""

import pytest
import torch

from fastseg import ops
from fastseg.errors import BackendError
from fastseg.kernels import sequence_reduced_attention as kernels

# Largest difference to the plain version in float64 on the same values, relative to its largest.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3}
# Samples, queries, keys, heads, channels of a head.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 33, 17, 2, 24),  # one tile of keys; blocks that are not full
    (2, 65, 16, 3, 32),  # several blocks of queries
    (1, 9, 70, 2, 16),  # several tiles of keys
    (1, 40, 40, 1, 100),  # wide heads, and no power of two
]


def arguments(batch, queries, keys, heads, width, dtype=torch.float32):
    torch.manual_seed(queries + keys)
    channels = heads * width
    sizes = {"query": queries, "key": keys, "value": keys}
    return {
        name: torch.randn(batch, tokens, channels).to(dtype).requires_grad_()
        for name, tokens in sizes.items()
    }


def values_and_gradients(function, given, heads):
    out = function(**given, num_heads=heads)
    torch.manual_seed(1)
    along = torch.randn(out.shape).to(out.dtype)
    found = torch.autograd.grad(out, list(given.values()), along)
    return {"out": out.detach(), **dict(zip(given, found, strict=True))}


def from_kernels(given, heads):
    with ops.use_backend("triton"):
        return values_and_gradients(ops.sequence_reduced_attention, given, heads)


def assert_equal_to_the_plain_version(given, heads) -> None:
    exact = {name: x.detach().double().requires_grad_() for name, x in given.items()}
    expected = values_and_gradients(ops.reference.sequence_reduced_attention, exact, heads)
    for name, value in from_kernels(given, heads).items():
        scale = expected[name].abs().max().clamp(min=1)
        difference = (value.double() - expected[name]).abs().max() / scale
        assert difference <= TOLERANCE[value.dtype], name
        assert value.dtype == given["query"].dtype
        assert value.is_contiguous()


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape) -> None:
    assert_equal_to_the_plain_version(arguments(*shape), shape[3])


@pytest.mark.parametrize("width", [32, 100])
def test_half_precision(width) -> None:
    assert_equal_to_the_plain_version(arguments(1, 40, 40, 2, width, torch.float16), 2)


@pytest.mark.parametrize("most_whole", [256, 0])
def test_all_keys_at_once_and_tiles_of_them(most_whole, monkeypatch) -> None:
    monkeypatch.setattr(kernels, "MOST_WHOLE", most_whole)
    given = arguments(2, 33, 70, 3, 20, torch.float16)
    assert kernels._candidates(given["query"], 70, 20)[0].blocks["WHOLE"] == bool(most_whole)
    assert_equal_to_the_plain_version(given, 3)
    q, k, v = (x.detach() for x in given.values())
    lse = torch.ops.fastseg.sequence_reduced_attention(q, k, v, 3, "triton")[1]
    q, k = q.float().view(2, 33, 3, 20), k.float().view(2, 70, 3, 20)
    scores = torch.einsum("bnhd,bmhd->bnhm", q, k) / 20**0.5
    torch.testing.assert_close(lse, scores.logsumexp(dim=3))


def test_views_of_one_projection_are_read_where_they_lie(monkeypatch) -> None:
    given = arguments(2, 20, 20, 2, 16)
    expected = from_kernels(given, 2)
    together = torch.cat([x.detach() for x in given.values()], dim=2)
    views = dict(zip(given, together.chunk(3, dim=2), strict=True))
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda x: pytest.fail("it was copied"))
    with ops.use_backend("triton"):
        assert torch.equal(ops.sequence_reduced_attention(**views, num_heads=2), expected["out"])


def test_tokens_whose_channels_lie_apart() -> None:
    given = arguments(2, 20, 12, 2, 16)
    expected = from_kernels(given, 2)
    apart = {
        name: x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        for name, x in given.items()
    }
    assert not any(x.is_contiguous() for x in apart.values())
    got = from_kernels(apart, 2)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_gradients_of_keys_have_the_same_bits_every_time(monkeypatch) -> None:
    given = arguments(1, 300, 16, 1, 16)
    first = from_kernels(given, 1)
    assert all(torch.equal(x, first[name]) for name, x in from_kernels(given, 1).items())
    # Other splits are other sums.
    monkeypatch.setattr(kernels, "PROGRAMS", 1)
    alone = from_kernels(given, 1)
    assert not torch.equal(alone["key"], first["key"])
    torch.testing.assert_close(alone["key"], first["key"], rtol=1e-4, atol=1e-5)


def test_large_scores_do_not_overflow() -> None:
    given = {name: x.detach() * 100 for name, x in arguments(1, 20, 70, 1, 16).items()}
    exact = {name: x.double() for name, x in given.items()}
    expected = ops.reference.sequence_reduced_attention(**exact, num_heads=1)
    with ops.use_backend("triton"):
        out = ops.sequence_reduced_attention(**given, num_heads=1)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, in the interpreter
def test_values_that_are_no_numbers_are_not_hidden() -> None:
    given = {name: x.detach() for name, x in arguments(1, 20, 9, 1, 16).items()}
    given["query"][0, 4, 3] = float("nan")
    with ops.use_backend("triton"):
        out = ops.sequence_reduced_attention(**given, num_heads=1)
    assert out[0, 4].isnan().all()
    assert out.isnan().sum() == 16


@pytest.mark.parametrize(("batch", "queries"), [(0, 5), (2, 0)])
def test_nothing_is_launched_for_nothing(batch, queries) -> None:
    got = from_kernels(arguments(batch, queries, 3, 2, 16), 2)
    assert got["out"].shape == got["query"].shape == (batch, queries, 32)
    assert got["key"].shape == (batch, 3, 32)
    assert not got["key"].any()
    assert not got["value"].any()


def test_a_head_that_is_too_wide_is_refused_or_goes_elsewhere() -> None:
    x = torch.randn(1, 3, 129)
    with ops.use_backend("triton"), pytest.raises(BackendError, match="at most 128 channels"):
        ops.sequence_reduced_attention(x, x, x, num_heads=1)
    expected = ops.reference.sequence_reduced_attention(x, x, x, num_heads=1)
    torch.testing.assert_close(ops.sequence_reduced_attention(x, x, x, num_heads=1), expected)


def test_tensors_on_two_devices_are_refused() -> None:
    x, elsewhere = torch.randn(1, 3, 16), torch.randn(1, 3, 16, device="meta")
    with pytest.raises(BackendError, match="all tensors on one device, got cpu, meta"):
        ops.sequence_reduced_attention(x, elsewhere, elsewhere, num_heads=1)


def test_inference_mode() -> None:
    given = arguments(1, 20, 9, 2, 16)
    with ops.use_backend("triton"):
        expected = ops.sequence_reduced_attention(**given, num_heads=2)
        with torch.inference_mode():
            assert torch.equal(ops.sequence_reduced_attention(**given, num_heads=2), expected)
