"""Logits and targets as the losses want them: checked, float32, one row of pixels per picture."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg._checks import integer
from fastseg.errors import DataError, DtypeError, LabelError, ShapeError


class Pixels(NamedTuple):
    """A batch with one class for each pixel.

    Attributes:
        logits: (B, K, N) float32 or float64.
        target: (B, N) int64 in 0 … K - 1; 0 where the pixel is ignored.
        counted: (B, N) bool, false where the pixel is ignored; None: every pixel counts.
    """

    logits: Tensor
    target: Tensor
    counted: Tensor | None


class Masks(NamedTuple):
    """A batch with a yes or no of its own for each class.

    Attributes:
        logits: (B, K, N) float32 or float64.
        masks: (B, K, N) of the logits' dtype in 0 … 1; 0 where ignored.
        counted: (B, 1, N) or (B, K, N) bool, false where ignored; None: everything counts.
    """

    logits: Tensor
    masks: Tensor
    counted: Tensor | None


def pixels(logits: Tensor, target: Tensor, ignore_index: int | None) -> Pixels:
    """Checks logits and a target of class labels.

    Args:
        logits: (B, K, *S) floating point, K at least 2.
        target: (B, *S) integer labels in 0 … K - 1, or `ignore_index`.
        ignore_index: the label that does not count; None: there is none.

    Raises:
        ShapeError: they are not shaped like that.
        DtypeError: they are of other types, or no tensors.
        LabelError: a label is out of range.
    """
    flat = _checked_logits(logits)
    if logits.shape[1] < 2:
        raise ShapeError(
            f"logits: expected (B, K, …) of at least 2 classes, got {tuple(logits.shape)}; for one "
            "foreground class take a loss that says it takes K = 1"
        )
    labels, counted = _labels(logits, target, ignore_index, logits.shape[1])
    return Pixels(flat, labels, counted)


def masks(logits: Tensor, target: Tensor, ignore_index: int | None) -> Masks:
    """Checks logits and a target of class labels or of masks; labels become masks.

    Args:
        logits: (B, K, *S) floating point.
        target: (B, *S) integer labels, which are 0 or 1 if K is 1; or (B, K, *S) masks, bool,
            integer or floating point in 0 … 1. With K = 1, (B, *S) may be a mask, too.
        ignore_index: the value that does not count; None: there is none.

    Raises:
        ShapeError: they are not shaped like that.
        DtypeError: they are of other types, or no tensors.
        LabelError: a label is out of range.
        DataError: a mask is out of 0 … 1.
    """
    flat = _checked_logits(logits)
    classes = logits.shape[1]
    _require_tensor("target", target)
    if classes == 1 and target.shape == (logits.shape[0], *logits.shape[2:]):
        target = target.unsqueeze(1)
    if target.shape == logits.shape:
        return _given_masks(flat, target, ignore_index)
    labels, counted = _labels(logits, target, ignore_index, classes)
    each = torch.arange(classes, device=labels.device).unsqueeze(1)
    chosen = (labels.unsqueeze(1) == each).to(flat.dtype)
    if counted is None:
        return Masks(flat, chosen, None)
    counted = counted.unsqueeze(1)
    return Masks(flat, chosen * counted, counted)


def ignored_label(value: Any) -> int | None:
    """`ignore_index`, checked."""
    return None if value is None else integer("ignore_index", value)


def cross_entropy(given: Pixels) -> Tensor:
    """(B, N): minus the logarithm of the softmax at the target; 0 where the pixel is ignored."""
    loss = F.cross_entropy(given.logits, given.target, reduction="none")
    return loss if given.counted is None else loss.masked_fill(~given.counted, 0)


def mean_over(values: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of `values`, which are 0 where they do not count; 0 where nothing counts.

    Args:
        values: any shape, float.
        counted: bool, broadcastable to `values`; None: everything counts.
    """
    return mean_of(values.sum(), values, counted)


def mean_of(total: Tensor, values: Tensor, counted: Tensor | None) -> Tensor:
    """The mean that belongs to the sum `total` over `values`, or what is shaped like them."""
    if counted is None:
        return total / max(values.numel(), 1)
    share = values.numel() // max(counted.numel(), 1)
    return total / (counted.sum() * share).clamp(min=1)


def _given_masks(flat: Tensor, target: Tensor, ignore_index: int | None) -> Masks:
    given = target.detach().flatten(2)
    ignore_index = ignored_label(ignore_index)
    counted = None
    if given.dtype == torch.bool:
        return Masks(flat, given.to(flat.dtype), None)
    if not given.is_floating_point():
        given = given.to(torch.int64)  # in which every ignore_index can be compared
    if ignore_index is not None:
        counted = given != ignore_index
        given = given.masked_fill(~counted, 0)
    if given.numel() and not _unreadable(given):
        low, high = (bound.item() for bound in torch.aminmax(given))
        if not (low >= 0 and high <= 1):
            kind = DataError if given.is_floating_point() else LabelError
            raise kind(
                f"target: expected masks in 0 … 1{_or_ignored(ignore_index)}, got values from "
                f"{low:g} to {high:g}; class labels go in without the axis of classes"
            )
    return Masks(flat, given.to(flat.dtype), counted)


def _checked_logits(logits: Tensor) -> Tensor:
    """`logits` as (B, K, N) in float32, or float64 if they are."""
    _require_tensor("logits", logits)
    if not logits.is_floating_point():
        raise DtypeError(f"logits: expected floating point, got {logits.dtype}")
    if logits.ndim < 3:
        raise ShapeError(
            f"logits: expected (B, K, …) with at least one axis of pixels, got "
            f"{tuple(logits.shape)}"
        )
    if logits.shape[1] == 0:
        raise ShapeError(f"logits: expected at least one class, got {tuple(logits.shape)}")
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.flatten(2)


def _labels(
    logits: Tensor, target: Tensor, ignore_index: int | None, classes: int
) -> tuple[Tensor, Tensor | None]:
    """`target` as (B, N) int64 in range, and where it counts."""
    _require_tensor("target", target)
    expected = (logits.shape[0], *logits.shape[2:])
    if target.shape != expected:
        hint = ""
        if target.shape == (expected[0], 1, *expected[1:]):
            hint = "; drop its axis of one with target.squeeze(1)"
        elif target.shape == logits.shape:
            hint = "; labels of one-hot masks are target.argmax(1)"
        raise ShapeError(
            f"target: expected {expected}, the batch and the pixels of logits "
            f"{tuple(logits.shape)}, got {tuple(target.shape)}{hint}"
        )
    if target.is_floating_point() or target.is_complex():
        raise DtypeError(
            f"target: expected integer class labels, got {target.dtype}; convert them with "
            "target.long()"
        )
    if target.device != logits.device:
        raise DtypeError(
            f"target: expected the logits' device {logits.device}, got {target.device}; move one "
            "of them"
        )
    labels = target.flatten(1).to(torch.int64)
    ignore_index = ignored_label(ignore_index)
    counted = None
    if ignore_index is not None:
        counted = labels != ignore_index
        labels = labels.masked_fill(~counted, 0)
    if labels.numel() and not _unreadable(labels):
        low, high = (int(bound) for bound in torch.aminmax(labels))
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise LabelError(
                f"target: expected labels in 0 … {classes - 1} for {classes} classes"
                f"{_or_ignored(ignore_index)}, got {wrong}; set ignore_index if it marks pixels "
                "that do not count"
            )
    return labels, counted


def _or_ignored(ignore_index: int | None) -> str:
    return "" if ignore_index is None else f", or {ignore_index} (ignore_index)"


def _require_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise DtypeError(
            f"{name}: expected a torch.Tensor, got {type(value).__name__}; convert an array with "
            "torch.from_numpy"
        )


def _unreadable(values: Tensor) -> bool:
    """Whether values cannot be looked at now: while a graph is captured, or without data."""
    if torch.compiler.is_compiling() or values.is_meta:
        return True
    return values.is_cuda and torch.cuda.is_current_stream_capturing()
