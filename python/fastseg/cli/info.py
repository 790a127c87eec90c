"""`fastseg info`: versions, threads, and what can run here."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastseg.cli.exit_codes import OK, SOME_FAILED

_READERS = {"tifffile": ".tif", "nibabel": ".nii, .nii.gz"}


def add_parser(commands: Any) -> None:
    """Add `info` to the sub-commands."""
    parser = commands.add_parser(
        "info",
        help="print versions, threads, instruction set and back ends",
        description="Print versions, threads, instruction set, back ends and optional readers.",
        epilog="exit codes:\n  0  the engine runs\n  1  it does not",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Run `fastseg info` and return the exit code."""
    facts = gather()
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print(_as_text(facts))
    return OK if facts["backends"]["rust"]["available"] else SOME_FAILED


def gather() -> dict[str, Any]:
    """Find out what can run here, without loading torch."""
    engine, failure = _engine()
    return {
        "fastseg": _version("fastseg-rs") or engine.get("version"),
        "engine": engine,
        "threads": engine.get("num_threads"),
        "instruction_set": engine.get("instruction_set"),
        "backends": {
            "rust": {
                "available": failure is None,
                "version": engine.get("version"),
                "reason": failure,
            },
            "torch": _torch(),
            "triton": _triton(),
        },
        "readers": {
            name: {"available": find_spec(name) is not None, "version": _version(name), "for": what}
            for name, what in _READERS.items()
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in ("numpy", "pillow", "tqdm")},
    }


def _engine() -> tuple[dict[str, Any], str | None]:
    try:
        from fastseg import _rust

        facts: dict[str, Any] = dict(_rust.build_info())
    except (ImportError, AttributeError) as error:
        return {}, f"the compiled engine cannot be loaded: {error}"
    try:
        from fastseg.threads import get_num_threads

        facts["num_threads"] = get_num_threads()
    except ImportError:
        pass
    return facts, None


def _torch() -> dict[str, Any]:
    version = _version("torch")
    if version is None or find_spec("torch") is None:
        return _unavailable(version, "torch is not installed: pip install 'fastseg-rs[models]'")
    if not _has_operations():
        return _unavailable(
            version,
            "torch is installed, and crf.refine takes and returns its tensors, but this version "
            "of fastseg has no operations that compute with it",
        )
    return {"available": True, "version": version, "reason": None}


def _triton() -> dict[str, Any]:
    version = _version("triton")
    if version is None or find_spec("triton") is None:
        return _unavailable(version, "triton is not installed")
    kernels = _kernels()
    if not _has_operations() or not kernels:
        return _unavailable(
            version, "triton is installed, but this version of fastseg has no kernels for it"
        )
    if find_spec("torch") is None:
        return _unavailable(version, "triton needs torch, which is not installed")
    if sys.platform == "linux" and not any(
        Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    ):
        return _unavailable(version, f"no GPU is visible to run {_count(kernels)} on")
    return {"available": True, "version": version, "reason": None, "kernels": kernels}


def _count(kernels: list[str]) -> str:
    return f"the kernels of {len(kernels)} operations"


def _unavailable(version: str | None, reason: str) -> dict[str, Any]:
    return {"available": False, "version": version, "reason": reason}


def _has_operations() -> bool:
    return find_spec("fastseg.ops") is not None


def _kernels() -> list[str]:
    """The operations that have kernels."""
    package = Path(__file__).resolve().parent.parent
    operations = {path.stem for path in (package / "ops").glob("*.py")}
    return sorted(operations & {path.stem for path in (package / "kernels").glob("*.py")})


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _as_text(facts: dict[str, Any]) -> str:
    lines = [
        f"fastseg          {facts['fastseg'] or 'unknown'}",
        f"threads          {facts['threads'] or 'unknown'}",
        f"instruction set  {facts['instruction_set'] or 'unknown'}",
        f"python           {facts['python']} on {facts['platform']}",
        "packages         "
        + ", ".join(f"{name} {version}" for name, version in facts["packages"].items()),
        "",
        "back ends",
    ]
    for name, state in facts["backends"].items():
        word = "yes" if state["available"] else "no "
        lines.append(f"  {name:<9}{word}  {_detail(state)}")
    lines += ["", "optional readers"]
    for name, state in facts["readers"].items():
        word = "yes" if state["available"] else "no "
        detail = state["version"] if state["available"] else "pip install 'fastseg-rs[io]'"
        lines.append(f"  {name:<9}{word}  {state['for']}  ({detail})")
    return "\n".join(lines)


def _detail(state: dict[str, Any]) -> str:
    if state["available"]:
        kernels = f", {_count(state['kernels'])}" if "kernels" in state else ""
        return f"{state['version']}{kernels}"
    return str(state["reason"])
