"""The focal loss over sigmoids: each class against all others, or one foreground class."""

from __future__ import annotations

import torch
from torch import Tensor
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
    masks = given.masks
    loss = F.binary_cross_entropy_with_logits(given.logits, masks, reduction="none")
    if gamma:
        probs = given.logits.sigmoid()
        # 1 - p_t = p + t - 2 p t; never 0, where the power's derivative may be infinite.
        wrong = torch.lerp(probs, 1 - probs, masks)
        loss = wrong.clamp(min=torch.finfo(loss.dtype).tiny).pow(gamma) * loss
    if alpha is not None:
        loss = loss * (masks * (2 * alpha - 1) + (1 - alpha))
    if given.counted is not None:
        loss = loss.masked_fill(~given.counted, 0)
    return _pixels.mean_over(loss, given.counted)


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
