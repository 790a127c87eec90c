"""Named workloads: the pictures and probabilities that every benchmark runs on.

A workload is a name, a size and a number of labels; `load` turns it into cases, each one picture
with its class probabilities. Real photographs and, where they exist, a real network's scores come
from the folder that the environment variable `FASTSEG_DATA` names. Without it the photograph in
`examples/` stands in, cropped or mirror-tiled to size, and the case says so in `source`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Probabilities = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]
LabelMap = npt.NDArray[np.intp]

_ROOT = Path(__file__).resolve().parent.parent
_EXAMPLE = _ROOT / "examples" / "lemur.png"
# Step of the simulated networks' output grid, in pixels.
_STRIDE = 8


class MissingDataError(Exception):
    """The workload needs pictures or scores that this machine does not have."""


@dataclass(frozen=True)
class Case:
    """One picture with its probabilities.

    Attributes:
        image: (H, W, 3) uint8, C-contiguous.
        probs: (K, H, W) float32 in [0, 1], rows sum to 1, C-contiguous.
        source: Where the picture and the probabilities come from, for the report.
    """

    image: Picture
    probs: Probabilities
    source: str


@dataclass(frozen=True)
class Workload:
    """A size that benchmarks run at.

    Attributes:
        name: The name in tables, limits and test ids.
        height: Rows in pixels.
        width: Columns in pixels.
        labels: Number of classes K.
        kind: "gate" (has limits), "real" (a network's own scores), "pixels" or "labels" (growth).
        build: Makes the cases, one at a time.
    """

    name: str
    height: int
    width: int
    labels: int
    kind: str
    build: Callable[[Workload], Iterator[Case]]

    @property
    def megapixels(self) -> float:
        """Pixels in millions."""
        return self.height * self.width / 1e6


def data_folder() -> Path | None:
    """Return the folder of real data, or None where `FASTSEG_DATA` is unset.

    Raises:
        NotADirectoryError: It is set to something that is not a folder.
    """
    value = os.environ.get("FASTSEG_DATA")
    if not value:
        return None
    folder = _ROOT / value
    if not folder.is_dir():
        raise NotADirectoryError(f"FASTSEG_DATA names {value!r}, which is not a folder")
    return folder


def names(kind: str | None = None) -> list[str]:
    """Return the names of all workloads, or of those of one kind."""
    return [name for name, work in WORKLOADS.items() if kind is None or work.kind == kind]


def load(name: str, limit: int | None = None) -> list[Case]:
    """Build the cases of a workload.

    Args:
        name: A key of `WORKLOADS`.
        limit: Build at most this many cases.

    Returns:
        The cases, each checked for shape, dtype and rows that sum to 1.

    Raises:
        KeyError: The name is unknown.
        MissingDataError: The workload needs data that is absent.
    """
    work = WORKLOADS[name]
    cases: list[Case] = []
    for case in work.build(work):
        _check(work, case)
        cases.append(case)
        if limit is not None and len(cases) >= limit:
            break
    return cases


def _check(work: Workload, case: Case) -> None:
    shape = (work.height, work.width)
    if case.image.shape != (*shape, 3) or case.image.dtype != np.uint8:
        raise ValueError(f"{work.name}: image is {case.image.dtype} {case.image.shape}")
    if case.probs.shape != (work.labels, *shape) or case.probs.dtype != np.float32:
        raise ValueError(f"{work.name}: probs are {case.probs.dtype} {case.probs.shape}")
    if not (case.image.flags.c_contiguous and case.probs.flags.c_contiguous):
        raise ValueError(f"{work.name}: arrays must be C-contiguous")
    if not (case.image.flags.writeable and case.probs.flags.writeable):
        raise ValueError(f"{work.name}: pydensecrf needs arrays that can be written")
    if not np.allclose(case.probs.sum(axis=0), 1.0, atol=1e-4):
        raise ValueError(f"{work.name}: rows of probs do not sum to 1")
    if work.height * work.width % 4:
        raise ValueError(f"{work.name}: pydensecrf pads unless H·W is a multiple of 4")


# --- pictures ---------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _picture(path: Path) -> Picture:
    with Image.open(path) as opened:
        return np.ascontiguousarray(np.asarray(opened.convert("RGB"), dtype=np.uint8))


@lru_cache(maxsize=8)
def _label_file(path: Path) -> LabelMap:
    with Image.open(path) as opened:
        return np.asarray(opened).astype(np.intp)


def _example() -> Picture:
    folder = data_folder()
    candidates = [_EXAMPLE]
    if folder is not None:
        candidates.append(folder / "lemur_cc0" / "lemur.png")
    for path in candidates:
        if path.is_file():
            return _picture(path)
    raise MissingDataError("no photograph: set FASTSEG_DATA, or restore examples/lemur.png")


def _window(
    array: npt.NDArray[np.generic], height: int, width: int, top: int, left: int
) -> npt.NDArray[np.generic]:
    """Cut a window that may reach past the array, which then continues as its mirror image."""
    rows = _mirror(np.arange(top, top + height), array.shape[0])
    columns = _mirror(np.arange(left, left + width), array.shape[1])
    return np.ascontiguousarray(array[np.ix_(rows, columns)])


def _mirror(index: npt.NDArray[np.intp], length: int) -> npt.NDArray[np.intp]:
    folded = np.mod(index, 2 * length)
    return np.where(folded < length, folded, 2 * length - 1 - folded)


def _crop_picture(picture: Picture, work: Workload, top: int, left: int) -> Picture:
    return _window(picture, work.height, work.width, top, left).astype(np.uint8, copy=False)


def _crop_labels(labels: LabelMap, work: Workload, top: int, left: int) -> LabelMap:
    return _window(labels, work.height, work.width, top, left).astype(np.intp, copy=False)


# --- probabilities ----------------------------------------------------------------------------


def _upsample_axis(array: Probabilities, size: int, axis: int) -> Probabilities:
    source = (np.arange(size, dtype=np.float32) + 0.5) * (array.shape[axis] / size) - 0.5
    source = np.clip(source, 0.0, array.shape[axis] - 1)
    low = source.astype(np.intp)
    high = np.minimum(low + 1, array.shape[axis] - 1)
    shape = [1] * array.ndim
    shape[axis] = size
    weight = (source - low).astype(np.float32).reshape(shape)
    below: Probabilities = np.take(array, low, axis=axis)
    np.add(below, weight * (np.take(array, high, axis=axis) - below), out=below)
    return below


def _softmax_upsampled(scores: Probabilities, height: int, width: int) -> Probabilities:
    """Bilinearly enlarge (K, h, w) scores and take the softmax over K, as networks do."""
    probs = np.empty((scores.shape[0], height, width), dtype=np.float32)
    for plane, enlarged in zip(scores, probs, strict=True):
        enlarged[:] = _upsample_axis(_upsample_axis(plane, height, 0), width, 1)
    probs -= probs.max(axis=0)
    np.exp(probs, out=probs)
    probs /= probs.sum(axis=0)
    return probs


def _network_like(labels: LabelMap, num_labels: int, seed: int) -> Probabilities:
    """Simulate a network's output from a label map: coarse, mostly right, noisy."""
    height, width = labels.shape
    rows = np.minimum(np.arange(_STRIDE // 2, height + _STRIDE // 2, _STRIDE), height - 1)
    columns = np.minimum(np.arange(_STRIDE // 2, width + _STRIDE // 2, _STRIDE), width - 1)
    coarse = labels[np.ix_(rows, columns)] % num_labels
    scores = np.random.default_rng(seed).normal(0.0, 1.0, (num_labels, *coarse.shape))
    scores += 5.0 * (np.arange(num_labels)[:, None, None] == coarse)
    return _softmax_upsampled(scores.astype(np.float32), height, width)


def _colour_classes(image: Picture, num_labels: int) -> LabelMap:
    """Label each 16×16 block by the rank of its mean colour: classes that follow the picture."""
    block = 16
    height, width = image.shape[:2]
    rows = np.arange(0, height, block)
    columns = np.arange(0, width, block)
    grey = image @ np.array([0.6, 0.9, -0.5], dtype=np.float32)
    sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1)
    counts = np.diff(np.append(rows, height))[:, None] * np.diff(np.append(columns, width))
    means = (sums / counts).ravel()
    ranks = np.empty(means.size, dtype=np.intp)
    ranks[np.argsort(means, kind="stable")] = np.arange(means.size)
    classes = (ranks * num_labels // means.size).reshape(sums.shape)
    return np.repeat(np.repeat(classes, block, axis=0), block, axis=1)[:height, :width]


def _main_class(labels: LabelMap) -> LabelMap:
    """Return 1 where the most frequent label is, 0 elsewhere."""
    values, counts = np.unique(labels, return_counts=True)
    chosen: LabelMap = (labels == values[counts.argmax()]).astype(np.intp)
    return chosen


def _scores_from_q(path: Path) -> Probabilities:
    """Read stored scores: the file's q is −12·ln p, rounded to uint8."""
    with np.load(path) as stored:
        scores: Probabilities = stored["q"].astype(np.float32) / np.float32(-12.0)
    return scores


# --- cases ------------------------------------------------------------------------------------


def _example_cases(work: Workload) -> Iterator[Case]:
    """Stand in for absent data: windows of the one photograph that ships with the project."""
    picture = _example()
    fits = work.height <= picture.shape[0] and work.width <= picture.shape[1]
    note = "cropped" if fits else "mirror-tiled"
    for seed, (top, left) in enumerate([(30, 100), (200, 480), (440, 0)]):
        if fits:
            top %= picture.shape[0] - work.height + 1
            left %= picture.shape[1] - work.width + 1
        image = _crop_picture(picture, work, top, left)
        probs = _network_like(_colour_classes(image, work.labels), work.labels, seed)
        yield Case(image, probs, f"examples/lemur.png {note} at ({top}, {left}), simulated scores")


def _photo_case(
    work: Workload,
    image: str,
    labels: str | None,
    top: int,
    left: int,
    seed: int,
    binary: bool = False,
) -> Case:
    folder = data_folder()
    if folder is None:
        raise MissingDataError("FASTSEG_DATA is not set")
    picture = _crop_picture(_picture(folder / image), work, top, left)
    if labels is None:
        classes = _colour_classes(picture, work.labels)
    else:
        classes = _crop_labels(_label_file(folder / labels), work, top, left)
        if binary:
            classes = _main_class(classes)
    probs = _network_like(classes, work.labels, seed)
    return Case(picture, probs, f"{image} at ({top}, {left}), simulated scores")


def _voc(work: Workload) -> Iterator[Case]:
    if data_folder() is None:
        yield from _example_cases(work)
        return
    first, second = "voc_convcrf/2007_000346", "voc_convcrf/2007_000033"
    yield _photo_case(work, f"{first}_0img.png", f"{first}_5labels.png", 0, 0, 0)
    # 366 rows: the last nine are the mirror image.
    yield _photo_case(work, f"{second}_0img.png", f"{second}_5labels.png", 0, 0, 1)
    yield _photo_case(work, "ade20k/1.jpg", "ade20k/1.png", 70, 90, 2)
    yield _photo_case(work, "davis/00000.jpg", "davis/00000.png", 60, 200, 3)
    yield _photo_case(work, "lemur_cc0/lemur.png", None, 30, 100, 4)


def _city(work: Workload) -> Iterator[Case]:
    folder = data_folder()
    if folder is None:
        yield from _example_cases(work)
        return
    picture = _picture(folder / "vistas" / "vistas.jpg")
    scores = _scores_from_q(folder / "vistas" / "espnet_city_1024x768.npz")[: work.labels]
    # The whole street at Cityscapes' scale, as a camera of that resolution would have seen it.
    full = (round(picture.shape[0] * work.width / picture.shape[1]), work.width)
    top = (full[0] - work.height) // 2
    reduced = np.array(Image.fromarray(picture).resize(full[::-1], Image.Resampling.LANCZOS))
    probs = _softmax_upsampled(scores, *full)[:, top : top + work.height]
    yield Case(
        reduced[top : top + work.height].copy(),
        np.ascontiguousarray(probs),
        f"vistas.jpg reduced to {full[1]}×{full[0]}, centre rows, ESPNet's scores",
    )
    # Two windows that do not overlap, at the camera's own resolution.
    ratio = scores.shape[1] / picture.shape[0]
    for top, left in ((400, 0), (1500, picture.shape[1] - work.width)):
        rows = slice(round(top * ratio), round((top + work.height) * ratio))
        columns = slice(round(left * ratio), round((left + work.width) * ratio))
        probs = _softmax_upsampled(scores[:, rows, columns], work.height, work.width)
        image = _crop_picture(picture, work, top, left)
        yield Case(image, probs, f"vistas.jpg window at ({top}, {left}), ESPNet's scores")


def _binary(work: Workload) -> Iterator[Case]:
    if data_folder() is None:
        yield from _example_cases(work)
        return
    yield _photo_case(work, "ade20k/1.jpg", "ade20k/1.png", 0, 90, 0, binary=True)
    yield _photo_case(work, "potsdam/img_dir.png", "potsdam/ann_dir.png", 0, 0, 1, binary=True)
    yield _photo_case(work, "loveda/img/0.png", "loveda/ann/0.png", 256, 256, 2, binary=True)
    yield _photo_case(
        work, "vistas/vistas.jpg", "vistas/vistas_labels.png", 1400, 1700, 3, binary=True
    )


def _random(work: Workload) -> Iterator[Case]:
    shape = (work.height, work.width)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        probs = rng.random((work.labels, *shape), dtype=np.float32) ** 4 + np.float32(1e-3)
        probs /= probs.sum(axis=0)
        yield Case(image, probs, f"uniform random pixels and scores, seed {seed}")


def _msrc(_: Workload) -> Iterator[Case]:
    folder = data_folder()
    if folder is None:
        raise MissingDataError("FASTSEG_DATA is not set: this workload is a real network's scores")
    with np.load(folder / "msrc_unary" / "2_14_s.npz") as stored:
        probs = stored["prob"].astype(np.float32).transpose(2, 0, 1)
        image = np.ascontiguousarray(stored["image"])
    probs = np.ascontiguousarray(probs / probs.sum(axis=0))
    yield Case(image, probs, "msrc_unary/2_14_s.npz, its own scores")


def _camvid(work: Workload) -> Iterator[Case]:
    folder = data_folder()
    if folder is None:
        raise MissingDataError("FASTSEG_DATA is not set: this workload is a real network's scores")
    for stem in ("0001TP_008550", "0001TP_009150", "0001TP_009750", "0001TP_010350"):
        image = _picture(folder / "camvid" / "test" / f"{stem}.png").copy()
        scores = _scores_from_q(folder / "camvid" / "test_unary_espnet" / f"{stem}.npz")
        probs = _softmax_upsampled(scores, work.height, work.width)
        yield Case(image, probs, f"camvid/test/{stem}.png, ESPNet's scores")


def _growth(work: Workload) -> Iterator[Case]:
    """One photograph at its own resolution; a larger size sees more of it, never an enlargement."""
    folder = data_folder()
    path = folder / "vistas" / "vistas.jpg" if folder is not None else None
    if path is None or not path.is_file():
        yield next(_example_cases(work))
        return
    picture = _picture(path)
    top = max(0, (picture.shape[0] - work.height) // 2)
    left = max(0, (picture.shape[1] - work.width) // 2)
    image = _crop_picture(picture, work, top, left)
    probs = _network_like(_colour_classes(image, work.labels), work.labels, 0)
    beyond = work.height > picture.shape[0] or work.width > picture.shape[1]
    note = ", continued as its mirror image" if beyond else ""
    yield Case(image, probs, f"vistas.jpg window at ({top}, {left}){note}, simulated scores")


def _label_growth(work: Workload) -> Iterator[Case]:
    yield next(_voc(work))


# Height and width of 0.1 to 16 megapixels, 3:4 as cameras deliver them.
_PIXELS = {
    "0.1mp": (276, 368),
    "0.25mp": (432, 576),
    "0.5mp": (612, 816),
    "1mp": (864, 1152),
    "2mp": (1224, 1632),
    "4mp": (1728, 2304),
    "8mp": (2448, 3264),
    "16mp": (3464, 4618),
}

_ALL = [
    Workload("voc_375x500_c21", 375, 500, 21, "gate", _voc),
    Workload("city_1024x2048_c19", 1024, 2048, 19, "gate", _city),
    Workload("binary_512x512", 512, 512, 2, "gate", _binary),
    Workload("random_375x500_c21", 375, 500, 21, "gate", _random),
    Workload("msrc_320x213_c21", 320, 213, 21, "real", _msrc),
    Workload("camvid_360x480_c12", 360, 480, 12, "real", _camvid),
    *(
        Workload(f"pixels_{size}_c5", height, width, 5, "pixels", _growth)
        for size, (height, width) in _PIXELS.items()
    ),
    *(
        Workload(f"labels_375x500_c{labels}", 375, 500, labels, "labels", _label_growth)
        for labels in (2, 5, 10, 21, 40, 81, 150)
    ),
]
WORKLOADS: dict[str, Workload] = {work.name: work for work in _ALL}
