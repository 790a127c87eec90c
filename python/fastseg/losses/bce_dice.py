"""U-Net++'s hybrid: binary cross entropy for the pixels, Dice for the regions."""

from __future__ import annotations

from torch import Tensor

from fastseg._checks import number
from fastseg.losses import _pixels
from fastseg.losses._module import LossModule
from fastseg.losses._region import (
    Absent,
    check_region_options,
    mask_overlaps,
    mean_of_regions,
    pooled,
)
from fastseg.losses.dice import dice_score


def bce_dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    bce_weight: float = 0.5,
    dice_weight: float = 1.0,
    ignore_index: int | None = None,
    smooth: float = 0.0,
    absent: Absent = "skip",
    per_image: bool = False,
) -> Tensor:
    """Weighted sum of binary cross entropy and Dice loss, both over sigmoids.

    Args:
        logits: (B, K, *S) float, K from 1 on; each class is a yes or no of its own.
        target: (B, *S) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`; or (B, K,
            *S) masks, bool, integer or float in 0 … 1.
        bce_weight: weight of the cross entropy, the mean over pixels and classes that count.
        dice_weight: weight of the Dice loss.
        ignore_index: label of pixels that do not count; None: all count.
        smooth: of the Dice loss, in pixels.
        absent: "skip" leaves classes without a true pixel out of the Dice loss; "count" keeps them.
        per_image: one Dice per image and class rather than per class.

    Returns:
        Scalar from 0 on, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits and target disagree.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        DataError: a mask is out of 0 … 1.
        ParameterError: an option is out of its range.

    Convention:
        An empty mask gives the cross entropy alone. All ignored: 0, with a gradient of 0.

    Source:
        Zhou et al., U-Net++, 2018, equation 3: half the cross entropy, and one Dice. One plus their
        value, as Dice goes in as 1 - Dice here.

    Example:
        >>> import torch
        >>> from fastseg.losses import bce_dice_loss
        >>> logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 1]]])
        >>> round(bce_dice_loss(logits, target).item(), 4)  # ln 2 / 2 + 1 - 1 / 2
        0.8466
    """
    _check_options(bce_weight, dice_weight)
    check_region_options(smooth=smooth, absent=absent, per_image=per_image)
    given = _pixels.masks(logits, target, ignore_index)
    overlap, entropy = mask_overlaps(given, cross_entropy=True)
    dice = mean_of_regions(
        dice_score, overlap if per_image else pooled(overlap), smooth=smooth, absent=absent
    )
    bce = _pixels.mean_of(entropy, given.logits, given.counted)
    return bce_weight * bce + dice_weight * dice


def _check_options(bce_weight: float, dice_weight: float) -> None:
    number("bce_weight", bce_weight, least=0)
    number("dice_weight", dice_weight, least=0)


class BCEDiceLoss(LossModule):
    """`bce_dice_loss` as a module: its options are the function's."""

    def __init__(
        self,
        *,
        bce_weight: float = 0.5,
        dice_weight: float = 1.0,
        ignore_index: int | None = None,
        smooth: float = 0.0,
        absent: Absent = "skip",
        per_image: bool = False,
    ) -> None:
        _check_options(bce_weight, dice_weight)
        check_region_options(smooth=smooth, absent=absent, per_image=per_image)
        super().__init__(
            bce_weight=bce_weight,
            dice_weight=dice_weight,
            ignore_index=ignore_index,
            smooth=smooth,
            absent=absent,
            per_image=per_image,
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `bce_dice_loss(logits, target)` with the module's options."""
        return bce_dice_loss(logits, target, **self.options())
