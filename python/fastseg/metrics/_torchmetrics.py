"""Accumulators that also are torchmetrics metrics.

Only imported once torchmetrics is.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torchmetrics
from numpy.typing import NDArray

from fastseg.errors import BackendError
from fastseg.metrics.accumulator import Accumulator

# The name of the state that says what the others count. It makes torchmetrics keep apart, in
# its compute groups, metrics whose counts only happen to be close in the first batch.
SETTINGS = "counting"


def twin(cls: type[Accumulator]) -> type[Any]:
    """The class that is both `cls` and a torchmetrics metric."""
    return cls if issubclass(cls, torchmetrics.Metric) else _twin(cls)


def _rebuild(plain: type[Accumulator]) -> Any:
    """An empty instance, to be filled by `__setstate__`: what unpickling starts from."""
    return object.__new__(twin(plain))


def _same_everywhere(settings: torch.Tensor) -> torch.Tensor:
    """What processes agree on, from one row for each."""
    if not bool((settings == settings[0]).all()):
        raise BackendError("the processes measure with different parameters: give all the same")
    return settings[0]


@functools.cache
def _twin(plain: Any) -> type[Any]:
    metric: Any = torchmetrics.Metric

    class Twin(plain, metric):  # type: ignore[misc]
        """An accumulator whose states are torchmetrics'."""

        def reset(self) -> None:
            metric.reset(self)

        def merge(self, other: Accumulator) -> None:
            updates = getattr(other, "_update_count", 1)
            super().merge(other)
            self._computed = None
            self._update_count += updates

        def state_dict(
            self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
        ) -> dict[str, Any]:
            if args or destination is not None or prefix:
                # As a part of a model: only what `persistent(True)` asks for.
                part: dict[str, Any] = metric.state_dict(
                    self, *args, destination=destination, prefix=prefix, keep_vars=keep_vars
                )
                return part
            states = {name: torch.from_numpy(value) for name, value in self._states().items()}
            return {SETTINGS: getattr(self, SETTINGS).cpu(), **states}

        def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
            given = {
                name: value.numpy(force=True) if isinstance(value, torch.Tensor) else value
                for name, value in state_dict.items()
            }
            super().load_state_dict(given, strict)
            self._update_count = 1  # or `compute` would warn that there is nothing

        def set_dtype(self, dst_type: Any) -> Any:  # noqa: ARG002
            """Leaves counts what they are: exact."""
            return self

        def _apply(self, fn: Any, *_: Any, **__: Any) -> Any:
            # Half precision for a model must not round what is counted: states only move.
            this = super()._apply(fn, exclude_state=tuple(self._defaults))
            for name, default in self._defaults.items():
                if isinstance(default, torch.Tensor):
                    self._defaults[name] = default.to(self.device)
                held = getattr(self, name)
                if isinstance(held, torch.Tensor):
                    setattr(self, name, held.to(self.device))
                else:
                    setattr(self, name, [row.to(self.device) for row in held])
            return this

        def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
            # A process without any row must send none of the right width, not nothing.
            for name, state in self._declared.items():
                if state.reduce == "rows" and len(getattr(self, name)) == 0:
                    setattr(self, name, [self._tensor(state.default)])
            super()._sync_dist(*args, **kwargs)

        def __reduce_ex__(self, protocol: Any) -> Any:
            return _rebuild, (plain,), self.__getstate__()

        # --- the kind of storage ---

        @property
        def _plain_class(self) -> Any:
            return plain

        def _begin(self, options: Mapping[str, Any]) -> None:
            metric.__init__(self, **options)

        def _declare(self) -> None:
            settings = torch.from_numpy(self._counting_bytes())
            self.add_state(SETTINGS, settings, dist_reduce_fx=_same_everywhere)
            for name, state in self._declared.items():
                if state.reduce == "rows":
                    self.add_state(name, [], dist_reduce_fx="cat")
                else:
                    default = torch.from_numpy(state.default.copy())
                    self.add_state(name, default, dist_reduce_fx="sum")

        def _accumulate(self, **values: NDArray[Any]) -> None:
            for name, value in values.items():
                added = self._tensor(self._fitting(name, value))
                held = getattr(self, name)
                setattr(self, name, [*held, added] if isinstance(held, list) else held + added)

        def _states(self) -> dict[str, NDArray[Any]]:
            return {name: self._numpy(name) for name in self._declared}

        def _replace(self, states: Mapping[str, NDArray[Any]]) -> None:
            for name, value in states.items():
                tensor = self._tensor(value)
                rows = self._declared[name].reduce == "rows"
                setattr(self, name, [tensor] if rows else tensor)

        def _result(self, value: Any) -> torch.Tensor:
            array = np.asarray(value)
            is_count = array.ndim > 0 and array.dtype.kind in "ui"
            return self._tensor(array if is_count else array.astype(np.float64))

        def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
            tensor = torch.from_numpy(np.array(array))
            # Apple's GPUs have no float64.
            if self.device.type == "mps" and tensor.is_floating_point():
                tensor = tensor.float()
            return tensor.to(self.device)

        def _numpy(self, name: str) -> NDArray[Any]:
            held, default = getattr(self, name), self._declared[name].default
            if isinstance(held, list):
                rows = [row.numpy(force=True) for row in held]
                held = np.concatenate([default, *rows])
            else:
                held = held.numpy(force=True)
            return np.array(held, default.dtype)

    Twin.__name__, Twin.__qualname__ = plain.__name__, plain.__qualname__
    Twin.__module__, Twin.__doc__ = plain.__module__, plain.__doc__
    return Twin
