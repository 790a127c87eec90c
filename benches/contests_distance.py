"""Distances: the transform, surface metrics, U-Net's border weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from contests import Case, Contender, Contest, DisagreementError
from workloads import MissingDataError, data_folder

Array = npt.NDArray[Any]
# Voxels that are not cubes, in millimetres.
SPACING = (1.5, 0.8, 0.8)
TOLERANCE = 2.0


def _fastseg(part: str) -> Any:
    return importlib.import_module(f"fastseg.{part}")


def relative(tolerance: float) -> Callable[[Any, Any], None]:
    """Make a check that refuses results that differ by more than a share of themselves."""

    def check(ours: Any, theirs: Any) -> None:
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if ours.shape != theirs.shape:
            raise DisagreementError(f"shape {ours.shape} against {theirs.shape}")
        if not np.allclose(ours, theirs, rtol=tolerance, atol=0):
            worst = float(np.abs(ours - theirs).max())
            raise DisagreementError(f"{worst:.2e} apart (limit {tolerance:.0e} of the value)")

    return check


def _real(*parts: str) -> Path:
    folder = data_folder()
    if folder is None:
        raise MissingDataError("FASTSEG_DATA is not set")
    return folder.joinpath(*parts)


def street_masks() -> Iterator[Case]:
    """Masks of the largest segments of a street photo, and its contours' complement."""
    path = _real("vistas", "vistas_labels.png")
    labels = np.asarray(Image.open(path).resize((2048, 1024), Image.Resampling.NEAREST))
    counts = np.bincount(labels.ravel())
    for label in np.argsort(-counts)[:2]:
        yield Case(f"vistas, label {label}", (labels == label,))
    inner = np.ones(labels.shape, bool)
    inner[1:] &= labels[1:] == labels[:-1]
    inner[:, 1:] &= labels[:, 1:] == labels[:, :-1]
    yield Case("vistas, all but contours", (inner,))


def organ(shift: float) -> Array:
    """A bumpy body that fills most of 128³ voxels."""
    z, y, x = np.ogrid[-1:1:128j, -1:1:128j, -1:1:128j]
    bumps = 0.06 * (np.sin(9 * y + shift) + np.sin(7 * x) + np.sin(8 * z - shift))
    mask: Array = np.sqrt(z**2 + (y - shift / 20) ** 2 + x**2) + bumps < 0.75
    return mask


def volumes() -> Iterator[Case]:
    """Two bodies of 128³ voxels, and one's complement."""
    for shift in (0.0, 1.0):
        yield Case(f"body {shift:.0f}", (organ(shift),))
    yield Case("around body 0", (~organ(0.0),))


def organ_pairs() -> Iterator[Case]:
    """Predictions that are a little off."""
    for shift in (0.5, 1.0):
        yield Case(f"body 0, off by {shift}", (organ(shift), organ(0.0)))


def nuclei() -> Iterator[Case]:
    """The microscopy image with the most cells."""
    paths = sorted(_real("dsb2018").glob("*_inst.png"))
    if not paths:
        raise MissingDataError("no dsb2018")
    maps = [np.asarray(Image.open(path)).astype(np.int32) for path in paths]
    most = max(range(len(maps)), key=lambda i: len(np.unique(maps[i])))
    count = len(np.unique(maps[most])) - 1
    yield Case(f"{paths[most].stem}, {maps[most].shape}, {count} nuclei", (maps[most],))


def _scipy_transform(mask: Array) -> Array:
    return importlib.import_module("scipy.ndimage").distance_transform_edt(mask)  # type: ignore[no-any-return]


def _transform(name: str, cases: Callable[[], Iterator[Case]]) -> Contest:
    return Contest(
        name=name,
        cases=cases,
        ours=Contender("fastseg", lambda mask: _fastseg("metrics").distance_transform(mask)),
        rivals=(Contender("scipy", _scipy_transform, requires=("scipy",)),),
        agree=relative(1e-6),
    )


def _scores(method: str) -> Callable[[Array, Array], list[float]]:
    def run(pred: Array, target: Array) -> list[float]:
        found = _fastseg("metrics").surface_distances(pred, target, spacing=SPACING, method=method)
        return [found.hausdorff(95), found.surface_dice(TOLERANCE)]

    return run


def _deepmind(pred: Array, target: Array) -> list[float]:
    module = importlib.import_module("surface_distance")
    found = module.compute_surface_distances(target, pred, SPACING)
    return [
        module.compute_robust_hausdorff(found, 95),
        module.compute_surface_dice_at_tolerance(found, TOLERANCE),
    ]


def _one_hot(pred: Array, target: Array) -> tuple[Any, ...]:
    torch = importlib.import_module("torch")
    return tuple(
        torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32))
        for mask in (pred, target)
    )


def _monai(pred: Any, target: Any) -> list[float]:
    metrics = importlib.import_module("monai.metrics")
    return [
        metrics.compute_hausdorff_distance(pred, target, percentile=95, spacing=SPACING).item(),
        metrics.compute_surface_dice(pred, target, [TOLERANCE], spacing=SPACING).item(),
    ]


def _surface(method: str, rival: Contender) -> Contest:
    return Contest(
        name=f"hd95_nsd_128_{method}",
        cases=organ_pairs,
        ours=Contender("fastseg", _scores(method)),
        rivals=(rival,),
        agree=relative(1e-5),
    )


def _transform_per_nucleus(cells: Array) -> Array:
    ndimage = importlib.import_module("scipy.ndimage")
    names = np.unique(cells)
    first, second = (np.full(cells.shape, np.inf) for _ in range(2))
    for name in names[names > 0]:
        far = ndimage.distance_transform_edt(cells != name)
        np.minimum(second, np.maximum(first, far), out=second)
        np.minimum(first, far, out=first)
    return 1 + np.where(cells == 0, 10 * np.exp(-((first + second) ** 2) / 50), 0)


CONTESTS = [
    _transform("edt_2048x1024", street_masks),
    _transform("edt_128", volumes),
    _surface("deepmind", Contender("surface-distance", _deepmind, requires=("surface_distance",))),
    _surface("monai", Contender("monai", _monai, prepare=_one_hot, requires=("monai", "torch"))),
    Contest(
        name="border_weights_dsb2018",
        cases=nuclei,
        ours=Contender("fastseg", lambda cells: _fastseg("labelmaps").border_weight_map(cells)),
        rivals=(Contender("scipy", _transform_per_nucleus, requires=("scipy",)),),
        agree=relative(2e-6),
    ),
]
