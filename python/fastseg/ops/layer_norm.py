"""LayerNorm that a compiler leaves to PyTorch's own operator, where that is the fastest."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.ops import reference
from fastseg.ops._backends import chosen_backend, is_decomposed
from fastseg.ops._operation import operation


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Normalises the last axis, as `torch.nn.functional.layer_norm` does.

    `torch.compile` makes loops of its own of a LayerNorm. For a CPU they take many times as long as
    PyTorch's operator, and leave tokens in an order that the next layer has to copy. So in
    inference, float32, the LayerNorm stays whole there; everywhere else it is the plain one.

    Args:
        x: (B, …, C) float.
        weight: (C) float.
        bias: (C) float.
        eps: added to the variance.

    Returns:
        (B, …, C) float.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> ops.layer_norm(torch.tensor([[1.0, 3.0]]), torch.ones(2), torch.zeros(2)).round()
        tensor([[-1.,  1.]])
    """
    if stays_whole(x, weight, bias):
        out: Tensor = _layer_norm(x, weight, bias, eps, chosen_backend())
        return out
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def stays_whole(*tensors: Tensor) -> bool:
    """Whether a compiler is at work that had better not see into a LayerNorm of these tensors."""
    return (
        torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and not is_decomposed()
        and chosen_backend() in ("", "torch")
        and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
    )


def _torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, eps).contiguous()


def _reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return reference.layer_norm(x, weight, bias, eps=eps).contiguous()


@operation({"reference": _reference, "torch": _torch})
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, backend: str) -> Tensor:
    return x.new_empty(x.shape)
