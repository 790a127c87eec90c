"""How a kernel is launched: the candidates, and which of them suits a shape on a device."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# Choices measured on real devices: {device: {kernel: {key: place among the candidates}}}.
SHIPPED = Path(__file__).with_name("tuned.json")

Key = tuple[int | str, ...]


@dataclass(frozen=True)
class Launch:
    """One way of launching a kernel: sizes of its blocks, warps, and stages of its pipeline."""

    blocks: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2

    def options(self) -> dict[str, int]:
        """The keyword arguments of the launch."""
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}


_chosen: dict[tuple[str, str, Key], Launch] = {}


def choose(
    kernel: str,
    key: Key,
    candidates: Sequence[Launch],
    run: Callable[[Launch], object],
    like: Tensor,
) -> Launch:
    """The best candidate for a shape: the recorded one, or the fastest of a first try.

    While a compiler traces, while a CUDA graph is captured and where there is no GPU nothing can
    be timed: then it is the recorded one or the first.

    Args:
        kernel: its name.
        key: what the choice depends on: sizes and dtypes.
        candidates: the first suits most shapes.
        run: launches the kernel; may be called several times with the same result.
        like: a tensor of the device.

    Returns:
        One of `candidates`.
    """
    if like.device.type != "cuda":
        return candidates[0]
    device = torch.cuda.get_device_name(like.device) if torch.cuda.is_available() else ""
    place = (device, kernel, key)
    if place not in _chosen:
        recorded = _shipped().get(device, {}).get(kernel, {}).get(":".join(map(str, key)))
        if recorded is not None:
            _chosen[place] = candidates[recorded]
        elif not device or len(candidates) == 1 or _cannot_time(like):
            return candidates[0]
        else:
            _chosen[place] = min(candidates, key=lambda launch: _milliseconds(run, launch))
    return _chosen[place]


def _cannot_time(like: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(like, FakeTensor) or torch.cuda.is_current_stream_capturing()


def _milliseconds(run: Callable[[Launch], object], launch: Launch) -> float:
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    try:
        return float(do_bench(lambda: run(launch), warmup=5, rep=20))
    except OutOfResources:
        return float("inf")


@cache
def _shipped() -> dict[str, dict[str, dict[str, int]]]:
    if not SHIPPED.exists():
        return {}
    table: dict[str, dict[str, dict[str, int]]] = json.loads(SHIPPED.read_text("utf-8"))
    return table
