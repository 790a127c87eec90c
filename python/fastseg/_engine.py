"""The Rust engine, where it is built, and tensors as it takes them: flat views."""

from typing import TYPE_CHECKING, Any

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

__all__ = ["engine", "flat", "flats"]


def flat(tensor: Tensor) -> NDArray[Any]:
    """A flat view of a tensor; a copy only where it is not contiguous."""
    return tensor.detach().contiguous().view(-1).numpy()


def flats(tensors: list[Tensor]) -> list[NDArray[Any]]:
    """The same for many."""
    return [flat(tensor) for tensor in tensors]
