"""What `fastseg evaluate` keeps of the images it has seen: counts, sums, and the worst few."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg import metrics
from fastseg.cli.pairing import Pair

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ImageScore:
    """How well one image was labelled.

    Attributes:
        pair: Its files: the prediction, and the ground truth as `source`.
        mean_iou: Mean IoU of the classes in its ground truth; NaN if there are none.
        accuracy: Share of its pixels that are labelled right; NaN if none count.
        pixels: How many pixels count.
        confusion: The commonest mistake as (target, prediction, pixels), if there is one. A
            prediction K is one that is no class.
    """

    pair: Pair
    mean_iou: float
    accuracy: float
    pixels: int
    confusion: tuple[int, int, int] | None


@dataclass
class Tally:
    """Counts over all images, whose size does not depend on how many there are.

    Attributes:
        num_classes: K.
        ignore_index: The label whose pixels are left out, if any.
        out_of_range: What happens to labels that are no class: "raise" or "void".
        keep: How many of the worst images are kept.
        confusion: (K, K + 1) counts; the last column is of predictions that are no class.
        images: Images counted.
        in_images: (K,) images whose ground truth has each class.
        worst: The worst images, the worst first.
    """

    num_classes: int
    ignore_index: int | None
    out_of_range: str
    keep: int
    confusion: Counts = field(init=False)
    images: int = 0
    in_images: Counts = field(init=False)
    worst: list[ImageScore] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.num_classes, self.num_classes + 1), np.int64)
        self.in_images = np.zeros(self.num_classes, np.int64)
        self._iou_sums = np.zeros(self.num_classes)
        self._image_sum = 0.0
        self._images_scored = 0

    def add(self, pair: Pair, pred: NDArray[Any], target: NDArray[Any]) -> ImageScore:
        """Count one image.

        Raises:
            LabelError: A label is no class, and these are not counted apart.
        """
        counts = metrics.confusion_matrix(
            pred,
            target,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            out_of_range=self.out_of_range,
        )
        confusion = np.zeros_like(self.confusion)
        confusion[:, : counts.shape[1]] = counts
        there = confusion.sum(axis=1) > 0
        iou = metrics.iou(confusion)[there]
        score = ImageScore(
            pair,
            mean_iou=float(iou.mean()) if iou.size else float("nan"),
            accuracy=float(metrics.accuracy(confusion, average="micro")),
            pixels=int(confusion.sum()),
            confusion=_commonest_mistake(confusion),
        )
        self.confusion += confusion
        self.images += 1
        self.in_images += there
        self._iou_sums[there] += iou
        if iou.size:
            self._image_sum += score.mean_iou
            self._images_scored += 1
            self.worst.append(score)
            # Sorting keeps the order of equal ones, so the files' order decides.
            self.worst.sort(key=lambda one: one.mean_iou)
            del self.worst[self.keep :]
        return score

    def scores(self) -> dict[str, float]:
        """The scores over all images; NaN where there is nothing to say."""
        per_class = np.divide(
            self._iou_sums,
            self.in_images,
            out=np.full(self.num_classes, np.nan),
            where=self.in_images > 0,
        )
        return {
            "mean_iou": self._mean(metrics.iou(self.confusion)),
            "mean_dice": self._mean(metrics.dice(self.confusion)),
            "pixel_accuracy": float(metrics.accuracy(self.confusion, average="micro")),
            "mean_accuracy": self._mean(metrics.accuracy(self.confusion)),
            "frequency_weighted_iou": float(metrics.frequency_weighted_iou(self.confusion)),
            "image_mean_iou": (
                self._image_sum / self._images_scored if self._images_scored else float("nan")
            ),
            "class_mean_iou": self._mean(per_class),
        }

    def _of_classes(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """NaN for the class that is ignored in the ground truth, if it is one: it has no score."""
        if self.ignore_index is not None and 0 <= self.ignore_index < self.num_classes:
            scores[self.ignore_index] = np.nan
        return scores

    def _mean(self, scores: NDArray[np.float64]) -> float:
        known = self._of_classes(scores)
        known = known[~np.isnan(known)]
        return float(known.mean()) if known.size else float("nan")

    def classes(self) -> list[dict[str, Any]]:
        """The scores of each class, and how often it occurs."""
        columns = {
            name: self._of_classes(function(self.confusion))
            for name, function in (
                ("iou", metrics.iou),
                ("dice", metrics.dice),
                ("precision", metrics.precision),
                ("recall", metrics.recall),
            )
        }
        target = self.confusion.sum(axis=1)
        predicted = self.confusion.sum(axis=0)
        return [
            {
                "class": label,
                **{name: float(values[label]) for name, values in columns.items()},
                "target_pixels": int(target[label]),
                "predicted_pixels": int(predicted[label]),
                "images": int(self.in_images[label]),
            }
            for label in range(self.num_classes)
        ]


def _commonest_mistake(confusion: Counts) -> tuple[int, int, int] | None:
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    target, pred = np.unravel_index(int(mistakes.argmax()), mistakes.shape)
    pixels = int(mistakes[target, pred])
    return (int(target), int(pred), pixels) if pixels else None
