"""What autocast would do to the input of an operation, had it heard of it."""

import torch
from torch import Tensor


def lowered(tensor: Tensor) -> Tensor:
    """A tensor in autocast's dtype where autocast is on for the GPU that it is on.

    PyTorch converts the arguments of matrix products and convolutions so; operators of other
    packages get what they are given.
    """
    return tensor.to(lower_dtype(tensor) or tensor.dtype)


def lower_dtype(tensor: Tensor) -> torch.dtype | None:
    """Autocast's dtype where autocast is on for the GPU that a tensor is on, or None.

    As PyTorch has it, float64 and integers stay what they are.
    """
    device = tensor.device.type
    if device == "cpu" or not torch.amp.is_autocast_available(device):
        return None
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def raised(tensor: Tensor) -> Tensor:
    """A tensor in float32 where autocast is on for the GPU that it is on, as losses have it."""
    return tensor if lower_dtype(tensor) is None else tensor.float()
