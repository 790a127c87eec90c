"""Measure `fastseg.crf.refine` against pydensecrf: the numbers that the project states.

Both run in one process on the same arrays, in turn (A B A B …), after a warm-up; what counts is the
ratio within each round, so that a slow moment of the machine hits both. Every workload has a
process of its own, and so has each implementation whose peak memory is measured. Before anything is
timed the results must agree.

Run `python benches/compare.py --help` for the options. Results go to `benches/results`.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import implementations
import workloads
from implementations import Agreement
from measuring import BUSY, RESULTS, Onlooker, Spread, machine, machine_sentence, say
from peak_memory import PeakMemory, measure_peak
from workloads import Probabilities

THREADS = (1, 2)
# Calls after the number of threads has changed before one is timed.
WARM_UP = 2
PACKAGES = ("numpy", "pydensecrf2", "torch")
# Nothing is timed above this difference. Between the limit of agreement and this one the times are
# shown, marked, and the run fails.
COARSE_TOLERANCE = 1e-4
# PyTorch's row is left out above this many values (pixels × labels): it only gets slower.
TORCH_LARGEST = 50_000_000


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        photos: Most pictures of a workload that are used.
        rounds: Rounds per picture.
        torch_rounds: Rounds per workload of the PyTorch reference, 0 to leave it out.
        memory: Whether peak memory is measured.
    """

    photos: int
    rounds: int
    torch_rounds: int
    memory: bool


FULL = Plan(photos=8, rounds=5, torch_rounds=2, memory=True)
QUICK = Plan(photos=2, rounds=3, torch_rounds=1, memory=True)
# Where pydensecrf takes seconds, fewer rounds give the same median.
_SLOW_VALUES = 20_000_000


@dataclass
class Row:
    """One implementation on one workload."""

    implementation: str
    milliseconds: Spread
    ratio: Spread | None
    agreement: Agreement | None


@dataclass
class Result:
    """Everything that was measured on one workload."""

    workload: str
    height: int
    width: int
    labels: int
    kind: str
    sources: list[str]
    rows: list[Row] = field(default_factory=list)
    memory: list[PeakMemory] = field(default_factory=list)
    skipped: str | None = None
    # How far the results are apart where that is more than the limit.
    disagreement: str | None = None
    # Share of all cores that other programs used meanwhile; None where the system does not tell.
    others: float | None = None

    def row(self, implementation: str) -> Row | None:
        """Return the row of one implementation, or None."""
        return next((row for row in self.rows if row.implementation == implementation), None)

    def memory_ratio(self, implementation: str) -> float | None:
        """Return peak memory over pydensecrf's, or None where either was not measured."""
        peaks = {peak.implementation: peak.megabytes for peak in self.memory}
        if implementation not in peaks or not peaks.get("pydensecrf"):
            return None
        return peaks[implementation] / peaks["pydensecrf"]


def _timed(
    run: Callable[[workloads.Case], Probabilities], case: workloads.Case
) -> tuple[float, Probabilities]:
    gc.collect()
    start = time.perf_counter()
    result = run(case)
    return time.perf_counter() - start, result


def _prepare_fastseg(threads: int, cold: bool) -> Callable[[workloads.Case], None]:
    def prepare(case: workloads.Case) -> None:
        implementations.set_fastseg_threads(threads)
        # New threads start with cold memory of their own, and the second call is still a tenth
        # slower than those that follow; a program sets their number once.
        for _ in range(WARM_UP):
            implementations.fastseg_refine(case)
        if cold:
            implementations.clear_fastseg_cache()

    return prepare


def _contestants() -> dict[str, Callable[[workloads.Case], None]]:
    """Name the ways to run fastseg, each with what to do before the clock starts."""
    ways = {f"fastseg, {_count(n)}": _prepare_fastseg(n, cold=False) for n in THREADS}
    ways["fastseg, 1 thread, cache cleared"] = _prepare_fastseg(1, cold=True)
    return ways


def _count(threads: int) -> str:
    return f"{threads} thread" if threads == 1 else f"{threads} threads"


def _rounds(work: workloads.Workload, plan: Plan) -> int:
    values = work.height * work.width * work.labels
    return _slow_rounds(plan) if values > _SLOW_VALUES else plan.rounds


def _slow_rounds(plan: Plan) -> int:
    return max(1, plan.rounds // 2)


def measure_speed(result: Result, cases: Sequence[workloads.Case], plan: Plan) -> None:
    """Time fastseg and pydensecrf in turn and add their rows.

    Args:
        result: Gets the rows.
        cases: The pictures.
        plan: How much to measure.

    Raises:
        DisagreementError: The results differ, or depend on the number of threads.
    """
    work = workloads.WORKLOADS[result.workload]
    ways = _contestants()
    rounds = _rounds(work, plan)
    seconds: dict[str, list[float]] = {name: [] for name in ("pydensecrf", *ways)}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    worst = Agreement(0.0, 1.0)
    for number, case in enumerate(cases, 1):
        # The warm-up, and the proof that what is timed below computes the same thing.
        expected = implementations.pydensecrf_refine(case)
        answers = []
        for prepare in ways.values():
            prepare(case)
            answers.append(implementations.fastseg_refine(case))
        found = implementations.require_agreement(
            answers[0], expected, COARSE_TOLERANCE, f"fastseg on {case.source}"
        )
        if found.error > implementations.FASTSEG_TOLERANCE:
            say(f"  {found.max_abs:.2e} from pydensecrf: comparing both with float64")
            found = implementations.with_exact(found, case, answers[0], expected)
        if found.error > implementations.FASTSEG_TOLERANCE:
            result.disagreement = (
                f"{found.max_abs:.2e} from pydensecrf on {case.source} "
                f"(limit {implementations.FASTSEG_TOLERANCE:.0e})"
            )
            say(f"  DISAGREES: {result.disagreement}")
        equal = min(worst.argmax_equal, found.argmax_equal)
        worst = replace(max(worst, found, key=lambda one: one.error), argmax_equal=equal)
        if not all(np.array_equal(answer, answers[0]) for answer in answers[1:]):
            raise implementations.DisagreementError(
                f"fastseg on {case.source}: the result depends on threads or on the cache"
            )
        del expected, answers
        for turn in range(rounds):
            say(f"  photo {number} of {len(cases)}, round {turn + 1} of {rounds}", end="")
            ours: dict[str, float] = {}
            for name, prepare in ways.items():
                prepare(case)
                ours[name], _ = _timed(implementations.fastseg_refine, case)
                seconds[name].append(ours[name])
            rival, _ = _timed(implementations.pydensecrf_refine, case)
            seconds["pydensecrf"].append(rival)
            for name, taken in ours.items():
                ratios[name].append(rival / taken)
    result.rows.append(Row("pydensecrf", _milliseconds(seconds["pydensecrf"]), None, None))
    for name in ways:
        result.rows.append(Row(name, _milliseconds(seconds[name]), Spread.of(ratios[name]), worst))


def measure_torch(result: Result, cases: Sequence[workloads.Case], plan: Plan) -> None:
    """Time the PyTorch reference and pydensecrf in turn on the first picture and add its rows.

    Args:
        result: Gets the rows.
        cases: The pictures.
        plan: How much to measure.

    Raises:
        DisagreementError: The results differ.
    """
    case = cases[0]
    expected = implementations.pydensecrf_refine(case)
    for threads in THREADS:
        implementations.set_torch_threads(threads)
        found: Agreement | None = None
        seconds, ratios = [], []
        for turn in range(plan.torch_rounds):
            say(f"  PyTorch, {_count(threads)}, round {turn + 1} of {plan.torch_rounds}", end="")
            ours, answer = _timed(implementations.torch_refine, case)
            rival, _ = _timed(implementations.pydensecrf_refine, case)
            found = implementations.require_agreement(
                answer, expected, implementations.TORCH_TOLERANCE, "PyTorch"
            )
            seconds.append(ours)
            ratios.append(rival / ours)
        name = f"PyTorch reference, {_count(threads)}"
        result.rows.append(Row(name, _milliseconds(seconds), Spread.of(ratios), found))


def measure_memory(result: Result, case: workloads.Case) -> None:
    """Measure peak memory above the baseline, each implementation in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "image.npy", case.image)
        np.save(Path(folder) / "probs.npy", case.probs)
        for name, threads in (("pydensecrf", 1), *(("fastseg", n) for n in THREADS)):
            say(f"  memory of {name}, {_count(threads)}", end="")
            result.memory.append(measure_peak(name, threads, Path(folder)))


def _milliseconds(seconds: Sequence[float]) -> Spread:
    return Spread.of([1e3 * value for value in seconds])


def run(selected: Sequence[str], plan: Plan) -> list[Result]:
    """Measure the selected workloads, each in a process of its own.

    Args:
        selected: Names of workloads.
        plan: How much to measure.

    Returns:
        One result for each, in the same order. A workload whose data is absent says so; one on
        which fastseg and pydensecrf differ says that.
    """
    results = []
    for name in selected:
        # What was measured before must not count: after larger pictures the allocator of the system
        # keeps more memory at hand, and after PyTorch there are its threads.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            results.append(process.submit(measure, name, plan).result())
    return results


def measure(name: str, plan: Plan) -> Result:
    """Measure one workload, in this process."""
    work = workloads.WORKLOADS[name]
    say(f"{name}: {work.height}×{work.width}, {work.labels} labels")
    result = Result(name, work.height, work.width, work.labels, work.kind, [])
    try:
        cases = workloads.load(name, plan.photos)
    except workloads.MissingDataError as error:
        result.skipped = str(error)
        say(f"  skipped: {error}")
        return result
    result.sources = [case.source for case in cases]
    onlooker = Onlooker()
    try:
        measure_speed(result, cases, plan)
        result.others = onlooker.others()
        if plan.memory and work.kind in ("gate", "real"):
            measure_memory(result, cases[0])
        # Last, since PyTorch brings its own thread pool into the process.
        values = work.height * work.width * work.labels
        if plan.torch_rounds and values <= TORCH_LARGEST and not result.disagreement:
            measure_torch(result, cases, plan)
    except implementations.DisagreementError as error:
        result.disagreement = str(error)
        say(f"  DISAGREES, not timed: {error}")
        return result
    say(f"  {_one_line(result)}")
    return result


def _one_line(result: Result) -> str:
    parts = [f"{row.implementation} {row.milliseconds.median:.1f} ms" for row in result.rows]
    for row in result.rows:
        if row.ratio is not None:
            parts.append(f"{row.ratio.median:.1f}×")
    for threads in THREADS:
        ratio = result.memory_ratio(f"fastseg, {_count(threads)}")
        if ratio is not None:
            parts.append(f"memory {ratio:.2f}×")
    if result.others is not None and result.others > BUSY:
        parts.append(f"BUSY: other programs used {result.others:.0%} of the machine")
    return ", ".join(parts)


# --- the machine and the report ---------------------------------------------------------------


def _method_sentence(plan: Plan) -> str:
    spatial = f"Gaussian({implementations.SPATIAL_SIGMA:g})"
    bilateral = f"bilateral({implementations.BILATERAL_SIGMA:g}, {implementations.COLOR_SIGMA:g})"
    return (
        f"{implementations.ITERATIONS} iterations, {spatial} + {bilateral}, from numpy in to "
        "numpy out, in turn in one process for each workload. Median (quartiles); the ratio is "
        "pydensecrf's time over this row's in the same round: more is better. pydensecrf has one "
        "thread only. "
        f"Up to {plan.photos} pictures a workload, {plan.rounds} rounds each "
        f"({_slow_rounds(plan)} above {_SLOW_VALUES:,} values)."
    )


def report(results: Sequence[Result], where: dict[str, Any], plan: Plan) -> str:
    """Write the results as Markdown."""
    lines = [
        "# fastseg.crf.refine against pydensecrf",
        "",
        machine_sentence(where),
        "",
        _method_sentence(plan),
    ]
    if not where["real_data"]:
        lines += ["", "FASTSEG_DATA is not set: windows of the one example photograph stand in."]
    lines += [
        "",
        "| workload | implementation | ms | ratio | max difference | same label |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for result in results:
        if result.skipped:
            lines.append(f"| {result.workload} | skipped: {result.skipped} | | | | |")
        if result.disagreement:
            lines.append(f"| {result.workload} | DISAGREES: {result.disagreement} | | | | |")
        for row in result.rows:
            time_ = row.milliseconds
            ratio = ""
            if row.ratio is not None:
                ratio = f"{row.ratio.median:.2f} ({row.ratio.low:.2f}–{row.ratio.high:.2f})"
            close = f"{row.agreement.max_abs:.1e}" if row.agreement else ""
            if row.agreement and row.agreement.exact:
                close += " (from float64 {:.1e}, pydensecrf {:.1e})".format(*row.agreement.exact)
            same = f"{row.agreement.argmax_equal:.3%}" if row.agreement else ""
            lines.append(
                f"| {result.workload} | {row.implementation} | {time_.median:.1f} "
                f"({time_.low:.1f}–{time_.high:.1f}) | {ratio} | {close} | {same} |"
            )
    busy = [result for result in results if result.others is not None and result.others > BUSY]
    for result in busy:
        warning = f"Other programs used {result.others:.0%} of the machine"
        lines += ["", f"{warning} during {result.workload}: repeat when it is quiet."]
    if any(result.memory for result in results):
        lines += [
            "",
            "Peak memory above the baseline (inputs and libraries loaded), a fresh process each:",
            "",
            "| workload | implementation | MB | of pydensecrf |",
            "|---|---|---:|---:|",
        ]
        for result in results:
            for peak in result.memory:
                share = result.memory_ratio(peak.implementation)
                text = f"{share:.2f}" if share is not None else ""
                lines.append(
                    f"| {result.workload} | {peak.implementation} | {peak.megabytes:.1f} | {text} |"
                )
    lines += ["", "Pictures:", ""]
    for result in results:
        lines += [f"- {result.workload}: {source}" for source in result.sources]
    return "\n".join(lines) + "\n"


def write(results: Sequence[Result], plan: Plan, stem: str, where: dict[str, Any]) -> str:
    """Write `results/STEM.json` and `results/STEM.md`, and return the Markdown."""
    RESULTS.mkdir(exist_ok=True)
    text = report(results, where, plan)
    content = {
        "machine": where,
        "plan": dataclasses.asdict(plan),
        "results": [dataclasses.asdict(result) for result in results],
    }
    serialised = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{stem}.json").write_text(serialised, encoding="utf-8")
    (RESULTS / f"{stem}.md").write_text(text, encoding="utf-8")
    return text


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `compare.py` and `gate.py` share."""
    parser.add_argument(
        "--quick", action="store_true", help="two photographs, three rounds, one of PyTorch"
    )
    parser.add_argument(
        "--workloads", metavar="A,B", help="names, or kinds (gate, real, pixels, labels)"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds per photograph")
    parser.add_argument("--photos", type=int, metavar="N", help="photographs per workload")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")


def plan_from(options: argparse.Namespace) -> Plan:
    """Make the plan that the shared options ask for."""
    plan = QUICK if options.quick else FULL
    if options.rounds is not None:
        plan = dataclasses.replace(plan, rounds=max(1, options.rounds))
    if options.photos is not None:
        plan = dataclasses.replace(plan, photos=max(1, options.photos))
    if options.no_memory:
        plan = dataclasses.replace(plan, memory=False)
    return plan


def select(text: str | None, default: Sequence[str]) -> list[str]:
    """Turn a comma-separated list of names or kinds into names.

    Raises:
        SystemExit: A name is unknown.
    """
    if not text:
        return list(default)
    chosen: list[str] = []
    for item in filter(None, text.split(",")):
        found = workloads.names(item) or ([item] if item in workloads.WORKLOADS else [])
        if not found:
            raise SystemExit(f"unknown workload {item!r}; known: {', '.join(workloads.names())}")
        chosen += [name for name in found if name not in chosen]
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the results and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser)
    parser.add_argument("--no-torch", action="store_true", help="leave out the PyTorch reference")
    parser.add_argument("--list", action="store_true", help="list the workloads and stop")
    options = parser.parse_args(arguments)
    if options.list:
        for work in workloads.WORKLOADS.values():
            print(f"{work.name:24} {work.kind:7} {work.megapixels:6.2f} MP, {work.labels} labels")
        return 0
    plan = plan_from(options)
    if options.no_torch:
        plan = dataclasses.replace(plan, torch_rounds=0)
    default = workloads.names("gate") if options.quick else workloads.names()
    where = machine(PACKAGES)
    results = run(select(options.workloads, default), plan)
    print(write(results, plan, "quick" if options.quick else "compare", where))
    return int(any(result.disagreement for result in results))


if __name__ == "__main__":
    sys.exit(main())
