"""Work through files one by one: a progress bar, errors by file name, a report for programs."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from fastseg.cli.exit_codes import INTERRUPTED, OK, SOME_FAILED, UsageError
from fastseg.errors import FastsegError

Step: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) steps of one file."""

_Job = TypeVar("_Job")


def check_output(folder: Path) -> None:
    """Make the folder for results.

    Raises:
        UsageError: Nothing can be written there.
    """
    probe = folder / ".fastseg-write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"the output folder {folder} cannot be written to: {error.strerror or error}"
        ) from error


def work_off(
    jobs: Sequence[_Job],
    do: Callable[[_Job, dict[str, Any], Step | None], str],
    *,
    command: str,
    files: Callable[[_Job], Mapping[str, str]],
    unit_of_one: str,
    arguments: argparse.Namespace,
    report: dict[str, Any],
    keep_done: bool = True,
) -> int:
    """Do every job, keep going after failures, and tell about each.

    Args:
        jobs: What is to be done.
        do: Does one of them, fills in its entry of the report and returns the line to print, if
            any. A job that is alone also gets a function to tell its steps to.
        command: Name of the sub-command, for messages.
        files: The files of a job for its entry, the picture under the name "image".
        unit_of_one: What the steps of a job are called.
        arguments: With `json`, `progress` and `debug`.
        report: Gets the entries under "files", and their numbers under "done" and "failed".
        keep_done: Whether the entries of jobs that were done stay in the report.

    Returns:
        The exit code.
    """
    from tqdm import tqdm

    shown = None if arguments.progress is None else not arguments.progress
    single = len(jobs) == 1
    report["done"] = report["failed"] = 0
    with tqdm(
        total=1 if single else len(jobs),
        desc=command,
        unit=unit_of_one if single else "image",
        file=sys.stderr,
        disable=shown,
        leave=False,
    ) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        for job in jobs:
            entry: dict[str, Any] = {**files(job), "status": "interrupted"}
            name = Path(entry["image"]).name
            bar.set_postfix_str(name, refresh=False)
            report["files"].append(entry)
            try:
                line, stream = do(job, entry, step if single else None), sys.stdout
                entry["status"] = "ok"
                report["done"] += 1
                if not keep_done:
                    report["files"].pop()
            except KeyboardInterrupt:
                bar.close()
                finished = report["done"] + report["failed"]
                print(
                    f"fastseg {command}: interrupted; {finished} of {len(jobs)} files were done",
                    file=sys.stderr,
                )
                return INTERRUPTED
            # Whatever is wrong with one file, the others are still done.
            except Exception as error:
                report["failed"] += 1
                expected = isinstance(error, FastsegError | MemoryError)
                message = str(error) or type(error).__name__
                if not expected:
                    message = f"unexpected {type(error).__name__}: {message}"
                entry["status"] = "failed"
                entry["error"] = {"type": type(error).__name__, "message": message}
                prefix = "" if message.startswith(name) else f"{name}: "
                line = f"fastseg {command}: {prefix}{message}"
                stream = sys.stderr
                if arguments.debug:
                    line += "\n" + traceback.format_exc()
            if not single:
                bar.update()
            if line and (stream is sys.stderr or not arguments.json):
                bar.clear()
                print(line, file=stream, flush=True)
                bar.refresh()
    failed = report["failed"]
    if failed:
        print(f"fastseg {command}: {failed} of {len(jobs)} files failed", file=sys.stderr)
    return SOME_FAILED if failed else OK


def print_report(report: dict[str, Any], code: int, seconds: float) -> None:
    """Complete the report of a run and print it as one JSON document."""
    report["ok"] = code == OK
    report["exit_code"] = code
    report["seconds"] = seconds
    report.setdefault("done", 0)
    report.setdefault("failed", 0)
    print(json.dumps(report, indent=2, default=_as_json))


def _as_json(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not known to JSON")
