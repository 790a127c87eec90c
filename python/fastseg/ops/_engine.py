"""Tensors as the engine takes them: flat NumPy views of the same memory."""

from typing import Any

from numpy.typing import NDArray
from torch import Tensor


def flat(tensor: Tensor) -> NDArray[Any]:
    """A flat view of a tensor; a copy only where it is not contiguous."""
    return tensor.detach().contiguous().view(-1).numpy()


def flats(tensors: list[Tensor]) -> list[NDArray[Any]]:
    """The same for many."""
    return [flat(tensor) for tensor in tensors]
