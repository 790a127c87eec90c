"""A linear layer over tokens, on the fastest path that PyTorch has."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.ops._backends import is_decomposed


def token_linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Applies `x W^T + b` to the last axis, as `torch.nn.functional.linear` does.

    On a CPU, float32, it runs as the 1×1 convolution that it is: PyTorch gives convolutions to
    oneDNN, which uses AVX-512 on every processor that has it, and linear layers to MKL, which on
    AMD's does not. Tokens seen as a channels-last picture need no copy for that.

    Args:
        tokens: (B, …, C) float, two axes or more.
        weight: (O, C) float.
        bias: (O) float, or None.

    Returns:
        (B, …, O) float.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> x, w = torch.ones(1, 4, 4, 3), torch.ones(2, 3)
        >>> ops.token_linear(x, w).shape
        torch.Size([1, 4, 4, 2])
    """
    if (
        tokens.device.type != "cpu"
        or tokens.dtype != torch.float32
        or tokens.ndim < 3
        or weight.dtype != torch.float32
        or is_decomposed()
        or torch.compiler.is_exporting()
        or torch.is_autocast_enabled("cpu")
        or not torch._C._has_mkldnn
    ):
        return F.linear(tokens, weight, bias)
    shape = tokens.shape
    picture = tokens if tokens.ndim == 4 else tokens.reshape(shape[0], -1, 1, shape[-1])
    picture = picture.permute(0, 3, 1, 2)
    out = F.conv2d(picture, weight[:, :, None, None], bias).permute(0, 2, 3, 1)
    return out if tokens.ndim == 4 else out.reshape(*shape[:-1], weight.shape[0])
