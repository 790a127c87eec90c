"""The losses as their formulas read, pixel by pixel, in NumPy float64."""

import math

import numpy as np


def softmax(logits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def probabilities(logits, multilabel=False):
    return sigmoid(logits) if multilabel or logits.shape[1] == 1 else softmax(logits)


def masks_of(target, classes):
    """(B, K, N) masks; of one class, labels are the mask."""
    if classes == 1:
        return (target == 1).astype(float)[:, None]
    return np.stack([(target == k).astype(float) for k in range(classes)], 1)


def prepared(logits, target, ignore_index, multilabel=False):
    """Probabilities and masks (B, K, N), and (B, N) whether a pixel counts."""
    batch, classes = logits.shape[:2]
    logits = logits.reshape(batch, classes, -1).astype(float)
    target = target.reshape(batch, -1)
    return probabilities(logits, multilabel), masks_of(target, classes), target != ignore_index


def region(
    logits,
    target,
    score,
    ignore_index=-1,
    absent="skip",
    per_image=False,
    multilabel=False,
    class_weight=None,
    gamma=1.0,
):
    """`score` maps (TP, FP, FN) to the index of one class of one image or batch."""
    probs, masks, counted = prepared(logits, target, ignore_index, multilabel)
    images = [[b] for b in range(len(probs))] if per_image else [list(range(len(probs)))]
    means = []
    for image in images:
        total = weights = 0.0
        for k in range(probs.shape[1]):
            tp = fp = fn = 0.0
            for b in image:
                for p, t, c in zip(probs[b, k], masks[b, k], counted[b], strict=True):
                    if c:
                        tp += p * t
                        fp += p * (1 - t)
                        fn += (1 - p) * t
            if not counted[image].any() or (absent == "skip" and tp + fn == 0):
                continue
            weight = 1.0 if class_weight is None else class_weight[k]
            total += weight * (1 - score(tp, fp, fn)) ** gamma
            weights += weight
        if weights:
            means.append(total / weights)
    return sum(means) / len(means) if means else 0.0


def focal(logits, target, gamma=2.0, ignore_index=-1, class_weight=None):
    probs, _, counted = prepared(logits, target, ignore_index)
    labels = target.reshape(len(probs), -1)
    losses = []
    for b, n in np.argwhere(counted):
        p = probs[b, labels[b, n], n]
        alpha = 1.0 if class_weight is None else class_weight[labels[b, n]]
        losses.append(-alpha * (1 - p) ** gamma * math.log(p))
    return sum(losses) / len(losses) if losses else 0.0


def sigmoid_focal(logits, target, gamma=2.0, alpha=0.25, ignore_index=-1):
    probs, masks, counted = prepared(logits, target, ignore_index, multilabel=True)
    losses = []
    for b, n in np.argwhere(counted):
        for k in range(probs.shape[1]):
            true = masks[b, k, n] == 1
            p = probs[b, k, n] if true else 1 - probs[b, k, n]
            a = 1.0 if alpha is None else alpha if true else 1 - alpha
            losses.append(-a * (1 - p) ** gamma * math.log(p))
    return sum(losses) / len(losses) if losses else 0.0


def jaccard_loss(mistakes, truth):
    """1 - IoU of the prediction that is wrong at `mistakes` only."""
    predicted = truth ^ mistakes
    union = (predicted | truth).sum()
    return 0.0 if union == 0 else 1 - (predicted & truth).sum() / union


def lovasz(logits, target, ignore_index=-1, absent="skip", per_image=False, multilabel=False):
    """The Lovász extension by its definition: each error times what its mistake adds."""
    probs, masks, counted = prepared(logits, target, ignore_index, multilabel)
    images = [[b] for b in range(len(probs))] if per_image else [list(range(len(probs)))]
    means = []
    for image in images:
        losses = []
        for k in range(probs.shape[1]):
            keep = counted[image].ravel()
            truth = masks[image, k].ravel()[keep] == 1
            errors = np.abs(truth - probs[image, k].ravel()[keep])
            if not keep.any() or (absent == "skip" and not truth.any()):
                continue
            loss, before, mistakes = 0.0, 0.0, np.zeros(len(truth), bool)
            for n in np.argsort(-errors, kind="stable"):
                mistakes[n] = True
                after = jaccard_loss(mistakes, truth)
                loss += errors[n] * (after - before)
                before = after
            losses.append(loss)
        if losses:
            means.append(sum(losses) / len(losses))
    return sum(means) / len(means) if means else 0.0


def gaussian(window, sigma):
    offsets = np.arange(window) - window // 2
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    return np.outer(kernel, kernel) / kernel.sum() ** 2


def halved(picture):
    height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
    cut = picture[:height, :width]
    return (cut[::2, ::2] + cut[1::2, ::2] + cut[::2, 1::2] + cut[1::2, 1::2]) / 4


def ms_ssim(p, t, window, sigma, weights, weight=None):
    """MS-SSIM of two (H, W) pictures in 0 … 1; `weight` (H, W) of the windows' centres."""
    kernel = gaussian(window, sigma)
    weight = np.ones_like(p) if weight is None else weight
    result = 1.0
    for scale, exponent in enumerate(weights):
        total = counted = 0.0
        for y in range(p.shape[0] - window + 1):
            for x in range(p.shape[1] - window + 1):
                a, b = p[y : y + window, x : x + window], t[y : y + window, x : x + window]
                mean_a, mean_b = (kernel * a).sum(), (kernel * b).sum()
                var_a = (kernel * (a - mean_a) ** 2).sum()
                var_b = (kernel * (b - mean_b) ** 2).sum()
                cov = (kernel * (a - mean_a) * (b - mean_b)).sum()
                value = (2 * cov + 0.03**2) / (var_a + var_b + 0.03**2)
                if scale == len(weights) - 1:
                    value *= (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
                centre = weight[y + window // 2, x + window // 2]
                total += centre * value
                counted += centre
        result *= max(total / counted, 0) ** exponent
        p, t, weight = halved(p), halved(t), halved(weight)
    return result


def ohem(logits, target, threshold=0.7, min_kept=100_000, ignore_index=-1):
    probs, _, counted = prepared(logits, target, ignore_index)
    labels = target.reshape(len(probs), -1)
    at_target = sorted(probs[b, labels[b, n], n] for b, n in np.argwhere(counted))
    kept = [p for p in at_target if p <= threshold]
    least = min(min_kept * len(probs), len(at_target))
    if len(kept) < least:
        kept = at_target[:least]
    return sum(-math.log(p) for p in kept) / len(kept) if kept else 0.0
