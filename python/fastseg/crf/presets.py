"""Parameters that were published with results."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Preset:
    """Parameters of `refine`, and where they come from.

    Example:
        >>> from fastseg import crf
        >>> crf.PRESETS["deeplab-v2"].bilateral_sigma
        67.0

    Attributes:
        iterations: mean-field updates.
        spatial_weight: weight of the kernel over position.
        spatial_sigma: its standard deviation, in pixels.
        bilateral_weight: weight of the kernel over position and colour.
        bilateral_sigma: its standard deviation over position, in pixels.
        color_sigma: its standard deviation over colour, for image values from 0 to 255.
        source: who published them, and for what.
    """

    iterations: int
    spatial_weight: float
    spatial_sigma: float
    bilateral_weight: float
    bilateral_sigma: float
    color_sigma: float
    source: str


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "pydensecrf": Preset(
            iterations=5,
            spatial_weight=3.0,
            spatial_sigma=3.0,
            bilateral_weight=10.0,
            bilateral_sigma=80.0,
            color_sigma=13.0,
            source="the example in the README of pydensecrf",
        ),
        "deeplab-v1": Preset(
            iterations=10,
            spatial_weight=3.0,
            spatial_sigma=3.0,
            bilateral_weight=5.0,
            bilateral_sigma=140.0,
            color_sigma=5.0,
            source="Chen et al. 2015 (DeepLab v1), PASCAL VOC",
        ),
        "deeplab-v2": Preset(
            iterations=10,
            spatial_weight=3.0,
            spatial_sigma=1.0,
            bilateral_weight=4.0,
            bilateral_sigma=67.0,
            color_sigma=3.0,
            source="Chen et al. 2018 (DeepLab v2, ResNet-101) as reproduced by kazuto1011: "
            "PASCAL VOC val 76.65 to 77.93 mIoU",
        ),
        "crf-as-rnn": Preset(
            iterations=10,
            spatial_weight=3.0,
            spatial_sigma=3.0,
            bilateral_weight=5.0,
            bilateral_sigma=160.0,
            color_sigma=3.0,
            source="Zheng et al. 2015 (CRF as RNN), PASCAL VOC",
        ),
    }
)
"""The parameter sets that `refine(preset=…)` takes, by name."""
