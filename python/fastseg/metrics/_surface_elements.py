"""How long or large is what marching squares and cubes put between pixels.

A code says which of the pixels around a cell are inside: four pixels in a picture, eight in a
volume, the pixel with the highest coordinates in the lowest bit. The surface passes midway between
an inside pixel and an outside one.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Corner: TypeAlias = tuple[int, int, int]
Point: TypeAlias = NDArray[np.float64]
Triangles: TypeAlias = list[tuple[int, int, int]]

# Eight pixels around a cell; the first has the highest bit.
_CORNERS: list[Corner] = [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]


@functools.lru_cache(maxsize=64)
def cell_weights(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Length of the contour, or area of the surface, in the cell of each code: (256,).

    Codes that do not occur have weight zero.
    """
    weights = np.zeros(256)
    if len(spacing) == 2:
        weights[:16] = _lengths(spacing)
        return weights
    z, y, x = spacing
    sizes: NDArray[np.float64] = np.linalg.norm(_normals() * [y * x, z * x, z * y], axis=2).sum(1)
    return sizes


def _lengths(spacing: tuple[float, ...]) -> list[float]:
    """Four pixels, in the order of bits 8, 4, 2, 1: upper left and right, lower left and right."""
    height, width = spacing
    corner = float(np.hypot(height / 2, width / 2))
    lengths = []
    for code in range(16):
        bits = f"{code:04b}"
        inside = bits.count("1")
        if inside in (0, 4):
            lengths.append(0.0)
        elif inside in (1, 3):
            lengths.append(corner)
        elif bits[0] == bits[3]:  # two opposite corners
            lengths.append(2 * corner)
        else:
            lengths.append(width if bits[0] == bits[1] else height)
    return lengths


@functools.cache
def _normals() -> NDArray[np.float64]:
    """Area vectors of the triangles in each cell of side one: (256, triangles, 3)."""
    found: list[list[Point]] = []
    for code in range(256):
        # Few pixels inside are kept apart where they only touch, and so are few outside.
        few = code if code.bit_count() <= 4 else 255 - code
        polygons = _polygons(few)
        found.append([normal for polygon in polygons for normal in _triangle_normals(polygon)])
    most = max(map(len, found))
    normals = np.zeros((256, most, 3))
    for code, triangles in enumerate(found):
        for i, normal in enumerate(triangles):
            normals[code, i] = normal
    return normals


def _polygons(code: int) -> list[list[Point]]:
    """The closed lines on which the surface meets the faces of the cell."""
    inside = {corner for bit, corner in enumerate(_CORNERS) if code & 128 >> bit}
    links: dict[frozenset[Corner], list[frozenset[Corner]]] = {}
    for face in _faces():
        edges = [frozenset((face[i], face[(i + 1) % 4])) for i in range(4)]
        cut = [edge for edge in edges if len(edge & inside) == 1]
        if len(cut) == 2:
            ends = [(cut[0], cut[1])]
        else:  # none, or two opposite corners: one piece around each
            ends = [(edges[i - 1], edges[i]) for i in range(4) if cut and face[i] in inside]
        for one, other in ends:
            links.setdefault(one, []).append(other)
            links.setdefault(other, []).append(one)
    polygons = []
    while links:
        polygon = [next(iter(links))]
        while following := [edge for edge in links.pop(polygon[-1]) if edge in links]:
            polygon.append(following[0])
        polygons.append([np.mean(list(edge), axis=0) for edge in polygon])
    return polygons


def _faces() -> Iterator[list[Corner]]:
    """The corners of each face, in turn around it."""
    for axis, side in itertools.product(range(3), (0, 1)):
        corners = []
        for pair in ((0, 0), (0, 1), (1, 1), (1, 0)):
            coordinates = list(pair)
            coordinates.insert(axis, side)
            corners.append((coordinates[0], coordinates[1], coordinates[2]))
        yield corners


def _triangle_normals(polygon: list[Point]) -> list[Point]:
    """Area vectors of the triangles of a polygon; one that is not flat bulges as far as it can."""

    def normals(triangles: Triangles) -> list[Point]:
        return [
            np.cross(polygon[b] - polygon[a], polygon[c] - polygon[a]) / 2 for a, b, c in triangles
        ]

    def area(triangles: Triangles) -> float:
        return round(sum(float(np.linalg.norm(normal)) for normal in normals(triangles)), 9)

    return normals(max(_triangulations(0, len(polygon) - 1), key=area))


def _triangulations(first: int, last: int) -> list[Triangles]:
    """Every way to cut the polygon from one corner to another into triangles."""
    if last - first < 2:
        return [[]]
    return [
        [*before, *after, (first, middle, last)]
        for middle in range(first + 1, last)
        for before in _triangulations(first, middle)
        for after in _triangulations(middle, last)
    ]
