"""Parameters that were published with results."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Preset:
    """Parameters of `refine`, and where they come from.

    Attributes:
        iterations: mean-field updates.
        spatial_weight: weight of the kernel over position.
        spatial_sigma: its standard deviation, in pixels.
        bilateral_weight: weight of the kernel over position and colour.
        bilateral_sigma: its standard deviation over position, in pixels.
        color_sigma: its standard deviation over colour, in the image's values (0 to 255).
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
            5, 3.0, 3.0, 10.0, 80.0, 13.0, "the example in the README of pydensecrf"
        ),
        "deeplab-v1": Preset(
            10, 3.0, 3.0, 5.0, 140.0, 5.0, "Chen et al. 2015 (DeepLab v1), PASCAL VOC"
        ),
        "deeplab-v2": Preset(
            10,
            3.0,
            1.0,
            4.0,
            67.0,
            3.0,
            "Chen et al. 2018 (DeepLab v2, ResNet-101) as reproduced by kazuto1011: "
            "PASCAL VOC val 76.65 to 77.93 mIoU",
        ),
        "crf-as-rnn": Preset(
            10, 3.0, 3.0, 5.0, 160.0, 3.0, "Zheng et al. 2015 (CRF as RNN), PASCAL VOC"
        ),
    }
)
"""The parameter sets that `refine(preset=…)` takes, by name."""
