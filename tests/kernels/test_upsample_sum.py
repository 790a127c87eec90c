"""The kernels that sum enlarged maps, interpreted, against the plain version."""

import pytest
import torch

from fastseg import ops
from fastseg.errors import BackendError

# Largest difference to the plain version in float64 on the same values, relative to its largest.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
# Powers of two as in SegFormer; odd sizes; one token; the first map alone; maps that shrink.
SIZES = [
    [(16, 8), (8, 4), (4, 2), (2, 1)],
    [(17, 19), (9, 10), (5, 5), (3, 3)],
    [(7, 5), (3, 2)],
    [(1, 1), (1, 1)],
    [(3, 4)],
    [(3, 4), (5, 9), (1, 1)],
    [(35, 2), (18, 1)],
]


def arguments(sizes, channels=5, batch=2, dtype=torch.float32):
    torch.manual_seed(len(sizes))
    maps = [torch.randn(batch, h, w, channels).to(dtype).requires_grad_() for h, w in sizes]
    return maps, torch.randn(channels).to(dtype).requires_grad_()


def values_and_gradients(function, maps, bias):
    out = function(maps, bias)
    torch.manual_seed(1)
    along = torch.randn(out.shape).to(out.dtype)
    names = [*[f"map {i}" for i in range(len(maps))], "bias"]
    found = torch.autograd.grad(out, [*maps, bias], along)
    return {"out": out.detach(), **dict(zip(names, found, strict=True))}


def assert_equal_to_the_plain_version(maps, bias):
    exact = [x.detach().double().requires_grad_() for x in [*maps, bias]]
    expected = values_and_gradients(ops.reference.upsample_sum, exact[:-1], exact[-1])
    with ops.use_backend("triton"):
        got = values_and_gradients(ops.upsample_sum, maps, bias)
    for name, value in got.items():
        scale = expected[name].abs().max().clamp(min=1)
        difference = (value.double() - expected[name]).abs().max() / scale
        assert difference <= TOLERANCE[value.dtype], name
        assert value.dtype == bias.dtype


@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients(sizes) -> None:
    assert_equal_to_the_plain_version(*arguments(sizes, batch=1 if sizes[0][0] > 9 else 2))


def test_channels_that_fill_no_block() -> None:
    assert_equal_to_the_plain_version(*arguments([(4, 3), (2, 2)], channels=33, batch=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype) -> None:
    assert_equal_to_the_plain_version(*arguments([(6, 5), (3, 3)], dtype=dtype))


def test_maps_that_are_not_contiguous() -> None:
    maps, bias = arguments([(6, 5), (3, 3)])
    views = [
        maps[0].detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_(),
        maps[1].detach().permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1).requires_grad_(),
    ]
    assert not any(view.is_contiguous() for view in views)
    with ops.use_backend("triton"):
        expected = values_and_gradients(ops.upsample_sum, maps, bias)
        got = values_and_gradients(ops.upsample_sum, views, bias)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_more_maps_than_the_kernels_take_are_refused() -> None:
    maps, bias = arguments([(4, 4), *[(2, 2)] * 4])
    with ops.use_backend("triton"), pytest.raises(BackendError, match="up to four maps, got 5"):
        ops.upsample_sum(maps, bias)
