"""The confusion matrix of low-resolution logits, without a label map."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastseg import _rust
from fastseg._arrays import contiguous, to_numpy
from fastseg._checks import integer
from fastseg.errors import DtypeError, LabelError, ShapeError
from fastseg.labelmaps._logits import as_logits, is_on_gpu

# What the engine reads as it is; other integers are converted to one that holds them.
_WIDER = {"bool": "uint8", "int8": "int32", "int16": "int32", "uint32": "int64", "uint64": "int64"}


def upsample_confusion(
    logits: Any, target: Any, *, ignore_index: int | None = None, align_corners: bool = False
) -> Any:
    """Count targets against the likeliest classes of logits that are resampled to their size.

    The result is that of `metrics.confusion_matrix(upsample_argmax(logits, (H, W)), target)`,
    while no label map is written.

    Args:
        logits: (K, h, w) or (B, K, h, w) float16, bfloat16 (a torch tensor), float32 or float64.
        target: (H, W) or (B, H, W) integer labels 0 … K-1.
        ignore_index: A target whose pixels are left out; it need not be in 0 … K-1.
        align_corners: Whether the centres of the corner pixels coincide, rather than their outer
            edges.

    Returns:
        (K, K) int64: rows are targets, columns predictions. A tensor for logits that are one.

    Raises:
        ShapeError: The logits are not (K, h, w) or (B, K, h, w), or the target does not go with
            them.
        DtypeError: The logits are not floating point, or the target not integers.
        LabelError: A target is neither in 0 … K-1 nor `ignore_index`.

    Convention:
        As for `upsample_argmax`. `ignore_index` masks by the target only: a pixel that is predicted
        as it still counts. A tensor on a GPU stays there: `fastseg.ops.upsample_confusion` counts
        it.

    Example:
        >>> import numpy as np
        >>> from fastseg import labelmaps
        >>> logits = np.array([[[2.0, 0.0]], [[0.0, 1.0]]], np.float32)
        >>> labelmaps.upsample_confusion(logits, [[0, 0, 0, 255, 0, 0, 1, 1]], ignore_index=255)
        array([[4, 1],
               [0, 2]])
    """
    if ignore_index is not None:
        ignore_index = integer("ignore_index", ignore_index)
    if is_on_gpu(logits):
        return _on_its_device(logits, target, ignore_index, align_corners)
    given = as_logits(logits)
    labels, _ = to_numpy("target", target)
    if labels.dtype.kind not in "iub":
        raise DtypeError(f"target must be integer labels, got {labels.dtype}")
    if labels.ndim != (3 if given.batched else 2):
        wanted = "(B, H, W)" if given.batched else "(H, W)"
        raise ShapeError(f"target must be {wanted} to go with these logits, got {labels.shape}")
    if not given.batched:
        labels = labels[np.newaxis]
    if len(labels) != len(given.values):
        raise ShapeError(f"{len(given.values)} items of logits, but {len(labels)} targets")
    native = labels.dtype.newbyteorder("=").name
    try:
        counts = _rust.upsample_confusion(
            given.values,
            contiguous(labels, np.dtype(_WIDER.get(native, native))),
            align_corners=bool(align_corners),
            brain=given.brain,
            ignore_index=ignore_index,
        )
    except ValueError as error:
        if len(error.args) != 3 or error.args[0] != "target":
            raise
        _, position, value = error.args
        item, row, column = (int(i) for i in np.unravel_index(position, labels.shape))
        where = f"row {row}, column {column}" + (f" of item {item}" if given.batched else "")
        raise LabelError(
            f"target: the label {value} at {where} is not one of the {given.num_classes} classes "
            f"0 … {given.num_classes - 1}; name it as ignore_index"
        ) from None
    return given.restore(counts)


def _on_its_device(logits: Any, target: Any, ignore_index: int | None, align_corners: bool) -> Any:
    import torch

    from fastseg import ops

    target = torch.as_tensor(target, device=logits.device)
    if target.dtype == torch.bool:
        target = target.long()
    if logits.ndim == 3:
        logits, target = logits[None], target[None]
    counts = ops.upsample_confusion(
        logits.detach(), target, ignore_index=ignore_index, align_corners=align_corners
    )
    if counts[0, 0] < 0:
        raise LabelError(
            f"target: a label is not one of the {logits.shape[1]} classes 0 … "
            f"{logits.shape[1] - 1}; name it as ignore_index"
        )
    return counts
