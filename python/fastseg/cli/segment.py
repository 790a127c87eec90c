"""`fastseg segment`: predict the label of every pixel with a model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.cli import reading, writing
from fastseg.cli.arguments import at_least_zero, positive, whole
from fastseg.cli.exit_codes import DESCRIPTION, USAGE, UsageError
from fastseg.cli.pairing import IMAGE_SUFFIXES, expand, stem_of
from fastseg.cli.running import Step, check_output, print_report, work_off
from fastseg.errors import CheckpointError, DataError, FastsegError

Array = NDArray[Any]

_FLIPS = ("hflip", "vflip")
_MOST_COLORS = 256

_EPILOG = f"""\
inputs:
  IMAGE    anything Pillow reads (PNG, JPEG, WebP …), .npy, .tif; an EXIF rotation is applied, CMYK
           becomes RGB, grey is repeated for models of three channels, 16-bit values are brought to
           the range of 8 bits; partly transparent and animated pictures are refused
  --model  a folder or file of weights, or the id of a repository of the Hugging Face Hub: what
           `fastseg.load` takes

results:
  OUT/NAME.<format>, and with --overlay OUT/NAME_overlay.png, NAME being that of the image. Each
  is written to a temporary name first and renamed. A label PNG holds the labels themselves; its
  palette is for looking at it. Labels are the model's class indices.

{DESCRIPTION}"""


def add_parser(commands: Any) -> None:
    """Add `segment` to the sub-commands."""
    parser = commands.add_parser(
        "segment",
        help="predict label maps of pictures with a model",
        description="Predict the label of every pixel of pictures, at the pictures' own size.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="pictures, or folders of them"
    )
    parser.add_argument("--model", required=True, metavar="M", help="a folder, a file, or a hub id")
    output = parser.add_argument_group("results")
    output.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder, made if missing"
    )
    output.add_argument(
        "--return",
        dest="return_",
        choices=("labels", "probs"),
        default="labels",
        help="what to write (default: labels)",
    )
    output.add_argument(
        "--output-format",
        choices=("png", "npy", "npz"),
        help="file format (default: png for labels, npy for probabilities)",
    )
    output.add_argument(
        "--palette",
        default="distinct",
        metavar="NAME",
        help="colours of the label PNG and the overlay: a palette of fastseg.labelmaps, or 'none' "
        "for a grey PNG (default: distinct)",
    )
    output.add_argument(
        "--overlay", action="store_true", help="also write the picture tinted with its labels"
    )
    output.add_argument(
        "--alpha",
        type=at_least_zero,
        default=0.5,
        metavar="A",
        help="share of the labels' colours in the overlay, 0 … 1 (default: 0.5)",
    )
    output.add_argument(
        "--skip-existing", action="store_true", help="leave out images whose result exists"
    )
    output.add_argument(
        "--json", action="store_true", help="print one JSON document about the run to stdout"
    )
    output.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="progress bar on stderr (default: where stderr is a terminal)",
    )
    output.add_argument("--debug", action="store_true", help="print the traceback of every failure")
    _add_parameters(parser.add_argument_group("how to predict"))


def _add_parameters(group: Any) -> None:
    group.add_argument(
        "--mode",
        choices=("whole", "slide"),
        default="whole",
        help="whole: resize the picture as the checkpoint says; slide: keep its size and move a "
        "window over it, in bounded memory (default: whole)",
    )
    group.add_argument(
        "--size",
        type=whole(1),
        nargs=2,
        metavar=("H", "W"),
        help="resize pictures to this in mode whole (default: what the checkpoint says)",
    )
    group.add_argument(
        "--window",
        type=whole(1),
        nargs="+",
        metavar="PIXELS",
        help="height and width of the window, or one number for both (default: the size that the "
        "checkpoint says, or 512)",
    )
    group.add_argument(
        "--overlap",
        type=at_least_zero,
        metavar="SHARE",
        help="share of a window that the next one covers, too, below 1 (default: 1/3)",
    )
    group.add_argument(
        "--tta",
        type=_pass,
        nargs="+",
        default=(),
        metavar="PASS",
        help="further passes to average with: hflip, vflip, and factors on the size as 0.75",
    )
    group.add_argument(
        "--crf", metavar="PRESET", help="refine with a CRF: pydensecrf, deeplab-v2 …"
    )
    group.add_argument(
        "--batch-size",
        type=whole(1),
        default=1,
        metavar="N",
        help="pictures or windows at a time (default: 1)",
    )
    group.add_argument(
        "--device", default="cpu", metavar="NAME", help="where the model runs (default: cpu)"
    )
    group.add_argument(
        "--ignore-exif", action="store_true", help="do not turn photographs as their EXIF says"
    )
    group.add_argument(
        "--threads",
        type=whole(1),
        metavar="N",
        help="threads of the engine and of PyTorch (default: one per core)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `fastseg segment`.

    Returns:
        The exit code.

    Raises:
        UsageError: Nothing can be done; with --json the document says so as well.
    """
    began = time.perf_counter()
    report: dict[str, Any] = {"command": "segment", "ok": False, "files": []}
    try:
        jobs = _prepare(arguments)
        if arguments.skip_existing:
            missing = [job for job in jobs if not job.result.exists()]
            report["skipped"] = len(jobs) - len(missing)
            jobs = missing
        report["model"] = arguments.model
        report["parameters"] = _keywords(arguments)
        code = _work_off(jobs, arguments, report)
    except UsageError as error:
        if not arguments.json:
            raise
        report["error"] = {"type": "UsageError", "message": str(error)}
        code = USAGE
        print(f"fastseg segment: error: {error}", file=sys.stderr)
    if arguments.json:
        print_report(report, code, time.perf_counter() - began)
    return code


@dataclass(frozen=True)
class _Job:
    """A picture and the files it becomes."""

    image: Path
    result: Path
    overlay: Path


def _prepare(arguments: argparse.Namespace) -> list[_Job]:
    """Find the pictures and check everything that concerns all of them."""
    images = expand(arguments.images, IMAGE_SUFFIXES, "pictures")
    suffix = arguments.output_format or ("png" if arguments.return_ == "labels" else "npy")
    if arguments.return_ == "probs" and suffix == "png":
        raise UsageError("probabilities of several classes do not fit a PNG: use npy or npz")
    if arguments.size and arguments.mode == "slide":
        raise UsageError("--size is for --mode whole; a window has --window")
    if arguments.window and len(arguments.window) > 2:
        raise UsageError(f"--window takes one number or two, got {len(arguments.window)}")
    if arguments.alpha > 1:
        raise UsageError(f"--alpha is a share in 0 … 1, got {arguments.alpha:g}")
    if arguments.overlap is not None and arguments.overlap >= 1:
        raise UsageError(f"--overlap is a share below 1, got {arguments.overlap:g}")
    from fastseg.labelmaps import PALETTES

    if arguments.palette != "none" and arguments.palette not in PALETTES:
        raise UsageError(
            f"unknown palette {arguments.palette!r}; known are {', '.join(PALETTES)} and none"
        )
    if arguments.crf is not None:
        from fastseg.crf import PRESETS

        if arguments.crf not in PRESETS:
            raise UsageError(f"unknown preset {arguments.crf!r}; known are {', '.join(PRESETS)}")
    check_output(arguments.output)
    jobs: dict[str, _Job] = {}
    inputs = {image.resolve() for image in images}
    for image in images:
        stem = stem_of(image)
        job = _Job(
            image,
            arguments.output / f"{stem}.{suffix}",
            arguments.output / f"{stem}_overlay.png",
        )
        if stem in jobs:
            raise UsageError(
                f"{jobs[stem].image} and {image} would both become {job.result}: segment them into "
                "folders of their own"
            )
        for path in (job.result, job.overlay):
            if path.resolve() in inputs:
                raise UsageError(f"the result {path} would replace an input: choose another -o")
        jobs[stem] = job
    return list(jobs.values())


def _work_off(jobs: Sequence[_Job], arguments: argparse.Namespace, report: dict[str, Any]) -> int:
    """Load the model, do every job, keep going after failures, and tell about each."""
    model = _model(arguments)
    results = _Results(jobs, model, arguments)

    def do(job: _Job, entry: dict[str, Any], step: Step | None) -> str:
        began = time.perf_counter()
        picture, result = results.of(job, step)
        _write(job, picture, result, arguments, entry)
        entry["seconds"] = time.perf_counter() - began
        outputs = ", ".join(entry["outputs"].values())
        return f"{outputs}: {reading.size_of(entry['shape'])}, {entry['seconds']:.2f} s"

    return work_off(
        jobs,
        do,
        command="segment",
        files=lambda job: {"image": str(job.image)},
        unit_of_one="pass" if arguments.mode == "whole" else "window",
        arguments=arguments,
        report=report,
    )


def _model(arguments: argparse.Namespace) -> Any:
    try:
        import torch

        from fastseg.checkpoints import load
    except ImportError as error:
        raise UsageError(
            f"a model needs PyTorch, which cannot be loaded ({error}): "
            "pip install 'fastseg-rs[models]'"
        ) from error
    if arguments.threads is not None:
        from fastseg.threads import set_num_threads

        set_num_threads(arguments.threads)
        torch.set_num_threads(arguments.threads)
    try:
        model = load(arguments.model)
    except (CheckpointError, OSError) as error:
        raise UsageError(f"--model: {error}") from error
    try:
        return model.to(arguments.device)
    # PyTorch raises RuntimeError and AssertionError for devices that it has not.
    except Exception as error:
        raise UsageError(f"--device {arguments.device}: {error}") from error


@dataclass
class _Results:
    """Predicts a few pictures at a time; what is wrong with one is raised when its turn comes."""

    jobs: Sequence[_Job]
    model: Any
    arguments: argparse.Namespace
    _known: dict[Path, tuple[Array, Any] | Exception] = field(default_factory=dict)

    def of(self, job: _Job, step: Step | None) -> tuple[Array, Any]:
        """The picture and its prediction."""
        if job.image not in self._known:
            first = self.jobs.index(job)
            self._predict(self.jobs[first : first + self.arguments.batch_size], step)
        found = self._known.pop(job.image)
        if isinstance(found, Exception):
            raise found
        return found

    def _predict(self, jobs: Sequence[_Job], step: Step | None) -> None:
        from fastseg.inference import predict

        pictures: dict[Path, Array] = {}
        for job in jobs:
            try:
                pictures[job.image] = _picture(job.image, exif=not self.arguments.ignore_exif)
            # Any failure belongs to its file, which reports it.
            except Exception as error:
                self._known[job.image] = error
        keywords = {**_keywords(self.arguments), "return_": self.arguments.return_}
        size = keywords.pop("size", None)
        if size is not None:
            keywords["preprocessing"] = _of_size(self.model, size)
        if len(pictures) > 1:
            try:
                found = predict(self.model, list(pictures.values()), progress=step, **keywords)
            # One of them spoils the batch: one by one, it shows which.
            except Exception:
                found = None
            if found is not None:
                pairs = zip(pictures.values(), found, strict=True)
                self._known.update(zip(pictures, pairs, strict=True))
                return
        for path, picture in pictures.items():
            try:
                result = predict(self.model, picture, progress=step, **keywords)
                self._known[path] = (picture, result)
            except Exception as error:
                self._known[path] = error


def _picture(path: Path, *, exif: bool) -> Array:
    picture = reading.read_picture(path, exif=exif)
    values = picture.values
    if picture.sixteen_bit and values.dtype != np.uint16:
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"{path.name} has values outside 0 … 65535")
        values = values.astype(np.uint16)
    return values


def _of_size(model: Any, size: Sequence[int]) -> Any:
    from fastseg.inference._scores import Scorer

    prepare = Scorer(model).preprocessing(None)
    return prepare.replace(size=(size[0], size[1]), shortest_edge=None, longest_edge=None)


def _write(
    job: _Job,
    picture: Array,
    result: Array,
    arguments: argparse.Namespace,
    entry: dict[str, Any],
) -> None:
    labels = result if arguments.return_ == "labels" else _likeliest(result)
    present = np.unique(labels)
    entry["shape"] = list(labels.shape)
    entry["labels"] = [int(label) for label in present]
    colors = None
    if arguments.palette != "none":
        from fastseg.labelmaps import palette

        # A palette that is too short is no reason to lose the labels.
        count = max(int(present[-1]) + 1, 2)
        try:
            colors = palette(arguments.palette, count)
        except FastsegError:
            colors = palette("distinct", count)
    suffix = job.result.suffix[1:]
    if arguments.return_ == "labels":
        small = colors if colors is not None and len(colors) <= _MOST_COLORS else None
        writing.write_labels(job.result, labels, suffix=suffix, palette=small, affine=None)
    else:
        writing.write_probabilities(job.result, result, suffix=suffix, grey_bits=16, affine=None)
    entry["outputs"] = {arguments.return_: str(job.result)}
    if arguments.overlay:
        _write_overlay(job.overlay, picture, labels, colors, arguments.alpha)
        entry["outputs"]["overlay"] = str(job.overlay)


def _likeliest(probs: Array) -> Array:
    labels: Array = probs[0] > 0.5 if len(probs) == 1 else probs.argmax(axis=0)
    return labels


def _write_overlay(
    path: Path, picture: Array, labels: Array, colors: Array | None, alpha: float
) -> None:
    from PIL import Image

    from fastseg.cli.before_after import as_rgb
    from fastseg.labelmaps import overlay

    channels_first = picture.ndim == 3 and picture.shape[:2] != labels.shape
    shown = as_rgb(np.moveaxis(picture, 0, -1) if channels_first else picture)
    tinted = overlay(
        shown,
        labels.astype(np.int32),
        palette="distinct" if colors is None else colors,
        alpha=alpha,
        ignore_index=None,
    )
    page = Image.fromarray(tinted)
    writing.write_atomically(path, lambda file: page.save(file, format="PNG"))


def _keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `predict` that were given."""
    names = ("mode", "size", "overlap", "tta", "crf", "batch_size")
    given = {name: getattr(arguments, name) for name in names}
    if arguments.window:
        height, width = (*arguments.window, *arguments.window)[:2]
        given["window"] = (height, width)
    return {name: value for name, value in given.items() if value not in (None, ())}


def _pass(text: str) -> str | float:
    if text in _FLIPS:
        return text
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(_FLIPS)} or a factor on the size, got {text!r}"
        ) from None
