"""The Rust engine, where it is built, which tensors it takes, and how: as flat views."""

from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from fastseg import _rust as engine
else:
    # A machine that has a GPU and no Rust runs the other backends out of the sources.
    try:
        from fastseg import _rust as engine
    except ImportError:
        engine = None

__all__ = ["engine", "engine_problem", "flat", "flats"]


def flat(tensor: Tensor) -> NDArray[Any]:
    """A flat view of a tensor; a copy only where it is not contiguous."""
    return tensor.detach().contiguous().view(-1).numpy()


def flats(tensors: list[Tensor]) -> list[NDArray[Any]]:
    """The same for many."""
    return [flat(tensor) for tensor in tensors]


def engine_problem(tensors: list[Tensor]) -> str | None:
    """Why the engine cannot take tensors, which are to be float32 on a CPU; None if it can."""
    if engine is None:
        return "no engine: fastseg._rust is not built"
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"one on {tensor.device}"
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            return str(tensor.dtype)
    return None
