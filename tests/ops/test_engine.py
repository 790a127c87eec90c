"""What the engine promises beyond values: the same bits for any threads, and honest errors."""

import pytest
import torch

import fastseg
from fastseg import _rust, ops
from fastseg._engine import flat
from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError


@pytest.fixture
def threads():
    before = fastseg.get_num_threads()
    yield fastseg.set_num_threads
    fastseg.set_num_threads(before)


def everything():
    """Outputs and gradients of all operations, at sizes with several tasks each."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, requires_grad=True)

    q, k, v = random(2, 500, 32), random(2, 33, 32), random(2, 33, 32)
    x, w, b = random(2, 19, 7, 24), random(24, 1, 3, 3), random(24)
    maps = [random(2, 20, 12, 24), random(2, 10, 6, 24), random(2, 3, 2, 24)]
    weights = [random(9, 24) for _ in maps]
    logits, target = random(2, 21, 9, 7), torch.randint(0, 21, (2, 40, 30), generator=generator)
    outputs = [
        ops.sequence_reduced_attention(q, k, v, num_heads=2),
        ops.depthwise_conv_gelu(x, w, b),
        ops.conv3x3(
            [random(2, 50, 31, 70), random(2, 50, 31, 9)],
            random(90, 79, 3, 3),
            random(90),
            random(90),
            relu=True,
        ),
        ops.upsample_sum(maps, b),
        ops.folded_decoder(maps, weights, random(9), random(4, 9), random(4)),
        ops.upsample_cross_entropy(logits, target),
    ]
    total = sum((out * torch.arange(out.numel()).view(out.shape).sin()).sum() for out in outputs)
    leaves = [q, k, v, x, w, b, *maps, *weights, logits]
    labels = ops.upsample_argmax(logits, (40, 30))
    return [out.detach() for out in outputs] + [labels, *torch.autograd.grad(total, leaves)]


def test_bits_do_not_depend_on_the_number_of_threads(threads) -> None:
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ops.use_backend("rust"):
            threads(1)
            one = everything()
            threads(3)
            assert all(torch.equal(a, b) for a, b in zip(one, everything(), strict=True))
    finally:
        torch.set_num_threads(torch_threads)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_not_hidden(value) -> None:
    x = torch.randn(1, 9, 9, 32)
    x[0, 4, 4] = value
    with ops.use_backend("rust"):
        out = ops.depthwise_conv_gelu(x, torch.ones(32, 1, 3, 3), torch.zeros(32))
        assert not out[0, 3:6, 3:6].isfinite().any()
        assert out[0, :3].isfinite().all()
        tokens = x.flatten(1, 2)
        out = ops.sequence_reduced_attention(tokens, tokens[:, :9], tokens[:, :9], num_heads=1)
        assert not out[0, 40].isfinite().any()
        weights = [torch.ones(4, 32)]
        out = ops.folded_decoder([x], weights, torch.zeros(4), torch.ones(3, 4), torch.zeros(3))
        assert not out[0, :, 4, 4].isfinite().any()
        target = torch.zeros(1, 9, 9, dtype=torch.long)
        logits = x.permute(0, 3, 1, 2)
        assert ops.upsample_cross_entropy(logits, target).isnan()


def test_large_scores_do_not_overflow() -> None:
    q = torch.randn(1, 30, 16) * 100
    with ops.use_backend("rust"):
        out = ops.sequence_reduced_attention(q, q[:, :9], q[:, :9], num_heads=1)
    expected = ops.reference.sequence_reduced_attention(
        q.double(), q[:, :9].double(), q[:, :9].double(), num_heads=1
    )
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-3)


def test_memory_that_is_not_contiguous() -> None:
    x = torch.randn(2, 8, 5, 6).permute(0, 2, 3, 1)
    weight, bias = torch.randn(8, 1, 3, 3), torch.randn(8)
    got = ops.depthwise_conv_gelu(x, weight, bias)
    assert torch.equal(got, ops.depthwise_conv_gelu(x.contiguous(), weight, bias))
    q = torch.randn(2, 12, 30).transpose(1, 2)
    got = ops.sequence_reduced_attention(q, q, q, num_heads=3)
    whole = q.contiguous()
    assert torch.equal(got, ops.sequence_reduced_attention(whole, whole, whole, num_heads=3))


@pytest.mark.parametrize("backend", ["rust", "torch"])
def test_labels_out_of_range_are_named(backend) -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[0, 3, 3] = 7
    with ops.use_backend(backend), pytest.raises(LabelError, match=r"0\.\.4 or ignore_index=255"):
        ops.upsample_cross_entropy(torch.zeros(1, 5, 4, 4), target)


@pytest.mark.parametrize("backend", ["rust", "torch", "reference"])
def test_no_pixel_that_counts_gives_nan(backend) -> None:
    target = torch.full((1, 8, 8), 255)
    with ops.use_backend(backend):
        assert ops.upsample_cross_entropy(torch.zeros(1, 5, 4, 4), target).isnan()


def test_the_engine_checks_sizes_itself() -> None:
    x = flat(torch.zeros(6))
    with pytest.raises(ValueError, match="another size"):
        _rust.depthwise_conv_gelu(x, x, x, (1, 1, 1, 6), x.copy())
    with pytest.raises(ValueError, match="another size"):
        _rust.sequence_reduced_attention(x, x, x, (1, 2, 2**62, 3, 1), x.copy(), x.copy())


def zeros(*shape):
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.sequence_reduced_attention(
                zeros(1, 4, 6), zeros(1, 2, 6), zeros(1, 3, 6), num_heads=1
            ),
            ShapeError,
            r"expected \(1, M, 6\)",
        ),
        (
            lambda: ops.sequence_reduced_attention(*[zeros(1, 4, 6)] * 3, num_heads=4),
            ShapeError,
            "divisor of C = 6",
        ),
        (
            lambda: ops.sequence_reduced_attention(
                zeros(1, 4, 6), *[zeros(1, 0, 6)] * 2, num_heads=1
            ),
            ShapeError,
            "at least one token",
        ),
        (
            lambda: ops.sequence_reduced_attention(
                zeros(1, 4, 6), zeros(1, 4, 6).double(), zeros(1, 4, 6), num_heads=1
            ),
            DtypeError,
            "one floating-point dtype",
        ),
        (
            lambda: ops.depthwise_conv_gelu(zeros(1, 4, 6), zeros(6, 1, 3, 3), zeros(6)),
            ShapeError,
            r"expected \(B, H, W, C\)",
        ),
        (
            lambda: ops.depthwise_conv_gelu(zeros(1, 2, 2, 6), zeros(6, 1, 5, 5), zeros(6)),
            ShapeError,
            r"expected \(6, 1, 3, 3\)",
        ),
        (lambda: ops.upsample_sum([], zeros(3)), ShapeError, "at least one map"),
        (
            lambda: ops.upsample_sum([zeros(1, 2, 2, 3), zeros(2, 2, 2, 3)], zeros(3)),
            ShapeError,
            "with one B",
        ),
        (
            lambda: ops.upsample_sum([zeros(1, 2, 2, 3)], zeros(3, 1)),
            ShapeError,
            r"and \(D,\)",
        ),
        (
            lambda: ops.conv3x3([zeros(1, 4, 4, 0)], zeros(2, 0, 3, 3), zeros(2), zeros(2)),
            ShapeError,
            r"\(K, 0, 3, 3\)",
        ),
        (
            lambda: ops.conv3x3(
                [zeros(1, 4, 4, 1)], zeros(2, 1, 3, 3).double(), zeros(2), zeros(2)
            ),
            DtypeError,
            "as the maps",
        ),
        (
            lambda: ops.conv3x3(
                *([zeros(1, 4, 4, 1)], zeros(2, 1, 3, 3), zeros(2), zeros(2)),
                rate=2**62,
                padding=2**62,
            ),
            ParameterError,
            "rate, padding",
        ),
        (
            lambda: ops.folded_decoder(
                [zeros(1, 2, 2, 3)], [zeros(4, 3)], zeros(4, 1), zeros(2, 4), zeros(2)
            ),
            ShapeError,
            r"bias: expected \(D,\)",
        ),
        (
            lambda: ops.folded_decoder(
                [zeros(1, 2, 2, 3)], [zeros(4, 2)], zeros(4), zeros(2, 4), zeros(2)
            ),
            ShapeError,
            r"expected \[\(4, 3\)\]",
        ),
        (lambda: ops.upsample_argmax(zeros(1, 2, 2), (0, 3)), ShapeError, "from 1 on"),
        (lambda: ops.upsample_argmax(zeros(1, 0, 2, 2), (3, 3)), ShapeError, "none empty"),
        (
            lambda: ops.upsample_cross_entropy(zeros(1, 2, 2, 2), zeros(2, 4, 4).long()),
            ShapeError,
            r"expected \(1, H, W\)",
        ),
        (
            lambda: ops.upsample_cross_entropy(zeros(1, 2, 2, 2), zeros(1, 4, 4)),
            DtypeError,
            "integer labels",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
