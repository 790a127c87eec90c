"""What the transforms ask of the images and label maps that reach them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchvision import tv_tensors

from fastseg._checks import number
from fastseg.errors import DataError, ParameterError, ShapeError

Fill: TypeAlias = float | Sequence[float]


def image_of(flat_inputs: Sequence[Any]) -> Tensor:
    """The image among the inputs of a transform."""
    for value in flat_inputs:
        if isinstance(value, tv_tensors.Image):
            image: Tensor = value
            return image
    raise ShapeError("image: expected a tv_tensors.Image among the inputs, got none")


def mask_of(flat_inputs: Sequence[Any]) -> Tensor | None:
    """The label map among the inputs of a transform, if there is one."""
    for value in flat_inputs:
        if isinstance(value, tv_tensors.Mask):
            mask: Tensor = value
            return mask
    return None


def require_colors(image: Tensor) -> None:
    """Refuses what torchvision's colour functions would clip, or cannot take.

    Raises:
        ShapeError: the image has other than one or three channels.
        DataError: it is floating point and not in 0 … 1.
    """
    if image.shape[-3] not in (1, 3):
        raise ShapeError(
            f"image: changing colours takes 1 or 3 channels, got {image.shape[-3]}; turn the "
            "changes of colours off, or apply them to some of the channels yourself"
        )
    if image.is_floating_point() and image.numel():
        low, high = (float(bound) for bound in torch.aminmax(image))
        if not (low >= 0 and high <= 1):
            raise DataError(
                "image: changing colours takes floating point in 0 … 1, got values from "
                f"{low:g} to {high:g}; augment before you normalise"
            )


def checked_fill(value: Fill) -> Fill:
    """`image_fill` as a finite number, or as one for each channel."""
    if isinstance(value, (list, tuple)):
        return [number(f"image_fill[{channel}]", one) for channel, one in enumerate(value)]
    return number("image_fill", value)


def require_fill(fill: Fill, image: Tensor) -> None:
    """Refuses values that an image cannot hold.

    Raises:
        ShapeError: another number of values than of channels.
        ParameterError: values out of 0 … 255 for an image of bytes.
    """
    values = [fill] if isinstance(fill, (int, float)) else fill
    if len(values) not in (1, image.shape[-3]):
        raise ShapeError(
            f"image_fill: expected one number or one for each of {image.shape[-3]} channels, got "
            f"{len(values)}"
        )
    if image.dtype == torch.uint8 and not all(0 <= value <= 255 for value in values):
        raise ParameterError(f"image_fill: expected 0 … 255 for an image of uint8, got {fill}")


def interval(name: str, value: Any, *, least: float, most: float = math.inf) -> tuple[float, float]:
    """`value` as (low, high), two finite numbers in order."""
    try:
        low, high = value
    except (TypeError, ValueError):
        raise ParameterError(f"{name} must be two numbers (low, high), got {value!r}") from None
    low, high = number(f"{name}[0]", low, least=least), number(f"{name}[1]", high, least=least)
    if low > high:
        raise ParameterError(f"{name} must be in order (low, high), got {value!r}")
    if high > most:
        raise ParameterError(f"{name} must be at most {most:g}, got {value!r}")
    return low, high


def uniform(low: float, high: float) -> float:
    """A number drawn from torch's generator."""
    return low + (high - low) * float(torch.rand(()))
