"""Confusion matrices and overlap scores as the formulas have them, pixel by pixel."""

import numpy as np


def confusion(pred, target, num_classes, ignore_index=None):
    """(K, K + 1): the last column for predictions that are no class."""
    counts = np.zeros((num_classes, num_classes + 1), np.int64)
    for p, t in zip(np.ravel(pred).tolist(), np.ravel(target).tolist(), strict=True):
        if t == ignore_index or not 0 <= t < num_classes:
            continue
        counts[t, p if 0 <= p < num_classes else num_classes] += 1
    return counts


def parts(pred, target, label, ignore_index=None):
    """TP, FP and FN of one class."""
    pred, target = np.ravel(pred), np.ravel(target)
    valid = np.ones(pred.shape, bool) if ignore_index is None else target != ignore_index
    p, t = pred[valid] == label, target[valid] == label
    return int((p & t).sum()), int((p & ~t).sum()), int((~p & t).sum())


def iou(pred, target, label, ignore_index=None):
    """NaN where the class is in neither."""
    tp, fp, fn = parts(pred, target, label, ignore_index)
    return tp / (tp + fp + fn) if tp + fp + fn else float("nan")


def image_ious(preds, targets, num_classes, ignore_index=None):
    """(N, K): IoU of each class in each image, NaN where its target has none of it."""
    return np.array(
        [
            [
                iou(p, t, k, ignore_index) if (np.asarray(t) == k).any() else float("nan")
                for k in range(num_classes)
            ]
            for p, t in zip(preds, targets, strict=True)
        ]
    )
