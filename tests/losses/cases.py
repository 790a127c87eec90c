"""Logits and targets of a few shapes, and every loss under one name."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from fastseg import losses

IGNORE = 255


@dataclass(frozen=True)
class Loss:
    """A loss as a function of (logits, target), with what it can take."""

    function: Callable[..., torch.Tensor]
    module: type[torch.nn.Module]
    options: dict = field(default_factory=dict)
    classes: int = 3
    side: int = 6
    # Whether an ignored pixel may as well not be there: not so where neighbours matter.
    separable: bool = True

    def __call__(self, logits, target, **options):
        return self.function(logits, target, **{**self.options, **options})


def _border_weighted(logits, target, *, ignore_index=None):
    generator = torch.Generator().manual_seed(7)
    row = torch.rand(target.shape[-1], generator=generator, dtype=torch.float64) + 0.5
    weight = row.expand(target.shape)
    return losses.border_weighted_cross_entropy(logits, target, weight, ignore_index=ignore_index)


SMALL_SCALES = {"scale_weights": (0.3, 0.7), "window": 3}
LOSSES = {
    "dice": Loss(losses.dice_loss, losses.DiceLoss),
    "dice_count": Loss(losses.dice_loss, losses.DiceLoss, {"absent": "count", "per_image": True}),
    "dice_binary": Loss(losses.dice_loss, losses.DiceLoss, classes=1),
    "dice_multilabel": Loss(losses.dice_loss, losses.DiceLoss, {"multilabel": True}),
    "iou": Loss(losses.iou_loss, losses.IoULoss),
    "iou_binary": Loss(losses.iou_loss, losses.IoULoss, classes=1),
    "tversky": Loss(losses.tversky_loss, losses.TverskyLoss, {"gamma": 0.75}),
    "focal": Loss(losses.focal_loss, losses.FocalLoss),
    "focal_half": Loss(losses.focal_loss, losses.FocalLoss, {"gamma": 0.5}),
    "sigmoid_focal": Loss(losses.sigmoid_focal_loss, losses.SigmoidFocalLoss),
    "sigmoid_focal_binary": Loss(losses.sigmoid_focal_loss, losses.SigmoidFocalLoss, classes=1),
    "ms_ssim": Loss(losses.ms_ssim_loss, losses.MSSSIMLoss, SMALL_SCALES, separable=False),
    "ms_ssim_binary": Loss(
        losses.ms_ssim_loss, losses.MSSSIMLoss, SMALL_SCALES, classes=1, separable=False
    ),
    "lovasz": Loss(losses.lovasz_softmax_loss, losses.LovaszSoftmaxLoss),
    "lovasz_binary": Loss(losses.lovasz_softmax_loss, losses.LovaszSoftmaxLoss, classes=1),
    "lovasz_count": Loss(
        losses.lovasz_softmax_loss,
        losses.LovaszSoftmaxLoss,
        {"absent": "count", "per_image": True},
    ),
    "bce_dice": Loss(losses.bce_dice_loss, losses.BCEDiceLoss),
    "bce_dice_binary": Loss(losses.bce_dice_loss, losses.BCEDiceLoss, classes=1),
    "unet3p_hybrid": Loss(
        losses.unet3p_hybrid_loss, losses.UNet3pHybridLoss, SMALL_SCALES, separable=False
    ),
    "unet3p_hybrid_binary": Loss(
        losses.unet3p_hybrid_loss,
        losses.UNet3pHybridLoss,
        SMALL_SCALES,
        classes=1,
        separable=False,
    ),
    "ohem": Loss(losses.ohem_cross_entropy_loss, losses.OHEMCrossEntropyLoss, {"min_kept": 9}),
    "border_weighted": Loss(_border_weighted, losses.BorderWeightedCrossEntropy),
    "border_weighted_binary": Loss(_border_weighted, losses.BorderWeightedCrossEntropy, classes=1),
}


def scene(classes, shape=(2, 6, 6), *, ignored=0.2, seed=0, dtype=torch.float64):
    """Logits (B, K, *S) and labels (B, *S), some of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((shape[0], classes, *shape[1:]), generator=generator, dtype=dtype) * 2
    target = torch.randint(0, max(classes, 2), shape, generator=generator)
    drop = torch.rand(shape, generator=generator) < ignored
    return logits, target.masked_fill(drop, IGNORE)
