"""The benchmarks load, their reference is right, and the gate can fail."""

import importlib
from pathlib import Path

import numpy as np
import pytest

NAMES = ["workloads", "implementations", "peak_memory", "compare", "gate"]
BENCHES = ["bench_crf_refine", "bench_crf_lattice", "bench_import"]


@pytest.fixture(autouse=True)
def _benches_on_the_path(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benches"))


def _result(ratio: float, megabytes: float, difference: float) -> dict:
    agreement = {"max_abs": difference, "argmax_equal": 1.0}
    ours = ("fastseg, 1 thread", "fastseg, 2 threads")
    return {
        "workload": "voc_375x500_c21",
        "rows": [
            {"implementation": name, "ratio": {"median": ratio}, "agreement": agreement}
            for name in ours
        ],
        "memory": [
            {"implementation": "pydensecrf", "megabytes": 100.0},
            *({"implementation": name, "megabytes": megabytes} for name in ours),
        ],
    }


LIMITS = {
    "agreement": {"max_difference": 1e-5, "same_label": 0.9999},
    "voc_375x500_c21": {
        "speed_1_thread": 7.0,
        "speed_2_threads": 11.0,
        "memory_1_thread": 0.65,
        "memory_2_threads": 0.65,
    },
}


@pytest.mark.parametrize("name", NAMES + BENCHES)
def test_module_loads(name: str) -> None:
    if name in BENCHES:
        pytest.importorskip("pytest_benchmark")
    assert importlib.import_module(name).__doc__


def test_every_limit_names_a_workload(repository: Path) -> None:
    tomllib = pytest.importorskip("tomllib")
    limits = tomllib.loads((repository / "benches" / "limits.toml").read_text(encoding="utf-8"))
    workloads = importlib.import_module("workloads")
    assert set(limits) - {"agreement"} == set(workloads.names("gate"))


@pytest.mark.parametrize(
    ("ratio", "megabytes", "difference", "missed"),
    [
        (12.0, 60.0, 1e-6, set()),
        (9.0, 60.0, 1e-6, {"speed_2_threads"}),
        (12.0, 70.0, 1e-6, {"memory_1_thread", "memory_2_threads"}),
        (12.0, 60.0, 2e-5, {"max_difference"}),
        (float("nan"), 60.0, 1e-6, {"speed_1_thread", "speed_2_threads"}),
    ],
)
def test_gate_misses_what_is_worse(
    ratio: float, megabytes: float, difference: float, missed: set
) -> None:
    gate = importlib.import_module("gate")
    found = gate.checks([_result(ratio, megabytes, difference)], LIMITS, memory=True)
    assert len(found) == 6
    assert {check.what for check in found if not check.passed} == missed


def test_gate_misses_what_was_not_measured() -> None:
    gate = importlib.import_module("gate")
    empty = {"workload": "voc_375x500_c21", "rows": [], "memory": []}
    found = gate.checks([empty], LIMITS, memory=True)
    assert found
    assert not any(check.passed for check in found)


def test_torch_reference_agrees_with_pydensecrf() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pydensecrf.densecrf")
    workloads = importlib.import_module("workloads")
    implementations = importlib.import_module("implementations")
    rng = np.random.default_rng(0)
    steps = np.arange(24)[:, None] * np.arange(32)
    image = np.stack([steps % 251, steps // 3, 255 - steps // 4], axis=-1).astype(np.uint8)
    probs = rng.random((4, 24, 32), dtype=np.float32) ** 3 + np.float32(1e-3)
    probs /= probs.sum(axis=0)
    case = workloads.Case(image, probs, "test")
    expected = implementations.pydensecrf_refine(case)
    found = implementations.agreement(implementations.torch_refine(case), expected)
    assert found.max_abs <= implementations.TORCH_TOLERANCE
    assert found.argmax_equal == 1.0
    # The problem is not trivial: inference moved the probabilities.
    assert np.abs(expected - probs).max() > 0.1
