"""Picture in, label map out: preprocessing, the model, and what comes after it, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastseg._checks import integer, number, one_of
from fastseg.errors import DtypeError, ParameterError
from fastseg.inference import _images
from fastseg.inference._images import Picture
from fastseg.inference._label_maps import enlarged, labels_of, probabilities
from fastseg.inference._scores import Scorer
from fastseg.inference.preprocessing import Preprocessing
from fastseg.inference.sliding_window import bands

Progress = Callable[[int, int], None]

_FLIPS = {"hflip": 2, "vflip": 1}
_DEFAULT_WINDOW = (512, 512)


def predict(
    model: Any,
    image: Any,
    *,
    mode: Literal["whole", "slide"] = "whole",
    preprocessing: Any = None,
    window: int | tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    tta: Sequence[str | float] = (),
    crf: str | Mapping[str, Any] | None = None,
    return_: Literal["labels", "probs"] = "labels",
    batch_size: int = 1,
    progress: Progress | None = None,
) -> Any:
    """Predicts the label of every pixel of a picture.

    Args:
        model: a model of fastseg, a model of transformers, or any function of (B, C, H, W) float32
            that returns (B, K, h, w) logits. It is put into evaluation mode for the call.
        image: a path, a Pillow picture, an array (H, W) or (H, W, C), a tensor (C, H, W), or a list
            of these. Values from 0 to 255, of 16 bits from 0 to 65535, of floating point also from
            0 to 1. The EXIF rotation of a file is applied; that of a Pillow picture is not.
        mode: "whole" resizes the picture as the checkpoint's preprocessing says, and runs the model
            once; "slide" keeps its size and moves a window over it, in bounded memory.
        preprocessing: a `Preprocessing`, the content of a `preprocessor_config.json`, or the folder
            or hub id that holds one. None takes the one that came with the model's checkpoint;
            where there is none, ImageNet's mean and standard deviation for three channels and
            values from 0 to 1 for others, and for models of transformers a size of 512×512.
        window: height and width of the window in pixels; None takes the size of the preprocessing,
            or 512×512.
        overlap: share of a window that the next one covers, too, in [0, 1).
        tta: further passes whose probabilities are averaged: "hflip", "vflip", and factors on the
            size. Every size, 1 among them, is seen with every combination of flips.
        crf: refines with `fastseg.crf.refine`: the name of a preset, or its arguments.
        return_: "labels", or "probs" for probabilities.
        batch_size: pictures (of one prepared size) or windows that the model gets at a time.
        progress: called with (done, total) passes over pictures, or windows where there are any.

    Returns:
        (H, W) labels of the picture's own size, uint8, or uint16 for more than 256 classes; or
        (K, H, W) float32 probabilities. A tensor (on its device; int32 for more than 256 classes)
        where a tensor was given, else an array; a list where a list was given. A model of one class
        gives 1 where its probability is above ½.

    Raises:
        ReadError: a file is missing, broken, animated or partly transparent.
        ShapeError: a picture has the wrong axes or channels, or the model returned no logits.
        DtypeError: a picture or the model is of a type that cannot be.
        DataError: a picture holds NaN, values out of range, or transparent pixels.
        ParameterError: an argument is out of range.
        CheckpointError: the preprocessing of the checkpoint is damaged.

    Convention:
        Labels are the model's class indices: with `do_reduce_labels` (ADE20K), one less than in the
        data set's files. Logits are enlarged bilinearly, straight from the model's own resolution
        to the picture's. Passes of `tta` are averaged as probabilities at the model's resolution.
        Weights in half precision get input in half precision, which is slow on most CPUs; averages
        and what comes after are float32.

    Source:
        With the defaults and a checkpoint of transformers: the labels of `SegformerImageProcessor`,
        the model, and `post_process_semantic_segmentation` with the picture's size, but for pixels
        where two classes are level to rounding.

    Example:
        >>> import fastseg, numpy as np
        >>> def brighter_than_grey(batch):
        ...     return batch.mean(dim=1, keepdim=True)
        >>> picture = np.array([[0, 0, 255, 255]], np.uint8).repeat(4, axis=0)
        >>> fastseg.predict(brighter_than_grey, picture)[0].tolist()
        [0, 0, 1, 1]
    """
    mode = "slide" if one_of("mode", mode, ("whole", "slide")) == "slide" else "whole"
    wants_labels = one_of("return_", return_, ("labels", "probs")) == "labels"
    batch_size = integer("batch_size", batch_size, least=1)
    scorer = Scorer(model)
    prepare = scorer.preprocessing(preprocessing)
    passes = _passes(tta)
    window_size = _window(window, prepare)
    stride = _stride(window_size, overlap)
    refinement = _refinement(crf)
    single = _images.is_picture(image)
    if not single and not isinstance(image, Sequence):
        raise DtypeError(
            "image: expected a path, a Pillow picture, an array, a tensor or a list of these, got "
            f"{type(image).__name__}"
        )
    channels = scorer.channels
    if channels is None and prepare.mean is not None and len(prepare.mean) > 1:
        channels = len(prepare.mean)
    names = ["image"] if single else [f"image[{i}]" for i in range(len(image))]
    pictures = [
        _images.read(one, channels=channels, name=name)
        for one, name in zip([image] if single else image, names, strict=True)
    ]
    align_corners = scorer.align_corners
    finish = _Finish(wants_labels, refinement, align_corners)
    results: list[Any] = []
    with scorer.evaluating():
        if mode == "whole":
            for picture, scores in _whole(
                pictures, scorer, prepare, passes, batch_size=batch_size, progress=progress
            ):
                averaged = len(passes) > 1
                results.append(finish(picture, scores, averaged=averaged, covered=picture.size))
        else:
            slide = _Slide(scorer, prepare, window_size, stride, batch_size)
            for picture in pictures:
                results.append(slide(picture, passes, finish, progress))
    return results[0] if single else results


@dataclass(frozen=True)
class _Pass:
    """One look at a picture: at a factor of its size, flipped along some axes."""

    factor: float
    axes: tuple[int, ...]

    def seen(self, values: Tensor) -> Tensor:
        """(…, H, W) pixels or scores flipped; twice is as before."""
        return values.flip([axis - 3 for axis in self.axes]) if self.axes else values


def _passes(tta: Sequence[str | float]) -> list[_Pass]:
    if isinstance(tta, str | int | float):
        tta = (tta,)
    factors, axes = [1.0], [()]
    combinations: list[tuple[int, ...]] = list(axes)
    for item in tta:
        if isinstance(item, str):
            axis = _FLIPS[one_of("tta", item, _FLIPS)]
            combinations += [(*others, axis) for others in list(combinations) if axis not in others]
            continue
        factor = number("tta", item)
        if not 0 < factor <= 16:
            raise ParameterError(f"tta: expected factors above 0 and up to 16, got {factor:g}")
        if factor not in factors:
            factors.append(factor)
    return [_Pass(factor, each) for factor in factors for each in dict.fromkeys(combinations)]


def _window(window: int | tuple[int, int] | None, prepare: Preprocessing) -> tuple[int, int]:
    if window is None:
        return prepare.size or _DEFAULT_WINDOW
    sides = (window, window) if isinstance(window, int) else tuple(window)
    if len(sides) != 2:
        raise ParameterError(f"window: expected (height, width), got {window}")
    height, width = (integer("window", side, least=1) for side in sides)
    return height, width


def _stride(window: tuple[int, int], overlap: float) -> tuple[int, int]:
    overlap = number("overlap", overlap, least=0)
    if overlap >= 1:
        raise ParameterError(f"overlap: expected a share in [0, 1), got {overlap:g}")
    height, width = (max(1, round(side * (1 - overlap))) for side in window)
    return height, width


def _refinement(crf: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if crf is None:
        return None
    if isinstance(crf, str):
        from fastseg.crf import PRESETS

        return {"preset": one_of("crf", crf, PRESETS)}
    if not isinstance(crf, Mapping):
        raise ParameterError(
            "crf: expected the name of a preset or the arguments of fastseg.crf.refine, got "
            f"{type(crf).__name__}"
        )
    own = {"probs", "image", "logits", "return_"} & set(crf)
    if own:
        raise ParameterError(f"crf: predict sets {', '.join(sorted(own))} itself")
    return dict(crf)


@dataclass(frozen=True)
class _Finish:
    """From scores at the model's resolution to what `predict` returns."""

    wants_labels: bool
    refinement: dict[str, Any] | None
    align_corners: bool

    @property
    def needs_all_scores(self) -> bool:
        """Whether labels cannot be taken band by band."""
        return not self.wants_labels or self.refinement is not None

    def __call__(
        self, picture: Picture, scores: Tensor, *, averaged: bool, covered: tuple[int, int]
    ) -> Any:
        """Finish one picture.

        Args:
            picture: It.
            scores: (K, h, w) logits, or averaged probabilities.
            averaged: Which of them.
            covered: Height and width of what the scores cover, which may be more than the picture.
        """
        if not self.needs_all_scores:
            labels = labels_of(
                scores,
                covered,
                threshold=0.5 if averaged else 0.0,
                align_corners=self.align_corners,
            )
            return self.returned(picture, labels)
        full = enlarged(scores, covered, align_corners=self.align_corners)
        height, width = picture.size
        full = full[:, :height, :width]
        probs = full if averaged else probabilities(full)
        if self.refinement is not None:
            probs = self._refined(probs, picture)
        if not self.wants_labels:
            return self.returned(picture, probs)
        if len(probs) == 1:
            return self.returned(picture, (probs[0] > 0.5).to(torch.uint8))
        labels = probs.argmax(dim=0)
        return self.returned(picture, labels.to(torch.uint8 if len(probs) <= 256 else torch.int32))

    def returned(self, picture: Picture, result: Tensor) -> Any:
        """A tensor where a tensor was given, else an array."""
        height, width = picture.size
        result = result[..., :height, :width].contiguous()
        if picture.is_tensor:
            return result.to(picture.values.device)
        array = result.cpu().numpy()
        return array.astype(np.uint16) if array.dtype == np.int32 else array

    def _refined(self, probs: Tensor, picture: Picture) -> Tensor:
        from fastseg.crf import refine

        assert self.refinement is not None
        given = probs[0] if len(probs) == 1 else probs
        refined: Tensor = refine(given, picture.values, channel_axis=0, **self.refinement)
        return refined.reshape(probs.shape)


def _whole(
    pictures: Sequence[Picture],
    scorer: Scorer,
    prepare: Preprocessing,
    passes: Sequence[_Pass],
    *,
    batch_size: int,
    progress: Progress | None,
) -> Iterator[tuple[Picture, Tensor]]:
    """Yield each picture with its logits, or with averaged probabilities of several passes."""
    total, done = len(pictures) * len(passes), 0
    index = 0
    while index < len(pictures):
        size = prepare.output_size(*pictures[index].size)
        last = index + 1
        while (
            last < min(len(pictures), index + batch_size)
            and prepare.output_size(*pictures[last].size) == size
            and pictures[last].values.shape[0] == pictures[index].values.shape[0]
        ):
            last += 1
        batch = pictures[index:last]
        sums: Tensor | None = None
        inputs: Tensor | None = None
        for number_, look in enumerate(passes):
            # Flips share the resized picture.
            if inputs is None or look.factor != passes[number_ - 1].factor:
                inputs = prepare.normalized(
                    torch.stack([prepare.resized(one.values, look.factor) for one in batch])
                )
            scores = look.seen(scorer(look.seen(inputs)))
            if len(passes) > 1:
                if sums is not None:
                    scores = torch.stack(
                        [
                            enlarged(
                                one,
                                (int(sums.shape[2]), int(sums.shape[3])),
                                align_corners=scorer.align_corners,
                            )
                            for one in scores
                        ]
                    )
                scores = probabilities(scores)
            sums = scores if sums is None else sums.add_(scores)
            done += len(batch)
            if progress is not None:
                progress(done, total)
        assert sums is not None
        if len(passes) > 1:
            sums /= len(passes)
        yield from zip(batch, sums, strict=True)
        index = last


@dataclass(frozen=True)
class _Slide:
    """The mode "slide" for one picture at a time."""

    scorer: Scorer
    prepare: Preprocessing
    window: tuple[int, int]
    stride: tuple[int, int]
    batch_size: int

    def __call__(
        self,
        picture: Picture,
        passes: Sequence[_Pass],
        finish: _Finish,
        progress: Progress | None,
    ) -> Any:
        """Predict one picture."""
        if len(passes) == 1 and not finish.needs_all_scores:
            return finish.returned(picture, self._labels(picture, progress))
        averaged = len(passes) > 1
        scores, covered = self._scores(picture, passes, progress)
        return finish(picture, scores, averaged=averaged, covered=covered)

    def _bands(self, values: Tensor, progress: Progress | None) -> Iterator[Any]:
        return bands(
            values,
            score=self.scorer,
            prepare=self.prepare.normalized,
            window=self.window,
            stride=self.stride,
            align_corners=self.scorer.align_corners,
            batch_size=self.batch_size,
            progress=progress,
        )

    def _labels(self, picture: Picture, progress: Progress | None) -> Tensor:
        """Labels band by band: a row of cells on either side is what interpolation looks at."""
        pieces: list[Tensor] = []
        before: Tensor | None = None
        held: Tensor | None = None
        for band in self._bands(picture.values, progress):
            if held is not None:
                pieces.append(_labels_between(before, held, band.scores[:, :1], band.cell))
                before = held[:, -1:].clone()
            held, cell = band.scores, band.cell
        assert held is not None
        pieces.append(_labels_between(before, held, None, cell))
        return torch.cat(pieces)

    def _scores(
        self, picture: Picture, passes: Sequence[_Pass], progress: Progress | None
    ) -> tuple[Tensor, tuple[int, int]]:
        """All scores at the model's resolution, and the height and width that they cover."""
        keep = self.prepare.replace(size=None, shortest_edge=None, longest_edge=None)
        sums: Tensor | None = None
        covered = picture.size
        for done, look in enumerate(passes):
            values = look.seen(keep.resized(picture.values, look.factor))

            def report(windows: int, total: int, done: int = done) -> None:
                if progress is not None:
                    # How many windows other sizes have is not known before; passes are.
                    progress(done * total + windows, len(passes) * total)

            found = list(self._bands(values, report))
            scores = torch.cat([band.scores for band in found], dim=1)
            cell = found[0].cell
            if len(passes) == 1:
                return scores, (int(scores.shape[1]) * cell, int(scores.shape[2]) * cell)
            scores = look.seen(scores)
            if sums is not None:
                size = (int(sums.shape[1]), int(sums.shape[2]))
                scores = enlarged(scores, size, align_corners=self.scorer.align_corners)
            sums = probabilities(scores) if sums is None else sums.add_(probabilities(scores))
        assert sums is not None
        return sums.div_(len(passes)), covered


def _labels_between(before: Tensor | None, rows: Tensor, after: Tensor | None, cell: int) -> Tensor:
    """Labels of some rows of cells, with the cells above and below them to interpolate with."""
    parts = [part for part in (before, rows, after) if part is not None]
    scores = torch.cat(parts, dim=1) if len(parts) > 1 else rows
    size = (int(scores.shape[1]) * cell, int(scores.shape[2]) * cell)
    labels = labels_of(scores, size, threshold=0.0, align_corners=False)
    top = 0 if before is None else cell
    return labels[top : top + int(rows.shape[1]) * cell]
