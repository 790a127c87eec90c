"""Fail when fastseg has lost ground to its rivals: ratios against the limits in `limits.toml`.

Measures what has limits, prints every limit with what was measured and exits with 1 when one is
missed. `--from FILE` judges a result that `compare.py` or `contests.py` wrote before.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare
import contests
import implementations

LIMITS = Path(__file__).resolve().parent / "limits.toml"
# Peak memory beyond inputs and output that a contest may use where `limits.toml` says nothing.
EXTRA_MIB = 64.0


@dataclass(frozen=True)
class Check:
    """One limit and what was measured."""

    workload: str
    what: str
    limit: float
    measured: float | None
    at_least: bool
    aim: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the limit is met; what was not measured is missed."""
        if self.measured is None:
            return False
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit


def checks(results: Sequence[dict[str, Any]], limits: dict[str, Any], memory: bool) -> list[Check]:
    """Compare results with limits.

    Args:
        results: Entries of "results" as `compare.py` writes them.
        limits: The topic "crf" of `limits.toml`.
        memory: Whether memory was measured and is judged.

    Returns:
        One check for each limit of the workloads in the results.
    """
    found: list[Check] = []
    agreement = limits["agreement"]
    for result in results:
        name = result["workload"]
        if name not in limits:
            continue
        rows = {row["implementation"]: row for row in result["rows"]}
        peaks = {peak["implementation"]: peak["megabytes"] for peak in result["memory"]}
        for key, limit in limits[name].items():
            kind, count = key.split("_", 1)
            ours = f"fastseg, {count.replace('_', ' ')}"
            if kind == "speed":
                value = rows[ours]["ratio"]["median"] if ours in rows else None
                found.append(Check(name, key, limit, value, at_least=True))
            elif kind == "memory" and memory:
                value = peaks[ours] / peaks["pydensecrf"] if ours in peaks else None
                found.append(Check(name, key, limit, value, at_least=False))
        found_agreements = [
            implementations.Agreement(**row["agreement"])
            for label, row in rows.items()
            if label.startswith("fastseg") and row["agreement"]
        ]
        error = max((one.error for one in found_agreements), default=None)
        found.append(Check(name, "max_difference", agreement["max_difference"], error, False))
        equal = min((one.argmax_equal for one in found_agreements), default=None)
        found.append(Check(name, "same_label", agreement["same_label"], equal, True))
    return found


def contest_checks(
    results: Sequence[dict[str, Any]], limits: dict[str, Any], memory: bool
) -> list[Check]:
    """Compare results of contests with limits.

    Args:
        results: Entries of "results" as `contests.py` writes them.
        limits: The topic of `limits.toml`.
        memory: Whether memory was measured and is judged.

    Returns:
        One check for each limit of the contests in the results.
    """
    found: list[Check] = []
    for result in results:
        name = result["contest"]
        given = limits.get(name, {})
        rows = {row["contender"]: row for row in result["rows"]}
        for rival, limit in given.items():
            if rival == "extra_mib":
                continue
            value = rows[rival]["ratio"]["median"] if rival in rows else None
            found.append(Check(name, rival, limit["must"], value, True, limit.get("aim")))
            if memory and "memory" in limit:
                ours, theirs = result["memory"], result["rival_memory"].get(rival)
                share = ours["peak_mib"] / theirs["peak_mib"] if ours and theirs else None
                found.append(Check(name, f"{rival}, memory", limit["memory"], share, False))
        if memory and name in limits:
            peak = result["memory"]
            extra = peak["peak_mib"] - peak["output_mib"] if peak else None
            most = given.get("extra_mib", EXTRA_MIB)
            found.append(Check(name, "extra_mib", most, extra, at_least=False))
    return found


def table(found: Sequence[Check]) -> str:
    """Write the checks as an aligned table."""
    header = ("workload", "what", "limit", "aim", "measured", "")
    rows = [header]
    for check in found:
        sign = "≥" if check.at_least else "≤"
        measured = "not measured" if check.measured is None else f"{check.measured:.4g}"
        verdict = "ok" if check.passed else "MISSED"
        if check.passed and check.aim is not None:
            verdict = "ok, aim reached" if (check.measured or 0) >= check.aim else "ok, below aim"
        aim = "" if check.aim is None else f"{check.aim:g}"
        limit = f"{sign} {check.limit:g}"
        rows.append((check.workload, check.what, limit, aim, measured, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def crf(
    options: argparse.Namespace, limits: dict[str, Any]
) -> tuple[list[Check], list[dict[str, Any]], list[str]]:
    """Measure or read the CRF: checks, results, and workloads without a result."""
    limited = [name for name in limits if name != "agreement"]
    selected = compare.select(options.workloads, limited)
    plan = dataclasses.replace(compare.plan_from(options), torch_rounds=0)
    if options.source:
        content = json.loads(Path(options.source).read_text(encoding="utf-8"))
        memory = bool(content["plan"]["memory"]) and not options.no_memory
        results = [entry for entry in content["results"] if entry["workload"] in selected]
    else:
        memory = plan.memory
        where = compare.machine(compare.PACKAGES)
        measured = compare.run(selected, plan)
        compare.write(measured, plan, "gate_quick" if options.quick else "gate", where)
        results = [dataclasses.asdict(result) for result in measured]
    missing = sorted(set(selected) & set(limited) - {entry["workload"] for entry in results})
    return checks(results, limits, memory), results, missing


def topic(
    name: str, options: argparse.Namespace, limits: dict[str, Any]
) -> tuple[list[Check], list[dict[str, Any]], list[str]]:
    """Measure or read the contests of a topic: checks, results, and contests without a result."""
    selected = [each for each in contests.contests_chosen(options, name) if each.name in limits]
    names = {contest.name for contest in selected}
    plan = contests.plan_from(options)
    if options.source:
        content = json.loads(Path(options.source).read_text(encoding="utf-8"))
        memory = bool(content["plan"]["memory"]) and not options.no_memory
        results = [entry for entry in content["results"] if entry["contest"] in names]
    else:
        memory = plan.memory
        stem = "gate_quick" if options.quick else "gate"
        results = [
            dataclasses.asdict(result) for result in contests.run(name, selected, plan, stem)
        ]
    results = [{**entry, "workload": entry["contest"]} for entry in results]
    missing = sorted(names - {entry["contest"] for entry in results})
    return contest_checks(results, limits, memory), results, missing


def judge(
    found: Sequence[Check], results: Sequence[dict[str, Any]], missing: Sequence[str]
) -> tuple[int, int]:
    """Print the checks of one topic, and return how many were missed, of how many."""
    print(table(found))
    for name in missing:
        print(f"{name}: no result")
    for entry in results:
        if entry["skipped"]:
            print(f"{entry['workload']}: skipped, {entry['skipped']}")
        if entry["disagreement"]:
            print(f"{entry['workload']}: DISAGREES, {entry['disagreement']}")
        if entry["others"] is not None and entry["others"] > compare.BUSY:
            print(f"{entry['workload']}: BUSY, other programs used {entry['others']:.0%}")
    return sum(not check.passed for check in found) + len(missing), len(found) + len(missing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or read, judge, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    compare.add_options(parser)
    contests.add_options(parser)
    parser.add_argument("--from", dest="source", metavar="FILE", help="judge this JSON result")
    options = parser.parse_args(arguments)
    # Python 3.10 has no tomllib; pytest brings its predecessor along there.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    limits: dict[str, Any] = toml.loads(LIMITS.read_text(encoding="utf-8"))
    if options.source and not options.topics:
        options.topics = "crf"
    chosen = contests.chosen(options, list(limits))
    if options.source and len(chosen) != 1:
        parser.error("--from is a result of one topic: name that one with --topics")
    missed = total = 0
    for name in chosen:
        print(f"[{name}]")
        found = crf(options, limits[name]) if name == "crf" else topic(name, options, limits[name])
        missed_here, total_here = judge(*found)
        missed, total = missed + missed_here, total + total_here
    if missed or not total:
        print(f"gate: {missed} of {total} limits MISSED")
        return 1
    print(f"gate: all {total} limits met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
