"""The label of each pixel, without logits at full resolution."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastseg._engine import engine
from fastseg.errors import DtypeError, ShapeError
from fastseg.ops import reference
from fastseg.ops._backends import chosen_backend, is_decomposed
from fastseg.ops._operation import operation


def upsample_argmax(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Computes the argmax over classes of bilinearly enlarged logits.

    Args:
        logits: (B, K, h, w) or (K, h, w) float.
        size: (H, W) of the result.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        (B, H, W) or (H, W) labels, int64. Of classes that are level, the first.

    Raises:
        ShapeError: `logits` has other axes, no class or no pixel; `size` is not two sizes from 1.
        DtypeError: `logits` is not floating point.
        BackendError: a backend that was asked for by name cannot run.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> ops.upsample_argmax(torch.eye(2).view(1, 2, 1, 2), (1, 4))
        tensor([[[0, 0, 1, 1]]])
    """
    if logits.ndim == 3:
        return upsample_argmax(logits[None], size, align_corners=align_corners)[0]
    check_logits(logits)
    if len(size) != 2 or min(size) < 1:
        raise ShapeError(f"size: expected (H, W) from 1 on, got {tuple(size)}")
    if is_decomposed():
        return reference.upsample_argmax(logits, size, align_corners=align_corners)
    out: Tensor = _upsample_argmax(logits, list(size), align_corners, chosen_backend())
    return out


def check_logits(logits: Tensor) -> None:
    """Raises an error unless logits are (B, K, h, w), floating point and not empty."""
    if logits.ndim != 4 or 0 in logits.shape[1:]:
        raise ShapeError(f"logits: expected (B, K, h, w), none empty, got {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise DtypeError(f"logits: expected floating point, got {logits.dtype}")


def _reference(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    return reference.upsample_argmax(logits, size, align_corners=align_corners)


def _rust(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    labels = engine.upsample_argmax(
        logits.detach().numpy(),
        height=size[0],
        width=size[1],
        align_corners=align_corners,
        brain=False,
    )
    return torch.from_numpy(labels).long()


def _triton(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    from fastseg.kernels import upsample_argmax as kernels

    return kernels.upsample_argmax(logits, size, align_corners)


def plane_problem(logits: Tensor, *_: Any) -> str | None:
    """What the Triton kernels cannot do with (B, K, h, w) logits."""
    height, width = logits.shape[2:]
    if (height - 1) * logits.stride(2) + (width - 1) * logits.stride(3) >= 2**31:
        return "takes logits of which a class lies within 2³¹ elements"
    return None


_FORWARD = {"reference": _reference, "torch": _reference, "rust": _rust, "triton": _triton}


@operation(_FORWARD, problem=plane_problem)
def _upsample_argmax(
    logits: Tensor, size: Sequence[int], align_corners: bool, backend: str
) -> Tensor:
    return logits.new_empty((logits.shape[0], *size), dtype=torch.int64)
