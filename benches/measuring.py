"""What every comparison measures with: spreads, the machine, its load, and peak memory."""

from __future__ import annotations

import ctypes
import datetime
import importlib
import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import workloads

RESULTS = Path(__file__).resolve().parent / "results"
# Above this share of the machine used by other programs a report carries a warning.
BUSY = 0.05


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a sample."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, sample: Sequence[float]) -> Spread:
        """Summarise a sample."""
        low, median, high = (float(value) for value in np.percentile(sample, (25, 50, 75)))
        return cls(median, low, high, len(sample))


def say(message: str, end: str = "\n") -> None:
    """Show progress on standard error."""
    if end == "\n" or sys.stderr.isatty():
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(f"{clear}{message}", end=end, file=sys.stderr, flush=True)


class Onlooker:
    """Sees how much of the machine other programs use: what spoils a ratio for two threads."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        path = Path("/proc/stat")
        if not path.is_file():
            return None
        user, nice, system, _idle, _wait, irq, soft, steal = (
            int(ticks) for ticks in path.read_text(encoding="ascii").split()[1:9]
        )
        busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.perf_counter(), busy, sum(own[:4])

    def others(self) -> float | None:
        """Return the share of all cores that others used since the start, in [0, 1]."""
        now = self._now()
        if now is None or self._start is None:
            return None
        wall, busy, own = (end - start for end, start in zip(now, self._start, strict=True))
        return min(1.0, max(0.0, (busy - own) / (wall * (os.cpu_count() or 1))))


def machine(names: Sequence[str]) -> dict[str, Any]:
    """Describe what the numbers were measured on: no host names and no paths.

    Args:
        names: Distributions whose versions are told.
    """
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    build = importlib.import_module("fastseg._rust").build_info()
    packages = {}
    for package in names:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            packages[package] = "absent"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fastseg": build.get("version", "unknown"),
        "instruction_set": build.get("instruction_set", "unknown"),
        "profile": build.get("profile", "unknown"),
        "packages": packages,
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        "real_data": workloads.data_folder() is not None,
    }


def machine_sentence(where: dict[str, Any]) -> str:
    """Say in one sentence what `machine` found."""
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    engine = f"fastseg {where['fastseg']} ({where['instruction_set']}, {where['profile']})"
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['system']}; "
        f"Python {where['python']}, {engine}, {packages}; "
        f"{where['date']}; load before the run {where['load_before']}."
    )


def _status(key: str) -> int | None:
    """Return a memory field of this process in bytes, or None where the system has none."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return None
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def _reset_peak() -> bool:
    """Lower the recorded peak to what is resident now, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def memory_baseline() -> int:
    """Return what is resident now, in bytes, from which on the peak counts."""
    if sys.platform == "linux":
        # What the preparation freed is given back, so that it does not serve the work unseen.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    resident = _status("VmRSS") if _reset_peak() else None
    return peak_memory() if resident is None else resident


def peak_memory() -> int:
    """Return the most memory that this process has had resident, in bytes."""
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
