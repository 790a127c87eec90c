"""Cross entropy at full resolution, without logits at full resolution."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg._engine import engine, flat
from fastseg.errors import DtypeError, LabelError, ShapeError
from fastseg.ops import reference
from fastseg.ops._autocast import raised
from fastseg.ops._backends import chosen_backend, is_decomposed
from fastseg.ops._operation import operation
from fastseg.ops.upsample_argmax import check_logits, plane_problem

# Full-resolution logits that the torch backend holds at a time.
_CHUNK_ELEMENTS = 1 << 22


def upsample_cross_entropy(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, align_corners: bool = False
) -> Tensor:
    """Computes the mean cross entropy of logits that are enlarged bilinearly to the target's size.

    Neither the enlarged logits nor their gradient is ever held as a whole, forward or backward.

    Args:
        logits: (B, K, h, w) float.
        target: (B, H, W) integer labels in [0, K), or `ignore_index`.
        ignore_index: label of pixels that do not count.
        align_corners: as in `torch.nn.functional.interpolate`.

    Returns:
        A scalar: the mean over the pixels that count; NaN where none does, as PyTorch has it.

    Raises:
        ShapeError: the shapes disagree.
        DtypeError: `logits` is not floating point, or `target` not of an integer dtype.
        LabelError: a label is neither in [0, K) nor `ignore_index`. On a GPU, where a check would
            wait for it, the Triton kernels make the loss and its gradients NaN instead, and
            PyTorch's operators stop the device with an assertion.
        BackendError: a backend that was asked for by name cannot run.

    Convention:
        Equals `F.cross_entropy(F.interpolate(logits, size), target)` with `mode="bilinear"`.
        Second derivatives are not provided. Under CUDA's autocast it is computed in float32, as
        PyTorch computes losses.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> logits, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 16, 16, dtype=torch.long)
        >>> round(ops.upsample_cross_entropy(logits, target).item(), 4)
        0.6931
    """
    check_logits(logits)
    check_target(target, logits)
    logits = raised(logits)
    target = target.long()
    if is_decomposed():
        return reference.upsample_cross_entropy(
            logits, target, ignore_index=ignore_index, align_corners=align_corners
        )
    needs_gradient = logits.requires_grad and torch.is_grad_enabled()
    loss: Tensor = _upsample_cross_entropy(
        logits, target, ignore_index, align_corners, needs_gradient, chosen_backend()
    )[0]
    return loss


def check_target(target: Tensor, logits: Tensor) -> None:
    """Raises an error unless a target is (B, H, W) integers that go with (B, K, h, w) logits."""
    if target.ndim != 3 or target.shape[0] != logits.shape[0]:
        raise ShapeError(
            f"target: expected ({logits.shape[0]}, H, W) for logits {tuple(logits.shape)}, got "
            f"{tuple(target.shape)}"
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise DtypeError(f"target: expected integer labels, got {target.dtype}")


def _reference(
    logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    loss = reference.upsample_cross_entropy(
        logits, target, ignore_index=ignore_index, align_corners=align_corners
    )
    if not gradient:
        return loss, logits.new_empty(0)
    size = list(target.shape[1:])
    full = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    keep = target != ignore_index
    d_full = full.softmax(dim=1)
    d_full -= F.one_hot(target.where(keep, 0), logits.shape[1]).permute(0, 3, 1, 2)
    d_full *= keep[:, None] / keep.sum()
    d_logits = torch.ops.aten.upsample_bilinear2d_backward(
        d_full, size, list(logits.shape), align_corners
    )
    return loss, d_logits.contiguous()


def _torch(
    logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    check_labels(target, logits.shape[1], ignore_index)
    (batch, classes, height, width), (full_h, full_w) = logits.shape, target.shape[1:]
    rows = _taps(height, full_h, align_corners, logits)
    columns = _taps(width, full_w, align_corners, logits)
    counted = (target != ignore_index).sum().to(torch.float32)
    total = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
    d_logits = torch.zeros(logits.shape if gradient else 0, dtype=total.dtype, device=logits.device)
    step = max(1, _CHUNK_ELEMENTS // (classes * full_w))
    for b in range(batch):
        for first in range(0, full_h, step):
            window = tuple(tap[first : first + step] for tap in rows)
            low, rest = int(window[0][0]), int(window[1][-1]) + 1
            part = logits[b, :, low:rest].to(total.dtype)
            local = (window[0] - low, window[1] - low, window[2])
            tall = _enlarge(part, local, dim=1)
            scores = _enlarge(tall, columns, dim=2)
            labels = target[b, first : first + step]
            log_probs = scores.log_softmax(dim=0)
            total += F.nll_loss(
                log_probs[None], labels[None], ignore_index=ignore_index, reduction="sum"
            )
            if gradient:
                keep = labels != ignore_index
                d = log_probs.exp_()
                d.scatter_add_(0, labels.where(keep, 0)[None], torch.full_like(d[:1], -1.0))
                d *= keep
                d_logits[b, :, low:rest] += _shrink(
                    _shrink(d, columns, width, dim=2), local, rest - low, dim=1
                )
    loss = (total / counted).to(logits.dtype)
    return loss, (d_logits / counted).to(logits.dtype) if gradient else logits.new_empty(0)


def check_labels(target: Tensor, classes: int, ignore_index: int | None) -> None:
    """Raises an error where labels on a CPU are neither in [0, K) nor `ignore_index`."""
    if target.device.type != "cpu":
        return
    wrong = (target < 0) | (target >= classes)
    if ignore_index is not None:
        wrong &= target != ignore_index
    if wrong.any():
        ignored = "" if ignore_index is None else f" or ignore_index={ignore_index}"
        raise LabelError(
            f"target: expected labels in 0..{classes - 1}{ignored}, got {int(target[wrong][0])}"
        )


def _taps(size: int, full: int, align_corners: bool, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each place of the enlarged axis: two places of the small one, the second's weight."""
    at = torch.arange(full, dtype=torch.float64, device=like.device)
    if align_corners:
        at = at * ((size - 1) / (full - 1) if full > 1 else 0.0)
    else:
        at = ((at + 0.5) * (size / full) - 0.5).clamp_(min=0)
    first = at.long().clamp_(max=size - 1)
    dtype = torch.promote_types(like.dtype, torch.float32)
    return first, (first + 1).clamp_(max=size - 1), (at - first).to(dtype)


def _enlarge(x: Tensor, taps: tuple[Tensor, Tensor, Tensor], *, dim: int) -> Tensor:
    first, second, weight = taps
    shape = [-1 if i == dim else 1 for i in range(x.ndim)]
    return torch.lerp(x.index_select(dim, first), x.index_select(dim, second), weight.view(shape))


def _shrink(x: Tensor, taps: tuple[Tensor, Tensor, Tensor], size: int, *, dim: int) -> Tensor:
    """The transpose of `_enlarge`."""
    first, second, weight = taps
    weight = weight.view([-1 if i == dim else 1 for i in range(x.ndim)])
    out = x.new_zeros([size if i == dim else n for i, n in enumerate(x.shape)])
    out.index_add_(dim, first, x * (1 - weight))
    return out.index_add_(dim, second, x * weight)


def _rust(
    logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    check_labels(target, logits.shape[1], ignore_index)
    batch, classes, height, width = logits.shape
    d_logits = logits.new_empty(logits.shape if gradient else (0,))
    loss = engine.upsample_cross_entropy(
        flat(logits),
        flat(target),
        (batch, classes, height, width),
        (target.shape[1], target.shape[2]),
        ignore_index=ignore_index,
        align_corners=align_corners,
        d_logits=flat(d_logits),
    )
    return logits.new_tensor(loss), d_logits


def _triton(
    logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool, gradient: bool
) -> tuple[Tensor, Tensor]:
    from fastseg.kernels import upsample_cross_entropy as kernels

    return kernels.upsample_cross_entropy(logits, target, ignore_index, align_corners, gradient)


_FORWARD = {"reference": _reference, "torch": _torch, "rust": _rust, "triton": _triton}


@operation(_FORWARD, problem=plane_problem)
def _upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    align_corners: bool,
    gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return logits.new_empty(()), logits.new_empty(logits.shape if gradient else (0,))


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    _, d_logits = output
    ctx.save_for_backward(d_logits)
    ctx.mark_non_differentiable(d_logits)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
    (d_logits,) = ctx.saved_tensors
    return d_logits * grad, None, None, None, None, None


_upsample_cross_entropy.register_autograd(_backward, setup_context=_setup_context)
