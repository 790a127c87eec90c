"""The kernel of the folded decoder, interpreted, against the plain version."""

import pytest
import torch

from fastseg import ops
from fastseg.errors import BackendError

# Largest difference to the plain version in float64 on the same values, relative to its largest.
# No bfloat16: the interpreter multiplies matrices of it wrongly.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3}
SEGFORMER = [(9, 17), (5, 9), (3, 5), (2, 3)]


def arguments(sizes, classes=3, dim=5, dtype=torch.float32):
    torch.manual_seed(classes)

    def random(*shape):
        return torch.randn(shape).to(dtype).requires_grad_()

    features = [random(2, h, w, 3 + i) for i, (h, w) in enumerate(sizes)]
    weights = [random(dim, x.shape[3]) for x in features]
    return features, weights, random(dim), random(classes, dim), random(classes)


def assert_equal_to_the_plain_version(given):
    exact = [[x.double() for x in a] if isinstance(a, list) else a.double() for a in given]
    expected = ops.reference.folded_decoder(*exact)
    with ops.use_backend("triton"):
        got = ops.folded_decoder(*given)
    assert got.dtype == given[2].dtype
    assert got.is_contiguous()
    scale = expected.abs().max().clamp(min=1)
    assert (got.double() - expected).abs().max() / scale <= TOLERANCE[got.dtype]


@pytest.mark.parametrize(
    ("sizes", "classes", "dim"),
    [
        (SEGFORMER, 19, 33),
        ([(1, 1), (1, 1)], 1, 1),
        ([(3, 4)], 150, 20),
        ([(3, 4), (5, 9), (1, 1)], 40, 16),
        ([(2, 3), (1, 2)], 170, 5),  # two programs for the classes of a tile
    ],
)
def test_values(sizes, classes, dim) -> None:
    assert_equal_to_the_plain_version(arguments(sizes, classes, dim))


def test_half_precision() -> None:
    assert_equal_to_the_plain_version(arguments(SEGFORMER, 21, 20, torch.float16))


def test_every_gradient_by_name() -> None:
    given = arguments([(5, 4), (3, 2)])
    exact = [
        [x.detach().double().requires_grad_() for x in a]
        if isinstance(a, list)
        else a.detach().double().requires_grad_()
        for a in given
    ]
    names = ["feature 0", "feature 1", "weight 0", "weight 1", "bias", "classifier", "its bias"]

    def gradients(function, given):
        leaves = [t for a in given for t in (a if isinstance(a, list) else [a])]
        out = function(*given)
        torch.manual_seed(1)
        found = torch.autograd.grad(out, leaves, torch.randn(out.shape).to(out.dtype))
        return dict(zip(names, found, strict=True))

    expected = gradients(ops.reference.folded_decoder, exact)
    with ops.use_backend("triton"):
        got = gradients(ops.folded_decoder, given)
    for name in names:
        scale = expected[name].abs().max().clamp(min=1)
        assert (got[name].double() - expected[name]).abs().max() / scale <= 1e-5, name


def test_values_that_are_no_numbers_are_not_hidden() -> None:
    features, *rest = arguments([(5, 4)])
    tokens = features[0].detach().clone()
    tokens[0, 2, 1] = float("nan")
    with ops.use_backend("triton"):
        out = ops.folded_decoder([tokens], *rest)
    assert out[0, :, 2, 1].isnan().all()
    assert out.isnan().sum() == 3


def test_more_maps_than_the_kernel_takes_are_refused() -> None:
    given = arguments([(4, 4), *[(2, 2)] * 4])
    with ops.use_backend("triton"), pytest.raises(BackendError, match="up to four maps, got 5"):
        ops.folded_decoder(*given)
