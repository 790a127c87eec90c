"""Parse the numbers of the command line, with messages that say what was expected."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np


def whole(lowest: int) -> Callable[[str], int]:
    """Return a parser of whole numbers."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {lowest}, got {text!r}"
            )
        return value

    return parse


def number(text: str) -> float:
    """Parse a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def positive(text: str) -> float:
    """Parse a number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def positive_each(text: str) -> float | tuple[float, ...]:
    """Parse one number above 0, or several with commas between."""
    numbers = tuple(positive(part) for part in text.split(","))
    return numbers if len(numbers) > 1 else numbers[0]


def at_least_zero(text: str) -> float:
    """Parse a number of at least 0."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text!r}")
    return value


def fraction(text: str) -> float:
    """Parse a number between 0 and 1."""
    value = number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return value
