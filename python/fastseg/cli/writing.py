"""Write results so that no reader ever sees half a file."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg.errors import FastsegError, ShapeError

Array = NDArray[Any]

FORMATS = ("npy", "npz", "png", "nii.gz")


class WriteError(FastsegError, OSError):
    """A result cannot be written."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write to a temporary name beside the target, then rename.

    Args:
        path: The file to make or replace.
        write: Called with the open temporary file.

    Raises:
        WriteError: The folder is not writable, the disk is full …
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        # Gone after the rename; left behind by anything that went wrong, Ctrl-C included.
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_probabilities(
    path: Path, probs: Array, *, suffix: str, grey_bits: int, affine: Array | None
) -> None:
    """Write probabilities.

    Args:
        path: The file to make.
        probs: Any shape for `npy` and `npz`; (H, W), (1, H, W) or (2, H, W) for `png`;
            (D, H, W) or (K, D, H, W) for `nii.gz`.
        suffix: One of `FORMATS`.
        grey_bits: 8 or 16 for the depth of a `png`.
        affine: The affine of the picture, for `nii.gz`.

    Raises:
        ShapeError: The format cannot hold the shape.
        WriteError: The file cannot be written.
    """
    if suffix == "png":
        foreground = probs if probs.ndim == 2 else probs[-1] if probs.shape[0] <= 2 else None
        if probs.ndim > 3 or foreground is None:
            raise ShapeError(
                f"a PNG holds one probability a pixel, not an array of shape {probs.shape}: use "
                "--output-format npy, npz or nii.gz, or --return labels"
            )
        peak = 65535 if grey_bits == 16 else 255
        scaled = np.rint(np.clip(foreground.astype(np.float64), 0, 1) * peak)
        picture = Image.fromarray(scaled.astype(np.uint16 if grey_bits == 16 else np.uint8))
        write_atomically(path, lambda file: picture.save(file, format="PNG"))
    else:
        _write_array(path, probs, suffix=suffix, name="probs", affine=affine)


def write_labels(
    path: Path,
    labels: Array,
    *,
    suffix: str,
    palette: NDArray[np.uint8] | None,
    affine: Array | None,
) -> None:
    """Write a label map.

    Args:
        path: The file to make.
        labels: (H, W) or (D, H, W) integers.
        suffix: One of `FORMATS`.
        palette: (N, 3) uint8: a `png` gets this palette; None for a grey one.
        affine: The affine of the picture, for `nii.gz`.

    Raises:
        ShapeError: The format cannot hold the shape or the labels.
        WriteError: The file cannot be written.
    """
    if suffix != "png":
        _write_array(path, labels, suffix=suffix, name="labels", affine=affine)
        return
    if labels.ndim != 2 or labels.min() < 0 or labels.max() > 65535:
        raise ShapeError(
            f"a PNG holds a map (H, W) of labels 0 … 65535, not one of shape {labels.shape} with "
            f"labels {labels.min()} … {labels.max()}: use --output-format npy, npz or nii.gz"
        )
    if labels.max() > 255:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8))
        if palette is not None:
            picture.putpalette(palette.tobytes())
    write_atomically(path, lambda file: picture.save(file, format="PNG"))


def _write_array(
    path: Path, values: Array, *, suffix: str, name: str, affine: Array | None
) -> None:
    if suffix == "npy":
        write_atomically(path, lambda file: np.save(file, values, allow_pickle=False))
    elif suffix == "npz":
        write_atomically(path, lambda file: _save_npz(file, name, values))
    else:
        content = _nifti_bytes(values, affine)
        write_atomically(path, lambda file: _swallow(file.write(content)))


def _nifti_bytes(values: Array, affine: Array | None) -> bytes:
    if find_spec("nibabel") is None:
        raise WriteError("writing .nii.gz needs nibabel: pip install 'fastseg-rs[io]'")
    import importlib

    nibabel: Any = importlib.import_module("nibabel")
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype == np.int64:
        values = values.astype(np.int32)
    # (z, y, x) with the classes first becomes x, y, z with the classes last.
    stored = values.T if values.ndim >= 3 else values.T[..., np.newaxis]
    nifti = nibabel.Nifti1Image(stored, np.eye(4) if affine is None else affine)
    buffer = io.BytesIO()
    # Without a time stamp the same result gives the same file.
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed:
        packed.write(nifti.to_bytes())
    return buffer.getvalue()


def _save_npz(file: IO[bytes], name: str, values: Array) -> None:
    arrays: dict[str, Any] = {name: values}
    np.savez_compressed(file, **arrays)


def _swallow(_written: int) -> None:
    """Make a writer of something that returns the number of bytes."""
