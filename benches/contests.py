"""Measure fastseg against its rivals on every topic but the CRF, which `compare.py` measures.

A topic is a file `contests_TOPIC.py` with a list `CONTESTS`. In a contest all contenders run on
the same inputs in one process, in turn, with two threads; what counts is the ratio within each
round. Before anything is timed the results must agree. Peak memory comes from fresh processes.

Results go to `benches/results/contests_TOPIC.json` and `.md`; the limits are in `limits.toml`.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import measuring
from measuring import BUSY, RESULTS, Onlooker, Spread, machine, machine_sentence, say
from workloads import MissingDataError

HERE = Path(__file__).resolve().parent
THREADS = 2
# Each sample repeats a call until it takes as long as this, in seconds.
SAMPLE = 0.02
# A contender slower than this, in seconds, is timed in fewer rounds.
SLOW = 1.0
# What glibc starts with, and raises as it goes unless it is set: arrays of at least as many bytes
# are mapped alone and given back. Otherwise the same work peaks at 43 MiB in one process and at 86
# in the next, as malloc happens to place it.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
PACKAGES = ("numpy", "scipy", "torch", "torchmetrics")


class DisagreementError(Exception):
    """Two contenders gave different answers, so their times mean nothing."""


@dataclass(frozen=True)
class Case:
    """One set of inputs.

    Attributes:
        source: Where they come from, for the report.
        inputs: What each contender gets, as positional arguments.
    """

    source: str
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: As tables and limits call it.
        run: The work, from the prepared inputs to the result.
        prepare: Turns the inputs of a case into the arguments of `run`; not timed.
        requires: Modules without which it is left out.
        finish: Turns the result into what is compared; not timed.
    """

    name: str
    run: Callable[..., Any]
    prepare: Callable[..., tuple[Any, ...]] | None = None
    requires: tuple[str, ...] = ()
    finish: Callable[[Any], Any] | None = None

    def arguments(self, case: Case) -> tuple[Any, ...]:
        """Return the arguments of `run` for a case."""
        return self.prepare(*case.inputs) if self.prepare else case.inputs

    def compared(self, result: Any) -> Any:
        """Return what of a result is compared with others."""
        return self.finish(result) if self.finish else result

    def available(self) -> bool:
        """Whether all it needs is installed."""
        return all(importlib.util.find_spec(name) for name in self.requires)


def same(ours: Any, theirs: Any) -> None:
    """Refuse results that are not equal in every number.

    Raises:
        DisagreementError: They differ.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        raise DisagreementError(f"shape {ours.shape} against {theirs.shape}")
    if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
        raise DisagreementError(f"{np.count_nonzero(ours != theirs)} of {ours.size} values differ")


def close(tolerance: float) -> Callable[[Any, Any], None]:
    """Make a check that refuses results further apart than `tolerance` anywhere."""

    def check(ours: Any, theirs: Any) -> None:
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if ours.shape != theirs.shape:
            raise DisagreementError(f"shape {ours.shape} against {theirs.shape}")
        if not np.allclose(ours, theirs, rtol=0, atol=tolerance, equal_nan=True):
            worst = float(np.nanmax(np.abs(ours - theirs)))
            raise DisagreementError(f"{worst:.2e} apart (limit {tolerance:.0e})")

    return check


@dataclass(frozen=True)
class Contest:
    """One line of the list of what must be fast.

    Attributes:
        name: As tables and limits call it.
        cases: Makes the inputs, one set at a time. Raises `MissingDataError` where it cannot.
        ours: fastseg.
        rivals: What it is measured against.
        agree: Raises `DisagreementError` where fastseg's result (first) and a rival's differ by
            more than they may.
        weighed: Names of rivals whose peak memory is measured, too.
    """

    name: str
    cases: Callable[[], Iterable[Case]]
    ours: Contender
    rivals: tuple[Contender, ...]
    agree: Callable[[Any, Any], None] = same
    weighed: tuple[str, ...] = ()

    def contender(self, name: str) -> Contender:
        """Return fastseg or a rival by its name."""
        return next(each for each in (self.ours, *self.rivals) if each.name == name)


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        cases: Most cases of a contest that are used.
        rounds: Rounds per case.
        memory: Whether peak memory is measured.
    """

    cases: int
    rounds: int
    memory: bool


FULL = Plan(cases=4, rounds=9, memory=True)
QUICK = Plan(cases=1, rounds=3, memory=True)


@dataclass
class Row:
    """One contender in one contest."""

    contender: str
    milliseconds: Spread
    ratio: Spread | None


@dataclass
class Memory:
    """What the work needs at its peak above its inputs, in a process of its own.

    Attributes:
        peak_mib: Above what was resident when all inputs were there.
        output_mib: Of the result.
    """

    peak_mib: float
    output_mib: float

    @property
    def extra_mib(self) -> float:
        """Beyond the inputs and the output."""
        return self.peak_mib - self.output_mib


@dataclass
class Result:
    """Everything that was measured in one contest.

    Attributes:
        contest: Its name.
        sources: Where the inputs come from.
        rows: The times.
        memory: What fastseg needs.
        rival_memory: What rivals need whose memory the contest compares.
        skipped: Why it was not measured.
        absent: Rivals that are not installed.
        disagreement: How results differed that must not.
        others: Share of the machine that other programs used.
    """

    contest: str
    sources: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    memory: Memory | None = None
    rival_memory: dict[str, Memory] = field(default_factory=dict)
    skipped: str | None = None
    absent: list[str] = field(default_factory=list)
    disagreement: str | None = None
    others: float | None = None


def topics() -> list[str]:
    """Return the names of all topics."""
    return sorted(path.stem.split("_", 1)[1] for path in HERE.glob("contests_*.py"))


def contests(topic: str) -> list[Contest]:
    """Return the contests of a topic."""
    found: list[Contest] = importlib.import_module(f"contests_{topic}").CONTESTS
    return found


def use_threads(threads: int = THREADS) -> None:
    """Give fastseg, and torch where it is loaded, as many threads."""
    importlib.import_module("fastseg").set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _seconds(run: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    gc.collect()
    # Other libraries' threads spin for a while after their work; what runs next needs the cores.
    time.sleep(0.02)
    if repeats > 1:
        run(*arguments)
    start = time.perf_counter()
    for _ in range(repeats):
        run(*arguments)
    return (time.perf_counter() - start) / repeats


def _first(
    contest: Contest, contender: Contender, case: Case, expected: Any
) -> tuple[tuple[Any, ...], float, Any]:
    """Warm up: the arguments, the seconds of one call, and the result, which must agree."""
    arguments = contender.arguments(case)
    use_threads()
    contender.run(*arguments)
    start = time.perf_counter()
    result = contender.run(*arguments)
    taken = time.perf_counter() - start
    result = contender.compared(result)
    if expected is not None:
        try:
            contest.agree(expected, result)
        except DisagreementError as error:
            raise DisagreementError(f"{contender.name} on {case.source}: {error}") from None
    return arguments, taken, result


def measure(contest: Contest, plan: Plan) -> Result:
    """Time all contenders of a contest in turn.

    Returns:
        What was measured; it says where data was absent or results disagreed.
    """
    result = Result(contest.name)
    present = [rival for rival in contest.rivals if rival.available()]
    result.absent = [rival.name for rival in contest.rivals if rival not in present]
    everyone = [contest.ours, *present]
    seconds: dict[str, list[float]] = {contender.name: [] for contender in everyone}
    ratios: dict[str, list[float]] = {contender.name: [] for contender in present}
    onlooker = Onlooker()
    try:
        for number, case in enumerate(contest.cases()):
            if number == plan.cases:
                break
            result.sources.append(case.source)
            ready: dict[str, tuple[tuple[Any, ...], int]] = {}
            expected, slowest = None, 0.0
            for contender in everyone:
                say(f"  {case.source}: {contender.name}", end="")
                arguments, taken, answer = _first(contest, contender, case, expected)
                expected = answer if expected is None else expected
                ready[contender.name] = arguments, max(1, math.ceil(SAMPLE / max(taken, 1e-6)))
                slowest = max(slowest, taken)
            rounds = plan.rounds if slowest < SLOW else min(3, plan.rounds)
            for turn in range(rounds):
                say(f"  {case.source}: round {turn + 1} of {rounds}", end="")
                taken_by = {
                    contender.name: _seconds(contender.run, *ready[contender.name])
                    for contender in everyone
                }
                for name, taken in taken_by.items():
                    seconds[name].append(taken)
                for name, sample in ratios.items():
                    sample.append(taken_by[name] / taken_by[contest.ours.name])
    except MissingDataError as error:
        result.skipped = str(error)
        return result
    except DisagreementError as error:
        result.disagreement = str(error)
        return result
    result.others = onlooker.others()
    for name, sample in seconds.items():
        ratio = Spread.of(ratios[name]) if name in ratios else None
        result.rows.append(Row(name, Spread.of([1e3 * value for value in sample]), ratio))
    return result


# --- peak memory --------------------------------------------------------------------------------


def measure_memory(topic: str, contest: Contest, contender: Contender) -> Memory:
    """Run one side of a contest once in a fresh process, with `ALLOCATOR`.

    Raises:
        RuntimeError: The process failed.
    """
    given = ["--memory-of", topic, contest.name, contender.name]
    command = [sys.executable, str(Path(__file__)), *given]
    environment = os.environ | ALLOCATOR
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(
            f"measuring the memory of {contender.name} in {contest.name} failed:\n{done.stderr}"
        )
    return Memory(**json.loads(done.stdout))


def _bytes(result: Any) -> int:
    if isinstance(result, dict):
        return sum(map(_bytes, result.values()))
    if isinstance(result, list | tuple):
        return sum(map(_bytes, result))
    return int(getattr(result, "nbytes", 0))


def _memory_child(topic: str, name: str, side: str) -> None:
    contest = next(contest for contest in contests(topic) if contest.name == name)
    contender = contest.contender(side)
    use_threads()
    arguments = contender.arguments(next(iter(contest.cases())))
    gc.collect()
    before = measuring.memory_baseline()
    result = contender.run(*arguments)
    peak = measuring.peak_memory() - before
    print(json.dumps({"peak_mib": peak / 2**20, "output_mib": _bytes(result) / 2**20}))


# --- the report ---------------------------------------------------------------------------------


def _one_line(result: Result) -> str:
    if result.skipped:
        return f"skipped: {result.skipped}"
    if result.disagreement:
        return f"DISAGREES, not timed: {result.disagreement}"
    parts = [f"{row.contender} {row.milliseconds.median:.3g} ms" for row in result.rows]
    parts += [f"{row.ratio.median:.1f}×" for row in result.rows if row.ratio is not None]
    if result.memory is not None:
        parts.append(f"{result.memory.extra_mib:.0f} MiB beyond input and output")
        for name, theirs in result.rival_memory.items():
            parts.append(f"{result.memory.peak_mib / theirs.peak_mib:.2f} of the peak of {name}")
    if result.absent:
        parts.append(f"absent: {', '.join(result.absent)}")
    if result.others is not None and result.others > BUSY:
        parts.append(f"BUSY: other programs used {result.others:.0%} of the machine")
    return ", ".join(parts)


def report(topic: str, results: Sequence[Result], where: dict[str, Any], plan: Plan) -> str:
    """Write the results of a topic as Markdown."""
    method = (
        f"{THREADS} threads, in turn in one process. Median (quartiles) of {plan.rounds} rounds on "
        f"up to {plan.cases} inputs; the ratio is the rival's time over fastseg's in the same "
        "round: more is better."
    )
    lines = [f"# {topic}: fastseg against its rivals", "", machine_sentence(where), "", method]
    if not where["real_data"]:
        lines += ["", "FASTSEG_DATA is not set: stand-ins replace real scenes."]
    lines += ["", "| contest | contender | ms | ratio |", "|---|---|---:|---:|"]
    for result in results:
        if result.skipped or result.disagreement:
            lines.append(f"| {result.contest} | {_one_line(result)} | | |")
        for row in result.rows:
            ratio = ""
            if row.ratio is not None:
                ratio = f"{row.ratio.median:.1f} ({row.ratio.low:.1f}–{row.ratio.high:.1f})"
            time_ = row.milliseconds
            lines.append(
                f"| {result.contest} | {row.contender} | {time_.median:.3g} "
                f"({time_.low:.3g}–{time_.high:.3g}) | {ratio} |"
            )
    if any(result.memory for result in results):
        lines += [
            "",
            "Peak memory above the inputs, in a fresh process that gives every array back:",
            "",
            "| contest | contender | peak MiB | of that the output |",
            "|---|---|---:|---:|",
        ]
        lines += [
            f"| {result.contest} | {name} | {memory.peak_mib:.1f} | {memory.output_mib:.1f} |"
            for result in results
            if result.memory is not None
            for name, memory in {"fastseg": result.memory, **result.rival_memory}.items()
        ]
    for result in results:
        if result.others is not None and result.others > BUSY:
            lines += ["", f"{result.contest}: other programs used {result.others:.0%} meanwhile."]
    lines += ["", "Inputs:", ""]
    for result in results:
        lines += [f"- {result.contest}: {source}" for source in result.sources]
    return "\n".join(lines) + "\n"


def run(
    topic: str, selected: Sequence[Contest], plan: Plan, stem: str = "contests"
) -> list[Result]:
    """Measure contests of a topic and write `results/STEM_TOPIC.json` and `.md`."""
    where = machine(PACKAGES)
    results = []
    for contest in selected:
        say(f"{topic}: {contest.name}")
        result = measure(contest, plan)
        if plan.memory and not (result.skipped or result.disagreement):
            result.memory = measure_memory(topic, contest, contest.ours)
            for name in contest.weighed:
                if name not in result.absent:
                    rival = contest.contender(name)
                    result.rival_memory[name] = measure_memory(topic, contest, rival)
        say(f"  {_one_line(result)}")
        results.append(result)
    RESULTS.mkdir(exist_ok=True)
    content = {
        "machine": where,
        "plan": dataclasses.asdict(plan),
        "results": [dataclasses.asdict(result) for result in results],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{stem}_{topic}.json").write_text(text, encoding="utf-8")
    written = report(topic, results, where, plan)
    (RESULTS / f"{stem}_{topic}.md").write_text(written, encoding="utf-8")
    return results


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `contests.py` and `gate.py` share."""
    parser.add_argument("--topics", metavar="A,B", help="only these topics")
    parser.add_argument("--contests", metavar="A,B", help="only these contests of them")


def plan_from(options: argparse.Namespace) -> Plan:
    """Make the plan that the options ask for."""
    plan = QUICK if options.quick else FULL
    if options.rounds is not None:
        plan = dataclasses.replace(plan, rounds=max(1, options.rounds))
    if options.no_memory:
        plan = dataclasses.replace(plan, memory=False)
    return plan


def chosen(options: argparse.Namespace, known: Sequence[str]) -> list[str]:
    """Return the topics that the options ask for, of those known.

    Raises:
        SystemExit: A name is unknown.
    """
    if not options.topics:
        return list(known)
    wanted = [name for name in options.topics.split(",") if name]
    for name in wanted:
        if name not in known:
            raise SystemExit(f"unknown topic {name!r}; known: {', '.join(known)}")
    return wanted


def contests_chosen(options: argparse.Namespace, topic: str) -> list[Contest]:
    """Return the contests of a topic that the options ask for."""
    found = contests(topic)
    if not options.contests:
        return found
    wanted = options.contests.split(",")
    return [contest for contest in found if contest.name in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the results and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser)
    parser.add_argument("--quick", action="store_true", help="one input, three rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds per input")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--list", action="store_true", help="list the contests and stop")
    parser.add_argument(
        "--memory-of", nargs=3, metavar=("TOPIC", "CONTEST", "CONTENDER"), help="for itself"
    )
    options = parser.parse_args(arguments)
    if options.memory_of:
        _memory_child(*options.memory_of)
        return 0
    if options.list:
        for topic in chosen(options, topics()):
            for contest in contests_chosen(options, topic):
                rivals = ", ".join(rival.name for rival in contest.rivals)
                print(f"{topic:10} {contest.name:32} against {rivals}")
        return 0
    plan = plan_from(options)
    disagree = False
    for topic in chosen(options, topics()):
        results = run(topic, contests_chosen(options, topic), plan)
        disagree = disagree or any(result.disagreement for result in results)
        print((RESULTS / f"contests_{topic}.md").read_text(encoding="utf-8"))
    return int(disagree)


if __name__ == "__main__":
    # Under its own name, too: topics import this module, and the classes must be the same.
    sys.modules["contests"] = sys.modules["__main__"]
    sys.exit(main())
