"""Times of every contest's contenders, in one group for each contest.

`contests.py` is the measurement that the project's statements rest on; this one gives the usual
pytest-benchmark table. Before a rival is timed fastseg's result must agree with its.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

import contests
from contests import Case, Contender, Contest
from workloads import MissingDataError

ENTRIES = [
    pytest.param(contest, contender, id=f"{topic}-{contest.name}-{contender.name}")
    for topic in contests.topics()
    for contest in contests.contests(topic)
    for contender in (contest.ours, *contest.rivals)
]


@lru_cache(maxsize=1)
def _case(contest: Contest) -> Case:
    try:
        return next(iter(contest.cases()))
    except MissingDataError as error:
        pytest.skip(str(error))


@lru_cache(maxsize=1)
def _expected(contest: Contest) -> Any:
    arguments = contest.ours.arguments(_case(contest))
    return contest.ours.compared(contest.ours.run(*arguments))


@pytest.mark.parametrize(("contest", "contender"), ENTRIES)
def bench_contest(benchmark: Any, contest: Contest, contender: Contender) -> None:
    if not contender.available():
        pytest.skip(f"{', '.join(contender.requires)} is not installed")
    contests.use_threads()
    arguments = contender.arguments(_case(contest))
    contest.agree(_expected(contest), contender.compared(contender.run(*arguments)))
    benchmark.group = contest.name
    benchmark.extra_info["source"] = _case(contest).source
    benchmark.pedantic(contender.run, args=arguments, rounds=5, warmup_rounds=1)
