"""The permutohedral lattice: placing points in it, and filtering over it without atomics.

Values lie with their channels innermost. What depends on a point and a corner of its simplex is
planar, (d + 1, N): neighbouring points then read neighbouring words.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from fastseg.kernels.launching import Launch, choose

EMBEDDING = [Launch({"BLOCK": 64})]

# Rows times channels that a program works on.
TILES = (512, 1024)
WIDEST = 64


@triton.jit
def _embed(
    features,
    scales,
    lows,
    units,
    keys,
    weights,
    points,
    inverse,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Launched without the fusion of products and sums: a point on the border between two simplices
    # must fall on the same side as in the CPU's engine.
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = n < points
    column = tl.arange(0, WIDTH)[None, :]
    inside = column <= D

    elevated = tl.zeros((BLOCK, WIDTH), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for back in range(D):
        j = D - back
        feature = tl.load(features + (j - 1) * points + n, mask=here, other=0)
        scaled = feature * tl.load(scales + j - 1)
        elevated = tl.where(column == j, (total - j * scaled)[:, None], elevated)
        total += scaled
    elevated = tl.where(column == 0, total[:, None], elevated)

    # Adding and taking off 1.5 · 2²³ rounds to the nearest integer, halves to the even one.
    nearest = (elevated * inverse + 12582912.0) - 12582912.0
    excess = tl.sum(nearest, axis=1)[:, None].to(tl.int32)
    offset = elevated - nearest * (D + 1)
    rank = tl.zeros((BLOCK, WIDTH), tl.int32)
    for i in range(D + 1):
        other = tl.sum(tl.where(column == i, offset, 0.0), axis=1)[:, None]
        ahead = ((column < i) & (offset < other)) | ((column > i) & (offset <= other))
        rank += ahead.to(tl.int32)
    rank += excess
    wrap = (rank < 0).to(tl.int32) - (rank > D).to(tl.int32)
    rank = tl.where(inside, rank + wrap * (D + 1), D + 1)
    nearest += wrap.to(tl.float32)
    offset -= wrap.to(tl.float32) * (D + 1)

    low = tl.load(lows + column, mask=column < D, other=0)
    unit = tl.load(units + column, mask=column < D, other=0)
    base = tl.sum((nearest.to(tl.int32).to(tl.int64) - low) * unit, axis=1)
    before = tl.zeros((BLOCK,), tl.float32)
    first = tl.zeros((BLOCK,), tl.float32)
    for r in range(D + 1):
        at = r * points + n
        stepped = tl.sum(tl.where(rank > D - r, unit, 0), axis=1)
        tl.store(keys + at, base - stepped + r, mask=here)
        ranked = tl.sum(tl.where(rank == D - r, offset, 0.0), axis=1) * inverse
        weight = ranked - before
        first = tl.where(r == 0, weight, first)
        tl.store(weights + at, weight, mask=here & (r > 0))
        before = ranked
    # The first closes the sum to one: it also takes what the last leaves.
    tl.store(weights + n, first + (1.0 - before), mask=here)


@triton.jit
def _place(channels, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr):
    # Programs that differ in the channels alone are neighbours, and share what leads to the rows.
    across = tl.cdiv(channels, BLOCK_K)
    row = (tl.program_id(0) // across).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    return row, tl.program_id(0) % across * BLOCK_K + tl.arange(0, BLOCK_K)


@triton.jit
def _splat(
    values,
    weights,
    order,
    starts,
    turns,
    out,
    points,
    rows,
    channels,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    turn, k = _place(channels, BLOCK_R, BLOCK_K)
    has_row, has_channel = turn < rows, k < channels
    r = tl.load(turns + turn, mask=has_row, other=0).to(tl.int64)
    at = tl.load(starts + r, mask=has_row, other=0)
    end = tl.load(starts + r + 1, mask=has_row, other=0)
    total = tl.zeros((BLOCK_R, BLOCK_K), tl.float32)
    for _ in range(tl.max(end - at)):
        inside = at < end
        entry = tl.load(order + at, mask=inside, other=0)
        weight = tl.load(weights + entry, mask=inside, other=0)
        place = (entry % points).to(tl.int64)[:, None] * channels + k[None, :]
        value = tl.load(values + place, mask=inside[:, None] & has_channel[None, :], other=0)
        total += weight[:, None] * value.to(tl.float32)
        at += 1
    place = r[:, None] * channels + k[None, :]
    tl.store(out + place, total, mask=has_row[:, None] & has_channel[None, :])


@triton.jit
def _sum(
    parts,
    starts,
    out,
    rows,
    channels,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    r, k = _place(channels, BLOCK_R, BLOCK_K)
    has_row, has_channel = r < rows, k < channels
    at = tl.load(starts + r, mask=has_row, other=0)
    end = tl.load(starts + r + 1, mask=has_row, other=0)
    total = tl.zeros((BLOCK_R, BLOCK_K), tl.float32)
    for _ in range(tl.max(end - at)):
        inside = (at < end)[:, None] & has_channel[None, :]
        place = at.to(tl.int64)[:, None] * channels + k[None, :]
        total += tl.load(parts + place, mask=inside, other=0)
        at += 1
    place = r[:, None] * channels + k[None, :]
    tl.store(out + place, total, mask=has_row[:, None] & has_channel[None, :])


@triton.jit
def _blur(
    vertices,
    neighbours,
    out,
    rows,
    channels,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    r, k = _place(channels, BLOCK_R, BLOCK_K)
    has_row, has_channel = r < rows, k < channels
    before = tl.load(neighbours + r, mask=has_row, other=-1).to(tl.int64)[:, None]
    after = tl.load(neighbours + rows + r, mask=has_row, other=-1).to(tl.int64)[:, None]
    place = r[:, None] * channels + k[None, :]
    inside = has_row[:, None] & has_channel[None, :]
    here = tl.load(vertices + place, mask=inside, other=0).to(tl.float32)
    first = vertices + before * channels + k[None, :]
    second = vertices + after * channels + k[None, :]
    beside = tl.load(first, mask=inside & (before >= 0), other=0).to(tl.float32)
    beside += tl.load(second, mask=inside & (after >= 0), other=0).to(tl.float32)
    tl.store(out + place, here + 0.5 * beside, mask=inside)


@triton.jit
def _slice(
    vertices,
    weights,
    corners,
    start,
    out,
    scale,
    points,
    channels,
    D: tl.constexpr,
    HAS_START: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    n, k = _place(channels, BLOCK_R, BLOCK_K)
    has_point, has_channel = n < points, k < channels
    inside = has_point[:, None] & has_channel[None, :]
    total = tl.zeros((BLOCK_R, BLOCK_K), tl.float32)
    for r in range(D + 1):
        at = r * points + n
        corner = tl.load(corners + at, mask=has_point, other=0).to(tl.int64)
        weight = tl.load(weights + at, mask=has_point, other=0)
        place = corner[:, None] * channels + k[None, :]
        total += weight[:, None] * tl.load(vertices + place, mask=inside, other=0)
    total *= scale
    place = n[:, None] * channels + k[None, :]
    if HAS_START:
        total += tl.load(start + place, mask=inside, other=0)
    tl.store(out + place, total, mask=inside)


def embed(features: Tensor, scales: Tensor, lows: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """Launches the embedding: (d, N) features to (d + 1, N) keys and weights of the corners.

    Args:
        features: (d, N) float32.
        scales: (d) float32, what each feature is multiplied by.
        lows: (d) int64, what is taken off each coordinate.
        units: (d) int64, one step along each coordinate.
    """
    dimension, points = features.shape
    corners = dimension + 1
    features = features.contiguous()
    keys = features.new_empty((corners, points), dtype=torch.int64)
    weights = torch.empty_like(keys, dtype=torch.float32)
    if points == 0:
        return keys, weights

    def launch(how: Launch) -> None:
        wrap_triton(_embed)[(triton.cdiv(points, how.blocks["BLOCK"]),)](
            features,
            scales,
            lows,
            units,
            keys,
            weights,
            points,
            1 / corners,
            D=dimension,
            WIDTH=triton.next_power_of_2(corners),
            enable_fp_fusion=False,
            **how.options(),
        )

    launch(choose("permutohedral_embed", (dimension,), EMBEDDING, launch, features))
    return keys, weights


def splat(
    values: Tensor, weights: Tensor, order: Tensor, starts: list[Tensor], turns: Tensor
) -> Tensor:
    """Launches the splat: (N, K) values to (M, K) float32 vertices.

    Args:
        values: (N, K) float.
        weights: (d + 1, N) float32.
        order: ((d + 1) N) int32, the corners of all points sorted by vertex.
        starts: the tree of sums: where each sum starts among `order`, then where each sum of
            sums starts among those, and so on until there is one for each vertex.
        turns: int32, which of the first sums is made first, which next.
    """
    values, weights = values.contiguous(), weights.contiguous()
    points, channels = values.shape
    vertices = values.new_empty((len(starts[0]) - 1, channels), dtype=torch.float32)

    def launch(how: Launch) -> None:
        wrap_triton(_splat)[_grid(vertices, how)](
            values,
            weights,
            order,
            starts[0],
            turns,
            vertices,
            points,
            len(vertices),
            channels,
            **how.options(),
        )

    if vertices.numel():
        launch(_chosen("permutohedral_splat", values, launch))
    for level in starts[1:]:
        vertices = _sums(vertices, level)
    return vertices


def _sums(parts: Tensor, starts: Tensor) -> Tensor:
    channels = parts.shape[1]
    sums = parts.new_empty((len(starts) - 1, channels))

    def launch(how: Launch) -> None:
        wrap_triton(_sum)[_grid(sums, how)](
            parts, starts, sums, len(sums), channels, **how.options()
        )

    if sums.numel():
        launch(_chosen("permutohedral_sums", parts, launch))
    return sums


def blur(vertices: Tensor, neighbours: Tensor, reverse: bool) -> Tensor:
    """Launches the blur: (M, K) float32 vertices along every axis in turn, or in reverse.

    Args:
        vertices: (M, K) float32.
        neighbours: (d + 1, 2, M) int32, -1 where there is none.
        reverse: whether the last axis comes first.
    """
    blurred = vertices.contiguous()
    for axis in reversed(neighbours.unbind()) if reverse else neighbours.unbind():
        blurred = _blurred(blurred, axis)
    return blurred


def _blurred(vertices: Tensor, neighbours: Tensor) -> Tensor:
    out = torch.empty_like(vertices)
    rows, channels = vertices.shape

    def launch(how: Launch) -> None:
        wrap_triton(_blur)[_grid(out, how)](
            vertices, neighbours, out, rows, channels, **how.options()
        )

    if out.numel():
        launch(_chosen("permutohedral_blur", vertices, launch))
    return out


def slice_vertices(
    vertices: Tensor, weights: Tensor, corners: Tensor, scale: float, start: Tensor | None
) -> Tensor:
    """Launches the slice: (M, K) float32 vertices to (N, K) float32, times `scale` plus `start`.

    Args:
        vertices: (M, K) float32.
        weights: (d + 1, N) float32.
        corners: (d + 1, N) int32, the vertices of each point.
        scale: a factor.
        start: (N, K) float32, what the result is added to; None is zero.
    """
    vertices, weights = vertices.contiguous(), weights.contiguous()
    start = None if start is None else start.contiguous()
    count, points = corners.shape
    out = vertices.new_empty((points, vertices.shape[1]))

    def launch(how: Launch) -> None:
        wrap_triton(_slice)[_grid(out, how)](
            vertices,
            weights,
            corners,
            out if start is None else start,
            out,
            scale,
            points,
            out.shape[1],
            D=count - 1,
            HAS_START=start is not None,
            **how.options(),
        )

    if out.numel():
        launch(_chosen("permutohedral_slice", vertices, launch))
    return out


def _grid(out: Tensor, how: Launch) -> tuple[int]:
    rows, channels = out.shape
    across = triton.cdiv(channels, how.blocks["BLOCK_K"])
    return (triton.cdiv(rows, how.blocks["BLOCK_R"]) * across,)


def _chosen(kernel: str, values: Tensor, launch: Callable[[Launch], object]) -> Launch:
    """The launch that suits the channels; how many rows there are depends on each picture."""
    channels = values.shape[1]
    width = min(triton.next_power_of_2(channels), WIDEST)
    candidates = [Launch({"BLOCK_R": tile // width, "BLOCK_K": width}) for tile in TILES]
    return choose(kernel, (channels, str(values.dtype)), candidates, launch, values)
