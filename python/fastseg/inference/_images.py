"""Pictures of every kind in, one kind of tensor out: (C, H, W), values 0 … 255."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastseg._pictures import decoded, opened, turned
from fastseg.errors import DataError, DtypeError, ShapeError

_OPAQUE = 255


class Picture(NamedTuple):
    """A picture as the models' side sees it.

    Attributes:
        values: (C, H, W) uint8, or float32 in 0 … 255.
        is_tensor: The user gave a torch tensor, and gets one back.
        name: What errors call it.
    """

    values: Tensor
    is_tensor: bool
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.values.shape[1]), int(self.values.shape[2])


def is_picture(value: Any) -> bool:
    """Whether a value is one picture rather than a sequence of them."""
    return isinstance(value, str | os.PathLike | Image.Image | np.ndarray | Tensor)


def read(image: Any, *, channels: int | None, name: str = "image") -> Picture:
    """Take a path, a Pillow picture, an array or a tensor as a picture.

    Args:
        image: What the user gave.
        channels: How many channels the model takes, where that is known.
        name: What errors call it.

    Raises:
        ReadError: The file is missing, broken, animated or partly transparent.
        DtypeError: It is no picture, or its values are of a type that has no range.
        ShapeError: It has the wrong axes, or channels that the model cannot take.
        DataError: It holds NaN, values outside 0 … 255, or transparent pixels.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        with opened(path) as picture:
            pixels = decoded(turned(picture), path.name)
        return _from_array(_narrowed(pixels), channels, path.name)
    if isinstance(image, Image.Image):
        return _from_array(_narrowed(decoded(image, name)), channels, name)
    if isinstance(image, Tensor):
        values = _channels_first(image.detach(), channels, name, first=True)
        return Picture(_in_range(values, name), True, name)
    if isinstance(image, np.ndarray):
        return _from_array(image, channels, name)
    raise DtypeError(
        f"{name}: expected a path, a Pillow picture, a NumPy array or a torch tensor, got "
        f"{type(image).__name__}"
    )


def _narrowed(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pillow's 32-bit mode holds 16-bit pictures."""
    if pixels.dtype == np.int32 and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    return pixels


def _from_array(pixels: NDArray[Any], channels: int | None, name: str) -> Picture:
    if pixels.dtype.kind not in "uifb":
        raise DtypeError(
            f"{name}: expected uint8, uint16 or floating point values, got {pixels.dtype}"
        )
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        # Sixteen bits are eight with more steps between them.
        pixels = pixels.astype(np.float32) / np.float32(257)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype.kind == "f" and pixels.dtype.itemsize != 4:
        pixels = pixels.astype(np.float32)
    else:
        # Native byte order, as torch has no other.
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if not pixels.flags.writeable or any(step < 0 for step in pixels.strides):
        pixels = pixels.copy()
    if pixels.dtype in (np.uint32, np.uint64):
        pixels = pixels.astype(np.int64)
    values = _channels_first(torch.from_numpy(pixels), channels, name, first=False)
    return Picture(_in_range(values, name), False, name)


def _channels_first(values: Tensor, channels: int | None, name: str, *, first: bool) -> Tensor:
    """(H, W), (H, W, C) or (C, H, W) as (C, H, W) with as many channels as the model takes."""
    shape = tuple(values.shape)
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3:
        plausible = {1, 3, 4} if channels is None else {1, channels}
        if channels == 3:
            plausible.add(4)
        at = [axis for axis in ((0, 2) if first else (2, 0)) if shape[axis] in plausible]
        if not at:
            raise ShapeError(
                f"{name}: expected {channels or '1, 3 or 4'} channels, last or first, got the "
                f"shape {shape}"
            )
        values = values if at[0] == 0 else values.permute(2, 0, 1)
    else:
        raise ShapeError(
            f"{name}: expected (H, W), (H, W, C) or (C, H, W), got {shape}; several pictures come "
            "as a list"
        )
    if values.numel() == 0:
        raise ShapeError(f"{name}: is empty, its shape is {shape}")
    found = values.shape[0]
    if found == 4 and channels in (None, 3):
        opaque = 1 if values.is_floating_point() and values[3].max() <= 1 else _OPAQUE
        hidden = values[3] < opaque
        if bool(hidden.any()):
            raise DataError(
                f"{name}: is transparent in {100 * hidden.float().mean().item():.1f} % of its "
                "pixels, whose colours mean nothing; flatten it onto a background first"
            )
        return values[:3]
    if found == 1 and channels is not None and channels > 1:
        if channels != 3:
            raise ShapeError(f"{name}: expected {channels} channels, got a grey picture {shape}")
        return values.expand(3, -1, -1)
    if channels is not None and found != channels:
        raise ShapeError(f"{name}: expected {channels} channels, got {found} in the shape {shape}")
    return values


def _in_range(values: Tensor, name: str) -> Tensor:
    """Values as uint8, or float32 in 0 … 255."""
    if values.dtype == torch.uint8:
        return values
    if values.dtype == torch.bool:
        return values.to(torch.uint8) * 255
    if values.dtype == torch.uint16:
        return values.to(torch.float32) / 257
    if values.is_complex():
        raise DtypeError(f"{name}: expected real values, got {values.dtype}")
    low, high = (float(value) for value in values.aminmax())
    if not (low >= 0 and high <= 255):
        seen = "NaN or values beyond" if low != low or high != high else f"{low:g} … {high:g},"
        raise DataError(
            f"{name}: holds {seen} outside 0 … 255 (or 0 … 1 for floating point); bring "
            "the values into that range first"
        )
    if not values.is_floating_point():
        return values.to(torch.uint8)
    values = values.to(torch.float32)
    return values * 255 if high <= 1 else values
