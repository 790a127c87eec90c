"""The base of all loss modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastseg._checks import integer
from fastseg.errors import DtypeError, ParameterError, ShapeError


class LossModule(nn.Module):
    """Holds the options of a loss function; tensors among them move with the module."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        if options.get("ignore_index") is not None:
            integer("ignore_index", options["ignore_index"])
        self._names = tuple(options)
        for name, value in options.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value, persistent=False)
            else:
                setattr(self, name, value)

    def options(self) -> dict[str, Any]:
        """The options by the names that the function has for them."""
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        """The options, for `print(loss)`."""
        return ", ".join(f"{name}={value}" for name, value in self.options().items())


def class_weights(value: Tensor | Sequence[float] | None) -> Tensor | None:
    """`class_weight` as a float tensor of one axis, checked.

    Raises:
        DtypeError: it holds no numbers.
        ShapeError: it has other than one axis.
        ParameterError: a weight is negative or not finite.
    """
    if value is None:
        return None
    try:
        weight = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        raise DtypeError(f"class_weight: expected one number per class, got {value!r}") from None
    if weight.dtype == torch.bool or weight.is_complex():
        raise DtypeError(f"class_weight: expected real numbers, got {weight.dtype}")
    if weight.ndim != 1:
        raise ShapeError(f"class_weight: expected one axis, got {tuple(weight.shape)}")
    weight = weight if weight.is_floating_point() else weight.float()
    if not torch.compiler.is_compiling() and not bool(((weight >= 0) & weight.isfinite()).all()):
        raise ParameterError(f"class_weight: expected finite weights from 0 on, got {value!r}")
    return weight


def weights_for(value: Tensor | Sequence[float] | None, logits: Tensor) -> Tensor | None:
    """`class_weight` as (K,) of the dtype and device of (B, K, N) logits."""
    weight = class_weights(value)
    if weight is None:
        return None
    if weight.shape[0] != logits.shape[1]:
        raise ShapeError(
            f"class_weight: expected {logits.shape[1]} numbers, one per class of the logits, got "
            f"{weight.shape[0]}"
        )
    return weight.to(device=logits.device, dtype=logits.dtype)
