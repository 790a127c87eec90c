"""Times of the permutohedral lattice alone: building it, and filtering through a built one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import implementations
import workloads

WORKLOADS = ["voc_375x500_c21", "random_375x500_c21"]
# Largest difference, relative to the largest value, between the two lattices.
TOLERANCE = 1e-5
Array = npt.NDArray[np.float32]


@lru_cache(maxsize=2)
def _problem(workload: str) -> tuple[Array, Array]:
    """Return (5, H, W) bilateral features x, y, red, green, blue and (K, H, W) values."""
    case = workloads.load(workload, 1)[0]
    y, x = np.indices(case.image.shape[:2], dtype=np.float32)
    place = np.stack([x, y]) / np.float32(implementations.BILATERAL_SIGMA)
    colour = np.moveaxis(case.image, -1, 0) / np.float32(implementations.COLOR_SIGMA)
    return np.concatenate([place, colour]).astype(np.float32), case.probs


class _Fastseg:
    def __init__(self, threads: int) -> None:
        self._threads = threads

    def build(self, features: Array) -> Any:
        implementations.set_fastseg_threads(self._threads)
        return importlib.import_module("fastseg.crf").PermutohedralLattice(features)

    def filter(self, lattice: Any, values: Array) -> Array:
        result: Array = lattice.filter(values)
        return result


class _Torch:
    def __init__(self, threads: int) -> None:
        self._threads = threads

    def build(self, features: Array) -> Any:
        torch = importlib.import_module("torch")
        implementations.set_torch_threads(self._threads)
        points = torch.from_numpy(features.reshape(len(features), -1)).T.contiguous()
        return importlib.import_module("torch_reference").Lattice(points)

    def filter(self, lattice: Any, values: Array) -> Array:
        torch = importlib.import_module("torch")
        points = torch.from_numpy(values.reshape(len(values), -1)).T.contiguous()
        result: Array = lattice.filter(points).T.reshape(values.shape).numpy()
        return result


IMPLEMENTATIONS: dict[str, Callable[[], _Fastseg | _Torch]] = {
    "fastseg-1-thread": lambda: _Fastseg(1),
    "fastseg-2-threads": lambda: _Fastseg(2),
    "torch-2-threads": lambda: _Torch(2),
}


@lru_cache(maxsize=1)
def _expected(workload: str) -> Array:
    features, values = _problem(workload)
    reference = _Torch(1)
    return reference.filter(reference.build(features), values)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("step", ["build", "filter"])
def bench_lattice(benchmark: Any, step: str, workload: str, implementation: str) -> None:
    features, values = _problem(workload)
    engine = IMPLEMENTATIONS[implementation]()
    lattice = engine.build(features)
    expected = _expected(workload)
    error = float(np.abs(engine.filter(lattice, values) - expected).max() / expected.max())
    assert error <= TOLERANCE, f"{implementation} differs by {error:.1e}"
    benchmark.group = f"lattice {step}, {workload}"
    if step == "build":
        benchmark.pedantic(engine.build, args=(features,), rounds=5, warmup_rounds=1)
    else:
        benchmark.pedantic(engine.filter, args=(lattice, values), rounds=5, warmup_rounds=1)
