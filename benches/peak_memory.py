"""Peak memory of one implementation, measured in a process of its own.

The child loads the libraries and the inputs, runs once on a tiny picture so that lazy imports and
thread stacks count as baseline, notes its memory, runs on the real picture and notes the peak.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import implementations
import measuring
from workloads import Case

_RUNNERS = {
    "fastseg": implementations.fastseg_refine,
    "pydensecrf": implementations.pydensecrf_refine,
}


@dataclass(frozen=True)
class PeakMemory:
    """Peak resident memory above the baseline.

    Attributes:
        implementation: The name, with the number of threads.
        megabytes: 10⁶ bytes above what was resident before the call, the result included.
    """

    implementation: str
    megabytes: float


def measure_peak(implementation: str, threads: int, folder: Path) -> PeakMemory:
    """Run one implementation once in a fresh process.

    Args:
        implementation: "fastseg" or "pydensecrf".
        threads: Number of threads (pydensecrf has one only).
        folder: Where `image.npy` and `probs.npy` lie.

    Returns:
        The peak above the baseline.

    Raises:
        RuntimeError: The process failed.
    """
    command = [sys.executable, str(Path(__file__)), implementation, str(threads), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {implementation} failed:\n{done.stderr}")
    name = implementation
    if implementation == "fastseg":
        name = f"fastseg, {threads} thread{'s' if threads > 1 else ''}"
    return PeakMemory(name, json.loads(done.stdout)["bytes"] / 1e6)


def _tiny() -> Case:
    rng = np.random.default_rng(0)
    probs = rng.random((3, 16, 16), dtype=np.float32) + np.float32(0.1)
    probs /= probs.sum(axis=0)
    return Case(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), probs, "tiny")


def _child(implementation: str, threads: int, folder: Path) -> int:
    case = Case(np.load(folder / "image.npy"), np.load(folder / "probs.npy"), "memory")
    run = _RUNNERS[implementation]
    if implementation == "fastseg":
        implementations.set_fastseg_threads(threads)
    run(_tiny())
    before = measuring.memory_baseline()
    result = run(case)
    used = measuring.peak_memory() - before
    if result.shape != case.probs.shape:
        raise RuntimeError(f"result has shape {result.shape}")
    return used


if __name__ == "__main__":
    print(json.dumps({"bytes": _child(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))}))
