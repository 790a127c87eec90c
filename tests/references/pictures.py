"""Made-up pictures and probabilities with some structure, so that a CRF has something to do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def blocks(shape: tuple[int, ...], num_labels: int) -> NDArray[np.int64]:
    """A label per pixel: rings around the middle, any number of axes."""
    grid = np.indices(shape).astype(np.float64)
    middle = np.array([(n - 1) / 2 for n in shape]).reshape(-1, *[1] * len(shape))
    radius = np.sqrt((((grid - middle) / np.maximum(np.array(middle), 1)) ** 2).sum(axis=0))
    rings = (radius * 1.5 * num_labels / 2).astype(np.int64)
    return np.asarray(np.minimum(rings, num_labels - 1))


def made_up_image(
    shape: tuple[int, ...], channels: int = 3, num_labels: int = 3, seed: int = 0
) -> NDArray[np.uint8]:
    """A noisy picture (*shape, channels) whose colours follow the rings."""
    rng = np.random.default_rng(seed)
    palette = rng.uniform(20, 235, (num_labels, channels))
    clean = palette[blocks(shape, num_labels)]
    ramp = 10 * np.indices(shape)[-1][..., None] / shape[-1]
    noisy = clean + ramp + rng.normal(0, 10, clean.shape)
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def made_up_probs(
    num_labels: int, shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 1
) -> NDArray[Any]:
    """Noisy probabilities (K, *shape) that lean towards the rings and sum to one."""
    rng = np.random.default_rng(seed)
    truth = blocks(shape, num_labels)
    scores = rng.normal(0, 1.0, (num_labels, *shape))
    scores += 1.2 * (np.arange(num_labels).reshape(-1, *[1] * len(shape)) == truth)
    exponentials = np.exp(scores)
    return np.asarray(exponentials / exponentials.sum(axis=0), dtype=dtype)
