"""Counts what kernels move and compute, in Triton's interpreter.

The model. Programs run in the order of their numbers, 16 at a time. What the programs of such a
wave touch is fetched or written once, in sectors of 32 bytes; nothing stays between waves. The wave
in the middle of a launch is counted, at the full size of the picture. The fewest possible is every
tensor argument once, of which a wave's share is its share of the programs.

That is on the safe side: an A100 runs at least 108 programs at a time, and its L2 cache (40 MB)
keeps much between waves. Where 16 programs, which share less, move more than a limit allows, 108
are counted. `lattice_traffic.py` has a model of its own, in which the cache has a size.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from triton.runtime import interpreter

import kernel_watching as watching
import lattice_traffic
from kernel_launches import Recorded, Workload, interpreting, record
from kernel_workloads import NETWORKS, workloads
from roofline import CARDS

WAVE = 16
# The multiprocessors of an A100.
LARGE_WAVE = 108


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


def count(launch: Recorded, most: float) -> Count:
    """What a launch does, by its middle wave; a large one where a small one exceeds `most`."""
    counted = count_wave(launch, WAVE)
    return counted if counted.traffic <= most else count_wave(launch, LARGE_WAVE)


def count_wave(launch: Recorded, wave: int) -> Count:
    """Runs the wave in the middle of a launch, and compares what it did with its share."""
    wave = min(wave, launch.programs)
    launch = watching.with_memory(launch)
    seen = watching.watch(launch, (launch.programs - wave) // 2, wave)
    needed = watching.bytes_needed(launch) * wave / launch.programs
    moved = len(seen.sectors()) * watching.SECTOR
    return Count(moved / needed, seen.tensor / needed, seen.plain / needed)


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
        for launch in chain.from_iterable(map(lattice_traffic.launches, NETWORKS[::2])):
            if name(launch) in most.keys() - found.keys():
                found[name(launch)] = dataclasses.replace(
                    count_wave(launch, WAVE), traffic=lattice_traffic.traffic(launch)
                )
    for workload in _largest_first(workloads()):
        for launch in record(workload):
            if name(launch) in most.keys() - found.keys():
                found[name(launch)] = count(launch, most[name(launch)])
    print(json.dumps({at: dataclasses.asdict(each) for at, each in found.items()}, indent=1))


if __name__ == "__main__":
    main()
