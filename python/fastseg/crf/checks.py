"""Checks of parameters, each with an error that names the parameter and what came."""

import difflib
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import DataError, DtypeError, ParameterError, ShapeError

NORMALIZATIONS = ("none", "before", "after", "symmetric")


def integer(name: str, value: Any, *, least: int) -> int:
    """`value` as an int of at least `least`."""
    if isinstance(value, (bool, np.bool_)):
        raise DtypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise DtypeError(f"{name} must be an integer, got {type(value).__name__}") from None
    if number < least:
        raise ParameterError(f"{name} must be at least {least}, got {number}")
    return number


def number(name: str, value: Any) -> float:
    """`value` as a finite float."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError):
        raise DtypeError(f"{name} must be a number, got {type(value).__name__}") from None
    if not math.isfinite(result):
        raise ParameterError(f"{name} must be finite, got {result}")
    return result


def positive(name: str, value: Any) -> float:
    """`value` as a finite float above zero."""
    result = number(name, value)
    if result <= 0:
        raise ParameterError(f"{name} must be greater than 0, got {result}")
    return result


def positive_per(name: str, value: Any, count: int, what: str) -> list[float]:
    """`value` as `count` finite floats above zero: one for all, or one for each `what`."""
    if np.ndim(value) == 0:
        return [positive(name, value)] * count
    values = list(value)
    if len(values) != count:
        raise ShapeError(
            f"{name} must be one number or one for each {what} ({count}), got {len(values)}"
        )
    return [positive(f"{name}[{i}]", x) for i, x in enumerate(values)]


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """`value` if it is one of `choices`; the error suggests the nearest."""
    choices = list(choices)
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(map(repr, choices))
    raise ParameterError(f"{name} must be one of {listed}, got {value!r}{hint}")


def compatibility(name: str, value: Any, num_labels: int) -> float | NDArray[np.float32]:
    """`value` as a Potts weight, a weight for each label, or a penalty for each pair of labels."""
    if np.ndim(value) == 0:
        return number(name, value)
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.shape not in {(num_labels,), (num_labels, num_labels)}:
        raise ShapeError(
            f"{name} must be a number, ({num_labels},) weights or a ({num_labels}, {num_labels}) "
            f"matrix of penalties for {num_labels} labels, got shape {array.shape}"
        )
    result = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(result).all():
        raise DataError(f"{name} must be finite, got NaN or infinity")
    return result


def shape_text(shape: Sequence[int]) -> str:
    """`shape` as people write it: 375×500."""
    return "×".join(map(str, shape))
