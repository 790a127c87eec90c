"""What the axes of scores mean: an image, a volume, the foreground alone, or a batch of these."""

from dataclasses import dataclass
from typing import Any

from fastseg.errors import ShapeError


@dataclass(frozen=True)
class Layout:
    """What the axes of scores mean.

    Attributes:
        batch: how many items there are; None if there is no such axis.
        num_labels: K; 2 where only the foreground is given.
        is_foreground: whether only the foreground is given, as (1, *shape) or (*shape).
        shape: of the points of one item, (H, W) or (D, H, W).
    """

    batch: int | None
    num_labels: int
    is_foreground: bool
    shape: tuple[int, ...]


def layout(
    name: str, scores: tuple[int, ...], image: tuple[int, ...] | None, spacing: Any
) -> Layout:
    """Finds out what the axes of `scores` mean.

    Args:
        name: what errors call the scores.
        scores: the shape of the scores: (H, W), (K, H, W), (B, K, H, W), (K, D, H, W) or
            (B, K, D, H, W).
        image: the shape of the image or images.
        spacing: of the pixels, as the caller gave it; its length tells images from volumes.

    Raises:
        ShapeError: the shape is none of these, or empty, or four axes can mean two things.
    """
    if not 2 <= len(scores) <= 5 or 0 in scores:
        raise ShapeError(
            f"{name} must be (K, H, W), (H, W), (B, K, H, W), (K, D, H, W) or (B, K, D, H, W) and "
            f"not empty, got shape {scores}"
        )
    if len(scores) == 2:
        return Layout(None, 2, is_foreground=True, shape=scores)
    is_batch = len(scores) == 5 or (len(scores) == 4 and _is_batch(name, scores, image, spacing))
    if is_batch and image is not None and image[:1] != scores[:1]:
        raise ShapeError(
            f"{name} is a batch of {scores[0]} and image has shape {image}: the first axes must "
            "agree"
        )
    num_labels, *shape = scores[1:] if is_batch else scores
    return Layout(
        batch=scores[0] if is_batch else None,
        num_labels=max(num_labels, 2),
        is_foreground=num_labels == 1,
        shape=tuple(shape),
    )


def _is_batch(
    name: str, scores: tuple[int, ...], image: tuple[int, ...] | None, spacing: Any
) -> bool:
    """Whether four axes are (B, K, H, W), not (K, D, H, W)."""
    try:
        return len(spacing) == 2
    except TypeError:  # None, or one number for all axes
        pass
    if image is None:
        return True
    plane, volume = scores[2:], scores[1:]
    fits_batch = image[:1] == scores[:1] and (
        image[1:] == plane or (len(image) == 4 and plane in {image[1:3], image[2:]})
    )
    fits_volume = image == volume or (len(image) == 4 and volume in {image[:3], image[1:]})
    if fits_batch and fits_volume:
        raise ShapeError(
            f"{name} {scores} with image {image} can be a batch or a volume: give spacing, of two "
            "axes for a batch or of three for a volume, such as (1, 1, 1)"
        )
    if not fits_batch and not fits_volume:
        raise ShapeError(
            f"{name} {scores} and image {image} disagree: a batch (B, K, H, W) needs images "
            "(B, H, W), (B, H, W, C) or (B, C, H, W); a volume (K, D, H, W) needs (D, H, W) with "
            "or without channels"
        )
    return fits_batch
