"""Peak memory of one implementation, measured in a process of its own.

The child loads the libraries and the inputs, runs once on a tiny picture so that lazy imports and
thread stacks count as baseline, notes its memory, runs on the real picture and notes the peak.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import implementations
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


def _peak() -> int:
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
    before = _status("VmRSS") if _reset_peak() else None
    if before is None:
        before = _peak()
    result = run(case)
    used = _peak() - before
    if result.shape != case.probs.shape:
        raise RuntimeError(f"result has shape {result.shape}")
    return used


if __name__ == "__main__":
    print(json.dumps({"bytes": _child(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))}))
