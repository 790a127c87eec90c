"""`fastseg evaluate`: compare predicted label maps with the ground truth."""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastseg.cli import reading, writing
from fastseg.cli.arguments import whole
from fastseg.cli.evaluation_page import (
    SCORE_NAMES,
    Evaluation,
    WorstImage,
    evaluation_page,
    percent,
)
from fastseg.cli.exit_codes import DESCRIPTION, SOME_FAILED, USAGE, UsageError
from fastseg.cli.pairing import IMAGE_SUFFIXES, MAP_SUFFIXES, Pair, expand, pair_up
from fastseg.cli.running import Step, check_output, print_report, work_off
from fastseg.errors import FastsegError, LabelError, ShapeError

if TYPE_CHECKING:
    from fastseg.cli.tally import ImageScore, Tally

Array = NDArray[Any]

_MOST_NAMED = 100
_VOID_NAME = "no class"
_CLASS_COLUMNS = ("iou", "dice", "precision", "recall")
_EPILOG = f"""\
inputs:
  PRED, GT     folders of label maps, or one file each: grey or palette PNG, .npy, .npz, .tif,
               .nii.gz. .tif and .nii.gz need: pip install 'fastseg-rs[io]'

pairs:
  Files whose names agree but for the suffix (and an ending such as _pred, _gt, _labels, _mask).
  A file without a partner is named, and fails the run once the others are done, unless
  --ignore-unpaired is given.

results:
  A table on stdout. With -o: report.html (everything, with the confusion matrix drawn and the
  worst images), classes.csv, images.csv (one line an image), confusion.csv, and the pictures of the
  worst images in worst/.

scores:
  IoU = TP / (TP + FP + FN), Dice = 2 TP / (2 TP + FP + FN), from counts over all images. A class
  that is neither in the ground truth nor predicted is left out of the means. Image mIoU: the mean
  over images of each one's mean IoU over the classes in its ground truth.

{DESCRIPTION}"""


def add_parser(commands: Any) -> None:
    """Add `evaluate` to the sub-commands."""
    parser = commands.add_parser(
        "evaluate",
        help="compare label maps with the ground truth",
        description=(
            "Compare predicted label maps with the ground truth: IoU, Dice and more for each class "
            "and over all, the confusion matrix, and the worst images to look at. Memory does not "
            "grow with the number of images."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("pred", type=Path, metavar="PRED", help="predictions: a folder or a file")
    parser.add_argument("gt", type=Path, metavar="GT", help="ground truth: a folder or a file")
    parser.add_argument(
        "--num-classes",
        type=whole(1),
        required=True,
        metavar="K",
        help="number of classes; labels are 0 … K-1",
    )
    parser.add_argument(
        "--ignore-index",
        type=int,
        metavar="LABEL",
        help="ground truth of pixels that do not count, for instance 255 (default: none)",
    )
    parser.add_argument(
        "--out-of-range",
        choices=("raise", "void"),
        default="raise",
        help="an image with labels beyond 0 … K-1 fails (raise), or such predictions count as "
        "wrong and such ground truth does not count (void) (default: raise)",
    )
    parser.add_argument(
        "--class-names",
        metavar="NAMES",
        help="names of the classes: a text file with one a line, or a list with commas",
    )
    parser.add_argument(
        "--ignore-unpaired", action="store_true", help="leave out files that do not pair"
    )
    parser.add_argument(
        "--key", metavar="NAME", help="the array to take from .npz files that hold several"
    )
    output = parser.add_argument_group("results")
    output.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder for the report, made if missing"
    )
    output.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the photographs, to show the worst images on (default: a plain ground)",
    )
    output.add_argument(
        "--worst",
        type=whole(0),
        default=8,
        metavar="N",
        help="how many of the worst images are shown (default: 8)",
    )
    output.add_argument(
        "--palette",
        metavar="NAME",
        help="colours of the classes: voc, cityscapes, ade20k (default: bright ones)",
    )
    output.add_argument(
        "--picture-size",
        type=whole(16),
        default=560,
        metavar="N",
        help="longest side of the pictures in the report, in pixels (default: 560)",
    )
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document instead")
    form.add_argument("--csv", action="store_true", help="print the classes as CSV instead")
    output.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="progress bar on stderr (default: where stderr is a terminal)",
    )
    output.add_argument("--debug", action="store_true", help="print the traceback of every failure")
    output.add_argument(
        "--threads",
        type=whole(1),
        metavar="N",
        help="threads of the engine (default: FASTSEG_NUM_THREADS, or one per core)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `fastseg evaluate`.

    Returns:
        The exit code.

    Raises:
        UsageError: Nothing can be done; with --json the document says so as well.
    """
    began = time.perf_counter()
    report: dict[str, Any] = {"command": "evaluate", "ok": False, "files": []}
    try:
        code = _evaluate(arguments, report)
    except UsageError as error:
        if not arguments.json:
            raise
        report["error"] = {"type": "UsageError", "message": str(error)}
        code = USAGE
        print(f"fastseg evaluate: error: {error}", file=sys.stderr)
    if arguments.json:
        print_report(_without_nan(report), code, time.perf_counter() - began)
    return code


def _evaluate(arguments: argparse.Namespace, report: dict[str, Any]) -> int:
    # Not before it is needed: `fastseg info` works where the engine does not.
    from fastseg.cli.tally import Tally

    pairs, unpaired = _pairs(arguments)
    names = _class_names(arguments)
    colors = _colors(arguments)
    photos = _photos(arguments, pairs)
    if arguments.threads is not None:
        from fastseg.threads import set_num_threads

        set_num_threads(arguments.threads)
    if arguments.output is not None:
        check_output(arguments.output)
    tally = Tally(
        arguments.num_classes, arguments.ignore_index, arguments.out_of_range, arguments.worst
    )
    with _image_table(arguments.output) as write_line:

        def do(pair: Pair, _entry: dict[str, Any], _step: Step | None) -> str:
            score = tally.add(pair, *_read(pair, arguments.key))
            write_line(score)
            return ""

        code = work_off(
            pairs,
            do,
            command="evaluate",
            files=lambda pair: {"image": str(pair.image), "target": str(pair.source)},
            unit_of_one="image",
            arguments=arguments,
            report=report,
            keep_done=False,
        )
        if code not in (0, SOME_FAILED):
            return code
    for path, message in unpaired:
        report["files"].append(
            {
                "image": str(path),
                "status": "failed",
                "error": {"type": "UnpairedError", "message": message},
            }
        )
    report["failed"] += len(unpaired)
    _tell_unpaired(unpaired)
    if unpaired:
        code = SOME_FAILED
    if tally.confusion[:, -1].any():
        names = [*names, _VOID_NAME]
    report.update(
        num_classes=arguments.num_classes,
        ignore_index=arguments.ignore_index,
        images=tally.images,
        scores=tally.scores(),
        classes=[{"name": name, **row} for name, row in zip(names, tally.classes(), strict=False)],
        confusion=tally.confusion[:, : len(names)],
        worst=[_as_entry(score) for score in tally.worst],
    )
    if arguments.output is not None:
        _write(arguments, report, tally, names, colors, photos)
    if arguments.csv:
        _write_classes(sys.stdout, report["classes"])
    elif not arguments.json:
        print(_as_text(report, names))
    return code


def _pairs(arguments: argparse.Namespace) -> tuple[list[Pair], list[tuple[Path, str]]]:
    """Find the pairs, and the files without a partner with what is wrong with them."""
    both = (arguments.pred, arguments.gt)
    if any(path.is_dir() for path in both) and not all(path.is_dir() for path in both):
        file = next(path for path in both if not path.is_dir())
        if not file.exists():
            raise UsageError(f"{file} does not exist")
        raise UsageError("PRED and GT must both be folders, or both be files")
    for path in both:
        if not path.exists():
            raise UsageError(f"{path} does not exist")
    preds = expand([arguments.pred], MAP_SUFFIXES, "label maps")
    targets = expand([arguments.gt], MAP_SUFFIXES, "label maps")
    pairing = pair_up(preds, targets, by_name=arguments.pred.is_dir())
    if not pairing.pairs:
        raise UsageError(f"no file in {arguments.pred} has the name of one in {arguments.gt}")
    if arguments.ignore_unpaired:
        return pairing.pairs, []
    unpaired = [
        (path, f"no prediction for it in {arguments.pred}") for path in pairing.sources_left
    ]
    unpaired += [
        (path, f"no ground truth for it in {arguments.gt}") for path in pairing.images_left
    ]
    return pairing.pairs, unpaired


def _tell_unpaired(unpaired: Sequence[tuple[Path, str]]) -> None:
    for path, message in unpaired[:_MOST_NAMED]:
        print(f"fastseg evaluate: {path.name}: {message}", file=sys.stderr)
    if len(unpaired) > _MOST_NAMED:
        print(
            f"fastseg evaluate: {len(unpaired) - _MOST_NAMED} more files without a partner; --json "
            "names them all",
            file=sys.stderr,
        )


def _class_names(arguments: argparse.Namespace) -> list[str]:
    number = arguments.num_classes
    if arguments.class_names is None:
        return [str(label) for label in range(number)]
    path = Path(arguments.class_names)
    if path.is_file():
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--class-names {path} cannot be read: {error}") from error
    else:
        names = arguments.class_names.split(",")
    names = [name.strip() for name in names if name.strip()]
    if len(names) != number:
        raise UsageError(f"--class-names has {len(names)} names for {number} classes")
    return names


def _colors(arguments: argparse.Namespace) -> NDArray[np.uint8]:
    from fastseg.labelmaps import palette

    if arguments.palette is None:
        # Without the black that it begins with: here class 0 is one like the others.
        return palette("distinct", arguments.num_classes + 1)[1:]
    try:
        return palette(arguments.palette, arguments.num_classes)
    except FastsegError as error:
        raise UsageError(f"--palette: {error}") from error


def _photos(arguments: argparse.Namespace, pairs: Sequence[Pair]) -> dict[Path, Path]:
    """The photograph of each ground truth that has one."""
    if arguments.images is None:
        return {}
    found = expand([arguments.images], IMAGE_SUFFIXES, "pictures")
    pairing = pair_up([pair.source for pair in pairs], found, by_name=arguments.images.is_dir())
    return {pair.image: pair.source for pair in pairing.pairs}


def _read(pair: Pair, key: str | None) -> tuple[Array, Array]:
    maps = []
    for path in pair[:2]:
        read = reading.read_labels(path, key=key)
        if read.colored:
            raise LabelError(
                f"{path.name} is a coloured picture; evaluate takes label numbers, as a grey or "
                "palette picture"
            )
        maps.append(read.values)
    pred, target = maps
    if pred.shape != target.shape:
        raise ShapeError(
            f"{pair.image.name} has {reading.size_of(pred.shape)} pixels, its ground truth "
            f"{pair.source.name} has {reading.size_of(target.shape)}: bring the prediction to the "
            "size of the ground truth first"
        )
    return pred, target


@contextmanager
def _image_table(folder: Path | None) -> Iterator[Any]:
    """Write a line for each image as it is done, so that none needs to be remembered."""
    if folder is None:
        yield lambda _score: None
        return
    final = folder / "images.csv"
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["prediction", "target", "mean_iou", "pixel_accuracy", "pixels"])

            def write_line(score: ImageScore) -> None:
                pair = score.pair
                numbers = (score.mean_iou, score.accuracy)
                table.writerow([pair.image, pair.source, *map(_cell, numbers), score.pixels])

            yield write_line
        temporary.replace(final)
    except OSError as error:
        raise writing.WriteError(f"cannot write {final}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _write_classes(file: Any, rows: Sequence[dict[str, Any]]) -> None:
    table = csv.writer(file, lineterminator="\n")
    table.writerow(rows[0])
    table.writerows([_cell(value) for value in row.values()] for row in rows)


def _as_entry(score: ImageScore) -> dict[str, Any]:
    return {
        "image": str(score.pair.image),
        "target": str(score.pair.source),
        "mean_iou": score.mean_iou,
        "pixel_accuracy": score.accuracy,
    }


def _write(
    arguments: argparse.Namespace,
    report: dict[str, Any],
    tally: Tally,
    names: Sequence[str],
    colors: NDArray[np.uint8],
    photos: dict[Path, Path],
) -> None:
    folder: Path = arguments.output
    from fastseg.cli.mistakes_drawing import side_by_side

    with _text_file(folder / "classes.csv") as file:
        _write_classes(file, report["classes"])
    with _text_file(folder / "confusion.csv") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["target \\ prediction", *names])
        for name, row in zip(names, report["confusion"].tolist(), strict=False):
            table.writerow([name, *row])
    worst = []
    for place, score in enumerate(tally.worst):
        panels = _panels(score, arguments, colors, photos)
        picture = side_by_side(panels)
        target = folder / "worst" / f"{place + 1:02d}_{score.pair.stem}.png"
        target.parent.mkdir(exist_ok=True)
        writing.write_atomically(target, partial(picture.save, format="PNG"))
        worst.append(
            WorstImage(
                score.pair.image.name,
                score.mean_iou,
                score.accuracy,
                _in_words(score, [*names, _VOID_NAME]),
                panels,
            )
        )
    failures = [(Path(entry["image"]).name, entry["error"]["message"]) for entry in report["files"]]
    page = evaluation_page(
        Evaluation(
            title="How good the segmentation is",
            subtitle=(
                f"{arguments.pred} against {arguments.gt} · {tally.images:,} "
                f"image{'' if tally.images == 1 else 's'}, {int(tally.confusion.sum()):,} pixels, "
                f"{arguments.num_classes} classes"
            ),
            scores=report["scores"],
            classes=report["classes"],
            names=names,
            colors=colors,
            confusion=report["confusion"],
            worst=worst,
            failures=failures,
        )
    )
    with _text_file(folder / "report.html") as file:
        file.write(page)
    report["outputs"] = {"report": str(folder / "report.html")}


@contextmanager
def _text_file(path: Path) -> Iterator[Any]:
    """A text file that appears under its name once it is complete."""
    import io

    text = io.StringIO()
    yield text
    content = text.getvalue().encode("utf-8")

    def write(file: Any) -> None:
        file.write(content)

    writing.write_atomically(path, write)


def _panels(
    score: ImageScore,
    arguments: argparse.Namespace,
    colors: NDArray[np.uint8],
    photos: dict[Path, Path],
) -> list[tuple[NDArray[np.uint8], str]]:
    from fastseg.cli.mistakes_drawing import mistakes_drawing

    # Read again: of all images only the names of the worst are remembered.
    pred, target = _read(score.pair, arguments.key)
    photo = _photo(photos.get(score.pair.source), target.shape)
    if target.ndim == 3:
        wrong = pred != target
        if arguments.ignore_index is not None:
            wrong &= target != arguments.ignore_index
        # The slice with the most mistakes tells most.
        index = int(np.count_nonzero(wrong, axis=(1, 2)).argmax())
        pred, target, photo = pred[index], target[index], None
    return mistakes_drawing(
        pred,
        target,
        photo,
        colors=colors,
        ignore_index=arguments.ignore_index,
        size=arguments.picture_size,
    )


def _photo(path: Path | None, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The photograph, if it can be read and has the shape of the labels."""
    if path is None or len(shape) != 2:
        return None
    from fastseg.cli.before_after import as_rgb

    try:
        values = reading.read_picture(path).values
    except FastsegError as error:
        print(f"fastseg evaluate: without the photograph: {error}", file=sys.stderr)
        return None
    if values.ndim not in (2, 3) or values.shape[:2] != shape:
        print(
            f"fastseg evaluate: without the photograph {path.name}, which has another size than "
            "its labels",
            file=sys.stderr,
        )
        return None
    return as_rgb(values)


def _in_words(score: ImageScore, names: Sequence[str]) -> str:
    if score.confusion is None:
        return ""
    target, pred, pixels = score.confusion
    # The void column may lie behind names that do not list it.
    pred_name = names[pred] if pred < len(names) else _VOID_NAME
    share = percent(pixels / max(1, score.pixels))
    return f"mostly {names[target]} taken for {pred_name} ({share})"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what there is nothing to say about is null."""
    if isinstance(value, dict):
        return {key: _without_nan(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inside) for inside in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _as_text(report: dict[str, Any], names: Sequence[str]) -> str:
    total = max(1, sum(row["target_pixels"] for row in report["classes"]))
    width = max(5, *(len(name) for name in names))
    header = f"{'class':<{width}}" + "".join(f"{name:>11}" for name in _CLASS_COLUMNS)
    lines = [f"{header}{'pixels':>11}{'images':>9}"]
    for row in report["classes"]:
        cells = "".join(f"{percent(row[name], 2):>11}" for name in _CLASS_COLUMNS)
        share = percent(row["target_pixels"] / total, 2)
        lines.append(f"{row['name']:<{width}}{cells}{share:>11}{row['images']:>9,}")
    lines.append("")
    for name, value in report["scores"].items():
        lines.append(f"{SCORE_NAMES[name][0]:<24}{percent(value, 2):>10}")
    if report["worst"]:
        lines += ["", "worst images (mIoU)"]
        for entry in report["worst"]:
            lines.append(f"  {percent(entry['mean_iou'], 2):>9}  {entry['image']}")
    if "outputs" in report:
        lines += ["", f"report: {report['outputs']['report']}"]
    failed = len(report["files"])
    if failed:
        lines += ["", f"{failed} file{'s are' if failed > 1 else ' is'} not in these scores"]
    return "\n".join(lines)
