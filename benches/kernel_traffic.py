"""Counts what kernels move and compute, in Triton's interpreter.

The model. Programs run in the order of their numbers, 16 at a time. What the programs of such a
wave touch is fetched or written once, in sectors of 32 bytes; nothing stays between waves. Masked
lanes touch nothing. The wave in the middle of a launch is counted, at the full size of the picture.
The fewest possible is every tensor argument once, of which a wave's share is its share of the
programs.

That is on the safe side: an A100 runs at least 108 programs at a time, and its L2 cache (40 MB)
keeps much between waves. Where 16 programs, which share less, move more than a limit allows, 108
are counted.

What the lattice's kernels touch depends on the picture. They run over the lattice of a photograph,
and waves from several places of a launch are counted: of the first sums, the blur's first axis.

Operations are those on floating-point numbers: products in matrices, as the blocks pad them, and
sums, products, quotients, roots and powers outside, one each.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from triton._C.libtriton import ir
from triton.runtime import interpreter

from fastseg import ops
from kernel_launches import Recorded, Workload, interpreting, listening, record
from kernel_workloads import NETWORKS, Network, workloads
from roofline import CARDS

WAVE = 16
# The multiprocessors of an A100.
LARGE_WAVE = 108
SECTOR = 32
# Large waves of a launch of the lattice's kernels.
SAMPLES = 4
# As pydensecrf's examples have it: pixels, and values of 8 bits.
SIGMA_PLACE, SIGMA_COLOR = 80, 13
PHOTOGRAPH = Path(__file__).resolve().parent.parent / "examples" / "lemur.png"


def name(launch: Recorded) -> str:
    """The kernel and how it is launched."""
    how = {key: value for key, value in launch.options.items() if isinstance(value, int | str)}
    return f"{launch.name} {json.dumps(how, sort_keys=True)}"


@dataclass(frozen=True)
class Count:
    """What a launch does.

    Attributes:
        traffic: bytes moved, by the fewest possible.
        tensor: operations of tensor cores for each of the fewest bytes possible; of TF32, which
            takes them twice as long, two for each.
        plain: operations of the other cores, likewise.
    """

    traffic: float
    tensor: float
    plain: float

    def arithmetic(self) -> list[float]:
        """The least time of the operations by that of the fewest bytes, on each of `CARDS`."""
        return [c.bandwidth * (self.tensor / c.tensor + self.plain / c.plain) for c in CARDS]


@dataclass
class _Watch:
    """What the programs of a wave have done."""

    sectors: list[NDArray[np.int64]] = field(default_factory=list)
    tensor: int = 0
    plain: int = 0


def count(launch: Recorded, most: float) -> Count:
    """What a launch does, by its middle wave; a large one where a small one exceeds `most`."""
    counted = count_waves(launch, WAVE)
    return counted if counted.traffic <= most else count_waves(launch, LARGE_WAVE)


def count_waves(launch: Recorded, wave: int, waves: int = 1) -> Count:
    """Runs waves of a launch, evenly spaced, and compares what they did with their share."""
    wave = min(wave, launch.programs)
    launch = with_memory(launch)
    moved = tensor = plain = 0
    for index in range(waves):
        first = (launch.programs - wave) * (2 * index + 1) // (2 * waves)
        # Zeros are divided by zeros.
        with _watching() as watch, numbered_from(first, launch.grid), np.errstate(all="ignore"):
            launch.kernel[(wave, 1, 1)](*launch.arguments, **launch.options)
        moved += len(np.unique(np.concatenate(watch.sectors))) * SECTOR
        tensor, plain = tensor + watch.tensor, plain + watch.plain
    tensors = {id(tensor): tensor for tensor in launch.tensors}.values()
    whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    needed = whole * wave * waves / launch.programs
    return Count(moved / needed, tensor / needed, plain / needed)


def with_memory(launch: Recorded) -> Recorded:
    """The launch with zeros in tensors that have no memory."""
    memory = {id(tensor): _memory(tensor) for tensor in launch.tensors}
    return dataclasses.replace(
        launch,
        arguments=tuple(memory.get(id(a), a) for a in launch.arguments),
        options={name: memory.get(id(a), a) for name, a in launch.options.items()},
    )


def _memory(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, FakeTensor):
        return tensor
    size = tensor.storage_offset() + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    flat = untouched(size + 1, tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def untouched(count: int, dtype: torch.dtype) -> Tensor:
    """Zeros on pages that are not there until they are touched, and small then."""
    pages = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype)


@contextmanager
def numbered_from(first: int, grid: tuple[int, int, int]) -> Iterator[None]:
    """Has a launch along one axis be that of programs from number `first` on in `grid`."""
    builder = interpreter.interpreter_builder
    place, shape = builder.set_grid_idx, builder.set_grid_dim

    def set_place(x: int, _y: int, _z: int) -> None:
        number = first + x
        place(number % grid[0], number // grid[0] % grid[1], number // (grid[0] * grid[1]))

    def set_shape(*_: int) -> None:
        shape(*grid)

    with (
        mock.patch.object(builder, "set_grid_idx", set_place),
        mock.patch.object(builder, "set_grid_dim", set_shape),
    ):
        yield


@contextmanager
def _watching() -> Iterator[_Watch]:
    """Notes what programs touch and compute."""
    builder = interpreter.interpreter_builder
    watch = _Watch()

    def touch(pointers: Any, mask: Any) -> None:
        addresses = np.broadcast_to(pointers.data, np.shape(mask.data))[mask.data]
        watch.sectors.append(np.unique(addresses.astype(np.int64) // SECTOR))

    def touching(method: str, at: int) -> Any:
        original = getattr(builder, method)

        def call(*arguments: Any) -> Any:
            pointers = arguments[1] if method == "create_atomic_rmw" else arguments[0]
            touch(pointers, arguments[at])
            return original(*arguments)

        return mock.patch.object(builder, method, call)

    def computing(owner: Any, method: str, tally: Callable[[Any, tuple[Any, ...]], None]) -> Any:
        original = getattr(owner, method)

        def call(*arguments: Any) -> Any:
            result = original(*arguments)
            tally(result, arguments)
            return result

        return mock.patch.object(owner, method, call)

    def each(result: Any, _: tuple[Any, ...]) -> None:
        if np.issubdtype(result.data.dtype, np.floating):
            watch.plain += np.size(result.data)

    def reduction(_: Any, arguments: tuple[Any, ...]) -> None:
        data = arguments[1][0].handle.data
        if np.issubdtype(data.dtype, np.floating):
            watch.plain += np.size(data)

    def product(_: Any, arguments: tuple[Any, ...]) -> None:
        left, right, _, precision, *_ = arguments
        operations = 2 * left.data.size * right.data.shape[-1]
        if left.data.dtype != np.float32:
            watch.tensor += operations
        elif precision == ir.INPUT_PRECISION.TF32:
            watch.tensor += 2 * operations
        else:
            watch.plain += operations

    # Triton prepares its language again whenever a kernel calls a function: most of the time.
    prepare, prepared = interpreter._patch_lang, set()

    def prepare_once(function: Any) -> Any:
        module = id(function.__globals__)
        if module in prepared:
            return None
        prepared.add(module)
        return prepare(function)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(interpreter, "_patch_lang", prepare_once))
        stack.enter_context(touching("create_masked_load", 1))
        stack.enter_context(touching("create_masked_store", 2))
        stack.enter_context(touching("create_atomic_rmw", 3))
        for method in ("binary_op", "unary_op", "create_erf", "create_rsqrt"):
            stack.enter_context(computing(builder, method, each))
        stack.enter_context(computing(builder, "create_dot", product))
        stack.enter_context(computing(interpreter.ReduceOps, "apply_impl", reduction))
        yield watch


def lattice_launches(network: Network) -> list[Recorded]:
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


def _largest_first(given: list[Workload]) -> Iterator[Workload]:
    """Half precision before full; B2 on large pictures, B0, and small pictures, which share more.

    The interpreter does not compute in bfloat16, which is launched as float16 is.
    """
    for dtype in (torch.float16, torch.float32):
        for network in reversed(NETWORKS):
            place = network.name
            yield from (w for w in given if w.dtype == dtype and place in w.place)


def main() -> None:
    """Prints JSON: what launches move and compute; the argument is one of them and their limits."""
    assert interpreting(), "set TRITON_INTERPRET=1"
    # The checks of every sum and product for overflow take half of the time.
    interpreter.interpreter_builder.options = dataclasses.replace(
        interpreter.interpreter_builder.options, sanitize_overflow=False
    )
    most: dict[str, float] = json.loads(sys.argv[1])
    found: dict[str, Count] = {}
    if any(launch.startswith("permutohedral_lattice.") for launch in most):
        for launch in chain.from_iterable(map(lattice_launches, NETWORKS[::2])):
            if name(launch) in most.keys() - found.keys():
                found[name(launch)] = count_waves(launch, LARGE_WAVE, SAMPLES)
    for workload in _largest_first(workloads()):
        for launch in record(workload):
            if name(launch) in most.keys() - found.keys():
                found[name(launch)] = count(launch, most[name(launch)])
    print(json.dumps({at: dataclasses.asdict(each) for at, each in found.items()}, indent=1))


if __name__ == "__main__":
    main()
