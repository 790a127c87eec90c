"""The kernel of the whole Mix-FFN, interpreted, against the plain version."""

import pytest
import torch

from fastseg import layers, ops
from fastseg.errors import BackendError
from fastseg.kernels import mix_ffn as kernels

# Largest difference to the plain version in float64 on the same values, relative to its largest.
# No bfloat16: the interpreter multiplies matrices of it wrongly.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3}


@pytest.fixture(autouse=True)
def tf32_allowed():
    """Lets the kernel take float32, too; the interpreter multiplies it exactly."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def launches(monkeypatch):
    """How often the kernel is launched."""
    found, launch = [], kernels.mix_ffn

    def counted(*arguments):
        found.append(arguments)
        return launch(*arguments)

    monkeypatch.setattr(kernels, "mix_ffn", counted)
    return found


def arguments(shape, hidden, dtype=torch.float32, residual=True):
    torch.manual_seed(hidden)
    c = shape[3]
    sizes = [shape, (hidden, c), (hidden,), (hidden, 1, 3, 3), (hidden,), (c, hidden), (c,)]
    scales = [1, c**-0.5, 1, 1 / 3, 1, hidden**-0.5, 1]
    given = [(torch.randn(n) * s).to(dtype) for n, s in zip(sizes, scales, strict=True)]
    return [*given, torch.randn(shape).to(dtype) if residual else None]


def assert_equal_to_the_plain_version(given):
    expected = ops.reference.mix_ffn(*[None if x is None else x.double() for x in given])
    with ops.use_backend("triton"):
        got = ops.mix_ffn(*given)
    assert got.dtype == (given[0] if given[-1] is None else given[-1]).dtype
    assert got.is_contiguous()
    scale = expected.abs().max().clamp(min=1)
    assert (got.double() - expected).abs().max() / scale <= TOLERANCE[given[0].dtype]


@pytest.mark.parametrize(
    ("shape", "hidden", "residual"),
    [
        ((1, 1, 1, 1), 1, False),
        ((2, 3, 5, 6), 20, True),
        ((1, 17, 18, 3), 12, True),  # more rows and columns than a program takes
        ((1, 2, 3, 32), 128, False),
    ],
)
def test_values(shape, hidden, residual, launches) -> None:
    assert_equal_to_the_plain_version(arguments(shape, hidden, residual=residual))
    assert len(launches) == 1


@pytest.mark.parametrize("shape", [(1, 4, 3, 64), (1, 9, 3, 6)])
def test_half_precision(shape, launches) -> None:
    assert_equal_to_the_plain_version(arguments(shape, 4 * shape[3], torch.float16))
    assert len(launches) == 1


def test_a_residual_of_another_dtype_decides_that_of_the_result() -> None:
    *given, residual = arguments((1, 4, 3, 6), 24, torch.float16)
    assert_equal_to_the_plain_version([*given, residual.float()])


def test_tokens_that_are_not_contiguous(launches) -> None:
    tokens, *rest, residual = arguments((2, 5, 3, 6), 24)
    views = [x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0) for x in (tokens, residual)]
    with ops.use_backend("triton"):
        expected = ops.mix_ffn(tokens, *rest, residual)
        assert torch.equal(ops.mix_ffn(views[0], *rest, views[1]), expected)
        views = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (tokens, residual)]
        assert torch.equal(ops.mix_ffn(views[0], *rest, views[1]), expected)
    assert len(launches) == 3


def test_an_empty_batch() -> None:
    given = [x[:0] if x.ndim == 4 and len(x) == 1 else x for x in arguments((1, 2, 2, 3), 12)]
    with ops.use_backend("triton"):
        assert ops.mix_ffn(*given).shape == (0, 2, 2, 3)


def test_where_a_gradient_is_needed_the_parts_run(launches) -> None:
    given = [x.requires_grad_() for x in arguments((1, 3, 4, 6), 24)]
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = torch.autograd.grad(ops.reference.mix_ffn(*exact).sum(), exact)
    with ops.use_backend("triton"):
        got = torch.autograd.grad(ops.mix_ffn(*given).sum(), given)
        with torch.no_grad():
            ops.mix_ffn(*given)
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp(min=1)
    assert len(launches) == 1


@pytest.mark.parametrize(
    ("channels", "hidden", "dtype"), [(33, 16, torch.float32), (16, 257, torch.float16)]
)
def test_wide_stages_run_in_parts(channels, hidden, dtype, launches) -> None:
    assert_equal_to_the_plain_version(arguments((1, 2, 2, channels), hidden, dtype))
    assert launches == []


def test_exact_float32_runs_in_parts(launches) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    given = arguments((1, 2, 2, 8), 16)
    assert_equal_to_the_plain_version(given)
    assert launches == []
    with pytest.raises(BackendError, match=r"float32 only where .*allow_tf32 is on"):
        torch.ops.fastseg.mix_ffn(*given, "triton")


def test_the_layer_runs_the_kernel_in_evaluation(launches) -> None:
    layer = layers.MixFFN(8, 32, dropout=0.1).eval()
    tokens, residual = torch.randn(2, 1, 5, 3, 8)
    expected = residual + layer(tokens)
    with ops.use_backend("triton"), torch.no_grad():
        got = layer(tokens, residual)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert len(launches) == 1
