"""What Dice, IoU and Tversky share: overlaps of predicted and true regions, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fastseg._checks import number, one_of, switch
from fastseg.losses import _pixels
from fastseg.losses._module import weights_for

Absent: TypeAlias = Literal["skip", "count"]


class Overlap(NamedTuple):
    """Sums over pixels for each region, a class in one image or in the whole batch.

    Attributes:
        inside: (G, K) of the probability where the class is true.
        predicted: (G, K) of the probability.
        true: (G, K) of the target.
        any_counted: (G,) bool, whether there was a pixel that counts.
    """

    inside: Tensor
    predicted: Tensor
    true: Tensor
    any_counted: Tensor


# Least number of values that are worked on at once.
_PORTION = 2**18
Score: TypeAlias = Callable[[Overlap, float], tuple[Tensor, Tensor]]


def region_loss(
    score: Score,
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None,
    smooth: float,
    absent: Absent,
    per_image: bool,
    multilabel: bool,
    class_weight: Tensor | Sequence[float] | None,
    gamma: float = 1.0,
) -> Tensor:
    """Mean of (1 - numerator / denominator) ** gamma over the regions that take part.

    Args:
        score: numerator and denominator, (G, K) each, of overlaps and `smooth`.
        logits: (B, K, *S).
        target: (B, *S) labels, or masks.
        ignore_index: as the losses say it.
        smooth: as the losses say it.
        absent: as the losses say it.
        per_image: as the losses say it.
        multilabel: as the losses say it.
        class_weight: as the losses say it.
        gamma: exponent of the loss of a region.
    """
    check_region_options(
        smooth=smooth, absent=absent, per_image=per_image, multilabel=multilabel, gamma=gamma
    )
    given: _pixels.Pixels | _pixels.Masks
    if multilabel or (isinstance(logits, Tensor) and logits.ndim > 1 and logits.shape[1] == 1):
        given = _pixels.masks(logits, target, ignore_index)
    else:
        given = _pixels.pixels(logits, target, ignore_index)
    overlap = overlaps(given)
    weight = weights_for(class_weight, given.logits)
    return mean_of_regions(
        score,
        overlap if per_image else pooled(overlap),
        smooth=smooth,
        absent=absent,
        gamma=gamma,
        weight=weight,
    )


def mean_of_regions(
    score: Score,
    overlap: Overlap,
    *,
    smooth: float,
    absent: Absent,
    gamma: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """The same, of overlaps, with (K,) weights of the classes."""
    numerator, denominator = score(overlap, smooth)
    nothing = denominator <= 0  # neither predicted nor true, and no smoothing: a perfect match
    ratio = numerator / denominator.masked_fill(nothing, 1)
    loss = (1 - ratio).masked_fill(nothing, 0)
    if gamma != 1:
        # Where the loss is 0, the power's derivative need not be finite.
        perfect = loss <= 0
        loss = loss.masked_fill(perfect, 1).pow(gamma).masked_fill(perfect, 0)
    part = overlap.any_counted.unsqueeze(1).expand_as(loss)
    if absent == "skip":
        part = part & (overlap.true > 0)
    share = part.to(loss.dtype)
    if weight is not None:
        share = share * weight
    total = share.sum(1)
    each = (loss * share).sum(1) / total.masked_fill(total == 0, 1)
    return each.sum() / (total > 0).sum().clamp(min=1)


def overlaps(given: _pixels.Pixels | _pixels.Masks) -> Overlap:
    """Sums over the pixels of each image: softmax of labels, sigmoids of masks."""
    if isinstance(given, _pixels.Masks):
        return mask_overlaps(given)[0]
    return _class_overlaps(given)


def pooled(overlap: Overlap) -> Overlap:
    """Sums over the whole batch."""
    inside, predicted, true, any_counted = overlap
    return Overlap(
        inside.sum(0, keepdim=True),
        predicted.sum(0, keepdim=True),
        true.sum(0, keepdim=True),
        any_counted.any(0, keepdim=True),
    )


def check_region_options(
    *,
    smooth: float,
    absent: Absent,
    per_image: bool,
    multilabel: bool = False,
    gamma: float = 1.0,
) -> None:
    """Raises `ParameterError` or `DtypeError` for options out of their ranges."""
    number("smooth", smooth, least=0)
    number("gamma", gamma, least=0)
    one_of("absent", absent, ["skip", "count"])
    switch("per_image", per_image)
    switch("multilabel", multilabel)


def _class_overlaps(given: _pixels.Pixels) -> Overlap:
    logits, target, counted = given
    probs = logits.softmax(1)
    if counted is None:
        predicted = probs.sum(2)
        any_counted = torch.full(
            (logits.shape[0],), target.shape[1] > 0, dtype=torch.bool, device=logits.device
        )
        ones = torch.ones_like(target, dtype=logits.dtype)
    else:
        ones = counted.to(logits.dtype)
        predicted = (probs * ones.unsqueeze(1)).sum(2)
        any_counted = counted.any(1)
    at_target = probs.gather(1, target.unsqueeze(1)).squeeze(1) * ones
    return Overlap(
        _sums_by_class(at_target, target, logits.shape[1]),
        predicted,
        _sums_by_class(ones, target, logits.shape[1]),
        any_counted,
    )


def _sums_by_class(values: Tensor, target: Tensor, classes: int) -> Tensor:
    """(B, K): sums of (B, N) values over the pixels of each class."""
    if values.device.type == "cpu":
        # One running sum per class: in float32 it would lose the small terms of a long one.
        bins = values.new_zeros(values.shape[0], classes, dtype=torch.float64)
        return bins.scatter_add(1, target, values.double()).to(values.dtype)
    # Elsewhere a scatter of all pixels to a few places waits for itself.
    each = torch.arange(classes, device=target.device).unsqueeze(1)
    return torch.where(target.unsqueeze(1) == each, values.unsqueeze(1), 0).sum(2)


def mask_overlaps(given: _pixels.Masks, *, cross_entropy: bool = False) -> tuple[Overlap, Tensor]:
    """Overlaps of sigmoids and masks, and the sum of their cross entropy if that is wanted."""
    logits, masks, counted = given
    if counted is None:
        any_counted = torch.full(
            (logits.shape[0],), logits.shape[2] > 0, dtype=torch.bool, device=logits.device
        )
        weight = None
    else:
        any_counted = counted.flatten(1).any(1)
        weight = counted.to(logits.dtype).expand_as(logits)
    inside, predicted, entropy = _SigmoidSums.apply(logits, masks, weight, cross_entropy)
    return Overlap(inside, predicted, masks.sum(2), any_counted), entropy


class _SigmoidSums(torch.autograd.Function):
    """One sigmoid for all sums, and one array for all of the gradient.

    On a CPU a few images at a time, so that what is between logits and sums stays in the cache and
    needs no fresh memory.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, masks: Tensor, weight: Tensor | None, cross_entropy: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        probs = logits.sigmoid()
        ctx.save_for_backward(probs, masks, weight)
        ctx.cross_entropy = cross_entropy
        parts = [
            _sums(x, p, m, w, cross_entropy)
            for x, p, m, w in _portions(logits, probs, masks, weight)
        ]
        inside, predicted, entropy = zip(*parts, strict=True)
        return torch.cat(inside), torch.cat(predicted), torch.stack(entropy).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        probs, masks, weight = ctx.saved_tensors
        gradient = torch.empty_like(probs)
        inside, everywhere = (sums.unsqueeze(2) for sums in gradients[:2])
        entropy = gradients[2] if ctx.cross_entropy else None
        for p, m, w, out, i, e in _portions(probs, masks, weight, gradient, inside, everywhere):
            _slopes(p, m, w, out, i, e, entropy)
        return gradient, None, None, None


def _portions(values: Tensor, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """The tensors by a few images where that helps, else whole; None stays None."""
    if values.device.type != "cpu" or torch.compiler.is_compiling() or not values.shape[0]:
        yield (values, *others)
        return
    # Fewer values per portion would cost more in starting operations than the cache saves.
    images = -(-_PORTION // max(values[0].numel(), 1))
    for first in range(0, values.shape[0], images):
        part = slice(first, first + images)
        yield (values[part], *(None if other is None else other[part] for other in others))


def _sums(
    logits: Tensor, probs: Tensor, masks: Tensor, weight: Tensor | None, cross_entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    entropy = logits.new_zeros(())
    if cross_entropy:
        entropy = F.binary_cross_entropy_with_logits(logits, masks, weight, reduction="sum")
    everywhere = probs if weight is None else probs * weight
    return (probs * masks).sum(2), everywhere.sum(2), entropy


def _slopes(
    probs: Tensor,
    masks: Tensor,
    weight: Tensor | None,
    gradient: Tensor,
    inside: Tensor,
    everywhere: Tensor,
    entropy: Tensor | None,
) -> None:
    """Writes p (1 - p) (inside m + everywhere) + entropy (p - m), weighted, into `gradient`."""
    torch.mul(masks, inside, out=gradient)
    gradient.add_(everywhere)
    torch.ops.aten.sigmoid_backward.grad_input(gradient, probs, grad_input=gradient)
    if entropy is not None:
        gradient.add_((probs - masks).mul_(entropy))
    if weight is not None:
        gradient.mul_(weight)
