"""A permutohedral lattice in plain NumPy, float32, any dimension: slow, and easy to read.

Source: Adams, Baek & Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral
Lattice". The order of the float32 operations is the one pydensecrf was measured to have, because
a point on the border of two simplices falls into the one or the other by its last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array32 = NDArray[np.float32]
Index = NDArray[np.int64]

F32 = np.float32


def elevate(features: Array32) -> Array32:
    """Map (d, N) features onto the hyperplane of d+1 coordinates that sum to zero."""
    d, n = features.shape
    spread = F32(np.sqrt(2.0 / 3.0) * (d + 1))
    scale = [F32(1.0 / np.sqrt((i + 1.0) * (i + 2.0)) * float(spread)) for i in range(d)]
    elevated = np.zeros((d + 1, n), F32)
    total = np.zeros(n, F32)
    for j in range(d, 0, -1):
        c = features[j - 1] * scale[j - 1]
        elevated[j] = total - F32(j) * c
        total = total + c
    elevated[0] = total
    return elevated


def simplices(features: Array32) -> tuple[Index, Array32]:
    """Vertices (N, d+1, d) and barycentric weights (N, d+1) of the simplex around every point."""
    d, n = features.shape
    e = elevate(features)
    reciprocal = F32(1.0) / F32(d + 1)
    v = np.rint(e * reciprocal)
    rho = v * F32(d + 1)
    v_sum = v.sum(axis=0).astype(np.int64)

    rank = np.zeros((d + 1, n), np.int64)
    residual = e - rho
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            less = residual[i] < residual[j]
            rank[i] += less
            rank[j] += ~less
    rank += v_sum
    low, high = rank < 0, rank > d
    rank = rank + (d + 1) * low - (d + 1) * high
    rho = rho + F32(d + 1) * low.astype(F32) - F32(d + 1) * high.astype(F32)

    barycentric = np.zeros((n, d + 2), F32)
    points = np.arange(n)
    for i in range(d + 1):
        t = (e[i] - rho[i]) * reciprocal
        barycentric[points, d - rank[i]] += t
        barycentric[points, d + 1 - rank[i]] -= t
    barycentric[:, 0] += F32(1.0) + barycentric[:, d + 1]

    vertices = np.zeros((n, d + 1, d), np.int64)
    for r in range(d + 1):
        for i in range(d):
            shift = np.where(rank[i] <= d - r, r, r - (d + 1))
            vertices[:, r, i] = rho[i].astype(np.int64) + shift
    return vertices, barycentric[:, : d + 1]


class PlainLattice:
    """The lattice of features (d, N): `filter` is slice(blur(splat(values))) / (1 + 2^-d).

    `pad_origin` adds the vertices of up to three points with zero features, to make the number of
    points a multiple of four: a quirk of pydensecrf that moves results near the origin.
    """

    def __init__(self, features: ArrayLike, *, pad_origin: bool = False) -> None:
        points = np.ascontiguousarray(features, dtype=F32)
        self.dimension, self.num_points = points.shape
        d = self.dimension
        vertices, self.weights = simplices(points)
        keys = [tuple(key) for key in vertices.reshape(-1, d).tolist()]
        if pad_origin and self.num_points % 4:
            keys += [tuple(key) for key in simplices(np.zeros((d, 1), F32))[0][0].tolist()]
        index: dict[tuple[int, ...], int] = {}
        ids = [index.setdefault(key, len(index)) for key in keys]
        self.num_vertices = len(index)
        self.offsets = np.array(ids[: self.num_points * (d + 1)]).reshape(-1, d + 1)

        # The last row, num_vertices, stands for a missing neighbour and is always zero.
        missing = self.num_vertices
        self.neighbours = np.full((d + 1, self.num_vertices, 2), missing)
        for j in range(d + 1):
            for key, number in index.items():
                below = [c - 1 for c in key]
                above = [c + 1 for c in key]
                if j < d:
                    below[j] = key[j] + d
                    above[j] = key[j] - d
                self.neighbours[j, number, 0] = index.get(tuple(below), missing)
                self.neighbours[j, number, 1] = index.get(tuple(above), missing)

    def splat(self, values: Array32) -> Array32:
        """(C, N) at the points to (M+1, C) at the vertices, adding in the order of the points."""
        out = np.zeros((self.num_vertices + 1, len(values)), F32)
        per_vertex = self.weights[:, :, None] * values.T[:, None, :]
        np.add.at(out, self.offsets, per_vertex)
        return out

    def blur(self, vertices: Array32, axes: list[int]) -> Array32:
        """Taps 1/2, 1, 1/2 along each lattice axis in turn; nothing is renormalised."""
        for j in axes:
            first, second = self.neighbours[j].T
            new = np.zeros_like(vertices)
            new[:-1] = vertices[:-1] + F32(0.5) * (vertices[first] + vertices[second])
            vertices = new
        return vertices

    def slice(self, vertices: Array32) -> Array32:
        """(M+1, C) at the vertices to (C, N) at the points, times 1 / (1 + 2^-d)."""
        alpha = F32(1.0 / (1.0 + 2.0**-self.dimension))
        out = np.zeros((vertices.shape[1], self.num_points), F32)
        for r in range(self.dimension + 1):
            out += (self.weights[:, r] * alpha) * vertices[self.offsets[:, r]].T
        return out

    def _apply(self, values: ArrayLike, axes: list[int]) -> Array32:
        array = np.asarray(values, dtype=F32)
        rows = array.reshape(-1, self.num_points)
        return self.slice(self.blur(self.splat(rows), axes)).reshape(array.shape)

    def filter(self, values: ArrayLike) -> Array32:
        """The filter of (C, N) or (N,) values."""
        return self._apply(values, list(range(self.dimension + 1)))

    def transpose(self, values: ArrayLike) -> Array32:
        """Its exact adjoint: the axes of the blur in reverse."""
        return self._apply(values, list(range(self.dimension, -1, -1)))
