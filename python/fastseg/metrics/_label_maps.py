"""Predictions and targets as the engine takes them: pairs of label maps of any integer type."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg._arrays import Restore, contiguous, to_numpy
from fastseg._checks import integer, one_of
from fastseg.errors import DtypeError, LabelError, ShapeError

Labels = NDArray[Any]
_Where = Callable[[int], tuple[int, ...]]
# Labels of a map that is not in one piece are copied this many at a time.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Classes:
    """Which labels are classes, and what becomes of those that are none.

    Attributes:
        number: labels from 0 to this, exclusive, are classes.
        ignore_index: pixels with this target are left out.
        out_of_range: "raise" refuses a label that is no class; "void" leaves such targets out and
            counts such predictions as predictions of no class.
    """

    number: int
    ignore_index: int | None
    out_of_range: str

    @classmethod
    def of(cls, num_classes: Any, ignore_index: Any, out_of_range: Any) -> "Classes":
        """The checked arguments of a metric."""
        number = integer("num_classes", num_classes, least=1, most=_rust.MAX_CLASSES)
        if ignore_index is not None:
            ignore_index = integer("ignore_index", ignore_index)
        return cls(number, ignore_index, one_of("out_of_range", out_of_range, ("raise", "void")))


@dataclass(frozen=True)
class Image:
    """A prediction and its target: integer arrays of the same shape.

    Attributes:
        name: which of several images it is, as errors say it: "", or " of image 3".
    """

    pred: Labels
    target: Labels
    name: str = ""


def images(pred: Any, target: Any) -> tuple[list[Image], Restore]:
    """What was given as one or many images, and what turns results into the kind of `pred`.

    Args:
        pred: (H, W), a batch or volume with more axes, or a list of such of any shapes.
        target: the same.

    Raises:
        ShapeError: the two disagree, or there is no pixel.
        DtypeError: labels are no integers.
    """
    if _is_list(pred) != _is_list(target):
        raise ShapeError("pred and target must both be lists of images, or both be arrays")
    if not _is_list(pred):
        p, restore = _labels("pred", pred)
        t, _ = _labels("target", target)
        return [_image(p, t, "")], restore
    if len(pred) != len(target) or not len(pred):
        raise ShapeError(
            f"pred and target must list the same number of images, at least one, got {len(pred)} "
            f"and {len(target)}"
        )
    found: list[Image] = []
    restores: list[Restore] = []
    for i, (one, other) in enumerate(zip(pred, target, strict=True)):
        p, kind = _labels(f"pred[{i}]", one)
        t, _ = _labels(f"target[{i}]", other)
        found.append(_image(p, t, f" of image {i}"))
        restores.append(kind)
    return found, restores[0]


def separate(given: list[Image]) -> Iterator[Image]:
    """Single images: the first axis of an array with three or more counts them."""
    for image in given:
        if image.name or image.pred.ndim < 3:
            yield image
        else:
            for i, (p, t) in enumerate(zip(image.pred, image.target, strict=True)):
                yield Image(p, t, f" of image {i}")


def count(image: Image, classes: Classes) -> NDArray[np.int64]:
    """The counts of one image or batch: (K, K + 1), the last column for void predictions.

    Raises:
        LabelError: a label is no class and that is to raise.
    """
    if _ready(image.pred) and _ready(image.target):
        return _count(image, classes, image.pred, image.target, None)
    total = np.zeros((classes.number, classes.number + 1), np.int64)
    for p, t, where in _pieces(image):
        total += _count(image, classes, p, t, where)
    return total


def _count(
    image: Image, classes: Classes, p: Labels, t: Labels, where: _Where | None
) -> NDArray[np.int64]:
    """The counts of a piece; `where` finds the place of an index of it."""
    try:
        return _rust.confusion_matrix(
            p,
            t,
            classes=classes.number,
            ignore=classes.ignore_index,
            strict=classes.out_of_range == "raise",
            void=True,
        )
    except ValueError as error:
        match error.args:
            case ("label", name, index, value):
                place = where(index) if where else _place(index, p.shape)
                raise _label_error(image, classes, name, place, value) from None
        raise


def label_error(image: Image, classes: Classes, void: NDArray[np.bool_]) -> LabelError:
    """The error about a prediction of the ignored label, where that is not wanted."""
    place = tuple(int(i) for i in np.argwhere(void)[0])
    return _label_error(image, classes, "pred", place, int(image.pred[place]))


def _label_error(
    image: Image, classes: Classes, name: str, place: tuple[int, ...], value: int
) -> LabelError:
    if value == classes.ignore_index:
        remedy = (
            'it is ignore_index, which only leaves out targets; out_of_range="void" counts such '
            "predictions in a column of their own"
        )
    elif name == "target":
        remedy = (
            f"if it marks what to leave out, pass ignore_index={value}; out_of_range='void' leaves "
            "out all targets that are no class"
        )
    else:
        remedy = "is num_classes right? out_of_range='void' counts such predictions as wrong"
    at = ", ".join(map(str, place))
    return LabelError(
        f"{name}{image.name} has the label {value} at [{at}], and num_classes={classes.number} "
        f"takes 0..{classes.number - 1}: {remedy}"
    )


def _is_list(value: Any) -> bool:
    """Whether it is a list of images, and not an image written as lists of numbers."""
    is_list = isinstance(value, list | tuple)
    return is_list and (not value or getattr(value[0], "ndim", 0) > 0)


def _labels(name: str, value: Any) -> tuple[Labels, Restore]:
    array, restore = to_numpy(name, value)
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    if array.dtype.kind not in "ui":
        hint = "round and convert it"
        if array.ndim >= 3:
            hint = "labels of scores are scores.argmax(axis), on the axis of the classes"
        raise DtypeError(f"{name} must be labels of an integer type, got {array.dtype}: {hint}")
    if array.ndim == 0 or array.size == 0:
        raise ShapeError(f"{name} must have pixels, got shape {array.shape}")
    return array, restore


def _image(p: Labels, t: Labels, name: str) -> Image:
    if p.shape != t.shape:
        raise ShapeError(
            f"pred and target{name} must have the same shape, got {p.shape} and {t.shape}"
        )
    return Image(p, t, name)


def _pieces(image: Image) -> Iterator[tuple[Labels, Labels, _Where]]:
    """Both maps in pieces without gaps, and what finds the place of an index of a piece."""
    p, t = image.pred, image.target
    # Counting knows no order: what lies column by column is read like that.
    turned = not p.flags.c_contiguous and p.flags.f_contiguous and t.flags.f_contiguous
    if turned:
        p, t = p.T, t.T
    rows = len(p) if _ready(p) and _ready(t) else max(1, _PIECE * len(p) // p.size)
    for first in range(0, len(p), rows):
        one, other = p[first : first + rows], t[first : first + rows]

        def where(index: int, first: int = first, shape: Any = one.shape) -> tuple[int, ...]:
            place = _place(index, shape)
            place = (place[0] + first, *place[1:])
            return place[::-1] if turned else place

        yield _prepared(one), _prepared(other), where


def _place(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(index, shape))


def _ready(array: Labels) -> bool:
    return array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative


def _prepared(array: Labels) -> Labels:
    return array if _ready(array) else contiguous(array, array.dtype.newbyteorder("="))
