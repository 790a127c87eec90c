"""Mean IoU in a band along the outlines of the truth."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg._checks import integer, one_of
from fastseg.metrics._pairs import pairs
from fastseg.metrics.accumulator import Accumulator, State
from fastseg.metrics.confusion_matrix import confusion_matrix
from fastseg.metrics.overlap import iou


def trimap_iou(
    pred: Any,
    target: Any,
    *,
    num_classes: int,
    width: int,
    ignore_index: int | None = None,
    average: str = "macro",
) -> Any:
    """IoU of the pixels near an outline of the target: how good the edges are.

    Args:
        pred: (H, W) or (B, H, W) integer labels. A list may hold images of different sizes.
        target: The same for the truth.
        num_classes: How many labels there are.
        width: How far from another label a pixel of the band may be, in pixels.
        ignore_index: Pixels that have this label in the target are not counted.
        average: "macro" for the mean over the classes that occur in the band, "none" for one
            number for each class, NaN where it does not occur.

    Returns:
        A float, or (num_classes,) float64, over all images together.

    Raises:
        ShapeError: Shapes disagree, or are none of images.
        DtypeError: Values are no integers.
        LabelError: A label is out of range.
        ParameterError: A parameter is out of range.

    Convention:
        A pixel is in the band if the target has another label within `width` pixels along both
        axes (Chebyshev distance). A region that is ignored is another label, as the void strips
        along objects are in VOC; the edge of the image is not.

    Source:
        Kohli, Ladický and Torr 2009, Krähenbühl and Koltun 2011 and DeepLab, whose bands are drawn
        for widths of 1 to 40 pixels.

    Example:
        >>> import numpy as np
        >>> from fastseg import metrics
        >>> target = np.zeros((9, 9), np.uint8)
        >>> target[:, 4:] = 1
        >>> pred = np.roll(target, 1, axis=1)
        >>> [round(metrics.trimap_iou(pred, target, num_classes=2, width=w), 3) for w in (1, 4)]
        [0.25, 0.6]
    """
    band = _Band(num_classes, width, ignore_index, average)
    return band.score(band.count(pred, target))


class TrimapIoU(Accumulator):
    """`trimap_iou` of a dataset: pixels are counted over all images, then divided.

    Args:
        num_classes: How many labels there are.
        width: How far from another label a pixel of the band may be, in pixels.
        ignore_index: Pixels that have this label in the target are not counted.
        average: "macro" for one number, "none" for one for each class.
        options: torchmetrics' own.
    """

    higher_is_better: ClassVar[bool | None] = True

    def __init__(
        self,
        *,
        num_classes: int,
        width: int,
        ignore_index: int | None = None,
        average: str = "macro",
        **options: Any,
    ) -> None:
        self._band = _Band(num_classes, width, ignore_index, average)
        super().__init__(
            {"band_confusion": State(np.zeros((num_classes, num_classes), np.int64))},
            counting={"num_classes": num_classes, "width": width, "ignore_index": ignore_index},
            scoring={"average": average},
            options=options,
        )

    def update(self, pred: Any, target: Any) -> None:
        """Adds one image or a batch."""
        self._accumulate(band_confusion=self._band.count(pred, target))

    def compute(self) -> Any:
        """IoU in the band over all images."""
        return self._result(self._band.score(self._states()["band_confusion"]))


class _Band:
    """The checked parameters, and what they make of images and counts."""

    def __init__(
        self, num_classes: int, width: int, ignore_index: int | None, average: str
    ) -> None:
        self._num_classes = integer("num_classes", num_classes, least=1)
        self._width = integer("width", width, least=1)
        self._ignored = ignore_index
        self._average = one_of("average", average, ("macro", "none"))

    def count(self, pred: Any, target: Any) -> NDArray[np.int64]:
        """The confusion matrix of the pixels in the bands of all images."""
        images = pairs(
            pred,
            target,
            num_classes=self._num_classes,
            ignore_index=self._ignored,
            spatial_dims=2,
        )
        total = np.zeros((self._num_classes, self._num_classes), np.int64)
        for pair in images.images:
            depth = min(self._width, max(pair.shape))
            near = _rust.near_boundary(pair.target.reshape(-1), pair.shape[1], depth, False)
            band = near.view(bool)
            if pair.ignored is not None:
                band &= pair.target.reshape(-1) != pair.ignored
            if not band.any():
                continue
            total += confusion_matrix(
                pair.pred.reshape(-1)[band][np.newaxis],
                pair.target.reshape(-1)[band][np.newaxis],
                num_classes=self._num_classes,
                ignore_index=self._ignored,
            )
        return total

    def score(self, confusion: NDArray[np.int64]) -> Any:
        """IoU of the counts."""
        shares = iou(confusion)
        if self._average == "none":
            return shares
        known = shares[~np.isnan(shares)]
        return float(known.mean()) if len(known) else float("nan")
