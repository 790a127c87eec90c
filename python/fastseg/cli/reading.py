"""Read pictures, probabilities and label maps from the file formats of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastseg._pictures import (
    ReadError,
    decoded,
    flattened,
    is_turned,
    opened,
    reason,
    transparency,
    turned,
)
from fastseg.cli.pairing import suffix_of
from fastseg.errors import DataError, DtypeError, FastsegError, LabelError, ShapeError

Array = NDArray[Any]

# A map of more labels than this is one of instances, or a lossy picture of labels.
MAX_LABELS = 1024
MAX_COLORS = 255
_NPZ_KEYS = ("probs", "prob", "probabilities", "softmax", "labels", "image", "arr_0")


class MissingReaderError(FastsegError, ImportError):
    """A file format needs an optional package that is not installed."""


class Layout(NamedTuple):
    """One way to read an array as a picture: its spatial shape and the axis of its channels."""

    spatial: tuple[int, ...]
    channel_axis: int | None


@dataclass(frozen=True)
class Picture:
    """A picture as it came from the file.

    Attributes:
        values: (H, W), (H, W, C), (C, H, W), (D, H, W) or (D, H, W, C), any number type.
        layouts: The ways to read it, the likeliest first.
        spacing: Millimetres per voxel (z, y, x), where the file says.
        affine: The NIfTI affine, to be handed on to the results.
        unturned: Height and width before the EXIF orientation was applied, where there was one.
        sixteen_bit: The values are those of a 16-bit PNG or TIFF.
    """

    values: Array
    layouts: tuple[Layout, ...]
    spacing: tuple[float, ...] | None = None
    affine: Array | None = None
    unturned: tuple[int, int] | None = None
    sixteen_bit: bool = False


@dataclass(frozen=True)
class Scores:
    """Probabilities, or logits, as they came from the file.

    Attributes:
        values: Floating point, in the layout of the file.
        affine: The NIfTI affine, where there is one.
        grey_bits: 8 or 16 where the file was a grey picture of the foreground, otherwise 0.
    """

    values: Array
    affine: Array | None = None
    grey_bits: int = 0


@dataclass(frozen=True)
class LabelMap:
    """A label map as it came from the file.

    Attributes:
        values: (H, W) or (D, H, W) integers: the labels, or colours as 0xRRGGBB.
        colored: The values are colours.
        transparent: Where a picture of scribbles is transparent; None if nowhere.
        palette: (N, 3) uint8, the palette of the file, where there is one.
        affine: The NIfTI affine, where there is one.
    """

    values: Array
    colored: bool = False
    transparent: NDArray[np.bool_] | None = None
    palette: NDArray[np.uint8] | None = None
    affine: Array | None = None


@dataclass(frozen=True)
class _Loaded:
    """What an array file holds."""

    values: Array
    spacing: tuple[float, ...] | None = None
    affine: Array | None = None
    keys: Sequence[str] = field(default_factory=tuple)


def read_picture(path: Path, *, exif: bool = True, key: str | None = None) -> Picture:
    """Read the picture that guides the refinement.

    Args:
        path: Any picture that Pillow reads, `.npy`, `.npz`, `.tif` or `.nii.gz`.
        exif: Turn the picture the way its EXIF orientation says.
        key: Name of the array in an `.npz`.

    Raises:
        ReadError: The file is missing or broken, animated, or partly transparent.
        MissingReaderError: The format needs a package that is not installed.
    """
    if suffix_of(path) in (".npy", ".npz", ".tif", ".tiff", ".nii", ".nii.gz"):
        loaded = _read_array(path, key)
        values = loaded.values
        if not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_):
            raise DtypeError(f"{path.name} holds {values.dtype} values; a picture needs numbers")
        if np.iscomplexobj(values):
            raise DtypeError(f"{path.name} holds complex values; take their magnitude first")
        sixteen = suffix_of(path) in (".tif", ".tiff") and values.dtype == np.uint16
        return Picture(
            values=values.astype(np.uint8) if values.dtype == np.bool_ else values,
            layouts=_layouts(path, values, volume=loaded.affine is not None),
            spacing=loaded.spacing,
            affine=loaded.affine,
            sixteen_bit=sixteen,
        )
    with opened(path) as picture:
        turns = exif and is_turned(picture)
        before = (picture.height, picture.width)
        values = decoded(turned(picture) if turns else picture, path.name)
    return Picture(
        values=values,
        layouts=(Layout(values.shape[:2], 2 if values.ndim == 3 else None),),
        unturned=before if turns else None,
        sixteen_bit=values.dtype.kind in "iu" and values.dtype.itemsize > 1,
    )


def read_scores(path: Path, *, logits: bool = False, key: str | None = None) -> Scores:
    """Read probabilities (or logits).

    A grey picture holds the probability of the foreground, 0 … 255 or 0 … 65535 for 0 … 1.

    Args:
        path: `.npy`, `.npz`, `.png`, `.tif` or `.nii.gz`.
        logits: The file holds logits, so that integers and pictures make no sense.
        key: Name of the array in an `.npz`.

    Raises:
        ReadError: The file is missing, broken, or a colour picture.
        DtypeError: The values are not floating point (nor a grey picture's).
        MissingReaderError: The format needs a package that is not installed.
    """
    suffix = suffix_of(path)
    if suffix in (".npy", ".npz", ".nii", ".nii.gz", ".tif", ".tiff"):
        loaded = _read_array(path, key)
        values = loaded.values
        grey = values.ndim == 2 and values.dtype in (np.uint8, np.uint16)
        if suffix in (".tif", ".tiff") and grey:
            if logits:
                raise DtypeError(f"{path.name} holds integers; logits are floating point")
            return Scores(_scaled(values), grey_bits=8 * values.dtype.itemsize)
        if not np.issubdtype(values.dtype, np.floating):
            raise DtypeError(
                f"{path.name} holds {values.dtype} values of shape {values.shape}; probabilities "
                "are floating point in [0, 1]. For a map of labels use --labels"
            )
        return Scores(values, affine=loaded.affine)
    if logits:
        raise ReadError(f"{path.name} is a picture; logits come as .npy, .npz, .tif or .nii.gz")
    if suffix in (".jpg", ".jpeg"):
        raise ReadError(f"{path.name} is a JPEG, whose compression changes the values; use PNG")
    with opened(path) as picture:
        if picture.mode in ("P", "PA"):
            raise ReadError(
                f"{path.name} is a picture with a palette, which holds labels rather than "
                "probabilities: use --labels"
            )
        picture = flattened(picture, path.name)
        values = np.asarray(picture)
    if values.ndim == 3:
        if values.shape[2] != 3 or not _is_grey(values):
            raise ReadError(
                f"{path.name} is a colour picture; probabilities come as a grey one (of the "
                "foreground) or as an array (K, H, W). For coloured labels use --labels"
            )
        values = values[..., 0]
    if values.dtype == np.bool_:
        return Scores(values.astype(np.float32), grey_bits=8)
    if values.dtype == np.int32:
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"{path.name} has values outside 0 … 65535")
        values = values.astype(np.uint16)
    if values.dtype.kind == "f":
        return Scores(values)
    return Scores(_scaled(values), grey_bits=8 * values.dtype.itemsize)


def read_labels(path: Path, *, key: str | None = None) -> LabelMap:
    """Read a map of labels or scribbles.

    Args:
        path: `.npy`, `.npz`, `.png` (grey, palette or colours), `.tif` or `.nii.gz`.
        key: Name of the array in an `.npz`.

    Raises:
        ReadError: The file is missing, broken or lossy.
        DtypeError: The values are not whole numbers.
        LabelError: There are too many labels or colours for this to be a label map.
        MissingReaderError: The format needs a package that is not installed.
    """
    suffix = suffix_of(path)
    affine: Array | None = None
    palette: NDArray[np.uint8] | None = None
    transparent: NDArray[np.bool_] | None = None
    if suffix in (".npy", ".npz", ".tif", ".tiff", ".nii", ".nii.gz"):
        loaded = _read_array(path, key)
        values, affine = loaded.values, loaded.affine
        if suffix in (".tif", ".tiff") and values.ndim == 3 and values.shape[2] == 4:
            transparent, values = values[..., 3] == 0, values[..., :3]
    else:
        if suffix in (".jpg", ".jpeg", ".webp"):
            raise ReadError(
                f"{path.name} is a {suffix[1:].upper()}, whose compression changes labels; use PNG"
            )
        with opened(path) as picture:
            transparent = transparency(picture)
            if picture.mode == "P":
                palette = _palette_of(picture)
            elif picture.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
                picture = picture.convert("L" if picture.mode in ("LA", "La") else "RGB")
            values = np.asarray(picture)
    if values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8 and affine is None:
        if not _is_grey(values):
            red, green, blue = (values[..., i].astype(np.int32) for i in range(3))
            return LabelMap(
                (red << 16) | (green << 8) | blue, colored=True, transparent=transparent
            )
        values = values[..., 0]
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.dtype.kind == "f":
        # NIfTI tools like to store whole numbers as floating point.
        if not np.all(np.isfinite(values)) or np.any(values != np.rint(values)):
            raise DtypeError(
                f"{path.name} holds {values.dtype} values that are not whole numbers, so it is no "
                "map of labels; for probabilities use --probs"
            )
        values = values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise DtypeError(f"{path.name} holds {values.dtype} values; labels are whole numbers")
    return LabelMap(values, transparent=transparent, palette=palette, affine=affine)


def choose_layout(picture: Picture, shape: tuple[int, ...], names: tuple[str, str]) -> Layout:
    """Choose the way to read the picture that fits the array to be refined.

    Args:
        picture: The picture.
        shape: Shape of the probabilities or labels.
        names: Names of the picture and of the other file, for the message.

    Raises:
        ShapeError: No way fits.
    """
    for layout in picture.layouts:
        spatial = layout.spatial
        if shape in (spatial, (1, *spatial)) or spatial in (shape[1:], shape[:-1]):
            return layout
    spatial = picture.layouts[0].spatial
    message = (
        f"{names[1]} has the shape {shape}, which does not fit {names[0]} of "
        f"{size_of(spatial)} pixels (height × width)"
    )
    turned = spatial[::-1]
    if picture.unturned is not None and picture.unturned in (shape, shape[1:], shape[:-1]):
        message += (
            "; it was made without the EXIF orientation of the photograph: pass --ignore-exif"
        )
    elif turned != spatial and turned in (shape, shape[1:], shape[:-1]):
        message += "; it looks transposed: swap its height and width"
    raise ShapeError(message)


def size_of(spatial: Sequence[int]) -> str:
    """Write a spatial shape as `375×500`."""
    return "×".join(str(size) for size in spatial)


def _read_array(path: Path, key: str | None) -> _Loaded:
    if not path.exists():
        raise ReadError(f"{path} does not exist")
    suffix = suffix_of(path)
    try:
        if suffix in (".npy", ".npz"):
            loaded = _read_numpy(path, key)
        elif suffix in (".tif", ".tiff"):
            loaded = _Loaded(_read_tiff(path))
        else:
            loaded = _read_nifti(path)
    except FastsegError:
        raise
    except MemoryError as error:
        raise ReadError(f"{path.name} does not fit into memory") from error
    # The readers raise a dozen types for broken files, some of them only in some versions.
    except Exception as error:
        raise ReadError(f"{path.name} cannot be read as {suffix}: {reason(error)}") from error
    if loaded.values.size == 0:
        raise ShapeError(f"{path.name} is empty: its shape is {loaded.values.shape}")
    return loaded


def _read_numpy(path: Path, key: str | None) -> _Loaded:
    try:
        content = np.load(path, allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise ReadError(
                f"{path.name} is not an array of numbers, or is broken: it could only be read by "
                "unpickling, which can run code and is not done"
            ) from error
        raise
    if isinstance(content, np.ndarray):
        return _Loaded(content)
    with content as archive:
        keys = list(archive.files)
        if key is not None:
            if key not in keys:
                raise ReadError(f"{path.name} has no array {key!r}; it has {', '.join(keys)}")
            return _Loaded(archive[key])
        if len(keys) == 1:
            return _Loaded(archive[keys[0]])
        known = [name for name in _NPZ_KEYS if name in keys]
        if len(known) == 1:
            return _Loaded(archive[known[0]])
        raise ReadError(
            f"{path.name} holds {len(keys)} arrays ({', '.join(keys) or 'none'}): "
            "choose one with --key"
        )


def _read_tiff(path: Path) -> Array:
    tifffile = _module("tifffile", path)
    try:
        return np.asarray(tifffile.imread(path))
    except ValueError as error:
        # LZW and JPEG compression need a package more in tifffile, but not in Pillow.
        if "imagecodecs" not in str(error):
            raise
        with Image.open(path) as picture:
            frames = []
            for index in range(getattr(picture, "n_frames", 1)):
                picture.seek(index)
                plain = picture.convert("RGB") if picture.mode in ("P", "CMYK") else picture
                frames.append(np.asarray(plain))
        return frames[0] if len(frames) == 1 else np.stack(frames)


def _read_nifti(path: Path) -> _Loaded:
    nifti: Any = _module("nibabel", path).load(path)
    stored = np.asanyarray(nifti.dataobj)
    if stored.ndim not in (3, 4):
        raise ShapeError(f"{path.name} has {stored.ndim} axes; expected 3, or 4 with classes last")
    # On file the axes are x, y, z (and classes); here they are z, y, x with the classes first.
    spacing = tuple(float(size) for size in nifti.header.get_zooms()[:3])[::-1]
    return _Loaded(stored.T, spacing=spacing, affine=np.asarray(nifti.affine))


def _layouts(path: Path, values: Array, *, volume: bool) -> tuple[Layout, ...]:
    shape = values.shape
    if volume:
        return (Layout(shape, None),) if values.ndim == 3 else (Layout(shape[1:], 0),)
    if values.ndim == 2:
        return (Layout(shape, None),)
    first, last = Layout(shape[1:], 0), Layout(shape[:-1], values.ndim - 1)
    if values.ndim == 3:
        stack = Layout(shape, None)
        if shape[-1] <= 4:
            return (last, first, stack)
        return (first, last, stack) if shape[0] <= 4 else (stack, last, first)
    if values.ndim == 4:
        return (last, first) if shape[-1] <= shape[0] else (first, last)
    raise ShapeError(
        f"{path.name} has {values.ndim} axes (shape {shape}); expected a picture (H, W), "
        "(H, W, C) or (C, H, W), or a volume (D, H, W)"
    )


def _palette_of(picture: Image.Image) -> NDArray[np.uint8] | None:
    flat = picture.getpalette()
    if not flat:
        return None
    return np.asarray(flat, dtype=np.uint8)[: len(flat) // 3 * 3].reshape(-1, 3)


def _is_grey(values: Array) -> bool:
    return bool(
        np.array_equal(values[..., 0], values[..., 1])
        and np.array_equal(values[..., 0], values[..., 2])
    )


def _scaled(values: Array) -> Array:
    scaled: Array = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    return scaled


def _module(name: str, path: Path) -> Any:
    if find_spec(name) is None:
        raise MissingReaderError(
            f"{path.name} needs {name}, which is not installed: pip install 'fastseg-rs[io]'"
        )
    import importlib

    return importlib.import_module(name)


def distinct_values(values: Array, name: str, *, colored: bool) -> Array:
    """Return the sorted distinct labels or colours of a map.

    Raises:
        LabelError: There are more than a label map plausibly has.
    """
    found: Array = np.unique(values)
    limit = MAX_COLORS if colored else MAX_LABELS
    if found.size > limit:
        kind = "colours" if colored else "labels"
        cause = (
            "smoothed edges or a lossy format make new colours"
            if colored
            else "is it a map of instances?"
        )
        raise LabelError(f"{name} has {found.size} different {kind}, more than {limit}: {cause}")
    return found
