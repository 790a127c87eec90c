"""Decode pictures with Pillow: one error for whatever is wrong with a file, one rule for modes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fastseg.errors import FastsegError

Array = NDArray[Any]

# What the EXIF standard calls the orientations that swap height and width, or turn the picture.
_EXIF_ORIENTATION = 0x0112
_DIRECT_MODES = ("L", "RGB", "I;16", "I;16L", "I;16B", "I", "F")


class ReadError(FastsegError, ValueError):
    """A file is missing, broken, or not what its place asks for."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture, decode all of it, and turn whatever Pillow raises into one error.

    Raises:
        ReadError: The file is missing, a folder, broken, animated, or no picture.
    """
    if not path.exists():
        raise ReadError(f"{path} does not exist")
    if path.is_dir():
        raise ReadError(f"{path} is a folder")
    limit = Image.MAX_IMAGE_PIXELS
    # The limit protects servers from strangers' files; these are the user's own.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                if getattr(picture, "n_frames", 1) > 1:
                    raise ReadError(f"{path.name} is animated; extract the frame you mean")
                picture.load()
                yield picture
    except FastsegError:
        raise
    except UnidentifiedImageError as error:
        raise ReadError(f"{path.name} is not a picture that Pillow can read") from error
    except MemoryError as error:
        raise ReadError(f"{path.name} does not fit into memory") from error
    # Pillow raises SyntaxError, struct.error, zlib.error, OSError … for broken files.
    except Exception as error:
        raise ReadError(f"{path.name} cannot be read: {reason(error)}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def is_turned(picture: Image.Image) -> bool:
    """Whether the EXIF orientation says that the picture is to be turned for looking at it."""
    return picture.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)


def turned(picture: Image.Image) -> Image.Image:
    """The picture the way its EXIF orientation says."""
    return ImageOps.exif_transpose(picture)


def decoded(picture: Image.Image, name: str) -> Array:
    """The pixels of a picture: (H, W) or (H, W, 3), in the number type of its mode.

    Palettes are resolved and an alpha channel that hides nothing is dropped. CMYK, YCbCr, LAB and
    HSV become what a viewer without a colour profile shows.

    Raises:
        ReadError: The picture is partly transparent.
    """
    picture = flattened(picture, name)
    if picture.mode not in _DIRECT_MODES:
        picture = picture.convert("RGB")
    return np.asarray(picture)


def flattened(picture: Image.Image, name: str) -> Image.Image:
    """Resolve palettes and drop an alpha channel that hides nothing.

    Raises:
        ReadError: The picture is partly transparent.
    """
    transparent = transparency(picture, partly=True)
    if transparent is not None:
        share = 100 * float(transparent.mean())
        raise ReadError(
            f"{name} is transparent in {share:.1f} % of its pixels, whose colours mean "
            "nothing; flatten it onto a background first"
        )
    if picture.mode in ("LA", "La"):
        return picture.convert("L")
    if picture.mode in ("P", "PA", "RGBA", "RGBa"):
        return picture.convert("RGB")
    return picture.convert("L") if picture.mode == "1" else picture


def transparency(picture: Image.Image, *, partly: bool = False) -> NDArray[np.bool_] | None:
    """Return where a picture is transparent (or only partly opaque), None if nowhere."""
    with_alpha = picture.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    if not with_alpha and "transparency" not in picture.info:
        return None
    alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
    transparent: NDArray[np.bool_] = alpha < (255 if partly else 128)
    return transparent if bool(transparent.any()) else None


def reason(error: Exception) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
