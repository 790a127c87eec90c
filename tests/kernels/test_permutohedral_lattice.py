"""The kernels of the permutohedral lattice against the plain versions, step by step."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fastseg import ops
from fastseg.errors import BackendError
from fastseg.ops import reference


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where the kernels run: interpreted on a CPU, or on a GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def features(dimension: int, points: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(dimension, points, generator=generator)


def values(points: int, channels: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(points, channels, generator=generator).to(dtype)


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    assert not got.isnan().any()
    return float((got - expected).abs().max() / expected.abs().max())


def built(backend: str, points: torch.Tensor) -> ops.PermutohedralLattice:
    with ops.use_backend(backend):
        return ops.permutohedral_lattice(points)


@pytest.mark.parametrize(
    ("dimension", "points", "scale"),
    [(1, 1, 1.0), (1, 300, 9.0), (2, 65, 1.5), (3, 7, 800.0), (5, 200, 1.5), (9, 33, 4.0)],
)
def test_points_are_placed_to_the_last_bit(dimension, points, scale, device) -> None:
    given = features(dimension, points, scale).to(device)
    got, expected = built("triton", given), built("reference", given)
    for name in ("splat_weights", "slice_weights", "corners", "order", "neighbours"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name
    assert got.splat_weights.sum(0).cpu().numpy() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("step", [1.0, 0.5, 1.5**0.5, 0.0, -0.25])
def test_points_on_the_borders_of_simplices(step, device) -> None:
    axis = torch.arange(5.0)
    given = (step * torch.cartesian_prod(axis, axis, axis).T).contiguous().to(device)
    got, expected = built("triton", given), built("reference", given)
    assert torch.equal(got.splat_weights, expected.splat_weights)
    assert torch.equal(got.corners, expected.corners)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3, 70])
def test_every_step_equals_the_plain_one(channels, dtype, device) -> None:
    lattice = built("torch", features(2, 75).to(device))
    given = values(75, channels, dtype).to(device)
    start = values(75, channels).to(device)
    with ops.use_backend("triton"):
        vertices = lattice.splat(given)
        blurred, reverse = lattice.blur(vertices), lattice.blur(vertices, reverse=True)
        sliced = lattice.slice(blurred)
        added = lattice.slice(blurred, scale=-0.7, start=start)
    weights, corners = lattice.splat_weights, lattice.corners
    assert vertices.dtype == torch.float32
    plain = reference.permutohedral_splat(given.float(), weights, corners, lattice.num_vertices)
    assert difference(vertices, plain) <= 1e-6
    for got, is_reverse in ((blurred, False), (reverse, True)):
        plain = reference.permutohedral_blur(vertices, lattice.neighbours, is_reverse)
        assert difference(got, plain) <= 1e-6
    plain = reference.permutohedral_slice(blurred, weights, corners)
    assert difference(sliced, plain) <= 1e-6
    plain = reference.permutohedral_slice(blurred, weights, corners, -0.7, start)
    assert difference(added, plain) <= 1e-6


@pytest.mark.parametrize("points", [32, 33, 1025])
def test_many_points_at_one_vertex_are_added_up_in_a_tree(points, device) -> None:
    lattice = built("torch", (features(2, points) * 1e-3).to(device))
    assert len(lattice.starts) == {32: 1, 33: 2, 1025: 3}[points]
    given = values(points, 2).to(device)
    with ops.use_backend("triton"):
        got = lattice.splat(given)
    plain = reference.permutohedral_splat(
        given, lattice.splat_weights, lattice.corners, lattice.num_vertices
    )
    assert difference(got, plain) <= 1e-5


@pytest.mark.parametrize("stretch", [1, 7, 100])
def test_points_are_added_up_stretch_by_stretch(stretch, device, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["fastseg.ops.permutohedral_lattice"], "STRETCH", stretch)
    # In a few places, so that most vertices have points of several stretches.
    lattice = built("torch", (features(2, 100) * 0.3).to(device))
    order, first, turns = (x.long() for x in (lattice.order, lattice.starts[0], lattice.turns))
    assert len(lattice.starts) > 1
    assert torch.equal(turns.sort().values, torch.arange(len(first) - 1, device=device))
    vertices, stretches = lattice.corners.flatten()[order], order % 100 // stretch
    for begin, end in zip(first[:-1].tolist(), first[1:].tolist(), strict=True):
        assert 1 <= end - begin <= 32
        assert len(vertices[begin:end].unique()) == len(stretches[begin:end].unique()) == 1
    in_turn = stretches[first[:-1]][turns]
    assert torch.equal(in_turn, in_turn.sort().values)
    given = values(100, 3).to(device)
    plain = reference.permutohedral_splat(
        given, lattice.splat_weights, lattice.corners, lattice.num_vertices
    )
    for backend in ("torch", "triton"):
        with ops.use_backend(backend):
            assert difference(lattice.splat(given), plain) <= 1e-5, backend


def test_every_gradient_is_the_plain_ones(device) -> None:
    lattice = built("torch", features(2, 60).to(device))
    given, start = values(60, 3).to(device), values(60, 3).to(device)
    found = {}
    for backend in ("reference", "triton"):
        x, s = (t.clone().requires_grad_() for t in (given, start))
        with ops.use_backend(backend):
            lattice.filter(x, scale=0.5, start=s).square().sum().backward()
        found[backend] = {"values": x.grad, "start": s.grad}
    for name, expected in found["reference"].items():
        assert difference(found["triton"][name], expected) <= 1e-6, name


def test_layout_of_the_tensors_does_not_matter(device) -> None:
    given = features(3, 40).to(device)
    lattice = built("triton", given)
    strided = given.T.contiguous().T
    assert torch.equal(built("triton", strided).corners, lattice.corners)
    x = values(40, 6).to(device)
    with ops.use_backend("triton"):
        expected = lattice.filter(x[:, ::2].contiguous())
        assert torch.equal(lattice.filter(x[:, ::2]), expected)
        assert torch.equal(lattice.filter(x[:, ::2].T.contiguous().T), expected)


def test_results_have_the_same_bits_in_every_run(device) -> None:
    given, x = features(3, 200).to(device), values(200, 5).to(device)
    with ops.use_backend("triton"):
        first, second = (ops.permutohedral_lattice(given).filter(x) for _ in range(2))
    assert torch.equal(first, second)


def test_no_channels_launch_nothing() -> None:
    lattice = built("triton", features(2, 10))
    with ops.use_backend("triton"):
        assert lattice.filter(torch.zeros(10, 0)).shape == (10, 0)


def test_what_the_kernels_cannot_do_is_said() -> None:
    lattice = built("triton", features(2, 10))
    with ops.use_backend("triton"), pytest.raises(BackendError, match="float64"):
        lattice.splat(torch.zeros(10, 1, dtype=torch.float64))
    moved = features(2, 10).to("meta")
    with pytest.raises(BackendError, match="one device"):
        torch.ops.fastseg.permutohedral_blur(
            values(lattice.num_vertices, 2), lattice.neighbours.to(moved.device), False, ""
        )


def test_inference_mode_and_transforms() -> None:
    lattice, x = built("triton", features(2, 20)), values(20, 2)
    with ops.use_backend("triton"):
        expected = lattice.filter(x)
        with torch.inference_mode():
            assert torch.equal(lattice.filter(x), expected)
        with pytest.raises(BackendError, match=r"transforms of torch\.func"):
            torch.vmap(lattice.filter)(x[None])
        with pytest.raises(BackendError, match=r"transforms of torch\.func"):
            torch.func.grad(lambda v: lattice.filter(v).sum())(x)


COMPILE_EMBEDDING = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fastseg.kernels import permutohedral_lattice as kernels

signature = dict.fromkeys(kernels._embed.arg_names, "i32")
signature |= {"features": "*fp32", "scales": "*fp32", "lows": "*i64", "units": "*i64"}
signature |= {"keys": "*i64", "weights": "*fp32", "inverse": "fp32"}
sizes = {"D": 5, "WIDTH": 8, "BLOCK": 64}
signature |= dict.fromkeys(sizes, "constexpr")
for fuses in (False, True):
    compiled = triton.compile(
        ASTSource(kernels._embed, signature, constexprs=sizes),
        target=GPUTarget("cuda", 90, 32),
        options={"enable_fp_fusion": fuses},
    )
    print(compiled.asm["ptx"].count("fma.rn"))
"""


def test_compiled_embedding_rounds_every_product() -> None:
    """Fused products and sums would move points on borders; without the option there would be."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_EMBEDDING],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )
    without, fused = map(int, done.stdout.split())
    assert without == 0
    assert fused > 0
