"""The unary term: probabilities, logits or energies of every label at every point."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg._checks import number
from fastseg.crf._arrays import float32_rows
from fastseg.errors import DataError, ParameterError


@dataclass(frozen=True)
class Unary:
    """The unary term as the engine takes it, and where it comes from.

    Attributes:
        values: (K, N) float32, contiguous: probabilities if `clip` is given, energies otherwise.
        shape: the shape of the N points.
        clip: the least probability.
        name: the argument that it was made of.
        given: that argument, or the item `index` of it: (K, *shape), (1, *shape) or (*shape).
        index: () or (item,), where `given` is in the argument.
    """

    values: NDArray[np.float32]
    shape: tuple[int, ...]
    clip: float | None
    name: str
    given: NDArray[Any]
    index: tuple[int, ...] = ()

    def energies(self) -> NDArray[np.float32]:
        """The energies U = −ln p, (K, N), clipped and normalised as the engine does it."""
        if self.clip is None:
            return self.values
        sums = self.values.sum(0)
        share = self.values / np.where(sums > 0, sums, 1)
        energies: NDArray[np.float32] = -np.log(
            np.maximum(share, max(self.clip, np.finfo(np.float32).tiny), dtype=np.float32)
        )
        return energies

    def error(self, label: int, point: int) -> DataError:
        """The error for the value of `label` at `point`, which the engine has refused."""
        place: tuple[int, ...] = tuple(int(i) for i in np.unravel_index(point, self.shape))
        if self.given.ndim > len(self.shape):
            place = (min(label, len(self.given) - 1), *place)
        value = self.given[place]
        if self.name == "unary":
            remedy = "energies must be numbers above −inf, and not all of a point may be infinite"
        elif self.name == "logits":
            remedy = (
                "logits must be numbers below +inf that a 32-bit float can hold, and not all of a "
                "point may be −inf"
            )
        elif not np.isfinite(value):
            remedy = "remove or replace it"
        else:
            remedy = (
                "probabilities lie in [0, 1]; if these are network outputs before the softmax or "
                "sigmoid, pass them as logits="
            )
        where = ", ".join(map(str, (*self.index, *place)))
        return DataError(f"{self.name}[{where}] is {value}: {remedy}")


def rows_of_labels(
    scores: NDArray[Any], shape: tuple[int, ...], *, are_logits: bool
) -> NDArray[np.float32]:
    """The (K, N) values of a unary term: probabilities, or energies if the scores are logits.

    Args:
        scores: (K, *shape) of K labels; or of the foreground alone, (1, *shape) or (*shape), which
            makes two labels of it.
        shape: the shape of the N points.
        are_logits: whether they are scores before the softmax, or sigmoid.
    """
    num_rows = 1 if scores.shape == shape else len(scores)
    rows = float32_rows(scores, num_rows)
    if num_rows > 1:
        return -rows if are_logits else rows
    if are_logits:
        return np.concatenate([np.zeros_like(rows), -rows])
    return np.concatenate([np.maximum(1 - rows, 0), rows])


def clip_value(clip: Any) -> float:
    """`clip` as a float in [0, 1)."""
    value = number("clip", clip, least=0)
    if value >= 1:
        raise ParameterError(f"clip must be below 1, got {value}")
    return value
