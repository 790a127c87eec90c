"""Palettes: known colours, any number of labels, and what is refused."""

import numpy as np
import pytest

from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError
from fastseg.labelmaps import PALETTES, colorize, palette


def test_voc_colours():
    # As printed in the legend of the VOC 2012 development kit.
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    colors = palette("voc")
    assert colors.shape == (256, 3)
    assert {label: tuple(colors[label].tolist()) for label in known} == known


def test_cityscapes_colours():
    colors = palette("cityscapes")
    assert colors.shape == (19, 3)
    assert tuple(colors[0]) == (128, 64, 128)
    assert tuple(colors[13]) == (0, 0, 142)
    assert len({tuple(color) for color in colors.tolist()}) == 19


def test_ade20k_colours():
    colors = palette("ade20k")
    assert colors.shape == (150, 3)
    known = {0: (120, 120, 120), 2: (6, 230, 230), 12: (150, 5, 61), 20: (0, 102, 200)}
    known |= {60: (11, 200, 200), 104: (8, 184, 170), 149: (92, 0, 255)}
    assert {label: tuple(colors[label].tolist()) for label in known} == known
    # road and fireplace share their grey.
    assert len({tuple(color) for color in colors.tolist()}) == 149


@pytest.mark.parametrize("name", ["voc", "distinct"])
def test_colours_do_not_repeat(name):
    colors = palette(name, 256)
    assert len({tuple(color) for color in colors.tolist()}) == 256
    assert tuple(colors[0]) == (0, 0, 0)


def test_distinct_neighbours_differ():
    colors = palette("distinct", 40)[1:].astype(int)
    assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 60
    assert colors.max(axis=1).min() > 150


@pytest.mark.parametrize("name", list(PALETTES))
@pytest.mark.parametrize("count", [1, 2, 19])
def test_counts(name, count):
    colors = palette(name, count)
    assert colors.shape == (count, 3)
    assert colors.dtype == np.uint8
    colors[:] = 0
    assert palette(name, count)[-1].any() or (count == 1 and name != "cityscapes")


def test_own_colours():
    assert palette([(1, 2, 3), (4, 5, 6)], 1).tolist() == [[1, 2, 3]]
    with pytest.raises(ShapeError, match=r"\(N, 3\)"):
        palette([1, 2, 3])
    with pytest.raises(DtypeError, match="0 … 255"):
        palette([(0, 0, 256)])
    with pytest.raises(DtypeError, match="whole numbers"):
        palette([(0.5, 0, 1)])
    with pytest.raises(ParameterError, match="2 colours given, 3"):
        palette([(1, 2, 3), (4, 5, 6)], 3)


def test_unknown_and_short_palettes():
    with pytest.raises(ParameterError, match=r"'ade'.*voc, cityscapes, ade20k, distinct"):
        palette("ade")
    with pytest.raises(ParameterError, match="19 colours, 20"):
        palette("cityscapes", 20)


def test_colorize():
    ids = np.array([[0, 1], [255, 2]], np.uint8)
    colors = colorize(ids, "cityscapes", ignore_index=255)
    assert colors.tolist() == [
        [[128, 64, 128], [244, 35, 232]],
        [[0, 0, 0], [70, 70, 70]],
    ]
    assert colorize(np.zeros((2, 3, 4), bool)).shape == (2, 3, 4, 3)
    assert colorize(np.zeros((0, 4), int)).shape == (0, 4, 3)
    with pytest.raises(LabelError, match="255 is beyond the 19"):
        colorize(ids, "cityscapes")
    with pytest.raises(LabelError, match="-1 is negative"):
        colorize([[-1]])
    with pytest.raises(DtypeError, match="argmax"):
        colorize([[0.5]])
    assert colorize([[70_000]], "distinct").any()
