"""How good a segmentation is: counts, overlaps, and what accumulates them over a dataset.

Functions take label maps or a confusion matrix, as NumPy arrays or torch tensors. The classes of
the same names accumulate batches; once torchmetrics is imported they are torchmetrics metrics.

Example:
    >>> import numpy as np
    >>> from fastseg import metrics
    >>> target = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
    >>> pred = np.array([[0, 1, 1], [1, 2, 2]], np.uint8)
    >>> confusion = metrics.confusion_matrix(pred, target, num_classes=3, ignore_index=255)
    >>> metrics.iou(confusion)
    array([0.5       , 0.66666667, 1.        ])
    >>> metrics.mean_iou(pred, target, num_classes=3, ignore_index=255)
    0.7222222222222222
"""

from fastseg.metrics.accumulator import Accumulator, State
from fastseg.metrics.agreement import (
    CohenKappa,
    MatthewsCorrCoef,
    cohen_kappa,
    matthews_corrcoef,
)
from fastseg.metrics.average_surface_distance import average_surface_distance
from fastseg.metrics.boundary_f_score import boundary_f_score
from fastseg.metrics.boundary_iou import boundary_iou
from fastseg.metrics.confusion_matrix import ConfusionMatrix, confusion_matrix
from fastseg.metrics.distance_transform import distance_transform
from fastseg.metrics.hausdorff_distance import hausdorff_distance
from fastseg.metrics.mean_iou import MeanIoU, mean_iou
from fastseg.metrics.overlap import (
    F1,
    Accuracy,
    Dice,
    FrequencyWeightedIoU,
    IoU,
    Precision,
    Recall,
    accuracy,
    dice,
    f1,
    frequency_weighted_iou,
    iou,
    precision,
    recall,
)
from fastseg.metrics.surface_accumulators import (
    AverageSurfaceDistance,
    BoundaryFScore,
    BoundaryIoU,
    HausdorffDistance,
    SurfaceDice,
)
from fastseg.metrics.surface_dice import surface_dice
from fastseg.metrics.surface_distances import SurfaceDistances, surface_distances
from fastseg.metrics.trimap_iou import TrimapIoU, trimap_iou

__all__ = [
    "Accumulator",
    "Accuracy",
    "AverageSurfaceDistance",
    "BoundaryFScore",
    "BoundaryIoU",
    "CohenKappa",
    "ConfusionMatrix",
    "Dice",
    "F1",
    "FrequencyWeightedIoU",
    "HausdorffDistance",
    "IoU",
    "MatthewsCorrCoef",
    "MeanIoU",
    "Precision",
    "Recall",
    "State",
    "SurfaceDice",
    "SurfaceDistances",
    "TrimapIoU",
    "accuracy",
    "average_surface_distance",
    "boundary_f_score",
    "boundary_iou",
    "cohen_kappa",
    "confusion_matrix",
    "dice",
    "distance_transform",
    "f1",
    "frequency_weighted_iou",
    "hausdorff_distance",
    "iou",
    "matthews_corrcoef",
    "mean_iou",
    "precision",
    "recall",
    "surface_dice",
    "surface_distances",
    "trimap_iou",
]
