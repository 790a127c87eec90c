"""`fastseg refine`: sharpen probabilities, labels or scribbles with the picture they belong to."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg.cli import reading, writing
from fastseg.cli.arguments import at_least_zero, fraction, positive, positive_each, whole
from fastseg.cli.exit_codes import DESCRIPTION, USAGE, UsageError
from fastseg.cli.pairing import (
    IMAGE_SUFFIXES,
    MAP_SUFFIXES,
    Pair,
    describe_unpaired,
    expand,
    pair_up,
    suffix_of,
)
from fastseg.cli.running import Step, check_output, print_report, work_off
from fastseg.errors import DataError, LabelError, ShapeError

Array = NDArray[Any]

PRESET_NAMES = ("pydensecrf", "deeplab-v1", "deeplab-v2", "crf-as-rnn")
NORMALIZATIONS = ("none", "before", "after", "symmetric")
INTENSITIES = ("auto", "raw", "stretch")
_ROLES = ("probs", "logits", "labels", "scribbles")
_AUTO = "auto"

_EPILOG = f"""\
inputs:
  IMAGE        anything Pillow reads (PNG, JPEG, WebP …), .npy, .npz, .tif, .nii.gz; an EXIF
               rotation is applied, CMYK becomes RGB, 16-bit pictures are brought to 0 … 255;
               partly transparent and animated ones are refused
  --probs      (K, H, W), (H, W, K) or, for the foreground, (H, W): .npy, .npz, .tif, .nii.gz;
               or a grey PNG of the foreground, 0 … 255 or 0 … 65535 for 0 … 1
  --labels     grey, palette or coloured PNG, .npy, .npz, .tif, .nii.gz; every pixel has a label
               unless --unknown names one that says it has none
  --scribbles  likewise, where most pixels have none: 0, black, and transparent ones
  .tif and .nii.gz need: pip install 'fastseg-rs[io]'. A NIfTI file, or a stack (D, H, W) with
  --spacing of three numbers, is refined as a volume.

pairs:
  One image and one other file belong together. Of several, and of folders, those do whose names
  agree but for the suffix (and an ending such as _image, _probs, _labels, _mask). Files that do
  not pair stop the run before it starts, unless --ignore-unpaired is given.

results:
  OUT/NAME.<format>, and with --overlay OUT/NAME_overlay.png, NAME being that of the image. Each
  is written to a temporary name first and renamed. Labels come out with the values or colours
  they came in with.

{DESCRIPTION}"""


def add_parser(commands: Any) -> None:
    """Add `refine` to the sub-commands."""
    parser = commands.add_parser(
        "refine",
        help="sharpen masks along the edges of their pictures",
        description=(
            "Refine probabilities, label maps or scribbles with a fully connected CRF, so that "
            "they follow the edges of the picture."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="pictures, or folders of them"
    )
    source = parser.add_argument_group("what to refine (exactly one)")
    choice = source.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "--probs", nargs="+", type=Path, metavar="P", help="probabilities, or folders of them"
    )
    choice.add_argument(
        "--logits",
        nargs="+",
        type=Path,
        metavar="P",
        help="scores before the softmax (before the sigmoid, for the foreground alone)",
    )
    choice.add_argument(
        "--labels", nargs="+", type=Path, metavar="L", help="label maps, or folders of them"
    )
    choice.add_argument(
        "--scribbles",
        nargs="+",
        type=Path,
        metavar="S",
        help="maps in which few pixels have a label, or folders of them",
    )
    source.add_argument(
        "--key", metavar="NAME", help="the array to take from .npz files that hold several"
    )
    source.add_argument(
        "--num-classes",
        type=whole(2),
        metavar="K",
        help="number of classes; labels are then 0 … K-1 (default: as many as the file has)",
    )
    source.add_argument(
        "--gt-prob",
        type=fraction,
        default=0.7,
        metavar="P",
        help="how far a label or scribble is trusted: its probability, in (0, 1) (default: 0.7)",
    )
    source.add_argument(
        "--unknown",
        type=_unknown,
        default=_AUTO,
        metavar="VALUE",
        help="label or colour (#rrggbb) of pixels without a label, or 'none' "
        "(default: 0 or black for --scribbles, none for --labels)",
    )
    source.add_argument(
        "--ignore-unpaired", action="store_true", help="leave out files that do not pair"
    )
    output = parser.add_argument_group("results")
    output.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder, made if missing"
    )
    output.add_argument(
        "--return",
        dest="return_",
        choices=("probs", "labels"),
        help="what to write (default: probs for --probs and --logits, otherwise labels)",
    )
    output.add_argument(
        "--output-format",
        choices=writing.FORMATS,
        metavar="|".join(writing.FORMATS),
        help="file format (default: that of the input where possible; labels of pictures: png)",
    )
    output.add_argument("--overlay", action="store_true", help="also write a before/after picture")
    output.add_argument(
        "--overlay-size",
        type=whole(16),
        default=1024,
        metavar="N",
        help="longest side of its panels, in pixels (default: 1024)",
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
    _add_parameters(parser.add_argument_group("parameters of the refinement"))


def _add_parameters(group: Any) -> None:
    group.add_argument(
        "--preset",
        metavar="NAME",
        help=f"published parameters: {', '.join(PRESET_NAMES)} (default: pydensecrf); the "
        "options below change them one by one",
    )
    group.add_argument(
        "--iterations", type=whole(0), metavar="N", help="mean-field updates (default: 5)"
    )
    for name, default, unit in (
        ("spatial-weight", "3", "strength of the smoothing by position; 0 switches it off"),
        ("bilateral-weight", "10", "strength of the smoothing within a colour; 0 switches it off"),
    ):
        group.add_argument(
            f"--{name}", type=at_least_zero, metavar="W", help=f"{unit} (default: {default})"
        )
    for name, default, unit in (
        ("spatial-sigma", "3", "reach of the smoothing by position"),
        ("bilateral-sigma", "80", "reach of the smoothing within a colour"),
    ):
        group.add_argument(
            f"--{name}",
            type=positive_each,
            metavar="PIXELS",
            help=f"{unit}, in pixels, or in the unit of --spacing; one number, or one for each "
            f"axis as Y,X or Z,Y,X (default: {default})",
        )
    group.add_argument(
        "--color-sigma",
        type=positive_each,
        metavar="S",
        help="difference in colour that counts as an edge, in the picture's values, 0 … 255 for "
        "photographs; one number, or one for each channel as R,G,B (default: 13)",
    )
    group.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        help="where the kernels are normalised (default: symmetric)",
    )
    group.add_argument(
        "--compat",
        type=Path,
        metavar="FILE",
        help="(K, K) penalties between classes, or (K,) weights, as .npy or text (default: Potts)",
    )
    group.add_argument(
        "--clip",
        type=fraction,
        metavar="P",
        help="smallest probability that is told apart from zero (default: 1e-5)",
    )
    group.add_argument(
        "--tolerance",
        type=at_least_zero,
        metavar="T",
        help="stop before --iterations once an update changes the free energy by no more than "
        "this, in nats a pixel (default: never)",
    )
    group.add_argument(
        "--spacing",
        type=positive,
        nargs="+",
        metavar="S",
        help="size of a pixel or voxel, `Y X` or `Z Y X`, for instance in mm "
        "(default: 1, or what a NIfTI file says)",
    )
    group.add_argument(
        "--channel-axis",
        type=int,
        metavar="AXIS",
        help="axis of the colours in an image array (default: found from the shapes)",
    )
    group.add_argument(
        "--intensity",
        choices=INTENSITIES,
        default=_AUTO,
        help="auto: bring 16-bit PNG and TIFF and floats in [0, 1] to 0 … 255; raw: leave the "
        "values; stretch: bring the 1st … 99th percentile to 0 … 255 (default: auto)",
    )
    group.add_argument(
        "--ignore-exif", action="store_true", help="do not turn photographs as their EXIF says"
    )
    group.add_argument(
        "--threads",
        type=whole(1),
        metavar="N",
        help="threads of the engine (default: FASTSEG_NUM_THREADS, or one per core)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `fastseg refine`.

    Returns:
        The exit code.

    Raises:
        UsageError: Nothing can be done; with --json the document says so as well.
    """
    began = time.perf_counter()
    report: dict[str, Any] = {"command": "refine", "ok": False, "files": []}
    try:
        jobs = _prepare(arguments)
        if arguments.skip_existing:
            missing = [job for job in jobs if not job.result(arguments.output).exists()]
            report["skipped"] = len(jobs) - len(missing)
            jobs = missing
        report["parameters"] = _keywords(arguments)
        code = _work_off(jobs, arguments, report)
    except UsageError as error:
        if not arguments.json:
            raise
        report["error"] = {"type": "UsageError", "message": str(error)}
        code = USAGE
        print(f"fastseg refine: error: {error}", file=sys.stderr)
    if arguments.json:
        print_report(report, code, time.perf_counter() - began)
    return code


@dataclass(frozen=True)
class _Job:
    """A pair and the files it becomes."""

    pair: Pair
    role: str
    returned: str
    suffix: str

    def result(self, folder: Path) -> Path:
        return folder / f"{self.pair.stem}.{self.suffix}"

    def overlay(self, folder: Path) -> Path:
        return folder / f"{self.pair.stem}_overlay.png"


@dataclass(frozen=True)
class _Problem:
    """What is refined, in one form whatever it came from.

    Attributes:
        scores: (K, *spatial) probabilities or logits; (1, *spatial) for the foreground alone.
        before: *spatial labels 0 … K-1, -1 where there is none.
        restore: Turns the (K, *spatial) result into the layout of the input.
        label_values: The value in the file of each label 0 … K-1.
        colors: (K, 3) uint8, the labels' own colours, where they have some.
        palette: The palette of a result that is a PNG.
        affine: The NIfTI affine of the source.
        grey_bits: Depth of a PNG of the foreground.
    """

    scores: Array
    before: NDArray[np.int32]
    restore: Callable[[Array], Array]
    label_values: Array
    colors: NDArray[np.uint8] | None = None
    palette: NDArray[np.uint8] | None = None
    affine: Array | None = None
    grey_bits: int = 16


def _prepare(arguments: argparse.Namespace) -> list[_Job]:
    """Find the pairs and check everything that concerns all of them."""
    role = next(name for name in _ROLES if getattr(arguments, name))
    option = f"--{role}"
    images = expand(arguments.images, IMAGE_SUFFIXES, "pictures")
    sources = expand(getattr(arguments, role), MAP_SUFFIXES, f"files for {option}")
    pairing = pair_up(images, sources)
    if (pairing.images_left or pairing.sources_left) and not arguments.ignore_unpaired:
        raise UsageError(
            f"{describe_unpaired(pairing, option)}\n"
            "Files pair by their names without the suffix; --ignore-unpaired leaves these out."
        )
    if not pairing.pairs:
        raise UsageError(f"no image has a file in {option} of the same name")
    if arguments.preset is not None:
        crf = _engine()
        if arguments.preset not in crf.PRESETS:
            raise UsageError(
                f"unknown preset {arguments.preset!r}; known are {', '.join(crf.PRESETS)}"
            )
    returned = arguments.return_ or ("labels" if role in ("labels", "scribbles") else "probs")
    jobs = [
        _Job(pair, role, returned, arguments.output_format or _natural_format(pair, returned))
        for pair in pairing.pairs
    ]
    check_output(arguments.output)
    inputs = {path.resolve() for path in (*images, *sources)}
    for job in jobs:
        for path in (job.result(arguments.output), job.overlay(arguments.output)):
            if path.resolve() in inputs and (path.suffix == job.suffix or path.exists()):
                raise UsageError(f"the result {path} would replace an input: choose another -o")
    return jobs


def _natural_format(pair: Pair, returned: str) -> str:
    """Return the format that a user of such inputs expects the result in."""
    source, image = suffix_of(pair.source), suffix_of(pair.image)
    if source.startswith(".nii") or image.startswith(".nii"):
        return "nii.gz"
    if source in (".npy", ".npz"):
        return source[1:]
    if source == ".png" or (returned == "labels" and source not in (".tif", ".tiff")):
        return "png"
    return "npy"


def _work_off(jobs: Sequence[_Job], arguments: argparse.Namespace, report: dict[str, Any]) -> int:
    """Do every job, keep going after failures, and tell about each."""
    crf = _engine()
    if arguments.threads is not None:
        from fastseg.threads import set_num_threads

        set_num_threads(arguments.threads)

    def do(job: _Job, entry: dict[str, Any], step: Step | None) -> str:
        _refine_one(job, arguments, crf, entry, step)
        return _summary(entry)

    return work_off(
        jobs,
        do,
        command="refine",
        files=lambda job: {"image": str(job.pair.image), job.role: str(job.pair.source)},
        unit_of_one="iteration",
        arguments=arguments,
        report=report,
    )


def _refine_one(
    job: _Job,
    arguments: argparse.Namespace,
    crf: Any,
    entry: dict[str, Any],
    step: Step | None,
) -> None:
    pair = job.pair
    picture = reading.read_picture(pair.image, exif=not arguments.ignore_exif, key=None)
    layout, problem = _read_problem(job, arguments, picture)
    spatial = layout.spatial
    _check_affines(pair, picture, problem)
    guide = _guide(picture, layout, arguments.intensity)
    num_classes = len(problem.label_values)
    entry.update(
        shape=list(spatial),
        num_classes=num_classes,
        labels=[int(value) for value in problem.label_values],
    )
    if problem.colors is not None:
        entry["colors"] = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in problem.colors.tolist()]
    low, high = float(np.min(guide)), float(np.max(guide))
    entry["image_range"] = [low, high]
    notes: list[str] = []
    if arguments.intensity == _AUTO and (high > 256 or low < 0):
        notes.append(
            f"the picture's values range from {low:g} to {high:g} and --color-sigma is in these "
            "units; --intensity stretch brings them to 0 … 255"
        )
    keywords = _keywords(arguments)
    spacing = arguments.spacing or picture.spacing
    if spacing is not None and len(spacing) != len(spatial):
        raise ShapeError(
            f"--spacing has {len(spacing)} numbers, but {pair.image.name} has {len(spatial)} axes"
        )
    if spacing is not None or len(spatial) == 3:
        keywords["spacing"] = tuple(spacing or (1.0,) * len(spatial))
        entry["spacing"] = list(keywords["spacing"])
    if layout.channel_axis is not None:
        keywords["channel_axis"] = -1
    if step is not None:
        keywords["progress"] = step
    began = time.perf_counter()
    if len(problem.label_values) == 1:
        # An empty mask among many is no failure; there is nothing to decide about it.
        notes.append("one label only: written as it is")
        refined = problem.scores if job.returned == "probs" else problem.before
        after = problem.before
    else:
        scores = {"logits" if job.role == "logits" else "probs": problem.scores}
        refined = np.asarray(crf.refine(image=guide, return_=job.returned, **scores, **keywords))
        after = refined if job.returned == "labels" else _decided(refined, logits=False)
        after = after.reshape(spatial).astype(np.int32)
    entry["seconds"] = time.perf_counter() - began
    known = problem.before >= 0
    changed = float(np.mean(after[known] != problem.before[known])) if known.any() else 0.0
    entry["labelled_fraction"] = float(known.mean())
    entry["changed_fraction"] = changed
    vanished = np.setdiff1d(problem.before[known], after)
    entry["vanished_labels"] = [int(value) for value in problem.label_values[vanished]]
    if entry["vanished_labels"]:
        shown = ", ".join(str(value) for value in entry["vanished_labels"][:8])
        more = len(entry["vanished_labels"]) - 8
        notes.append(
            f"no pixel is left of label {shown}{f' and {more} more' if more > 0 else ''}: lower "
            "weights or sigmas keep small things"
        )
    entry["notes"] = notes
    affine = picture.affine if picture.affine is not None else problem.affine
    result = job.result(arguments.output)
    if job.returned == "labels":
        values = problem.label_values[after]
        writing.write_labels(
            result, values, suffix=job.suffix, palette=problem.palette, affine=affine
        )
    else:
        probs = problem.restore(refined)
        if job.suffix == "nii.gz":
            # NIfTI has its own order of axes; a flat picture becomes a volume one voxel deep.
            probs = refined if len(refined) > 1 else refined[0]
            probs = probs if len(spatial) == 3 else probs[..., np.newaxis, :, :]
        writing.write_probabilities(
            result, probs, suffix=job.suffix, grey_bits=problem.grey_bits, affine=affine
        )
    entry["outputs"] = {job.returned: str(result)}
    if arguments.overlay:
        target = job.overlay(arguments.output)
        _write_overlay(target, guide, problem, after, entry, arguments.overlay_size)
        entry["outputs"]["overlay"] = str(target)


def _read_problem(
    job: _Job, arguments: argparse.Namespace, picture: reading.Picture
) -> tuple[reading.Layout, _Problem]:
    picture = _restricted(picture, arguments, job.pair.image.name)
    names = (job.pair.source.name, job.pair.image.name)[::-1]
    if job.role in ("probs", "logits"):
        logits = job.role == "logits"
        scores = reading.read_scores(job.pair.source, logits=logits, key=arguments.key)
        layout = reading.choose_layout(picture, scores.values.shape, names)
        return layout, _from_scores(scores, layout, arguments, names[1], logits=logits)
    labels = reading.read_labels(job.pair.source, key=arguments.key)
    layout = reading.choose_layout(picture, labels.values.shape, names)
    if labels.values.shape != layout.spatial:
        values = labels.values.reshape(layout.spatial) if labels.values.shape[0] == 1 else None
        if values is None:
            raise ShapeError(
                f"{names[1]} has the shape {labels.values.shape}; a map of labels for {names[0]} "
                f"has {layout.spatial}. For probabilities use --probs"
            )
        labels = reading.LabelMap(values, affine=labels.affine)
    return layout, _from_labels(labels, arguments, names[1], scribbles=job.role == "scribbles")


def _restricted(
    picture: reading.Picture, arguments: argparse.Namespace, name: str
) -> reading.Picture:
    """Leave only the ways to read the picture that the options allow."""
    layouts = picture.layouts
    if arguments.channel_axis is not None and picture.values.ndim > 2:
        axis = arguments.channel_axis % picture.values.ndim
        spatial = tuple(size for i, size in enumerate(picture.values.shape) if i != axis)
        layouts = (reading.Layout(spatial, axis),)
    if arguments.spacing is not None:
        layouts = tuple(
            layout for layout in layouts if len(layout.spatial) == len(arguments.spacing)
        )
        if not layouts:
            raise ShapeError(
                f"{name} has the shape {picture.values.shape}, which does not go with --spacing "
                f"of {len(arguments.spacing)} numbers"
            )
    return reading.Picture(
        picture.values,
        layouts,
        picture.spacing,
        picture.affine,
        picture.unturned,
        picture.sixteen_bit,
    )


def _from_scores(
    scores: reading.Scores,
    layout: reading.Layout,
    arguments: argparse.Namespace,
    name: str,
    *,
    logits: bool,
) -> _Problem:
    values, spatial = scores.values, layout.spatial
    restore: Callable[[Array], Array]
    if values.shape == spatial:
        core, restore = values[np.newaxis], lambda result: result[0]
    elif values.shape[1:] == spatial:
        core, restore = values, lambda result: result
    else:
        core = np.moveaxis(values, -1, 0)

        def restore(result: Array) -> Array:
            return np.ascontiguousarray(np.moveaxis(result, 0, -1))

    num_classes = max(2, len(core))
    if arguments.num_classes not in (None, num_classes):
        raise ShapeError(
            f"{name} has {num_classes} classes (shape {values.shape}), but --num-classes says "
            f"{arguments.num_classes}"
        )
    if np.isnan(core).any():
        raise DataError(f"{name} holds NaN in {int(np.isnan(core).sum())} values")
    return _Problem(
        scores=core,
        before=_decided(core, logits=logits).astype(np.int32),
        restore=restore,
        label_values=np.arange(num_classes, dtype=np.min_scalar_type(num_classes - 1)),
        affine=scores.affine,
        grey_bits=scores.grey_bits or 16,
    )


def _from_labels(
    labels: reading.LabelMap, arguments: argparse.Namespace, name: str, *, scribbles: bool
) -> _Problem:
    values = labels.values
    unlabelled = np.zeros(values.shape, dtype=bool)
    if labels.transparent is not None:
        if not scribbles:
            raise LabelError(
                f"{name} is transparent in places: use --scribbles if those have no label"
            )
        unlabelled |= labels.transparent
    unknown = _unknown_value(arguments.unknown, scribbles=scribbles, colored=labels.colored)
    if unknown is not None:
        unlabelled |= values == unknown
    if unlabelled.all():
        raise LabelError(f"no pixel of {name} has a label")
    found = reading.distinct_values(values[~unlabelled], name, colored=labels.colored)
    if arguments.num_classes is not None and not labels.colored:
        num_classes = int(arguments.num_classes)
        if found[0] < 0 or found[-1] >= num_classes:
            beyond = found[(found < 0) | (found >= num_classes)].tolist()
            raise LabelError(
                f"{name} has the labels {beyond}, but --num-classes {num_classes} means labels "
                f"0 … {num_classes - 1}; --unknown VALUE names one that says 'no label'"
            )
        found = np.arange(num_classes)
    elif arguments.num_classes is not None and found.size != arguments.num_classes:
        raise LabelError(
            f"{name} has {found.size} colours, but --num-classes says {arguments.num_classes}"
        )
    if found.size < 2 and (scribbles or unlabelled.any()):
        raise LabelError(
            f"{name} has one label only ({_named(int(found[0]), colored=labels.colored)}), so "
            "there is nothing to decide; --num-classes K says that there are more"
        )
    before = np.searchsorted(found, values).clip(0, found.size - 1).astype(np.int32)
    before[unlabelled] = -1
    colors = palette = None
    label_values: Array = found
    if labels.colored:
        parts = [(found >> shift) & 255 for shift in (16, 8, 0)]
        colors = palette = np.stack(parts, axis=1).astype(np.uint8)
        label_values = np.arange(found.size)
    elif labels.palette is not None:
        palette = labels.palette
        if int(found[-1]) < len(palette):
            colors = palette[found]
    smallest = np.result_type(
        np.min_scalar_type(int(label_values[0])), np.min_scalar_type(int(label_values[-1]))
    )
    return _Problem(
        scores=_soft(before, found.size, arguments.gt_prob),
        before=before,
        restore=lambda result: result,
        label_values=label_values.astype(smallest),
        colors=colors,
        palette=palette,
        affine=labels.affine,
    )


def _soft(labels: NDArray[np.int32], num_classes: int, gt_prob: float) -> NDArray[np.float32]:
    """Make probabilities of labels: `gt_prob` for the label, the rest shared by the others."""
    if num_classes == 1:
        return np.ones((1, *labels.shape), dtype=np.float32)
    probs = np.full(
        (num_classes, *labels.shape), (1 - gt_prob) / (num_classes - 1), dtype=np.float32
    )
    known = labels >= 0
    index = np.where(known, labels, 0)[np.newaxis]
    np.put_along_axis(probs, index, np.float32(gt_prob), axis=0)
    probs[:, ~known] = np.float32(1 / num_classes)
    return probs


def _decided(scores: Array, *, logits: bool) -> Array:
    """Return the likeliest label of (K, *spatial) scores."""
    if len(scores) == 1:
        decided: Array = scores[0] > (0 if logits else 0.5)
        return decided
    likeliest: Array = scores.argmax(axis=0)
    return likeliest


def _guide(picture: reading.Picture, layout: reading.Layout, intensity: str) -> Array:
    """Return the picture with its channels last and its values in the wanted range."""
    values = picture.values
    if layout.channel_axis is not None:
        values = np.moveaxis(values, layout.channel_axis, -1)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("the picture holds NaN or infinite values")
    if intensity == "stretch":
        # A sample is enough for percentiles, and a volume has many values.
        flat = values.reshape(-1)
        low, high = np.percentile(flat[:: max(1, flat.size // 1_000_000)], (1, 99))
        span = float(high - low) or 1.0
        scaled: Array = np.clip((values.astype(np.float32) - low) * (255 / span), 0, 255)
        return scaled.astype(np.float32)
    if intensity == _AUTO:
        if picture.sixteen_bit:
            sixteen: Array = values.astype(np.float32) / 257
            return sixteen.astype(np.float32)
        if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
            unit: Array = values.astype(np.float32) * 255
            return unit
    if values.dtype.kind in "iu" and values.dtype not in (np.uint8, np.uint16):
        return values.astype(np.float32)
    return values


def _check_affines(pair: Pair, picture: reading.Picture, problem: _Problem) -> None:
    if picture.affine is None or problem.affine is None:
        return
    if not np.allclose(picture.affine, problem.affine, rtol=1e-3, atol=1e-2):
        raise DataError(
            f"{pair.source.name} and {pair.image.name} lie differently in space (their NIfTI "
            "affines differ): resample one onto the other first"
        )


def _write_overlay(
    target: Path,
    guide: Array,
    problem: _Problem,
    after: NDArray[np.int32],
    entry: dict[str, Any],
    panel_size: int,
) -> None:
    from fastseg.cli.before_after import Legend, as_rgb, before_after
    from fastseg.labelmaps import palette

    before = problem.before
    where = ""
    if after.ndim == 3:
        # The slice with the most changes tells most.
        moved = np.count_nonzero((before != after) & (before >= 0), axis=(1, 2))
        index = int(moved.argmax()) if moved.any() else after.shape[0] // 2
        guide, before, after = guide[index], before[index], after[index]
        where = f", slice {index}"
    num_classes = len(problem.label_values)
    own = problem.colors
    names = (
        [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in own.tolist()]
        if own is not None and problem.palette is own
        else [str(value) for value in problem.label_values.tolist()]
    )
    if own is not None and (num_classes == 1 or own[1:].max(axis=1).min() < 96):
        # Such dark colours would not be told apart on a photograph.
        own = None
    colors = own if own is not None else palette("distinct", num_classes)
    # Label 0 is the background nearly everywhere; scribbled labels all mean something.
    partial = entry["labelled_fraction"] < 1
    background = 0 if problem.label_values[0] == 0 and not partial else None
    if background is None and own is None:
        colors = palette("distinct", num_classes + 1)[1:]
    changed = f"{100 * entry['changed_fraction']:.2f} %{' of those' if partial else ''} changed"
    labelled = f", {100 * entry['labelled_fraction']:.1f} % labelled" if partial else ""
    page = before_after(
        as_rgb(guide),
        before,
        after,
        Legend(colors, names, background),
        captions=(
            f"{Path(entry['image']).name}{where}",
            f"before: {num_classes} labels{labelled}",
            f"after: {changed}",
        ),
        panel_size=panel_size,
    )
    writing.write_atomically(target, lambda file: page.save(file, format="PNG"))


def _summary(entry: dict[str, Any]) -> str:
    outputs = ", ".join(entry["outputs"].values())
    line = (
        f"{outputs}: {reading.size_of(entry['shape'])}, {entry['num_classes']} classes, "
        f"{entry['seconds']:.2f} s, {100 * entry['changed_fraction']:.2f} % of the labels changed"
    )
    return "\n  note: ".join([line, *entry["notes"]])


def _keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters that were given; `refine` knows the defaults of the others."""
    names = (
        "preset",
        "iterations",
        "spatial_weight",
        "spatial_sigma",
        "bilateral_weight",
        "bilateral_sigma",
        "color_sigma",
        "normalization",
        "clip",
        "tolerance",
    )
    given = {name: getattr(arguments, name) for name in names}
    keywords = {name: value for name, value in given.items() if value is not None}
    if arguments.compat is not None:
        keywords["compat"] = _read_compat(arguments.compat)
    return keywords


def _read_compat(path: Path) -> Array:
    try:
        if suffix_of(path) == ".npy":
            compat: Array = np.load(path, allow_pickle=False)
        else:
            separator = "," if suffix_of(path) == ".csv" else None
            with warnings.catch_warnings():
                # An empty file is refused below, by its shape.
                warnings.simplefilter("ignore", UserWarning)
                compat = np.loadtxt(path, delimiter=separator, ndmin=1)
    except (OSError, ValueError) as error:
        raise UsageError(f"--compat {path} cannot be read: {error}") from error
    if compat.ndim not in (1, 2) or compat.size == 0 or compat.dtype.kind not in "fiu":
        raise UsageError(
            f"--compat {path} has the shape {compat.shape}; expected numbers (K, K) or (K,)"
        )
    return compat.astype(np.float64)


def _engine() -> Any:
    try:
        from fastseg import crf
    except ImportError as error:
        raise UsageError(f"the engine cannot be loaded: {error}") from error
    return crf


def _unknown_value(unknown: str | int | None, *, scribbles: bool, colored: bool) -> int | None:
    if unknown == _AUTO:
        return 0 if scribbles else None
    if unknown is None:
        return None
    if isinstance(unknown, str):
        color = int(unknown[1:], 16)
        return color if colored else color & 255
    # A number that names a colour means a grey.
    return unknown * 0x010101 if colored and 0 <= unknown <= 255 else unknown


def _named(value: int, *, colored: bool) -> str:
    return f"#{value:06x}" if colored else str(value)


def _unknown(text: str) -> str | int | None:
    if text == "none":
        return None
    if text == _AUTO:
        return text
    if len(text) == 7 and text.startswith("#"):
        try:
            int(text[1:], 16)
        except ValueError:
            pass
        else:
            return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a label, a colour as #rrggbb or 'none', got {text!r}"
        ) from None
