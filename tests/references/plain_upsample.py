"""Bilinear resampling pixel by pixel, and what follows from it: slow and obvious."""

import math

import numpy as np


def source_position(pixel, samples, pixels, align_corners):
    """Where a pixel lies on the samples, in float32 as torch computes it."""
    single = np.float32
    if samples == pixels:
        return single(pixel)
    if align_corners:
        scale = single(samples - 1) / single(pixels - 1) if pixels > 1 else single(0)
        return scale * single(pixel)
    scale = single(samples) / single(pixels)
    return max(scale * (single(pixel) + single(0.5)) - single(0.5), single(0))


def plain_upsample(logits, size, *, align_corners=False):
    """(K, h, w) -> (K, H, W) float64, by the definition."""
    classes, height, width = logits.shape
    out = np.empty((classes, *size))
    values = logits.astype(np.float64)
    for row in range(size[0]):
        y = source_position(row, height, size[0], align_corners)
        top = min(int(y), height - 1)
        bottom, down = min(top + 1, height - 1), float(y - np.float32(top))
        for column in range(size[1]):
            x = source_position(column, width, size[1], align_corners)
            left = min(int(x), width - 1)
            right, along = min(left + 1, width - 1), float(x - np.float32(left))
            upper = (1 - along) * values[:, top, left] + along * values[:, top, right]
            lower = (1 - along) * values[:, bottom, left] + along * values[:, bottom, right]
            out[:, row, column] = (1 - down) * upper + down * lower
    return out


def plain_softmax(logits):
    """(K, …) -> (K, …), over the first axis."""
    flat = logits.reshape(len(logits), -1)
    probs = np.empty_like(flat)
    for pixel in range(flat.shape[1]):
        largest = max(flat[:, pixel])
        powers = [math.exp(value - largest) for value in flat[:, pixel]]
        probs[:, pixel] = [power / sum(powers) for power in powers]
    return probs.reshape(logits.shape)


def clear_pixels(enlarged, rounding):
    """Where the best of (K, H, W) leads by more than `rounding` of the largest value."""
    if len(enlarged) == 1:
        return np.ones(enlarged.shape[1:], bool)
    best = np.sort(enlarged, axis=0)
    return best[-1] - best[-2] > rounding * np.abs(enlarged).max()
