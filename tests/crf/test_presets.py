"""fastseg.crf.PRESETS: the numbers of the sources, and that refine uses them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from fastseg.crf import PRESETS, refine
from references.pictures import made_up_image, made_up_probs

# DeepLab v1 (Chen et al. 2015), DeepLab v2 (ResNet-101, kazuto1011's reproduction), CRF-as-RNN
# (Zheng et al. 2015), and the example in pydensecrf's README.
PUBLISHED = {
    "pydensecrf": {
        "iterations": 5,
        "spatial_weight": 3,
        "spatial_sigma": 3,
        "bilateral_weight": 10,
        "bilateral_sigma": 80,
        "color_sigma": 13,
    },
    "deeplab-v1": {
        "spatial_weight": 3,
        "spatial_sigma": 3,
        "bilateral_weight": 5,
        "bilateral_sigma": 140,
        "color_sigma": 5,
    },
    "deeplab-v2": {
        "iterations": 10,
        "spatial_weight": 3,
        "spatial_sigma": 1,
        "bilateral_weight": 4,
        "bilateral_sigma": 67,
        "color_sigma": 3,
    },
    "crf-as-rnn": {
        "spatial_weight": 3,
        "spatial_sigma": 3,
        "bilateral_weight": 5,
        "bilateral_sigma": 160,
        "color_sigma": 3,
    },
}


def test_names():
    assert isinstance(PRESETS, Mapping)
    assert set(PRESETS) == set(PUBLISHED)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_values(name):
    for key, value in PUBLISHED[name].items():
        assert getattr(PRESETS[name], key) == value, key
    assert PRESETS[name].source  # where the numbers come from


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_preset_is_its_parameters(name):
    probs, image = made_up_probs(3, (14, 15)), made_up_image((14, 15))
    keys = [*PUBLISHED["pydensecrf"]]
    values = {key: getattr(PRESETS[name], key) for key in keys}
    np.testing.assert_array_equal(refine(probs, image, preset=name), refine(probs, image, **values))
    if name != "pydensecrf":
        difference = np.abs(refine(probs, image, preset=name) - refine(probs, image))
        assert difference.max() > 1e-4


def test_the_defaults_are_those_of_pydensecrf():
    probs, image = made_up_probs(3, (14, 15)), made_up_image((14, 15))
    np.testing.assert_array_equal(refine(probs, image, preset="pydensecrf"), refine(probs, image))


def test_a_keyword_beside_a_preset_wins():
    """An explicit keyword beats the preset's value, the default of another keyword does not."""
    probs, image = made_up_probs(3, (14, 15)), made_up_image((14, 15))
    mixed = refine(probs, image, preset="deeplab-v2", color_sigma=20.0)
    parts = {**PUBLISHED["deeplab-v2"], "color_sigma": 20.0}
    np.testing.assert_array_equal(mixed, refine(probs, image, **parts))


def test_presets_cannot_be_changed():
    with pytest.raises(TypeError):
        PRESETS["pydensecrf"] = PRESETS["deeplab-v1"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        PRESETS["pydensecrf"].iterations = 7  # type: ignore[misc]
