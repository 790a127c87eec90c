"""The Dice loss: one minus the overlap of regions, in proportion to their sizes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastseg.losses._module import LossModule, class_weights
from fastseg.losses._region import Absent, Overlap, check_region_options, region_loss


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int | None = None,
    smooth: float = 0.0,
    absent: Absent = "skip",
    per_image: bool = False,
    multilabel: bool = False,
    class_weight: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """Dice loss: 1 - (2 Σ p t + s) / (Σ p + Σ t + s) for each class, averaged over classes.

    Args:
        logits: (B, K, *S) float. K = 1: sigmoid; K ≥ 2: softmax, or sigmoid if `multilabel`.
        target: (B, *S) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`. With K = 1
            or `multilabel` also (B, K, *S) masks, bool, integer or float in 0 … 1.
        ignore_index: label of pixels that do not count; None: all count.
        smooth: s, in pixels, added above and below the fraction.
        absent: "skip" leaves classes without a true pixel out of the mean; "count" keeps them, so
            that predicting them costs.
        per_image: one Dice per image and class, averaged over images that have one; otherwise the
            sums run over the whole batch.
        multilabel: a yes or no for each class instead of one class per pixel.
        class_weight: (K,) weights of the classes in the mean; 0 leaves one out.

    Returns:
        Scalar in 0 … 1, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits, target or weights disagree.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        DataError: a mask is out of 0 … 1.
        ParameterError: an option is out of its range.

    Convention:
        Half precision is summed in float32. Where nothing takes part (all ignored, or no class
        present with "skip") the loss is 0 and its gradient 0.

    Source:
        Milletari et al., V-Net, 2016, with Σ p rather than Σ p² below. Equal to
        segmentation_models_pytorch's where all classes are present (it divides by the absent ones,
        too), and to MONAI's with `absent="count", per_image=True, smooth=1e-5`.

    Example:
        >>> import torch
        >>> from fastseg.losses import dice_loss
        >>> target = torch.tensor([[[0, 1, 255]]])
        >>> perfect = torch.tensor([[[[50.0, 0.0, 0.0]], [[0.0, 50.0, 0.0]]]])
        >>> round(dice_loss(perfect, target, ignore_index=255).item(), 6)
        0.0
    """
    return region_loss(
        dice_score,
        logits,
        target,
        ignore_index=ignore_index,
        smooth=smooth,
        absent=absent,
        per_image=per_image,
        multilabel=multilabel,
        class_weight=class_weight,
    )


def dice_score(overlap: Overlap, smooth: float) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of Dice."""
    return 2 * overlap.inside + smooth, overlap.predicted + overlap.true + smooth


class DiceLoss(LossModule):
    """`dice_loss` as a module: its options are the function's."""

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        smooth: float = 0.0,
        absent: Absent = "skip",
        per_image: bool = False,
        multilabel: bool = False,
        class_weight: Tensor | Sequence[float] | None = None,
    ) -> None:
        check_region_options(
            smooth=smooth, absent=absent, per_image=per_image, multilabel=multilabel
        )
        super().__init__(
            ignore_index=ignore_index,
            smooth=smooth,
            absent=absent,
            per_image=per_image,
            multilabel=multilabel,
            class_weight=class_weights(class_weight),
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `dice_loss(logits, target)` with the module's options."""
        return dice_loss(logits, target, **self.options())
