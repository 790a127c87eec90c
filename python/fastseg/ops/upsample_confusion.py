"""The confusion matrix at full resolution, without logits or labels at full resolution."""

import torch
from torch import Tensor

from fastseg._engine import engine
from fastseg.ops import reference
from fastseg.ops._backends import chosen_backend, is_decomposed
from fastseg.ops._operation import operation
from fastseg.ops.upsample_argmax import check_logits, plane_problem
from fastseg.ops.upsample_cross_entropy import check_labels, check_target


def upsample_confusion(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Counts targets against the likeliest classes of bilinearly enlarged logits.

    Args:
        logits: (B, K, h, w) float.
        target: (B, H, W) integer labels in [0, K), or `ignore_index`.
        ignore_index: label of pixels that do not count; None counts all.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        (K, K) int64: rows are targets, columns predictions.

    Raises:
        ShapeError: the shapes disagree.
        DtypeError: `logits` is not floating point, or `target` not of an integer dtype.
        LabelError: a label is neither in [0, K) nor `ignore_index`. On a GPU, where a check would
            wait for it, every number is -1 instead.
        BackendError: a backend that was asked for by name cannot run.

    Convention:
        As `fastseg.labelmaps.upsample_confusion`, which takes arrays, too. The same numbers on
        every run: integers are counted, in whatever order.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])
        >>> target = torch.tensor([[[0, 0, 0, 255, 0, 0, 1, 1]]])
        >>> ops.upsample_confusion(logits, target, ignore_index=255)
        tensor([[4, 1],
                [0, 2]])
    """
    check_logits(logits)
    check_target(target, logits)
    target = target.long()
    if is_decomposed():
        return reference.upsample_confusion(
            logits, target, ignore_index=ignore_index, align_corners=align_corners
        )
    counts: Tensor = _upsample_confusion(
        logits, target, ignore_index, align_corners, chosen_backend()
    )
    return counts


def _torch(logits: Tensor, target: Tensor, ignore_index: int | None, align_corners: bool) -> Tensor:
    classes = logits.shape[1]
    check_labels(target, classes, ignore_index)
    known = (target >= 0) & (target < classes)
    wrong = ~known if ignore_index is None else ~known & (target != ignore_index)
    if ignore_index is not None:
        known &= target != ignore_index
    counts = reference.upsample_confusion(
        logits, target.where(known, -1), ignore_index=-1, align_corners=align_corners
    )
    return counts.where(~wrong.any(), -1)


def _rust(logits: Tensor, target: Tensor, ignore_index: int | None, align_corners: bool) -> Tensor:
    check_labels(target, logits.shape[1], ignore_index)
    counts = engine.upsample_confusion(
        logits.detach().contiguous().numpy(),
        target.contiguous().numpy(),
        align_corners=align_corners,
        brain=False,
        ignore_index=ignore_index,
    )
    return torch.from_numpy(counts)


def _triton(
    logits: Tensor, target: Tensor, ignore_index: int | None, align_corners: bool
) -> Tensor:
    from fastseg.kernels import upsample_confusion as kernels

    return kernels.upsample_confusion(logits, target, ignore_index, align_corners)


_FORWARD = {"reference": _torch, "torch": _torch, "rust": _rust, "triton": _triton}


@operation(_FORWARD, problem=plane_problem)
def _upsample_confusion(
    logits: Tensor, target: Tensor, ignore_index: int | None, align_corners: bool, backend: str
) -> Tensor:
    classes = logits.shape[1]
    return logits.new_empty((classes, classes), dtype=torch.int64)
