"""Colours for labels: those of the well-known data sets, and one for any number of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError

Colors: TypeAlias = NDArray[np.uint8]

# The 19 classes that Cityscapes evaluates, in the order of their train ids.
_CITYSCAPES = (
    (128, 64, 128),  # road
    (244, 35, 232),  # sidewalk
    (70, 70, 70),  # building
    (102, 102, 156),  # wall
    (190, 153, 153),  # fence
    (153, 153, 153),  # pole
    (250, 170, 30),  # traffic light
    (220, 220, 0),  # traffic sign
    (107, 142, 35),  # vegetation
    (152, 251, 152),  # terrain
    (70, 130, 180),  # sky
    (220, 20, 60),  # person
    (255, 0, 0),  # rider
    (0, 0, 142),  # car
    (0, 0, 70),  # truck
    (0, 60, 100),  # bus
    (0, 80, 100),  # train
    (0, 0, 230),  # motorcycle
    (119, 11, 32),  # bicycle
)

# The 150 classes of the ADE20K scene parsing benchmark in their order, without its 0 for "other".
_ADE20K = """
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07
e005ff ebff07 96053d 787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603
0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207
ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f
14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00
008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff
ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000
8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff
00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff
4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""


def palette(name: str | ArrayLike, num_classes: int | None = None) -> Colors:
    """Return the colours of a palette.

    Args:
        name: A name in `PALETTES`, or (N, 3) colours in 0 … 255, which are checked and returned.
        num_classes: How many colours; None for all that the palette has (256 for a palette that
            is made by a rule).

    Returns:
        (N, 3) uint8, red, green, blue.

    Raises:
        ParameterError: The name is not known, or the palette has fewer colours.
        ShapeError: The given colours are not (N, 3).
        DtypeError: The given colours are not whole numbers in 0 … 255.

    Source:
        "voc": the bit formula of the PASCAL VOC development kit. "cityscapes": the colours of the
        19 train ids. "ade20k": the colours in which the scene parsing benchmark's 150 classes are
        usually drawn, class 0 being the wall. "distinct": hues a golden angle apart after a black
        background.

    Example:
        >>> from fastseg.labelmaps import palette
        >>> palette("voc", 3).tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    if isinstance(name, str):
        if name not in PALETTES:
            raise ParameterError(f"unknown palette {name!r}; known are {', '.join(PALETTES)}")
        colors = PALETTES[name](256 if num_classes is None else num_classes)
        if num_classes is not None and len(colors) < num_classes:
            raise ParameterError(
                f"the palette {name!r} has {len(colors)} colours, {num_classes} are needed; "
                "'distinct' has any number"
            )
        return colors
    given = np.asarray(name)
    if given.ndim != 2 or given.shape[1] != 3 or given.shape[0] == 0:
        raise ShapeError(f"palette: expected colours of shape (N, 3), got {given.shape}")
    if given.dtype.kind not in "iu" or int(given.min()) < 0 or int(given.max()) > 255:
        raise DtypeError(
            f"palette: expected whole numbers in 0 … 255, got {given.dtype} in "
            f"{given.min()} … {given.max()}"
        )
    if num_classes is not None and len(given) < num_classes:
        raise ParameterError(f"palette: {len(given)} colours given, {num_classes} are needed")
    return given.astype(np.uint8)[:num_classes]


def colorize(
    ids: ArrayLike, palette: str | ArrayLike = "voc", *, ignore_index: int | None = None
) -> Colors:
    """Give every label its colour.

    Args:
        ids: (…) integer labels.
        palette: A name in `PALETTES`, or (N, 3) colours.
        ignore_index: A label that becomes black whether or not the palette has it.

    Returns:
        (…, 3) uint8.

    Raises:
        DtypeError: The labels are not integers.
        LabelError: A label is negative or beyond the palette.

    Example:
        >>> from fastseg.labelmaps import colorize
        >>> colorize([[0, 1]]).tolist()
        [[[0, 0, 0], [128, 0, 0]]]
    """
    labels = checked_labels(ids)
    ignored = np.zeros(labels.shape, dtype=bool)
    if ignore_index is not None:
        ignored = labels == ignore_index
        labels = np.where(ignored, labels.dtype.type(0), labels)
    colors: Colors = colors_for(palette, labels)[labels]
    colors[ignored] = 0
    return colors


def checked_labels(ids: ArrayLike) -> NDArray[Any]:
    """Return the labels as an array of integers.

    Raises:
        DtypeError: They are not integers.
    """
    labels = np.asarray(ids)
    if labels.dtype == np.bool_:
        labels = labels.astype(np.uint8)
    if labels.dtype.kind not in "iu":
        raise DtypeError(f"ids: expected integer labels, got {labels.dtype}; take the argmax first")
    return labels


def colors_for(palette_: str | ArrayLike, labels: NDArray[Any]) -> Colors:
    """Return the colours of a palette, checked to reach as far as the labels do.

    Raises:
        LabelError: A label is negative or beyond the palette.
    """
    lowest = int(labels.min()) if labels.size else 0
    highest = int(labels.max()) if labels.size else 0
    if lowest < 0:
        raise LabelError(f"ids: the label {lowest} is negative; name it as ignore_index")
    if isinstance(palette_, str) and palette_ == "distinct":
        return distinct_palette(highest + 1)
    colors = palette(palette_)
    if highest >= len(colors):
        name = repr(palette_) if isinstance(palette_, str) else "given"
        raise LabelError(
            f"ids: the label {highest} is beyond the {len(colors)} colours of the {name} palette; "
            "name it as ignore_index, or use the 'distinct' palette"
        )
    return colors


def voc_palette(num_classes: int) -> Colors:
    """Return the palette of PASCAL VOC by its bit formula; it repeats after 256."""
    index = np.arange(num_classes, dtype=np.int64)
    colors = np.zeros((num_classes, 3), dtype=np.int64)
    # Every three bits of the label give one bit to red, green and blue, the highest first.
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors.astype(np.uint8)


def cityscapes_palette(num_classes: int) -> Colors:
    """Return the colours of the Cityscapes train ids; there are 19."""
    return np.array(_CITYSCAPES, dtype=np.uint8)[:num_classes]


def ade20k_palette(num_classes: int) -> Colors:
    """Return the colours of the ADE20K scene parsing benchmark; there are 150."""
    colors = np.frombuffer(bytes.fromhex(_ADE20K), dtype=np.uint8)
    return np.array(colors.reshape(-1, 3)[:num_classes])


def distinct_palette(num_classes: int) -> Colors:
    """Return black and then bright colours whose neighbours differ strongly."""
    index = np.arange(num_classes - 1, dtype=np.float64)
    # A golden angle between hues never comes back to one that was used; three brightness levels
    # part those that come close.
    hue = (0.02 + index * 0.6180339887498949) % 1.0
    value = np.array([1.0, 0.8, 0.92])[index.astype(np.int64) % 3]
    saturation = np.array([0.85, 0.75, 0.6])[index.astype(np.int64) // 3 % 3]
    sector = np.array([5.0, 3.0, 1.0])
    wave = (sector + hue[:, np.newaxis] * 6) % 6
    ramp = np.clip(np.minimum(wave, 4 - wave), 0, 1)
    colors = value[:, np.newaxis] * (1 - saturation[:, np.newaxis] * ramp)
    black = np.zeros((min(num_classes, 1), 3))
    rounded: Colors = np.rint(255 * np.concatenate([black, colors])).astype(np.uint8)
    return rounded


PALETTES: Mapping[str, Callable[[int], Colors]] = MappingProxyType(
    {
        "voc": voc_palette,
        "cityscapes": cityscapes_palette,
        "ade20k": ade20k_palette,
        "distinct": distinct_palette,
    }
)
