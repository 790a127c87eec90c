"""The IoU (Jaccard) loss: one minus intersection over union, of probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastseg.losses._module import LossModule, class_weights
from fastseg.losses._region import Absent, Overlap, check_region_options, region_loss


def iou_loss(
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
    """IoU loss: 1 - (Σ p t + s) / (Σ p + Σ t - Σ p t + s) for each class, averaged over classes.

    Args:
        logits: (B, K, *S) float. K = 1: sigmoid; K ≥ 2: softmax, or sigmoid if `multilabel`.
        target: (B, *S) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`. With K = 1
            or `multilabel` also (B, K, *S) masks, bool, integer or float in 0 … 1.
        ignore_index: label of pixels that do not count; None: all count.
        smooth: s, in pixels, added above and below the fraction.
        absent: "skip" leaves classes without a true pixel out of the mean; "count" keeps them, so
            that predicting them costs.
        per_image: one IoU per image and class, averaged over images that have one; otherwise the
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
        Rahman and Wang, 2016. Equal to segmentation_models_pytorch's JaccardLoss where all classes
        are present, and to MONAI's DiceLoss(jaccard=True) with
        `absent="count", per_image=True, smooth=1e-5` up to where it adds the 1e-5.

    Example:
        >>> import torch
        >>> from fastseg.losses import iou_loss
        >>> logits = torch.zeros(1, 2, 1, 4)
        >>> iou_loss(logits, torch.tensor([[[0, 0, 1, 1]]])).item()
        0.6666666269302368
    """
    return region_loss(
        _iou,
        logits,
        target,
        ignore_index=ignore_index,
        smooth=smooth,
        absent=absent,
        per_image=per_image,
        multilabel=multilabel,
        class_weight=class_weight,
    )


def _iou(overlap: Overlap, smooth: float) -> tuple[Tensor, Tensor]:
    union = overlap.predicted + overlap.true - overlap.inside
    return overlap.inside + smooth, union + smooth


class IoULoss(LossModule):
    """`iou_loss` as a module: its options are the function's."""

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
        """Computes `iou_loss(logits, target)` with the module's options."""
        return iou_loss(logits, target, **self.options())
