"""What every accumulating metric shares: its states, and how they travel.

A metric over a dataset is a few states that each batch adds to, and a score computed from them.
The states are NumPy arrays, or, once torchmetrics is loaded, the states of a torchmetrics metric:
then the same class works in a `MetricCollection`, under Lightning and across processes.
"""

import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastseg.errors import DtypeError, ParameterError, ShapeError

Reduce = Literal["sum", "rows"]
_Self = TypeVar("_Self", bound="Accumulator")


@dataclass(frozen=True)
class State:
    """One state of an accumulator.

    Attributes:
        default: what it is before the first update, int64 or float64. For "rows" an array of no
            rows, (0, …).
        reduce: "sum" adds what a batch gives, "rows" appends it along the first axis.
    """

    default: NDArray[Any]
    reduce: Reduce = "sum"

    def __post_init__(self) -> None:
        """Refuses what would not be exact, or could not be appended to."""
        if self.default.dtype not in (np.int64, np.float64):
            raise DtypeError(f"a state must be int64 or float64, got {self.default.dtype}")
        if self.reduce == "rows" and self.default.shape[:1] != (0,):
            raise ShapeError(f"rows start with none, shape (0, …), got {self.default.shape}")


class Accumulator(ABC):
    """Base of the accumulating metrics: `update` with each batch, `compute` once at the end.

    A subclass declares its states, adds to them with `_accumulate` in `update`, and reads them
    with `_states` in `compute`, whose value goes through `_result`. It holds no numbers elsewhere.

    Created when torchmetrics has been imported, an instance also is a `torchmetrics.Metric`;
    created before, it is plain NumPy. Results are Python floats and float64 arrays from the one,
    float64 tensors from the other. Pickling and copying keep the kind.

    Args:
        states: the states by name.
        counting: parameters that change what an update adds, as JSON knows them. Only
            accumulators that agree in them may be merged, loaded into each other, or share their
            states in a `MetricCollection`.
        scoring: parameters that only change what `compute` makes of the states.
        options: torchmetrics' own options (`process_group`, `dist_sync_on_step`, …).

    Raises:
        ParameterError: `options` are given and torchmetrics is not in use.

    Example:
        A metric of one's own:

        >>> import numpy as np
        >>> from fastseg import metrics
        >>> class ForegroundShare(metrics.Accumulator):
        ...     def __init__(self, **options):
        ...         states = {"pixels": metrics.State(np.zeros(2, np.int64))}
        ...         super().__init__(states, counting={}, scoring={}, options=options)
        ...     def update(self, mask):
        ...         mask = np.asarray(mask, bool)
        ...         self._accumulate(pixels=np.array([mask.sum(), mask.size]))
        ...     def compute(self):
        ...         foreground, total = self._states()["pixels"]
        ...         return self._result(foreground / total)
        >>> share = ForegroundShare()
        >>> share.update([[1, 0], [0, 0]])
        >>> share.compute()
        0.25
    """

    # What torchmetrics asks of a class.
    is_differentiable: ClassVar[bool | None] = False
    higher_is_better: ClassVar[bool | None] = True
    full_state_update: ClassVar[bool | None] = False

    def __new__(cls: type[_Self], *args: Any, **kwargs: Any) -> _Self:  # noqa: ARG004
        """An instance of `cls`, or of its twin that is a torchmetrics metric, too."""
        if sys.modules.get("torchmetrics") is None:
            return super().__new__(cls)
        from fastseg.metrics._torchmetrics import twin

        made: _Self = super().__new__(twin(cls))
        return made

    def __init__(
        self,
        states: Mapping[str, State],
        *,
        counting: Mapping[str, Any],
        scoring: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self._begin(options)
        self._declared = dict(states)
        self._counting = dict(counting)
        self._scoring = dict(scoring)
        self._declare()

    @property
    def config(self) -> dict[str, Any]:
        """The parameters that this metric was made with."""
        return {**self._counting, **self._scoring}

    @abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> None:
        """Adds one batch."""

    @abstractmethod
    def compute(self) -> Any:
        """The score of all batches so far."""

    def reset(self) -> None:
        """Forgets all batches."""
        self._storage = {name: [state.default.copy()] for name, state in self._declared.items()}

    def merge(self, other: "Accumulator") -> None:
        """Adds the batches of another accumulator of the same class and parameters.

        Args:
            other: stays as it is. It may be plain where this is a torchmetrics metric, and the
                reverse.

        Raises:
            ParameterError: it measures something else.
        """
        theirs = getattr(other, "_plain_class", None)
        if theirs is not self._plain_class:
            raise ParameterError(
                f"only another {self._plain_class.__name__} can be merged, got a "
                f"{type(other).__name__}"
            )
        if other._counting != self._counting:
            raise ParameterError(
                f"only a metric of the same parameters can be merged: {self!r} and {other!r}"
            )
        self._accumulate(**other._states())

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on from here.

        Returns:
            The states by name, as arrays (tensors in a torchmetrics metric), and under "counting"
            a digest of the parameters.
        """
        return {"counting": self._counting_bytes(), **self._states()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Replaces the states by those of a `state_dict`.

        Args:
            state_dict: from `state_dict`, of plain accumulators and torchmetrics metrics alike.
            strict: whether every state must be there, and nothing else.

        Raises:
            ParameterError: states are missing or unknown, or the parameters differ.
            ShapeError: a state has another shape.
        """
        loaded = self._checked_states(state_dict, strict)
        self.reset()
        self._replace(loaded)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Not through `__new__`, which would change the kind where torchmetrics is loaded by now.
        return object.__new__, (self._plain_class,), self.__dict__

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"{self._plain_class.__name__}({given})"

    # --- for subclasses ---

    def _accumulate(self, **values: NDArray[Any]) -> None:
        """Adds to the states: a sum grows by the value, rows are appended."""
        for name, value in values.items():
            state = self._declared[name]
            added = self._fitting(name, value)
            held = self._storage[name]
            if state.reduce == "rows":
                held.append(added)
            else:
                held[0] = held[0] + added

    def _states(self) -> dict[str, NDArray[Any]]:
        """All states as NumPy arrays, rows in one piece. They are copies."""
        return {
            name: np.concatenate(held) if len(held) > 1 else held[0].copy()
            for name, held in self._storage.items()
        }

    def _result(self, value: Any) -> Any:
        """A score as this kind of metric returns it: a float, or an array of float64 or int64."""
        return value if isinstance(value, np.ndarray) and value.ndim else float(value)

    # --- the kind of storage; the torchmetrics twin replaces these ---

    @property
    def _plain_class(self) -> type["Accumulator"]:
        return type(self)

    def _begin(self, options: Mapping[str, Any]) -> None:
        if options:
            raise ParameterError(
                f"{type(self).__name__} has no parameter {next(iter(options))!r}; options of "
                "torchmetrics are taken once torchmetrics is imported"
            )

    def _declare(self) -> None:
        self.reset()

    def _replace(self, states: Mapping[str, NDArray[Any]]) -> None:
        self._storage.update({name: [value] for name, value in states.items()})

    # --- shared by both kinds ---

    def _fitting(self, name: str, value: Any) -> NDArray[Any]:
        """`value` as the dtype of a state, if it is of its shape."""
        state = self._declared[name]
        array = np.asarray(value)
        first = 1 if state.reduce == "rows" else 0
        wanted = state.default.shape[first:]
        if array.ndim != state.default.ndim or array.shape[first:] != wanted:
            raise ShapeError(
                f"state {name!r} has shape {state.default.shape}, which {array.shape} does not fit"
            )
        return array.astype(state.default.dtype, casting="same_kind", copy=False)

    def _counting_bytes(self) -> NDArray[np.uint8]:
        # A digest has one length, whatever the parameters: processes can compare theirs.
        text = json.dumps({"metric": self._counting_name, **self._counting}, sort_keys=True)
        return np.array(list(hashlib.sha256(text.encode()).digest()), np.uint8)

    @property
    def _counting_name(self) -> str:
        """What the states count: metrics that share it can share them."""
        return ",".join(sorted(self._declared))

    def _checked_states(
        self, state_dict: Mapping[str, Any], strict: bool
    ) -> dict[str, NDArray[Any]]:
        given = {name: np.asarray(value) for name, value in state_dict.items()}
        counting = given.pop("counting", None)
        ours = self._counting_bytes()
        if counting is not None and counting.tobytes() != ours.tobytes():
            raise ParameterError(
                f"state_dict is of a metric that counts otherwise than {self!r}: load it into one "
                "of the same parameters"
            )
        missing, unknown = (
            self._declared.keys() - given.keys(),
            given.keys() - self._declared.keys(),
        )
        if strict and (missing or unknown):
            raise ParameterError(
                f"state_dict must have {sorted(self._declared)}, missing: {sorted(missing)}, "
                f"unknown: {sorted(unknown)}"
            )
        return {name: self._fitting(name, given[name]) for name in self._declared if name in given}
