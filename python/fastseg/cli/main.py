"""Parse the command line and hand over to the sub-command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from fastseg.cli.evaluate import add_parser as add_evaluate
from fastseg.cli.exit_codes import INTERRUPTED, USAGE, UsageError
from fastseg.cli.info import add_parser as add_info
from fastseg.cli.refine import add_parser as add_refine
from fastseg.cli.segment import add_parser as add_segment


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `fastseg` with every sub-command."""
    parser = argparse.ArgumentParser(
        prog="fastseg",
        description="Sharpen and inspect segmentation masks from the shell.",
        epilog="`fastseg COMMAND --help` explains a command and its exit codes.",
    )
    parser.add_argument("--version", action="version", version=f"fastseg {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_refine(commands)
    add_segment(commands)
    add_evaluate(commands)
    add_info(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: The words after the program's name; those of the process if None.

    Returns:
        0 for success, 1 where some files failed, 2 for wrong usage, 130 after Ctrl-C.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        # A reader that went away (`| head`) shows up here rather than at interpreter exit.
        sys.stdout.flush()
    except UsageError as error:
        print(f"fastseg {arguments.command}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(f"fastseg {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The flush at interpreter exit must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _version() -> str:
    import fastseg

    version = getattr(fastseg, "__version__", None)
    if isinstance(version, str):
        return version
    try:
        return metadata.version("fastseg-rs")
    except metadata.PackageNotFoundError:
        return "unknown"
