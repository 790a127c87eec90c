"""The focal loss: cross entropy that turns to the pixels which are still wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg._checks import number
from fastseg.losses import _pixels
from fastseg.losses._module import LossModule, class_weights, weights_for


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    ignore_index: int | None = None,
    class_weight: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """Focal loss over a softmax: the mean of -α_t (1 - p_t) ** γ log p_t.

    p_t is the probability of the pixel's true class. For one-vs-all sigmoids, and for a single
    foreground class, there is `sigmoid_focal_loss`.

    Args:
        logits: (B, K, *S) float, K at least 2.
        target: (B, *S) integer labels in 0 … K - 1, or `ignore_index`.
        gamma: γ from 0 (cross entropy) on; the larger, the less easy pixels count.
        ignore_index: label of pixels that do not count; None: all count.
        class_weight: (K,) α of each class; None: 1.

    Returns:
        Scalar from 0 on, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits, target or weights disagree.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        ParameterError: `gamma` or a weight is out of its range.

    Convention:
        The mean is over the pixels that count, not over their weights. All ignored: 0, with a
        gradient of 0.

    Source:
        Lin et al., 2017, with the softmax. kornia's focal_loss and MONAI's
        FocalLoss(use_softmax=True) have the same terms; their means divide by the number of
        classes, too, and kornia's by the ignored pixels.

    Example:
        >>> import torch
        >>> from fastseg.losses import focal_loss
        >>> focal_loss(torch.zeros(1, 2, 1, 1), torch.tensor([[[1]]]), gamma=1).item()
        0.3465735912322998
    """
    number("gamma", gamma, least=0)
    given = _pixels.pixels(logits, target, ignore_index)
    loss = _pixels.cross_entropy(given)
    if gamma:
        # 1 - p_t without the cancellation; never 0, where the power's derivative may be infinite.
        wrong = -torch.expm1(-loss)
        loss = wrong.clamp(min=torch.finfo(loss.dtype).tiny).pow(gamma) * loss
    weight = weights_for(class_weight, given.logits)
    if weight is not None:
        loss = weight[given.target] * loss
    return _pixels.mean_over(loss, given.counted)


class FocalLoss(LossModule):
    """`focal_loss` as a module: its options are the function's."""

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        ignore_index: int | None = None,
        class_weight: Tensor | Sequence[float] | None = None,
    ) -> None:
        number("gamma", gamma, least=0)
        super().__init__(
            gamma=gamma, ignore_index=ignore_index, class_weight=class_weights(class_weight)
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `focal_loss(logits, target)` with the module's options."""
        return focal_loss(logits, target, **self.options())
