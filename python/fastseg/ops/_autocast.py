"""What autocast would do to the input of an operation, had it heard of it."""

import torch
from torch import Tensor


def lowered(tensor: Tensor) -> Tensor:
    """A tensor in autocast's dtype where autocast is on for the GPU that it is on.

    PyTorch converts the arguments of matrix products and convolutions so; operators of other
    packages get what they are given.
    """
    device = tensor.device.type
    if device == "cpu" or not torch.is_autocast_enabled(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))
