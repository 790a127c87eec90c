"""The permutohedral lattice on tensors: splat, blur and slice without atomics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastseg.errors import DtypeError, ShapeError
from fastseg.ops import reference
from fastseg.ops._backends import check_tensors, chosen_backend, is_decomposed
from fastseg.ops._lattice_keys import key_layout, scales
from fastseg.ops._operation import operation

# How many values one program adds up in a row: a vertex may have as many points as the picture.
FAN_IN = 32

# How many points in a row are added up before the next ones: each is wanted by d + 1 vertices, and
# their values stay in a GPU's cache until then.
STRETCH = 2**14

# Corners are numbered by 32 bits.
_MOST_CORNERS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class PermutohedralLattice:
    """A Gaussian filter over N points in d dimensions, as tensors on one device.

    `permutohedral_lattice` makes one of features. What it computes is differentiable in the values
    and has the same bits in every run.

    Attributes:
        splat_weights: (d + 1, N) float32, of the corners of each point's simplex when values are
            spread.
        slice_weights: (d + 1, N) float32, the same when they are gathered.
        corners: (d + 1, N) int32, the vertices of each point.
        order: ((d + 1) N) int32, the corners sorted by vertex, those of one in the points' order.
        starts: int32, where each sum of a splat starts: sums of at most 32 among `order`, of one
            vertex and of points that lie close in memory, then sums of these, and so on until there
            is one for each vertex.
        turns: int32, which of the first sums is made first, which next: those of the first 16,384
            points, those of the next ones, and so on.
        neighbours: (d + 1, 2, M) int32, the vertices before and after each along each axis; −1
            where there is none.

    Source:
        Adams, Baek & Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice, 2010.
    """

    splat_weights: Tensor
    slice_weights: Tensor
    corners: Tensor
    order: Tensor
    starts: list[Tensor]
    turns: Tensor
    neighbours: Tensor

    @property
    def dimension(self) -> int:
        """How many features a point has, d."""
        return self.corners.shape[0] - 1

    @property
    def num_points(self) -> int:
        """How many points there are, N."""
        return self.corners.shape[1]

    @property
    def num_vertices(self) -> int:
        """How many vertices the points touch, M."""
        return self.neighbours.shape[2]

    def splat(self, values: Tensor) -> Tensor:
        """Spreads values over the vertices.

        Args:
            values: (N, K) float.

        Returns:
            (M, K), float32, or float64 if the values are.

        Raises:
            ShapeError, DtypeError: the values are not (N, K), or no floats.
            BackendError: a backend that was asked for by name cannot run.

        Example:
            >>> import torch
            >>> from fastseg import ops
            >>> lattice = ops.permutohedral_lattice(torch.zeros(2, 4))
            >>> lattice.splat(torch.ones(4, 1)).sum()
            tensor(4.)
        """
        _check("values", values, self.num_points)
        if is_decomposed():
            return _splat_reference(
                values, self.splat_weights, self.corners, self.order, self.starts, self.turns
            )
        out: Tensor = _permutohedral_splat(
            values,
            self.splat_weights,
            self.corners,
            self.order,
            self.starts,
            self.turns,
            chosen_backend(),
        )
        return out

    def blur(self, vertices: Tensor, *, reverse: bool = False) -> Tensor:
        """Mixes neighbouring vertices, ½, 1, ½, along each axis in turn.

        Args:
            vertices: (M, K) float.
            reverse: whether the last axis comes first, which makes the adjoint.

        Returns:
            (M, K) of the same dtype.

        Raises:
            ShapeError, DtypeError: the values are not (M, K), or no floats.
            BackendError: a backend that was asked for by name cannot run.

        Example:
            >>> import torch
            >>> from fastseg import ops
            >>> lattice = ops.permutohedral_lattice(torch.zeros(2, 4))
            >>> lattice.blur(torch.zeros(3, 1)).shape
            torch.Size([3, 1])
        """
        _check("vertices", vertices, self.num_vertices)
        if is_decomposed():
            return reference.permutohedral_blur(vertices, self.neighbours, reverse)
        out: Tensor = _permutohedral_blur(vertices, self.neighbours, reverse, chosen_backend())
        return out

    def slice(self, vertices: Tensor, *, scale: float = 1.0, start: Tensor | None = None) -> Tensor:
        """Gathers values from the vertices: `scale` times the weighted sum, plus `start`.

        Args:
            vertices: (M, K) float32, or float64.
            scale: a factor.
            start: (N, K) of the same dtype; None is zero.

        Returns:
            (N, K) of the same dtype.

        Raises:
            ShapeError, DtypeError: the values are not (M, K), or no floats.
            BackendError: a backend that was asked for by name cannot run.

        Example:
            >>> import torch
            >>> from fastseg import ops
            >>> lattice = ops.permutohedral_lattice(torch.zeros(2, 4))
            >>> lattice.slice(torch.ones(3, 1)).flatten()
            tensor([1., 1., 1., 1.])
        """
        _check("vertices", vertices, self.num_vertices)
        if start is not None:
            _check("start", start, self.num_points)
            if start.dtype != vertices.dtype:
                raise DtypeError(
                    f"start: expected {vertices.dtype} as the vertices, got {start.dtype}"
                )
            if start.shape[1] != vertices.shape[1]:
                raise ShapeError(
                    f"start: expected the {vertices.shape[1]} channels of the vertices, got "
                    f"{start.shape[1]}"
                )
        if is_decomposed():
            return reference.permutohedral_slice(
                vertices, self.slice_weights, self.corners, scale, start
            )
        out: Tensor = _permutohedral_slice(
            vertices,
            self.slice_weights,
            self.corners,
            self.order,
            self.starts,
            self.turns,
            scale,
            start,
            chosen_backend(),
        )
        return out

    def filter(
        self,
        values: Tensor,
        *,
        transpose: bool = False,
        scale: float = 1.0,
        start: Tensor | None = None,
    ) -> Tensor:
        """Filters values: `scale` times slice ∘ blur ∘ splat, plus `start`.

        Args:
            values: (N, K) float.
            transpose: whether to apply the exact adjoint instead.
            scale: a factor on top of the lattice's own, 1 / (1 + 2⁻ᵈ), which makes a filtered
                constant about constant.
            start: (N, K), float32, or float64 if the values are; None is zero.

        Returns:
            (N, K), float32, or float64 if the values are.

        Raises:
            ShapeError, DtypeError: the values are not (N, K), or no floats.
            BackendError: a backend that was asked for by name cannot run.

        Example:
            >>> import torch
            >>> from fastseg import ops
            >>> lattice = ops.permutohedral_lattice(torch.rand(2, 50))
            >>> a, b = torch.rand(2, 50, 1)
            >>> left, right = lattice.filter(a) * b, a * lattice.filter(b, transpose=True)
            >>> torch.testing.assert_close(left.sum(), right.sum())
        """
        lattice = self._transposed() if transpose else self
        blurred = lattice.blur(lattice.splat(values), reverse=transpose)
        alpha = 1 / (1 + 2.0**-self.dimension)
        return lattice.slice(blurred, scale=scale * alpha, start=start)

    def scaled(
        self, before: Tensor | None = None, after: Tensor | None = None
    ) -> PermutohedralLattice:
        """The lattice that multiplies values by `before` and results by `after`, at no cost.

        Args:
            before: (N) float32; None is one. No gradient reaches it.
            after: (N) float32, likewise.

        Raises:
            ShapeError: a factor is not (N).

        Example:
            >>> import torch
            >>> from fastseg import ops
            >>> lattice, ones = ops.permutohedral_lattice(torch.rand(2, 50)), torch.ones(50, 1)
            >>> mean = lattice.scaled(after=1 / lattice.filter(ones).flatten())
            >>> torch.testing.assert_close(mean.filter(ones), ones)
        """
        for name, factor in (("before", before), ("after", after)):
            if factor is not None and tuple(factor.shape) != (self.num_points,):
                raise ShapeError(
                    f"{name}: expected ({self.num_points},), got {tuple(factor.shape)}"
                )
        return replace(
            self,
            splat_weights=self.splat_weights if before is None else self.splat_weights * before,
            slice_weights=self.slice_weights if after is None else self.slice_weights * after,
        )

    def _transposed(self) -> PermutohedralLattice:
        """The same points; what runs over its vertices must run in reverse."""
        return replace(self, splat_weights=self.slice_weights, slice_weights=self.splat_weights)


def permutohedral_lattice(features: Tensor) -> PermutohedralLattice:
    """Places points in a permutohedral lattice: everything that a filter over them needs.

    Args:
        features: (d, N) real numbers, each divided by its standard deviation. Nothing is
            differentiable in them.

    Returns:
        The lattice, on the device of the features.

    Raises:
        ShapeError: the features are not (d, N) with a feature and a point, or too many.
        DtypeError: they are no real numbers.
        DataError: one is NaN, infinite, or too large for a 32-bit float to place the point.
        BackendError: the vertices do not fit 63-bit keys, or a backend that was asked for by name
            cannot run.

    Convention:
        The same simplices and weights, to the last bit, as in the CPU's engine. Building waits for
        the device, and compilers do not see into it: its sizes depend on the data.

    Source:
        Adams, Baek & Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice, 2010.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> lattice = ops.permutohedral_lattice(torch.rand(5, 100))
        >>> lattice.dimension, lattice.num_points
        (5, 100)
    """
    if features.ndim != 2 or features.numel() == 0:
        raise ShapeError(
            f"features: expected (d, N), of at least one feature and one point, got "
            f"{tuple(features.shape)}"
        )
    if features.is_complex() or features.dtype == torch.bool:
        raise DtypeError(f"features: expected real numbers, got {features.dtype}")
    check_tensors("permutohedral_lattice", [features])
    if (len(features) + 1) * features.shape[1] > _MOST_CORNERS:
        raise ShapeError(
            f"features: {features.shape[1]} points are more than the 2^31 / (d + 1) that fit"
        )
    build = torch.compiler.disable(_build)  # type: ignore[no-untyped-call]
    built: PermutohedralLattice = build(features.detach().float())
    return built


def _build(features: Tensor) -> PermutohedralLattice:
    with torch.no_grad():
        least, greatest = torch.stack([features.amin(1), features.amax(1)]).tolist()
        layout = key_layout(list(zip(least, greatest, strict=True)))
        keys, weights = _permutohedral_embed(features, layout.lows, layout.units, chosen_backend())
        ordered, order = keys.flatten().sort(stable=True)
        vertices, vertex_of = ordered.unique_consecutive(return_inverse=True)
        corners = torch.empty_like(vertex_of).scatter_(0, order, vertex_of)
        starts, turns = _tree(vertex_of, order % features.shape[1] // STRETCH)
        return PermutohedralLattice(
            splat_weights=weights,
            slice_weights=weights,
            corners=corners.view(keys.shape).int(),
            order=order.int(),
            starts=starts,
            turns=turns,
            neighbours=_neighbours(vertices, layout.steps()),
        )


def _tree(vertex_of: Tensor, stretch_of: Tensor) -> tuple[list[Tensor], Tensor]:
    """How a splat adds up, as `PermutohedralLattice` says it: its starts and its turns.

    Args:
        vertex_of: ((d + 1) N) int64, the vertex of each corner, which do not fall.
        stretch_of: the stretch of points that it belongs to; of one vertex they do not fall.
    """
    stretches = stretch_of.amax() + 1
    both = vertex_of * stretches + stretch_of
    runs, counts = torch.unique_consecutive(both, return_counts=True)
    first, parts = _split(counts)
    turns = (runs % stretches).repeat_interleave(parts).argsort(stable=True)
    of_vertex = torch.unique_consecutive(runs // stretches, return_counts=True)[1]
    counts = _offsets(parts)[_offsets(of_vertex)].diff()
    levels = [first]
    while int(counts.max()) > 1:
        starts, counts = _split(counts)
        levels.append(starts)
    return [level.int() for level in levels], turns.int()


def _split(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Splits runs of `counts` items into parts of at most `FAN_IN`.

    Returns:
        Where each part starts and the last one ends, and how many parts each run has.
    """
    parts = (counts + FAN_IN - 1) // FAN_IN
    of_run, of_part = _offsets(counts), _offsets(parts)
    run = torch.repeat_interleave(parts)
    part = torch.arange(len(run), device=run.device) - of_part[run]
    return torch.cat([of_run[run] + FAN_IN * part, of_run[-1:]]), parts


def _offsets(counts: Tensor) -> Tensor:
    """Where each run starts, and at last where all end."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _neighbours(vertices: Tensor, steps: list[tuple[int, int]]) -> Tensor:
    """The vertices before and after each, (d + 1, 2, M), of sorted keys; −1 where there is none."""
    count, corners = len(vertices), len(steps)
    is_last_class = _class_of(vertices, corners) == corners - 1
    # One more place takes what is written for neighbours that are not there.
    found = vertices.new_full((corners, 2, count + 1), -1, dtype=torch.int32)
    here = torch.arange(count, device=vertices.device, dtype=torch.int32)
    for (before, after), (step_of_last, step) in zip(found, steps, strict=True):
        wanted = vertices + torch.where(is_last_class, step_of_last, step)
        at = torch.searchsorted(vertices, wanted).clamp_(max=count - 1)
        is_there = vertices[at] == wanted
        after[:-1] = torch.where(is_there, at, -1)
        before.scatter_(0, torch.where(is_there, at, count), here)
    return found[..., :-1].contiguous()


def _class_of(keys: Tensor, corners: int) -> Tensor:
    return keys & ((1 << (corners - 1).bit_length()) - 1)


def _embed_triton(features: Tensor, lows: list[int], units: list[int]) -> tuple[Tensor, Tensor]:
    from fastseg.kernels import permutohedral_lattice as kernels

    device = features.device
    factors = torch.tensor(scales(len(features)), dtype=torch.float32, device=device)
    packing = (torch.tensor(x, dtype=torch.int64, device=device) for x in (lows, units))
    return kernels.embed(features, factors, *packing)


_EMBED = {
    "reference": reference.permutohedral_embed,
    "torch": reference.permutohedral_embed,
    "triton": _embed_triton,
}


@operation(_EMBED)
def _permutohedral_embed(
    features: Tensor, lows: list[int], units: list[int], backend: str
) -> tuple[Tensor, Tensor]:
    shape = (features.shape[0] + 1, features.shape[1])
    keys = features.new_empty(shape, dtype=torch.int64)
    return keys, features.new_empty(shape, dtype=torch.float32)


def _splat_torch(
    values: Tensor,
    weights: Tensor,
    corners: Tensor,
    order: Tensor,
    starts: list[Tensor],
    turns: Tensor,
) -> Tensor:
    points, channels = values.shape
    sums = values.to(_accumulator(values))[order % points] * weights.flatten()[order, None]
    for level in starts:
        sums = torch.segment_reduce(sums, "sum", offsets=level.long(), axis=0, unsafe=True)
    return sums.view(len(starts[-1]) - 1, channels)


def _splat_reference(
    values: Tensor,
    weights: Tensor,
    corners: Tensor,
    order: Tensor,
    starts: list[Tensor],
    turns: Tensor,
) -> Tensor:
    count = len(starts[-1]) - 1
    return reference.permutohedral_splat(values.to(_accumulator(values)), weights, corners, count)


def _splat_triton(
    values: Tensor,
    weights: Tensor,
    corners: Tensor,
    order: Tensor,
    starts: list[Tensor],
    turns: Tensor,
) -> Tensor:
    from fastseg.kernels import permutohedral_lattice as kernels

    return kernels.splat(values, weights, order, starts, turns)


def _accumulator(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


_SPLAT = {"reference": _splat_reference, "torch": _splat_torch, "triton": _splat_triton}


@operation(_SPLAT)
def _permutohedral_splat(
    values: Tensor,
    weights: Tensor,
    corners: Tensor,
    order: Tensor,
    starts: list[Tensor],
    turns: Tensor,
    backend: str,
) -> Tensor:
    shape = (starts[-1].shape[0] - 1, values.shape[1])
    return values.new_empty(shape, dtype=_accumulator(values))


def _splat_context(ctx: Any, inputs: Any, output: Any) -> None:
    values, weights, corners, order, starts, turns, ctx.backend = inputs
    ctx.dtype = values.dtype
    ctx.save_for_backward(weights, corners, order, turns, *starts)


def _splat_backward(ctx: Any, grad: Tensor) -> Any:
    weights, corners, order, turns, *starts = ctx.saved_tensors
    back = _permutohedral_slice(
        grad, weights, corners, order, starts, turns, 1.0, None, ctx.backend
    )
    return back.to(ctx.dtype), None, None, None, [None] * len(starts), None, None


_permutohedral_splat.register_autograd(_splat_backward, setup_context=_splat_context)


def _blur_triton(vertices: Tensor, neighbours: Tensor, reverse: bool) -> Tensor:
    from fastseg.kernels import permutohedral_lattice as kernels

    return kernels.blur(vertices, neighbours, reverse)


_BLUR = {
    "reference": reference.permutohedral_blur,
    "torch": reference.permutohedral_blur,
    "triton": _blur_triton,
}


@operation(_BLUR)
def _permutohedral_blur(
    vertices: Tensor, neighbours: Tensor, reverse: bool, backend: str
) -> Tensor:
    return vertices.new_empty(vertices.shape)


def _blur_context(ctx: Any, inputs: Any, output: Any) -> None:
    _, neighbours, ctx.reverse, ctx.backend = inputs
    ctx.save_for_backward(neighbours)


def _blur_backward(ctx: Any, grad: Tensor) -> Any:
    (neighbours,) = ctx.saved_tensors
    back = _permutohedral_blur(grad, neighbours, not ctx.reverse, ctx.backend)
    return back, None, None, None


_permutohedral_blur.register_autograd(_blur_backward, setup_context=_blur_context)


def _slice_reference(
    vertices: Tensor,
    weights: Tensor,
    corners: Tensor,
    order: Tensor,
    starts: list[Tensor],
    turns: Tensor,
    scale: float,
    start: Tensor | None,
) -> Tensor:
    return reference.permutohedral_slice(vertices, weights, corners, scale, start)


def _slice_triton(
    vertices: Tensor,
    weights: Tensor,
    corners: Tensor,
    order: Tensor,
    starts: list[Tensor],
    turns: Tensor,
    scale: float,
    start: Tensor | None,
) -> Tensor:
    from fastseg.kernels import permutohedral_lattice as kernels

    return kernels.slice_vertices(vertices, weights, corners, scale, start)


_SLICE = {"reference": _slice_reference, "torch": _slice_reference, "triton": _slice_triton}


@operation(_SLICE)
def _permutohedral_slice(
    vertices: Tensor,
    weights: Tensor,
    corners: Tensor,
    order: Tensor,
    starts: list[Tensor],
    turns: Tensor,
    scale: float,
    start: Tensor | None,
    backend: str,
) -> Tensor:
    return vertices.new_empty((corners.shape[1], vertices.shape[1]))


def _slice_context(ctx: Any, inputs: Any, output: Any) -> None:
    _, weights, corners, order, starts, turns, ctx.scale, start, ctx.backend = inputs
    ctx.has_start = start is not None
    ctx.save_for_backward(weights, corners, order, turns, *starts)


def _slice_backward(ctx: Any, grad: Tensor) -> Any:
    weights, corners, order, turns, *starts = ctx.saved_tensors
    back = _permutohedral_splat(
        grad * ctx.scale, weights, corners, order, starts, turns, ctx.backend
    )
    d_start = grad if ctx.has_start else None
    return back, None, None, None, [None] * len(starts), None, None, d_start, None


_permutohedral_slice.register_autograd(_slice_backward, setup_context=_slice_context)


def _check(name: str, values: Tensor, rows: int) -> None:
    if values.ndim != 2 or len(values) != rows:
        raise ShapeError(f"{name}: expected ({rows}, K), got {tuple(values.shape)}")
    if not values.is_floating_point():
        raise DtypeError(f"{name}: expected floating point, got {values.dtype}")
