"""The benchmarks load, their reference is right, and the gate can fail."""

import importlib
import time
from pathlib import Path

import numpy as np
import pytest

NAMES = [
    *("workloads", "implementations", "measuring", "peak_memory", "compare", "contests", "gate"),
]
BENCHES = ["bench_contests", "bench_crf_refine", "bench_crf_lattice", "bench_import"]


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


@pytest.fixture
def limits(repository: Path) -> dict:
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((repository / "benches" / "limits.toml").read_text(encoding="utf-8"))


def test_every_limit_names_a_workload(limits: dict) -> None:
    workloads = importlib.import_module("workloads")
    assert set(limits["crf"]) - {"agreement"} == set(workloads.names("gate"))


def test_every_limit_names_a_contest_and_a_rival(limits: dict) -> None:
    contests = importlib.import_module("contests")
    assert set(limits) - {"crf"} <= set(contests.topics())
    for topic in set(limits) - {"crf"}:
        known = {contest.name: contest for contest in contests.contests(topic)}
        for name, given in limits[topic].items():
            rivals = {rival.name for rival in known[name].rivals}
            assert set(given) - {"extra_mib"} <= rivals, f"{topic}.{name}"
            for rival in set(given) - {"extra_mib"}:
                assert set(given[rival]) <= {"must", "aim", "memory"}
                assert given[rival]["must"] > 0
                assert ("memory" in given[rival]) == (rival in known[name].weighed)


def test_contests_have_names_of_their_own() -> None:
    contests = importlib.import_module("contests")
    for topic in contests.topics():
        names = [contest.name for contest in contests.contests(topic)]
        assert names
        assert len(names) == len(set(names))


def _contest(cost: float = 0.0, answer: float = 1.0):
    contests = importlib.import_module("contests")
    rival = contests.Contender(
        "rival", lambda x: (time.sleep(cost), np.full_like(x, answer))[1], requires=("numpy",)
    )
    absent = contests.Contender("absent", np.copy, requires=("no_such_module",))
    return contests.Contest(
        name="copy",
        cases=lambda: [contests.Case("ones", (np.ones(3),))],
        ours=contests.Contender("fastseg", lambda x: x + 0),
        rivals=(rival, absent),
    )


def test_a_contest_is_timed_in_turn() -> None:
    contests = importlib.import_module("contests")
    result = contests.measure(_contest(cost=0.02), contests.Plan(cases=1, rounds=2, memory=False))
    ours, rival = result.rows
    assert (ours.contender, ours.ratio) == ("fastseg", None)
    assert rival.ratio.count == rival.milliseconds.count == 2
    assert rival.ratio.median > 10
    assert result.absent == ["absent"]
    assert result.sources == ["ones"]


def test_a_rival_that_disagrees_is_not_timed() -> None:
    contests = importlib.import_module("contests")
    result = contests.measure(_contest(answer=2.0), contests.Plan(cases=1, rounds=1, memory=False))
    assert "3 of 3 values differ" in result.disagreement
    assert not result.rows


def test_results_that_are_not_close_are_refused() -> None:
    contests = importlib.import_module("contests")
    check = contests.close(1e-3)
    check([1.0, np.nan], [1.0005, np.nan])
    with pytest.raises(contests.DisagreementError, match="apart"):
        check([1.0], [1.01])
    with pytest.raises(contests.DisagreementError, match="shape"):
        check([1.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("ratio", "extra", "missed"),
    [
        (25.0, 10.0, set()),
        (9.0, 10.0, set()),
        (7.0, 10.0, {"np.bincount"}),
        (9.0, 65.0, {"extra_mib"}),
        (None, None, {"np.bincount", "extra_mib"}),
    ],
)
def test_gate_judges_contests(ratio: float | None, extra: float | None, missed: set) -> None:
    gate = importlib.import_module("gate")
    rows = [{"contender": "np.bincount", "ratio": {"median": ratio}}] if ratio else []
    memory = None if extra is None else {"peak_mib": 1.0 + extra, "output_mib": 1.0}
    result = {"contest": "city", "rows": rows, "memory": memory}
    limits = {"city": {"np.bincount": {"must": 8, "aim": 20}}}
    found = gate.contest_checks([result], limits, memory=True)
    assert len(found) == 2
    assert {check.what for check in found if not check.passed} == missed
    assert ("aim reached" in gate.table(found)) == (ratio == 25.0)


@pytest.mark.parametrize(("theirs", "passed"), [(20.0, True), (19.0, False), (None, False)])
def test_gate_judges_memory_against_a_rival(theirs: float | None, passed: bool) -> None:
    gate = importlib.import_module("gate")
    weighed = {} if theirs is None else {"rival": {"peak_mib": theirs, "output_mib": 0.0}}
    result = {
        "contest": "city",
        "rows": [{"contender": "rival", "ratio": {"median": 9.0}}],
        "memory": {"peak_mib": 10.0, "output_mib": 0.0},
        "rival_memory": weighed,
    }
    limits = {"city": {"rival": {"must": 8, "memory": 0.5}}}
    (check,) = (
        each
        for each in gate.contest_checks([result], limits, memory=True)
        if each.what == "rival, memory"
    )
    assert check.passed is passed


def test_memory_of_a_rival_is_measured() -> None:
    contests = importlib.import_module("contests")
    contest = next(each for each in contests.contests("counting") if each.rivals[0].available())
    ours, theirs = (
        contests.measure_memory("counting", contest, contender)
        for contender in (contest.ours, contest.rivals[0])
    )
    assert ours.output_mib == pytest.approx(theirs.output_mib, abs=0.1)
    assert theirs.peak_mib > 0


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
    # In float64 the rounding that keeps the two apart is gone from one of them.
    exact = implementations.with_exact(found, case, expected, expected + np.float32(1e-3)).exact
    assert exact[0] <= implementations.TORCH_TOLERANCE < exact[1]


@pytest.mark.parametrize(
    ("exact", "error"),
    [(None, 2e-5), ([6e-6, 1.5e-5], 6e-6), ([1.5e-5, 6e-6], 2e-5)],
    ids=["not compared", "nearer than the rival", "farther than the rival"],
)
def test_a_rival_farther_from_float64_decides_nothing(exact, error) -> None:
    implementations = importlib.import_module("implementations")
    assert implementations.Agreement(2e-5, 1.0, exact).error == error
