"""Counts what the permutohedral lattice's kernels move, which depends on the picture.

The model. Programs run one after the other over the lattice of a photograph, and share a cache: a
sector of 32 bytes stays in it for as many programs as touch 4 MB of sectors on average. That is the
smallest second-level cache of the chips that kernels are compiled for, gfx942's for each of its
eight parts; sm_86 has 6 MB, an A100 40, an H100 50.

What a program touches is read from the tensors that it is given. A wave of each launch runs in
Triton's interpreter, to see that it touches just that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import kernel_watching as watching
from fastseg import ops
from kernel_launches import Recorded, listening
from kernel_workloads import Network

CACHE = 4 * 10**6
# As pydensecrf's examples have it: pixels, and values of 8 bits.
SIGMA_PLACE, SIGMA_COLOR = 80, 13
PHOTOGRAPH = Path(__file__).resolve().parent.parent / "examples" / "lemur.png"
# Programs that are run to see what they touch.
WAVE = 16

Integers = NDArray[np.int64]


def launches(network: Network) -> list[Recorded]:
    """The launches of a filter over a photograph's colours, with the places that they read."""
    lattice = ops.permutohedral_lattice(_features(network.height, network.width))
    q = torch.empty(network.height * network.width, network.classes)
    found: list[Recorded] = []
    with listening(None, found.append):
        vertices = lattice.blur(lattice.splat(q))
        lattice.slice(vertices)
        lattice.slice(vertices, start=q)
    return found


def _features(height: int, width: int) -> Tensor:
    """(5, H·W) places and colours of a photograph that goes on as its mirror image."""
    with Image.open(PHOTOGRAPH) as opened:
        picture = np.asarray(opened.convert("RGB"), dtype=np.float32)
    beyond = [(0, max(0, height - picture.shape[0])), (0, max(0, width - picture.shape[1])), (0, 0)]
    picture = np.pad(picture, beyond, mode="symmetric")[:height, :width]
    places = np.mgrid[:height, :width].astype(np.float32)
    features = np.concatenate([places / SIGMA_PLACE, picture.transpose(2, 0, 1) / SIGMA_COLOR])
    return torch.from_numpy(features.reshape(5, -1))


def traffic(launch: Recorded) -> float:
    """The bytes that a splat, a sum, a blur or a slice moves, by the fewest possible."""
    launch = watching.with_memory(launch)
    programs, sectors = (np.concatenate(each) for each in zip(*_touches(launch), strict=True))
    _check(launch, programs, sectors)
    moved = _missed(programs, sectors, launch.programs) * watching.SECTOR
    return moved / watching.bytes_needed(launch)


def _missed(programs: Integers, sectors: Integers, count: int) -> int:
    """How many sectors are fetched or written, and not found in the cache."""
    # One number for both: NumPy sorts numbers many times faster than pairs.
    sectors, programs = np.divmod(np.sort((sectors - sectors.min()) * count + programs), count)
    again = sectors[1:] == sectors[:-1]
    waits = (programs[1:] - programs[:-1])[again]
    # What is touched no more stays on until something else takes its place.
    rests = count - programs[np.append(~again, True)]
    # The more programs a sector outlasts, the more sectors there are at a time.
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        held = np.minimum(waits, middle).sum() + np.minimum(rests, middle).sum()
        fits = held * watching.SECTOR <= CACHE * count
        low, high = (middle, high) if fits else (low, middle - 1)
    return len(rests) + int((waits > low).sum())


def _check(launch: Recorded, programs: Integers, sectors: Integers) -> None:
    """Fails where a wave touches other sectors than this file says."""
    wave = min(WAVE, launch.programs)
    first = (launch.programs - wave) // 2
    expected = np.unique(sectors[(programs >= first) & (programs < first + wave)])
    if not np.array_equal(watching.watch(launch, first, wave).sectors(), expected):
        raise AssertionError(f"{launch.name} touches other sectors than {__name__} says")


# A tensor, the launch's row that touches it, the places, and the columns where these are rows.
Access = tuple[Tensor, Integers, Integers, slice | None]


def _touches(launch: Recorded) -> Iterator[tuple[Integers, Integers]]:
    """Numbers of programs, and of the sectors that they touch."""
    accesses = _ACCESSES[launch.name.rsplit(".", 1)[1]]
    rows, channels = launch.arguments[-2:]
    height, width = launch.options["BLOCK_R"], launch.options["BLOCK_K"]
    across = -(-channels // width)
    for block in range(across):
        columns = slice(block * width, min((block + 1) * width, channels))
        for tensor, row, places, chosen in accesses(launch.arguments, np.arange(rows), columns):
            yield _sectors(tensor, row // height * across + block, places, chosen)


def _sectors(
    tensor: Tensor, programs: Integers, places: Integers, columns: slice | None
) -> tuple[Integers, Integers]:
    size, base = tensor.element_size(), tensor.data_ptr()
    if columns is None:
        start, stop = places, places + 1
    else:
        start, stop = (places * tensor.shape[-1] + end for end in (columns.start, columns.stop))
    low = (base + start * size) // watching.SECTOR
    high = (base + stop * size - 1) // watching.SECTOR
    sectors = low[:, None] + np.arange(int((high - low).max()) + 1)
    inside = sectors <= high[:, None]
    return np.repeat(programs, inside.sum(1)), sectors[inside]


def _splat(arguments: tuple[Any, ...], rows: Integers, columns: slice) -> Iterator[Access]:
    values, weights, order, starts, turns, out, points, *_ = arguments
    turn = _numbers(turns)
    row, at = _runs(starts, np.argsort(turn))
    entries = _numbers(order)[at]
    yield values, row, entries % points, columns
    yield weights, row, entries, None
    yield order, row, at, None
    yield turns, rows, rows, None
    yield from _ends(starts, out, rows, turn, columns)


def _sum(arguments: tuple[Any, ...], rows: Integers, columns: slice) -> Iterator[Access]:
    parts, starts, out, *_ = arguments
    yield parts, *_runs(starts, rows), columns
    yield from _ends(starts, out, rows, rows, columns)


def _blur(arguments: tuple[Any, ...], rows: Integers, columns: slice) -> Iterator[Access]:
    vertices, neighbours, out, *_ = arguments
    yield vertices, rows, rows, columns
    for side, found in enumerate(_numbers(neighbours).reshape(2, -1)):
        yield neighbours, rows, side * len(rows) + rows, None
        yield vertices, rows[found >= 0], found[found >= 0], columns
    yield out, rows, rows, columns


def _slice(arguments: tuple[Any, ...], rows: Integers, columns: slice) -> Iterator[Access]:
    vertices, weights, corners, start, out, *_ = arguments
    for corner, found in enumerate(_numbers(corners).reshape(-1, len(rows))):
        yield corners, rows, corner * len(rows) + rows, None
        yield weights, rows, corner * len(rows) + rows, None
        yield vertices, rows, found, columns
    for each in {id(tensor): tensor for tensor in (start, out)}.values():
        yield each, rows, rows, columns


_ACCESSES = {"_splat": _splat, "_sum": _sum, "_blur": _blur, "_slice": _slice}


def _ends(
    starts: Tensor, out: Tensor, rows: Integers, sums: Integers, columns: slice
) -> Iterator[Access]:
    yield starts, rows, sums, None
    yield starts, rows, sums + 1, None
    yield out, rows, sums, columns


def _runs(starts: Tensor, rows: Integers) -> tuple[Integers, Integers]:
    """The row that each item belongs to, and its place."""
    bounds = _numbers(starts)
    return np.repeat(rows, np.diff(bounds)), np.arange(bounds[-1])


def _numbers(tensor: Tensor) -> Integers:
    return tensor.numpy().astype(np.int64).ravel()
