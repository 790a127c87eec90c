"""Times of a whole refinement, numpy in to numpy out, in one group for each workload.

`compare.py` is the measurement that the project's statements rest on; this one gives the usual
pytest-benchmark table. Before an implementation is timed its result must agree with pydensecrf's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest

import implementations
import workloads
from implementations import FASTSEG_TOLERANCE, TORCH_TOLERANCE
from workloads import Case, Probabilities

WORKLOADS = [*workloads.names("gate"), *workloads.names("real")]
# PyTorch takes tens of seconds above this many values (pixels × labels).
TORCH_LARGEST = 10_000_000


@lru_cache(maxsize=1)
def _case(name: str) -> Case:
    try:
        return workloads.load(name, 1)[0]
    except workloads.MissingDataError as error:
        pytest.skip(str(error))


@lru_cache(maxsize=1)
def _expected(name: str) -> Probabilities:
    return implementations.pydensecrf_refine(_case(name))


def _threads(set_threads: Callable[[int], None], threads: int) -> Callable[[], None]:
    return lambda: set_threads(threads)


IMPLEMENTATIONS: dict[str, tuple[Callable[[], None], implementations.Refine, float]] = {
    "fastseg-1-thread": (
        _threads(implementations.set_fastseg_threads, 1),
        implementations.fastseg_refine,
        FASTSEG_TOLERANCE,
    ),
    "fastseg-2-threads": (
        _threads(implementations.set_fastseg_threads, 2),
        implementations.fastseg_refine,
        FASTSEG_TOLERANCE,
    ),
    "pydensecrf": (lambda: None, implementations.pydensecrf_refine, 0.0),
    "torch-2-threads": (
        _threads(implementations.set_torch_threads, 2),
        implementations.torch_refine,
        TORCH_TOLERANCE,
    ),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("workload", WORKLOADS)
def bench_refine(benchmark: Any, workload: str, implementation: str) -> None:
    work = workloads.WORKLOADS[workload]
    values = work.height * work.width * work.labels
    if implementation.startswith("torch") and values > TORCH_LARGEST:
        pytest.skip(f"PyTorch takes too long on {values:,} values")
    prepare, run, tolerance = IMPLEMENTATIONS[implementation]
    case = _case(workload)
    prepare()
    implementations.require_agreement(run(case), _expected(workload), tolerance, implementation)
    benchmark.group = workload
    benchmark.extra_info["source"] = case.source
    rounds = 3 if values > TORCH_LARGEST else 5
    benchmark.pedantic(run, args=(case,), rounds=rounds, warmup_rounds=1)
