"""Checks of parameters, each with an error that names the parameter and what came."""

import difflib
import math
import operator
import sys
from collections.abc import Iterable
from typing import Any

from fastseg.errors import DtypeError, ParameterError, ShapeError


def integer(
    name: str, value: Any, *, least: int = -sys.maxsize - 1, most: int = sys.maxsize
) -> int:
    """`value` as an int from `least` to `most`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise DtypeError(f"{name} must be an integer, got {_brief(value)}") from None
    if number < least:
        raise ParameterError(f"{name} must be at least {least}, got {number}")
    if number > most:
        raise ParameterError(f"{name} must be at most {most}, got {number}")
    return number


def number(name: str, value: Any, *, least: float = -math.inf) -> float:
    """`value` as a finite float of at least `least`."""
    try:
        # Python's own numbers, as NumPy's and torch's would only warn that they drop a part.
        plain = value.item() if getattr(value, "ndim", None) == 0 else value
        if isinstance(plain, (str, bytes, bool)) or hasattr(plain, "ndim"):
            raise TypeError
        result = float(plain)
    except (TypeError, ValueError):
        raise DtypeError(f"{name} must be a number, got {_brief(value)}") from None
    except OverflowError:  # an int beyond all floats
        result = math.inf
    if not math.isfinite(result):
        raise ParameterError(f"{name} must be finite, got {result}")
    if result < least:
        raise ParameterError(f"{name} must be at least {least:g}, got {result}")
    return result


def positive(name: str, value: Any) -> float:
    """`value` as a finite float above zero."""
    result = number(name, value)
    if result <= 0:
        raise ParameterError(f"{name} must be greater than 0, got {result}")
    return result


def share(name: str, value: Any) -> float:
    """`value` as a float in 0 … 1."""
    result = number(name, value, least=0)
    if result > 1:
        raise ParameterError(f"{name} must be at most 1, got {result}")
    return result


def positive_per(name: str, value: Any, count: int, what: str) -> list[float]:
    """`value` as `count` finite floats above zero: one for all, or one for each `what`."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        values = list(value)
    except TypeError:
        return [positive(name, value)] * count
    if len(values) != count:
        raise ShapeError(
            f"{name} must be one number or one for each {what} ({count}), got {len(values)}"
        )
    return [positive(f"{name}[{i}]", x) for i, x in enumerate(values)]


def switch(name: str, value: Any) -> bool:
    """`value` if it is true or false: "no" would count as true."""
    if not isinstance(value, bool):
        raise DtypeError(f"{name} must be True or False, got {_brief(value)}")
    return value


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """`value` if it is one of `choices`; the error suggests the nearest."""
    choices = list(choices)
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(map(repr, choices))
    raise ParameterError(f"{name} must be one of {listed}, got {value!r}{hint}")


def _brief(value: Any) -> str:
    """`value` as errors show it: without what a large array would print."""
    if isinstance(value, (str, bytes, bool, int, float, complex)):
        text = repr(value)
        return text if len(text) <= 40 else text[:37] + "…"
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    return f"{kind} of shape {tuple(shape)}" if shape is not None else kind
