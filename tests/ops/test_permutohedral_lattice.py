"""The lattice of tensors against the plain one, the CPU's engine, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastseg import crf, ops
from fastseg.errors import BackendError, DataError, DtypeError, ShapeError
from references.plain_lattice import PlainLattice

# Relative to the largest response.
FILTER_RTOL = 2e-6
BACKENDS = ["reference", "torch", "triton"]


def random_features(dimension: int, points: int, scale: float = 1.5) -> np.ndarray:
    rng = np.random.default_rng(dimension)
    return rng.normal(0, scale, (dimension, points)).astype(np.float32)


def assert_close(actual: torch.Tensor, expected: np.ndarray) -> None:
    tolerance = FILTER_RTOL * np.abs(expected).max()
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=tolerance)


def lattice_of(features: np.ndarray) -> ops.PermutohedralLattice:
    return ops.permutohedral_lattice(torch.from_numpy(features))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dimension", "points"), [(1, 1), (1, 90), (2, 121), (3, 64), (5, 97)])
def test_filter_and_transpose_match_the_plain_lattice_and_the_engine(dimension, points, backend):
    features = random_features(dimension, points)
    plain, engine = PlainLattice(features), crf.PermutohedralLattice(features)
    values = np.random.default_rng(5).normal(size=(3, points)).astype(np.float32)
    columns = torch.from_numpy(values).T
    with ops.use_backend(backend):
        lattice = lattice_of(features)
        filtered, transposed = lattice.filter(columns), lattice.filter(columns, transpose=True)
    assert lattice.dimension == dimension
    assert lattice.num_points == points
    assert lattice.num_vertices == plain.num_vertices == engine.num_vertices
    assert_close(filtered.T, plain.filter(values))
    assert_close(transposed.T, plain.transpose(values))
    assert_close(filtered.T, engine.filter(values))
    assert_close(transposed.T, engine.transpose(values))


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_weights_are_the_plain_ones_to_the_last_bit_far_from_the_origin(dimension):
    rng = np.random.default_rng(dimension)
    offset = rng.uniform(500, 1500, (dimension, 1))
    features = (rng.normal(0, 0.6, (dimension, 60)) + offset).astype(np.float32)
    plain, lattice = PlainLattice(features), lattice_of(features)
    assert lattice.num_vertices == plain.num_vertices
    np.testing.assert_array_equal(lattice.splat_weights.T.numpy(), plain.weights)


def test_whole_and_half_numbers_fall_into_the_same_simplices():
    grid = np.indices((6, 5, 4)).reshape(3, -1)
    for features in (grid, grid / 2, grid * np.sqrt(1.5), np.zeros((3, 120)), -grid / 4):
        plain, lattice = PlainLattice(features), lattice_of(features.astype(np.float32))
        assert lattice.num_vertices == plain.num_vertices
        values = np.random.default_rng(10).normal(size=(2, 120)).astype(np.float32)
        assert_close(lattice.filter(torch.from_numpy(values).T).T, plain.filter(values))


def test_scaled_lattices_multiply_before_and_after():
    lattice = lattice_of(random_features(2, 50))
    before, after = torch.rand(2, 50)
    values = torch.randn(50, 3)
    expected = after[:, None] * lattice.filter(before[:, None] * values)
    torch.testing.assert_close(lattice.scaled(before, after).filter(values), expected)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_float64_gradients_are_exact(backend):
    lattice = lattice_of(random_features(2, 12, 0.6))
    leaves = [torch.randn(12, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    with ops.use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda v, s: lattice.filter(v, scale=0.3, start=s), tuple(leaves)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_have_the_dtype_of_the_values(dtype):
    values = torch.randn(12, 2).to(dtype).requires_grad_()
    out = lattice_of(random_features(2, 12)).filter(values)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert values.grad.dtype == dtype


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:Converting a tensor")
def test_operators_are_registered_as_they_behave():
    lattice = lattice_of(random_features(2, 20))
    points = lattice.corners, lattice.order, lattice.starts, lattice.turns
    values, vertices = torch.rand(20, 3), torch.rand(lattice.num_vertices, 3)
    fastseg, weights = torch.ops.fastseg, lattice.splat_weights
    for operator, arguments in [
        (fastseg.permutohedral_embed, (torch.rand(2, 9), [-9, -9], [4, 1 << 20])),
        (fastseg.permutohedral_splat, (values.requires_grad_(), weights, *points)),
        (fastseg.permutohedral_blur, (vertices.requires_grad_(), lattice.neighbours, True)),
        (fastseg.permutohedral_slice, (vertices, weights, *points, 0.5, None)),
        (fastseg.permutohedral_slice, (vertices, weights, *points, 0.5, values)),
    ]:
        torch.library.opcheck(operator.default, (*arguments, "torch"))


def test_filtering_inside_transforms_of_functions():
    lattice, values = lattice_of(random_features(2, 20)), torch.rand(2, 20, 3)
    expected = torch.stack([lattice.filter(v) for v in values])
    torch.testing.assert_close(torch.vmap(lattice.filter)(values), expected)
    grad = torch.func.grad(lambda v: lattice.filter(v).square().sum())(values[0])
    torch.testing.assert_close(grad, lattice.filter(2 * expected[0], transpose=True))


def test_filtering_compiles_without_graph_breaks():
    torch._dynamo.reset()
    lattice, values = lattice_of(random_features(2, 20)), torch.rand(20, 3)
    compiled = torch.compile(lattice.filter, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(values), lattice.filter(values))


@pytest.mark.parametrize(
    ("features", "error", "words"),
    [
        (torch.zeros(3), ShapeError, r"\(d, N\)"),
        (torch.zeros(0, 3), ShapeError, r"\(0, 3\)"),
        (torch.zeros(3, 0), ShapeError, r"\(3, 0\)"),
        (torch.zeros(2, 3, dtype=torch.bool), DtypeError, "bool"),
        (torch.zeros(2, 3, dtype=torch.complex64), DtypeError, "complex64"),
        (torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), DataError, r"features\[1\] holds NaN"),
        (torch.tensor([[torch.inf, 1.0]]), DataError, r"features\[0\] holds NaN or inf"),
        (torch.tensor([[0.0, -1e20]]), DataError, r"reaches 1e\+20, more than"),
        (1e4 * torch.eye(9), BackendError, "63"),
        (torch.zeros(1, 1, device="meta").expand(5, 2**29), ShapeError, "2.31"),
    ],
)
def test_features_that_cannot_be_placed(features, error, words):
    with pytest.raises(error, match=words):
        ops.permutohedral_lattice(features)


def test_the_largest_features_that_the_message_allows_are_placed():
    with pytest.raises(DataError, match="up to which") as caught:
        ops.permutohedral_lattice(torch.tensor([[0.0, 1e20]] * 2))
    limit = float(str(caught.value).split("more than the ")[1].split()[0])
    assert ops.permutohedral_lattice(torch.tensor([[0.0, limit * 0.999]] * 2)).num_points == 2


def test_whole_numbers_are_taken():
    features = torch.arange(12).view(2, 6)
    expected = ops.permutohedral_lattice(features.float())
    assert torch.equal(ops.permutohedral_lattice(features).corners, expected.corners)


def test_values_of_another_shape_or_kind_are_refused():
    lattice = lattice_of(random_features(2, 20))
    with pytest.raises(ShapeError, match=r"values: expected \(20, K\), got \(3, 20\)"):
        lattice.filter(torch.zeros(3, 20))
    with pytest.raises(ShapeError, match="start"):
        lattice.filter(torch.zeros(20, 3), start=torch.zeros(20))
    with pytest.raises(ShapeError, match=r"start: expected the 3 channels .* got 2"):
        lattice.filter(torch.zeros(20, 3), start=torch.zeros(20, 2))
    with pytest.raises(ShapeError, match="vertices"):
        lattice.blur(torch.zeros(20 * 3 + 1, 1))
    with pytest.raises(DtypeError, match="int64"):
        lattice.splat(torch.zeros(20, 1, dtype=torch.int64))


def test_there_is_no_rust_backend_of_tensors():
    with ops.use_backend("rust"), pytest.raises(BackendError, match="no rust backend"):
        lattice_of(random_features(2, 20))
