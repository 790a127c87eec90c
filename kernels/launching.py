"""How a kernel is launched: the candidates, and which of them suits a shape on a device.

Which candidate is fastest is measured once for a kind of device and a range of shapes, and kept in
the user's cache: `FASTSEG_CACHE` names the folder, `~/.cache/fastseg` is it otherwise. Choices that
ship with fastseg are in `tuned.json`. `FASTSEG_AUTOTUNE=0` measures nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SHIPPED = Path(__file__).with_name("tuned.json")

Key = tuple[int | str, ...]
# {"device, kernel, key": options of the launch}
Table = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Launch:
    """One way of launching a kernel: sizes of its blocks, warps, and stages of its pipeline."""

    blocks: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2

    def options(self) -> dict[str, int]:
        """The keyword arguments of the launch."""
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}


_chosen: dict[str, Launch] = {}


def choose(
    kernel: str,
    key: Key,
    candidates: Sequence[Launch],
    run: Callable[[Launch], object],
    like: Tensor,
) -> Launch:
    """The best candidate for a shape: the recorded one, or the fastest of a first try.

    While a compiler traces, while a CUDA graph is captured and where there is no GPU nothing can
    be timed: then it is the recorded one or the first. That is not remembered.

    Args:
        kernel: its name.
        key: what the choice depends on: sizes and dtypes. Sizes count by their next power of two,
            so that pictures of many sizes are not many measurements.
        candidates: the first suits most shapes.
        run: launches the kernel; may be called several times with the same result.
        like: a tensor of the device.

    Returns:
        One of `candidates`.
    """
    if like.device.type != "cuda" or len(candidates) == 1 or not torch.cuda.is_available():
        return candidates[0]
    device = torch.cuda.get_device_name(like.device)
    place = ", ".join([device, kernel, _shape_class(key)])
    if place not in _chosen:
        recorded = _recorded(place, candidates)
        if recorded is None and (not _autotunes() or _cannot_time(like)):
            return candidates[0]
        if recorded is None:
            recorded = min(candidates, key=lambda launch: _milliseconds(run, launch))
            _remember(place, recorded)
        _chosen[place] = recorded
    return _chosen[place]


def cache_file() -> Path:
    """Where choices that were measured here are kept."""
    named = os.environ.get("FASTSEG_CACHE")
    if named:
        return Path(named) / "tuned.json"
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "fastseg" / "tuned.json"


def _shape_class(key: Key) -> str:
    return ":".join(str(1 << (n - 1).bit_length() if isinstance(n, int) else n) for n in key)


def _autotunes() -> bool:
    return os.environ.get("FASTSEG_AUTOTUNE", "1") != "0"


def _cannot_time(like: Tensor) -> bool:
    # Tracers work on tensors of kinds of their own.
    traced = type(like) not in (Tensor, torch.nn.Parameter)
    return traced or torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing()


def _milliseconds(run: Callable[[Launch], object], launch: Launch) -> float:
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    try:
        return float(do_bench(lambda: run(launch), warmup=5, rep=20))
    except (OutOfResources, torch.OutOfMemoryError):
        return float("inf")


def _recorded(place: str, candidates: Sequence[Launch]) -> Launch | None:
    """The candidate that a table names; a table of another version may name one of old."""
    for path in (cache_file(), SHIPPED):
        options = _table(path).get(place)
        for candidate in candidates:
            if candidate.options() == options:
                return candidate
    return None


@cache
def _table(path: Path) -> Table:
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _remember(place: str, launch: Launch) -> None:
    """Adds a choice to the user's cache; where that cannot be written it lasts as the process."""
    path = cache_file()
    # Another process may have written since this one read.
    _table.cache_clear()
    table = {**_table(path), place: launch.options()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as part:
            json.dump(table, part, indent=1, sort_keys=True)
        # Nobody ever reads half a file.
        Path(part.name).replace(path)
    except OSError:
        return
