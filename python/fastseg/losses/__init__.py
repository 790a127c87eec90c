"""Losses for segmentation: one file each, a function and a module of the same name.

All take logits (B, K, …) and a target of integer labels (B, …), sum in float32 or better, know
an `ignore_index`, and give 0 with a gradient of 0 where nothing counts.
"""

from fastseg.losses.bce_dice import BCEDiceLoss, bce_dice_loss
from fastseg.losses.border_weighted import (
    BorderWeightedCrossEntropy,
    border_weighted_cross_entropy,
)
from fastseg.losses.class_presence import ClassPresenceLoss, class_presence_loss
from fastseg.losses.deep_supervision import DeepSupervisionLoss, deep_supervision_loss
from fastseg.losses.dice import DiceLoss, dice_loss
from fastseg.losses.focal import FocalLoss, focal_loss
from fastseg.losses.iou import IoULoss, iou_loss
from fastseg.losses.lovasz_softmax import LovaszSoftmaxLoss, lovasz_softmax_loss
from fastseg.losses.ms_ssim import MSSSIMLoss, ms_ssim_loss
from fastseg.losses.ohem import OHEMCrossEntropyLoss, ohem_cross_entropy_loss
from fastseg.losses.sigmoid_focal import SigmoidFocalLoss, sigmoid_focal_loss
from fastseg.losses.tversky import TverskyLoss, tversky_loss
from fastseg.losses.unet3p_hybrid import UNet3pHybridLoss, unet3p_hybrid_loss

__all__ = [
    "BCEDiceLoss",
    "bce_dice_loss",
    "BorderWeightedCrossEntropy",
    "border_weighted_cross_entropy",
    "ClassPresenceLoss",
    "class_presence_loss",
    "DeepSupervisionLoss",
    "deep_supervision_loss",
    "DiceLoss",
    "dice_loss",
    "FocalLoss",
    "focal_loss",
    "IoULoss",
    "iou_loss",
    "LovaszSoftmaxLoss",
    "lovasz_softmax_loss",
    "MSSSIMLoss",
    "ms_ssim_loss",
    "OHEMCrossEntropyLoss",
    "ohem_cross_entropy_loss",
    "SigmoidFocalLoss",
    "sigmoid_focal_loss",
    "TverskyLoss",
    "tversky_loss",
    "UNet3pHybridLoss",
    "unet3p_hybrid_loss",
]
