"""Online hard example mining: cross entropy over the pixels that are hard."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastseg._checks import integer, positive
from fastseg.errors import ParameterError
from fastseg.losses import _pixels
from fastseg.losses._module import LossModule


def ohem_cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    ignore_index: int | None = None,
) -> Tensor:
    """Mean cross entropy of the pixels whose true class has a probability up to `threshold`.

    Where those are fewer than `min_kept` per image, the hardest `min_kept` per image are kept.

    Args:
        logits: (B, K, *S) float, K at least 2.
        target: (B, *S) integer labels in 0 … K - 1, or `ignore_index`.
        threshold: probability of the true class up to which a pixel is hard, above 0, at most 1.
        min_kept: least number of pixels to keep for each image of the batch; they are chosen from
            the whole batch.
        ignore_index: label of pixels that do not count; None: all count.

    Returns:
        Scalar from 0 on, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits and target disagree.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        ParameterError: an option is out of its range.

    Convention:
        Pixels as hard as the last one kept are kept, too. Fewer counted pixels than asked for: all
        of them. All ignored: 0, with a gradient of 0.

    Source:
        Shrivastava et al., 2016, with the threshold and least number that are usual for
        segmentation since Wu et al., 2016.

    Example:
        >>> import torch
        >>> from fastseg.losses import ohem_cross_entropy_loss
        >>> logits = torch.tensor([[[[0.0, 5.0]], [[0.0, 0.0]]]])
        >>> target = torch.zeros(1, 1, 2, dtype=torch.long)
        >>> ohem_cross_entropy_loss(logits, target, min_kept=1).item()  # ln 2: the first pixel
        0.6931471824645996
    """
    _check_options(threshold, min_kept)
    given = _pixels.pixels(logits, target, ignore_index)
    loss = _pixels.cross_entropy(given).flatten()
    counted = None if given.counted is None else given.counted.flatten()
    with torch.no_grad():
        # -1: below every pixel that counts.
        hardness = loss.detach() if counted is None else loss.masked_fill(~counted, -1)
        least = min(min_kept * given.target.shape[0], loss.numel())
        limit = torch.full_like(hardness[:1].sum(), -math.log(threshold))
        if least:
            kept = hardness.kthvalue(loss.numel() - least + 1).values
            limit = torch.minimum(limit, kept)
        hard = hardness >= limit.clamp(min=0)
    return (loss * hard).sum() / hard.sum().clamp(min=1)


def _check_options(threshold: float, min_kept: int) -> None:
    if positive("threshold", threshold) > 1:
        raise ParameterError(f"threshold must be at most 1, got {threshold}")
    integer("min_kept", min_kept, least=0)


class OHEMCrossEntropyLoss(LossModule):
    """`ohem_cross_entropy_loss` as a module: its options are the function's."""

    def __init__(
        self,
        *,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        ignore_index: int | None = None,
    ) -> None:
        _check_options(threshold, min_kept)
        super().__init__(threshold=threshold, min_kept=min_kept, ignore_index=ignore_index)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `ohem_cross_entropy_loss(logits, target)` with the module's options."""
        return ohem_cross_entropy_loss(logits, target, **self.options())
