"""Counts the bytes that kernels move, in Triton's interpreter, against the fewest possible.

The model. Programs run in the order of their numbers, 16 at a time. What the programs of such a
wave touch is fetched or written once, in sectors of 32 bytes; nothing stays between waves. Masked
lanes touch nothing. The wave in the middle of a launch is counted, at the full size of the picture.
The fewest possible is every tensor argument once, of which a wave's share is its share of the
programs.

That is on the safe side: an A100 runs at least 108 programs at a time, and its L2 cache (40 MB)
keeps much between waves. It says little of kernels that read the same memory in many programs and
are bound by arithmetic, such as attention: those are not counted.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from triton.runtime import interpreter

from kernel_launches import Recorded, Workload, interpreting, record
from kernel_workloads import NETWORKS, workloads

WAVE = 16
SECTOR = 32


def name(launch: Recorded) -> str:
    """The kernel and how it is launched."""
    how = {key: value for key, value in launch.options.items() if isinstance(value, int | str)}
    return f"{launch.name} {json.dumps(how, sort_keys=True)}"


def ratio(launch: Recorded) -> float:
    """Runs the middle wave of a launch and compares what it touched with its share."""
    wave = min(WAVE, launch.programs)
    arguments = [_memory(a) if isinstance(a, Tensor) else a for a in launch.arguments]
    options = {n: _memory(a) if isinstance(a, Tensor) else a for n, a in launch.options.items()}
    with _counting(launch.grid, (launch.programs - wave) // 2) as sectors:
        launch.kernel[(wave, 1, 1)](*arguments, **options)
    moved = len(np.unique(np.concatenate(sectors))) * SECTOR if sectors else 0
    needed = sum(tensor.numel() * tensor.element_size() for tensor in launch.tensors)
    return moved / (needed * wave / launch.programs)


def _memory(tensor: Tensor) -> Tensor:
    """Zeros that lie as the recorded tensor did; pages that are not touched cost nothing."""
    size = tensor.storage_offset() + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    flat = torch.zeros(size + 1, dtype=tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


@contextmanager
def _counting(grid: tuple[int, int, int], first: int) -> Iterator[list[NDArray[np.int64]]]:
    """Collects the sectors that programs touch, which are numbered from `first` on in `grid`."""
    builder = interpreter.interpreter_builder
    sectors: list[NDArray[np.int64]] = []
    place, shape = builder.set_grid_idx, builder.set_grid_dim

    def touch(pointers: Any, mask: Any) -> None:
        addresses = np.broadcast_to(pointers.data, np.shape(mask.data))[mask.data]
        sectors.append(np.unique(addresses.astype(np.int64) // SECTOR))

    def watched(method: str, at: int) -> Any:
        original = getattr(builder, method)

        def call(*arguments: Any) -> Any:
            pointers = arguments[1] if method == "create_atomic_rmw" else arguments[0]
            touch(pointers, arguments[at])
            return original(*arguments)

        return mock.patch.object(builder, method, call)

    def set_place(x: int, _y: int, _z: int) -> None:
        number = first + x
        place(number % grid[0], number // grid[0] % grid[1], number // (grid[0] * grid[1]))

    def set_shape(*_: int) -> None:
        shape(*grid)

    with ExitStack() as stack:
        stack.enter_context(watched("create_masked_load", 1))
        stack.enter_context(watched("create_masked_store", 2))
        stack.enter_context(watched("create_atomic_rmw", 3))
        stack.enter_context(mock.patch.object(builder, "set_grid_idx", set_place))
        stack.enter_context(mock.patch.object(builder, "set_grid_dim", set_shape))
        yield sectors


def _largest_first(given: list[Workload]) -> Iterator[Workload]:
    """Half precision before full; B2 on large pictures, B0, and small pictures, which share more.

    The interpreter does not compute in bfloat16, which is launched as float16 is.
    """
    for dtype in (torch.float16, torch.float32):
        for network in reversed(NETWORKS):
            place = network.name
            yield from (w for w in given if w.dtype == dtype and place in w.place)


def main() -> None:
    """Prints JSON: bytes moved by bytes needed, of each way of launching the kernels named."""
    assert interpreting(), "set TRITON_INTERPRET=1"
    # The checks of every sum and product for overflow take half of the time.
    interpreter.interpreter_builder.options = dataclasses.replace(
        interpreter.interpreter_builder.options, sanitize_overflow=False
    )
    found: dict[str, float] = {}
    for workload in _largest_first(workloads()):
        for launch in record(workload):
            if launch.name in sys.argv[1:] and name(launch) not in found:
                found[name(launch)] = ratio(launch)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
