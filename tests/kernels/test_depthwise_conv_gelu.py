"""The kernels of depthwise convolution, bias and GELU, interpreted, against the plain version."""

import pytest
import torch

from fastseg import ops

# Largest difference to the plain version in float64 on the same values, relative to its largest.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
# One token; a rim only; fewer rows and columns than a program takes; one more than it takes.
SHAPES = [(1, 1, 1, 1), (2, 2, 1, 3), (1, 5, 33, 6), (1, 17, 2, 40), (1, 17, 33, 33)]


def arguments(shape, dtype=torch.float32):
    torch.manual_seed(sum(shape))
    sizes = {"tokens": shape, "weight": (shape[3], 1, 3, 3), "bias": (shape[3],)}
    return {name: torch.randn(size).to(dtype).requires_grad_() for name, size in sizes.items()}


def values_and_gradients(function, given):
    out = function(**given)
    torch.manual_seed(1)
    along = torch.randn(out.shape).to(out.dtype)
    found = torch.autograd.grad(out, list(given.values()), along)
    return {"out": out.detach(), **dict(zip(given, found, strict=True))}


def assert_equal_to_the_plain_version(given):
    exact = {name: x.detach().double().requires_grad_() for name, x in given.items()}
    expected = values_and_gradients(ops.reference.depthwise_conv_gelu, exact)
    with ops.use_backend("triton"):
        got = values_and_gradients(ops.depthwise_conv_gelu, given)
    for name, value in got.items():
        scale = expected[name].abs().max().clamp(min=1)
        difference = (value.double() - expected[name]).abs().max() / scale
        assert difference <= TOLERANCE[value.dtype], name
        assert value.dtype == given["tokens"].dtype
        assert value.is_contiguous()


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape) -> None:
    assert_equal_to_the_plain_version(arguments(shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype) -> None:
    assert_equal_to_the_plain_version(arguments((1, 17, 5, 6), dtype))


def test_tokens_that_are_not_contiguous() -> None:
    given = arguments((2, 5, 7, 8))
    with ops.use_backend("triton"):
        whole = values_and_gradients(ops.depthwise_conv_gelu, given)
        wide = torch.zeros(2, 7, 9, 20)
        wide[:, 1:6, 1:8, 4:12] = given["tokens"].detach()
        for view in (
            wide[:, 1:6, 1:8, 4:12],
            given["tokens"].detach().permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
        ):
            assert not view.is_contiguous()
            strided = {**given, "tokens": view.requires_grad_()}
            got = values_and_gradients(ops.depthwise_conv_gelu, strided)
            assert all(torch.equal(got[name], whole[name]) for name in whole)


def test_a_gradient_that_is_not_contiguous() -> None:
    given = list(arguments((1, 5, 7, 8)).values())
    along = torch.randn(1, 8, 5, 7).permute(0, 2, 3, 1)
    with ops.use_backend("triton"):
        out = ops.depthwise_conv_gelu(*given)
        expected = torch.autograd.grad(out, given, along.contiguous(), retain_graph=True)
        got = torch.autograd.grad(out, given, along)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_values_that_are_no_numbers_stay_where_they_are() -> None:
    tokens = torch.zeros(1, 9, 9, 4)
    tokens[0, 4, 4] = float("nan")
    with ops.use_backend("triton"):
        out = ops.depthwise_conv_gelu(tokens, torch.ones(4, 1, 3, 3), torch.zeros(4))
    assert out[0, 3:6, 3:6].isnan().all()
    assert out.isnan().sum() == 9 * 4
