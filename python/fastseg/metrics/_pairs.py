"""A prediction and its target: one image, a batch, or a list of differently sized images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg._arrays import contiguous, to_numpy
from fastseg._checks import integer
from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError
from fastseg.metrics._grids import binary, require_grid


@dataclass(frozen=True)
class Pair:
    """One image.

    Attributes:
        pred: labels, contiguous, of a type that the engine has.
        target: the same type and shape.
        count: how many labels there are.
        ignored: the label whose pixels are left out.
    """

    pred: NDArray[Any]
    target: NDArray[Any]
    count: int
    ignored: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both maps."""
        return self.pred.shape


@dataclass(frozen=True)
class Pairs:
    """All images of one call.

    Attributes:
        images: each of them.
        is_batch: whether what came was a batch, or a single image.
        num_classes: None for masks.
    """

    images: list[Pair]
    is_batch: bool
    num_classes: int | None

    def arrange(self, scores: list[list[float]]) -> Any:
        """Scores of each image and label in the shape that was asked for.

        A batch has the first axis, labels have the last; a number where there is neither.
        """
        array = np.array(scores, np.float64).reshape(len(scores), -1)
        if self.num_classes is None:
            array = array[:, 0]
        if self.is_batch:
            return array
        return array[0] if array.ndim > 1 else float(array[0])


def pairs(
    pred: Any,
    target: Any,
    *,
    num_classes: int | None,
    ignore_index: int | None,
    spatial_dims: int | None,
) -> Pairs:
    """Takes two maps, batches or lists apart into images.

    Args:
        pred: masks, or labels where `num_classes` is given.
        target: of the same shape.
        num_classes: how many labels there are.
        ignore_index: target pixels of this label are left out of both.
        spatial_dims: 2 or 3; the axis before those is a batch. None: one image or volume, or a
            list of them.

    Raises:
        ShapeError: shapes disagree, or are none of images.
        DtypeError: values are no integers.
        DataError: masks hold other values than 0 and 1.
        ParameterError: `num_classes` or `spatial_dims` is out of range.
    """
    if num_classes is not None:
        num_classes = integer("num_classes", num_classes, least=1)
    if ignore_index is not None:
        ignore_index = integer("ignore_index", ignore_index)
        if num_classes is None:
            raise ParameterError(
                "ignore_index needs num_classes: a mask has no label that could be ignored"
            )
    if spatial_dims not in (None, 2, 3):
        raise ParameterError(f"spatial_dims must be 2, 3 or None, got {spatial_dims!r}")
    is_list = _is_list(pred)
    if is_list != _is_list(target):
        raise ShapeError("pred and target must both be lists of images, or both arrays")
    if is_list:
        if len(pred) != len(target):
            raise ShapeError(f"pred has {len(pred)} images and target {len(target)}")
        arrays = [
            (f"[{i}]", to_numpy(f"pred[{i}]", one)[0], to_numpy(f"target[{i}]", other)[0])
            for i, (one, other) in enumerate(zip(pred, target, strict=True))
        ]
    else:
        arrays = [("", to_numpy("pred", pred)[0], to_numpy("target", target)[0])]
    is_batch = is_list
    images = []
    for where, one, other in arrays:
        if one.shape != other.shape:
            raise ShapeError(
                f"pred{where} and target{where} must have the same shape, got {one.shape} and "
                f"{other.shape}"
            )
        axes = one.ndim if spatial_dims is None else spatial_dims
        if not is_list and one.ndim == axes + 1:
            is_batch = True
            inner = [(f"{where}[{i}]", one[i], other[i]) for i in range(len(one))]
        else:
            inner = [(where, one, other)]
        for name, image, truth in inner:
            require_grid(f"pred{name}", image.shape)
            if spatial_dims is not None and image.ndim != spatial_dims:
                raise ShapeError(
                    f"pred{name} must have spatial_dims={spatial_dims} axes, got {image.shape}"
                )
            images.append(_pair(name, image, truth, num_classes, ignore_index))
    if not images:
        raise ShapeError("pred must hold at least one image, got none")
    return Pairs(images, is_batch, num_classes)


def _is_list(value: Any) -> bool:
    """Whether it is a list of images, rather than one image written as a list of numbers."""
    return isinstance(value, (list, tuple)) and any(hasattr(item, "shape") for item in value)


def _pair(
    where: str,
    pred: NDArray[Any],
    target: NDArray[Any],
    num_classes: int | None,
    ignored: int | None,
) -> Pair:
    if num_classes is None:
        return Pair(binary(f"pred{where}", pred), binary(f"target{where}", target), 2, None)
    for name, array in (("pred", pred), ("target", target)):
        if array.dtype.kind not in "bui":
            raise DtypeError(
                f"{name}{where} must hold integer labels, got {array.dtype}: take the argmax of "
                "scores first"
            )
    dtype = engine_dtype(np.result_type(pred, target))
    pred, target = contiguous(pred, dtype), contiguous(target, dtype)
    if ignored is not None:
        left_out = target == ignored
        if left_out.any():
            pred = np.where(left_out, target, pred)
    return Pair(pred, target, num_classes, ignored)


def engine_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of labels that the engine has and that holds those of `dtype`."""
    for name in ("uint8", "uint16", "int32"):
        if np.can_cast(dtype, name):
            return np.dtype(name)
    return np.dtype(np.int64)


def label_error(error: ValueError, num_classes: int) -> Exception:
    """What the engine says of a label that is out of range, in the user's words."""
    if error.args[:1] != ("label out of range",):
        return error
    _, in_target, label = error.args
    name = "target" if in_target else "pred"
    return LabelError(
        f"{name} holds the label {label}, which is not in 0 … {num_classes - 1}: set num_classes "
        "to cover it, or ignore_index to leave it out"
    )


def each_label(values: Any, count: int, name: str) -> Iterator[float]:
    """One number for all labels, or one for each."""
    array = np.asarray(values, np.float64)
    if array.ndim > 1 or (array.ndim and len(array) != count):
        raise ShapeError(
            f"{name} must be one number or one for each class ({count}), got shape {array.shape}"
        )
    if np.isnan(array).any() or (array < 0).any():
        raise ParameterError(f"{name} must not be negative or NaN, got {values}")
    yield from np.broadcast_to(array, count)
