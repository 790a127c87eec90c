"""The Lovász-softmax loss: a convex surrogate of one minus the IoU."""

from __future__ import annotations

import torch
from torch import Tensor

from fastseg._checks import one_of, switch
from fastseg._engine import engine, engine_problem, flat
from fastseg.losses import _pixels
from fastseg.losses._module import LossModule
from fastseg.losses._region import Absent


def lovasz_softmax_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    absent: Absent = "skip",
    per_image: bool = False,
    multilabel: bool = False,
) -> Tensor:
    """Lovász extension of the Jaccard loss at the errors |t - p|, averaged over classes.

    Args:
        logits: (B, K, *S) float. K = 1: sigmoid; K ≥ 2: softmax, or sigmoid if `multilabel`.
        target: (B, *S) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`. With K = 1
            or `multilabel` also (B, K, *S) masks, bool or integer, 0 or 1.
        ignore_index: label of pixels that do not count; None: all count.
        absent: "skip" leaves classes without a true pixel out of the mean; "count" keeps them: the
            largest probability of such a class is its loss.
        per_image: one loss per image and class, averaged over images that have one; otherwise the
            batch is one set of pixels.
        multilabel: a yes or no for each class instead of one class per pixel.

    Returns:
        Scalar in 0 … 1, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits and target disagree.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        DataError: a mask is out of 0 … 1.
        ParameterError: an option is out of its range.

    Convention:
        Where nothing takes part (all ignored, or no class present with "skip") the loss is 0 and
        its gradient 0. Soft masks are rounded to 0 and 1.

    Source:
        Berman, Triki and Blaschko, 2018, algorithm 1. Equal to segmentation_models_pytorch's
        LovaszLoss; kornia's is that with `absent="count"` and `per_image=True`.

    Example:
        >>> import torch
        >>> from fastseg.losses import lovasz_softmax_loss
        >>> logits, target = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> lovasz_softmax_loss(logits, target).item()
        0.5
    """
    _check_options(absent, per_image, multilabel)
    binary = isinstance(logits, Tensor) and logits.ndim > 1 and logits.shape[1] == 1
    if multilabel or binary:
        given = _pixels.masks(logits, target, ignore_index)
        probs, truth, counted = given.logits.sigmoid(), given.masks > 0.5, given.counted
    else:
        labels = _pixels.pixels(logits, target, ignore_index)
        probs = labels.logits.softmax(1)
        each = torch.arange(probs.shape[1], device=probs.device).unsqueeze(1)
        truth = labels.target.unsqueeze(1) == each
        counted = None if labels.counted is None else labels.counted.unsqueeze(1)
    if counted is not None:
        truth = truth & counted
    errors = torch.where(truth, 1 - probs, probs)
    if counted is not None:
        # Errors of 0 come last in the order and change nothing.
        errors = errors.masked_fill(~counted, 0)
    if not per_image:
        errors = errors.transpose(0, 1).flatten(1).unsqueeze(0)
        truth = truth.transpose(0, 1).flatten(1).unsqueeze(0)
    loss = (errors * _slopes(errors.detach(), truth)).sum(2)
    part = truth.any(2) if absent == "skip" else torch.ones_like(loss, dtype=torch.bool)
    if absent == "count" and counted is not None:
        some = counted.flatten(1).any(1) if per_image else counted.any().reshape(1)
        part = part & some.unsqueeze(1)
    classes = part.sum(1)
    each_image = (loss * part).sum(1) / classes.clamp(min=1)
    return each_image.sum() / (classes > 0).sum().clamp(min=1)


def _slopes(errors: Tensor, truth: Tensor) -> Tensor:
    """By how much the Jaccard loss grows with each pixel, taken in the order of falling errors.

    Args:
        errors: (G, K, N) float from 0 on.
        truth: (G, K, N) bool.

    Returns:
        (G, K, N) of the errors' dtype.
    """
    if not _engine_takes(errors):
        return _sorted_slopes(errors, truth)
    slopes = torch.empty_like(errors, memory_format=torch.contiguous_format)
    engine.jaccard_slopes(flat(errors), flat(truth), errors.shape[2], flat(slopes))
    return slopes


def _engine_takes(errors: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return errors.shape[2] < 2**31 and engine_problem([errors]) is None


def _sorted_slopes(errors: Tensor, truth: Tensor) -> Tensor:
    """`_slopes` in PyTorch's operators."""
    order = errors.argsort(dim=2, descending=True, stable=True)
    hit = truth.gather(2, order)
    hits = hit.cumsum(2, dtype=torch.int32 if hit.shape[2] < 2**31 else torch.int64)
    total = hits[:, :, -1:] if hits.shape[2] else hits
    # After n pixels the intersection is total - hits and the union total + (n - hits). A true pixel
    # takes one from the first, any other adds one to the second: differences without cancellation.
    position = torch.arange(1, hits.shape[2] + 1, device=errors.device, dtype=hits.dtype)
    union = (total + position - hits).to(errors.dtype)
    left = (total - hits).to(errors.dtype)
    grown = left / (union * (union - 1)).clamp(min=1)
    slopes = torch.where(hit, 1 / union.clamp(min=1), grown)
    # Of an absent class the largest error alone is the loss.
    first = (position == 1).to(errors.dtype)
    slopes = torch.where(total == 0, first, slopes)
    return torch.zeros_like(errors).scatter_(2, order, slopes)


def _check_options(absent: Absent, per_image: bool, multilabel: bool) -> None:
    one_of("absent", absent, ["skip", "count"])
    switch("per_image", per_image)
    switch("multilabel", multilabel)


class LovaszSoftmaxLoss(LossModule):
    """`lovasz_softmax_loss` as a module: its options are the function's."""

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        absent: Absent = "skip",
        per_image: bool = False,
        multilabel: bool = False,
    ) -> None:
        _check_options(absent, per_image, multilabel)
        super().__init__(
            ignore_index=ignore_index, absent=absent, per_image=per_image, multilabel=multilabel
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `lovasz_softmax_loss(logits, target)` with the module's options."""
        return lovasz_softmax_loss(logits, target, **self.options())
