"""The focal loss over sigmoids: each class against all others, or one foreground class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fastseg._checks import number
from fastseg.errors import ParameterError
from fastseg.losses import _pixels
from fastseg.losses._module import LossModule


def sigmoid_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    ignore_index: int | None = None,
) -> Tensor:
    """Focal loss over sigmoids: the mean of -α_t (1 - p_t) ** γ log p_t over pixels and classes.

    p_t is the sigmoid where the class is true and one minus it elsewhere.

    Args:
        logits: (B, K, *S) float, K from 1 on.
        target: (B, *S) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`; or (B, K,
            *S) masks, bool, integer or float in 0 … 1.
        gamma: γ from 0 (binary cross entropy) on; the larger, the less easy pixels count.
        alpha: α of true classes in 0 … 1; that of all others is 1 - α. None: both 1.
        ignore_index: label of pixels that do not count; None: all count.

    Returns:
        Scalar from 0 on, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits and target disagree.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        DataError: a mask is out of 0 … 1.
        ParameterError: `gamma` or `alpha` is out of its range.

    Convention:
        The mean is over all that counts: pixels times classes. All ignored: 0, with a gradient of
        0.

    Source:
        Lin et al., 2017, equation 5. Equal to torchvision's sigmoid_focal_loss(reduction="mean"),
        and to kornia's binary_focal_loss_with_logits and segmentation_models_pytorch's FocalLoss
        where no pixel is ignored (kornia divides by those, too).

    Example:
        >>> import torch
        >>> from fastseg.losses import sigmoid_focal_loss
        >>> logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 1]]])
        >>> sigmoid_focal_loss(logits, target, gamma=1, alpha=None).item()
        0.3465735912322998
    """
    _check_options(gamma, alpha)
    given = _pixels.masks(logits, target, ignore_index)
    loss: Tensor = _FocalTerm.apply(given.logits, given.masks, gamma, alpha)
    if given.counted is not None:
        loss = loss.masked_fill(~given.counted, 0)
    return _pixels.mean_over(loss, given.counted)


class _FocalTerm(torch.autograd.Function):
    """α_t w ** γ bce of each element, with w = 1 - p_t = p + m - 2 p m.

    The derivative in closed form, computed again from logits and masks: autograd would keep, and
    pass over, twice as many arrays.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, masks: Tensor, gamma: float, alpha: float | None
    ) -> Tensor:
        ctx.save_for_backward(logits, masks)
        ctx.gamma, ctx.alpha = gamma, alpha
        loss = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        if gamma:
            loss.mul_(_power(_wrong(logits.sigmoid(), masks), gamma))
        return loss if alpha is None else loss.mul_(_balance(masks, alpha))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        logits, masks = ctx.saved_tensors
        gamma, alpha = ctx.gamma, ctx.alpha
        probs = logits.sigmoid()
        slope = probs - masks
        if gamma:
            # γ w ** (γ - 1) p (1 - p) (1 - 2 m) bce + w ** γ (p - m)
            wrong = _wrong(probs, masks)
            bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
            bce.mul_(gamma).mul_(probs).mul_(probs.neg_().add_(1)).addcmul_(bce, masks, value=-2)
            slope.mul_(wrong).add_(bce)
            slope.mul_(_power(wrong, gamma - 1))
        if alpha is not None:
            slope.mul_(_balance(masks, alpha))
        return slope.mul_(gradients[0]), None, None, None


def _wrong(probs: Tensor, masks: Tensor) -> Tensor:
    """1 - p_t, never 0, where the power's derivative may be infinite."""
    wrong = torch.addcmul(probs + masks, probs, masks, value=-2)
    return wrong.clamp_(min=torch.finfo(wrong.dtype).tiny)


def _power(base: Tensor, exponent: float) -> Tensor:
    return base if exponent == 1 else base.pow(exponent)


def _balance(masks: Tensor, alpha: float) -> Tensor:
    return (masks * (2 * alpha - 1)).add_(1 - alpha)


def _check_options(gamma: float, alpha: float | None) -> None:
    number("gamma", gamma, least=0)
    if alpha is not None and number("alpha", alpha, least=0) > 1:
        raise ParameterError(f"alpha must be at most 1, got {alpha}")


class SigmoidFocalLoss(LossModule):
    """`sigmoid_focal_loss` as a module: its options are the function's."""

    def __init__(
        self, *, gamma: float = 2.0, alpha: float | None = 0.25, ignore_index: int | None = None
    ) -> None:
        _check_options(gamma, alpha)
        super().__init__(gamma=gamma, alpha=alpha, ignore_index=ignore_index)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `sigmoid_focal_loss(logits, target)` with the module's options."""
        return sigmoid_focal_loss(logits, target, **self.options())
