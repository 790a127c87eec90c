"""pydensecrf's `utils`: unary energies from labels or probabilities, features for N-D images.

Convention: energies are (n_labels, n_points) float32, negative log-probabilities; features are
(n_features, n_points) float32 with the coordinates in axis order (y, x), while
`DenseCRF2D.addPairwiseGaussian` and `addPairwiseBilateral` use (x, y). The lattice is not
invariant to that order, so the two differ slightly, as they do in pydensecrf.
"""

import logging
import operator
import warnings
from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastseg.compat.pydensecrf._buffers import (
    AssertedParameterError,
    LabelDtypeError,
    LabelIndexError,
)
from fastseg.errors import DtypeError, ParameterError, ShapeError

__all__ = [
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
]

_logger = logging.getLogger(__name__)

# Rounding may carry a probability this far out of [0, 1] without it being something else.
_PROBABILITY_SLACK = 1e-3


def unary_from_labels(
    labels: ArrayLike, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> NDArray[np.float32]:
    """Makes unary energies from a label map that is right with probability `gt_prob`.

    The labelled class gets −ln(gt_prob), every other one −ln((1 − gt_prob) / (n_labels − 1)), and
    all classes of an unsure point get −ln(1 / n_labels).

    Args:
        labels: (*shape) integers. With `zero_unsure` in 0…n_labels, where 0 is unsure and label
            l belongs to row l − 1; without it in 0…n_labels − 1.
        n_labels: The number of classes, the unsure one not counted.
        gt_prob: In (0, 1).
        zero_unsure: Whether 0 means unsure.

    Returns:
        (n_labels, labels.size) float32.

    Raises:
        ParameterError: `gt_prob` is not in (0, 1) (also an AssertionError then), or `n_labels`
            is less than 1.
        DtypeError: The labels are not integers (also an IndexError then).
        LabelError: A label is out of range (also an IndexError then).

    Source: Matches pydensecrf's function of this name. On purpose, unsigned labels may contain
    the unsure 0, a single class works, and negative labels don't count from the end.
    """
    if not 0 < gt_prob < 1:
        raise AssertedParameterError(f"gt_prob must be in (0, 1), got {gt_prob}")
    try:
        n_labels = operator.index(n_labels)
    except TypeError:
        raise DtypeError(f"n_labels must be an integer, got {n_labels!r}") from None
    if n_labels < 1:
        raise ParameterError(f"n_labels must be at least 1, got {n_labels}")
    flat = np.asarray(labels).ravel()
    if flat.dtype.kind not in "biu":
        if flat.size:
            raise LabelDtypeError(
                f"labels must be integers, got {flat.dtype}; round them with labels.astype(int)"
            )
        flat = flat.astype(np.intp)
    highest = n_labels if zero_unsure else n_labels - 1
    if flat.size and not (flat.min() >= 0 and flat.max() <= highest):
        raise LabelIndexError(
            f"labels must be in 0…{highest} for n_labels={n_labels}, zero_unsure={zero_unsure}; "
            f"got {flat.min()}…{flat.max()}"
        )

    gt_prob = float(gt_prob)
    energies = np.empty((n_labels, flat.size), dtype=np.float32)
    energies.fill(-np.log((1.0 - gt_prob) / max(n_labels - 1, 1)))
    # Signed, so that an unsure 0 of an unsigned dtype becomes −1 and not 255; its column is
    # overwritten below.
    rows = flat.astype(np.intp) - int(zero_unsure)
    energies[rows, np.arange(flat.size)] = -np.log(gt_prob)
    if zero_unsure:
        energies[:, flat == 0] = -np.log(1.0 / n_labels)
    return energies


def compute_unary(labels: ArrayLike, M: int, GT_PROB: float = 0.5) -> NDArray[np.float32]:
    """Does what `unary_from_labels` does; the old name, which logs a warning."""
    _logger.warning("compute_unary is deprecated; unary_from_labels does the same")
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(
    sm: ArrayLike, scale: float | None = None, clip: float | None = 1e-5
) -> NDArray[np.float32]:
    """Makes unary energies −ln p from class probabilities.

    With `scale`, p becomes scale·p + (1 − scale)/K first; then it is clipped to [clip, 1].

    Args:
        sm: (K, *shape) probabilities in [0, 1].
        scale: In (0, 1], the certainty of the probabilities; None is 1.
        clip: The smallest probability, so that none has an infinite energy; None leaves all as
            they are.

    Returns:
        (K, prod(shape)) float32.

    Raises:
        ParameterError: `scale` is not in (0, 1] (also an AssertionError then).
        DtypeError: The probabilities are not real numbers.
        ShapeError: `sm` has no axis.

    Source: Matches pydensecrf's function of this name. On purpose, float16 is computed in
    float32, and values outside [0, 1], which are clipped there without a word, give a warning.
    """
    probs = np.asarray(sm)
    if probs.dtype.kind not in "biuf":
        raise DtypeError(f"sm must hold real numbers, got dtype {probs.dtype}")
    if probs.ndim == 0:
        raise ShapeError("sm must have the classes as its first axis, got a scalar")
    if probs.dtype.kind != "f":
        probs = probs.astype(np.float64)
    elif probs.dtype == np.float16:
        probs = probs.astype(np.float32)
    if probs.size and (probs.min() < -_PROBABILITY_SLACK or probs.max() > 1 + _PROBABILITY_SLACK):
        warnings.warn(
            f"sm should hold probabilities in [0, 1], got values in "
            f"[{probs.min():.4g}, {probs.max():.4g}]; apply a softmax over its first axis",
            stacklevel=2,
        )
    num_classes = probs.shape[0]
    if scale is not None:
        if not 0 < scale <= 1:
            raise AssertedParameterError(f"scale must be in (0, 1], got {scale}")
        probs = scale * probs + (1 - scale) / num_classes
    if clip is not None:
        probs = np.clip(probs, clip, 1.0)
    energies = -np.log(probs)
    columns = int(np.prod(probs.shape[1:]))
    return np.ascontiguousarray(energies.reshape(num_classes, columns), dtype=np.float32)


def softmax_to_unary(sm: ArrayLike, GT_PROB: float = 1) -> NDArray[np.float32]:
    """Does `unary_from_softmax(sm, GT_PROB, clip=None)`; the old name, which logs a warning."""
    _logger.warning("softmax_to_unary is deprecated; unary_from_softmax does the same")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> NDArray[np.float32]:
    """Makes position features for `DenseCRF.addPairwiseEnergy`.

    Args:
        sdims: One standard deviation per axis, in pixels, in axis order.
        shape: The shape of the image, in any number of dimensions.

    Returns:
        (len(shape), prod(shape)) float32: coordinate / standard deviation, in axis order.

    Raises:
        ShapeError: `sdims` and `shape` differ in length.
        ParameterError: A standard deviation is not positive.

    Source: Matches pydensecrf's function of this name.
    """
    shape = tuple(int(size) for size in shape)
    sdims = _deviations(sdims, "sdims")
    if len(sdims) != len(shape):
        raise ShapeError(
            f"sdims must have one value per axis of shape {shape}, got {len(sdims)} values"
        )
    features = np.empty((len(shape), *shape), dtype=np.float32)
    _fill_coordinates(features, sdims)
    return features.reshape(len(shape), features[:1].size)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: ArrayLike, chdim: int = -1
) -> NDArray[np.float32]:
    """Makes position-and-color features for `DenseCRF.addPairwiseEnergy`.

    Args:
        sdims: One standard deviation per spatial axis, in pixels, in axis order.
        schan: One standard deviation for all channels, or one per channel, in the unit of `img`.
        img: The image, with or without a channel axis, in any number of dimensions and channels.
        chdim: The channel axis. −1 means that there is none, not the last one.

    Returns:
        (spatial axes + channels, number of points) float32: coordinates in axis order, then
        channels, each divided by its standard deviation.

    Raises:
        ShapeError: More standard deviations than axes or channels. With fewer, the rest stays
            unscaled, as in pydensecrf, and a warning says so.
        ParameterError: A standard deviation is not positive.
        DtypeError: `img` does not hold real numbers.
        ValueError: `chdim` is not an axis of `img`.

    Source: Matches pydensecrf's function of this name.
    """
    image = np.asarray(img)
    if image.dtype.kind not in "biuf":
        raise DtypeError(f"img must hold real numbers, got dtype {image.dtype}")
    image = image[np.newaxis] if chdim == -1 else np.moveaxis(image, chdim, 0)
    channels, spatial = image.shape[0], image.shape[1:]
    if isinstance(schan, Number):
        schan = (schan,) * channels
    schan = _deviations(schan, "schan")
    sdims = _deviations(sdims, "sdims")
    _check_count(schan, "schan", channels, f"channels of img (chdim={chdim})")
    _check_count(sdims, "sdims", len(spatial), f"spatial axes of img (chdim={chdim})")

    features = np.empty((len(spatial) + channels, *spatial), dtype=np.float32)
    _fill_coordinates(features, sdims)
    colors = features[len(spatial) :]
    colors[...] = image
    for color, deviation in zip(colors, schan, strict=False):
        color /= deviation
    return features.reshape(len(features), int(np.prod(spatial)))


def _deviations(values: Any, name: str) -> tuple[Any, ...]:
    """Checks standard deviations; their own types are kept, for they decide on the rounding."""
    try:
        deviations = tuple(values)
        valid = all(deviation > 0 for deviation in deviations)
    except TypeError:
        raise DtypeError(f"{name} must be a sequence of numbers, got {values!r}") from None
    if not valid:
        raise ParameterError(f"{name} must be positive, got {deviations}")
    return deviations


def _check_count(values: tuple[Any, ...], name: str, count: int, what: str) -> None:
    """Refuses more values than there are things to scale, and warns about fewer."""
    if len(values) > count:
        raise ShapeError(f"{name} has {len(values)} values for {count} {what}")
    if len(values) < count:
        warnings.warn(
            f"{name} has {len(values)} values for {count} {what}; the rest stays unscaled",
            stacklevel=3,
        )


def _fill_coordinates(features: NDArray[np.float32], sdims: tuple[Any, ...]) -> None:
    """Writes the scaled coordinate along axis i into features[i]."""
    spatial = features.shape[1:]
    for axis, size in enumerate(spatial):
        coordinate = np.arange(size, dtype=np.float32)
        if axis < len(sdims):
            coordinate /= sdims[axis]
        features[axis] = coordinate.reshape([-1 if i == axis else 1 for i in range(len(spatial))])
