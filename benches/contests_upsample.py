"""Labels of enlarged logits: `upsample_argmax` and its kin against torch's interpolate + argmax.

The real logits are those of a network on a street photograph (vistas), 256×512 samples of a window
of its 768×1024 scores. Its 19 classes are taken as they are. No network of 150 classes is at hand,
so each of the 19 is split into eight by the same network's scores on another, mirrored window:
log p(class) + log p(part | class), of which the first 150 are taken. Their borders are those of
both windows together, more than a network of 150 classes has in one scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import workloads
from contests import Case, Contender, Contest, DisagreementError
from fastseg import labelmaps
from workloads import MissingDataError

Logits = npt.NDArray[np.float32]

SIZE = (1024, 2048)
SAMPLES = (256, 512)
PARTS = 8
# Share of pixels that rounding may decide the other way; the tests look at each of them.
UNDECIDED = 1e-4


def _street_scores() -> Logits:
    """(20, 768, 1024) log-probabilities of a real network."""
    folder = workloads.data_folder()
    path = folder / "vistas" / "espnet_city_1024x768.npz" if folder else None
    if path is None or not path.is_file():
        raise MissingDataError("the scores of a real network need FASTSEG_DATA")
    with np.load(path) as stored:
        return stored["q"].astype(np.float32) / np.float32(-12)


def _samples(scores: Logits, top: int) -> Logits:
    """Every second sample of 512 rows, averaged with its neighbours."""
    window = scores[:, top : top + 2 * SAMPLES[0]]
    halves = window.reshape(len(scores), SAMPLES[0], 2, SAMPLES[1], 2)
    return halves.mean(axis=(2, 4), dtype=np.float32)


def street_logits(classes: int) -> Logits:
    """(classes, 256, 512) logits of a street scene, up to 152 classes."""
    scores = _street_scores()
    coarse = _samples(scores, 128)[:19]
    if classes <= 19:
        return coarse[:classes]
    other = _samples(scores[:, ::-1, ::-1], 192)
    commonest = np.argsort(-np.bincount(other.argmax(axis=0).ravel(), minlength=20))[:PARTS]
    parts = other[commonest]
    parts = parts - np.logaddexp.reduce(parts, axis=0)
    split = coarse[:, np.newaxis] + parts[np.newaxis]
    return np.ascontiguousarray(split.reshape(-1, *SAMPLES)[:classes], np.float32)


def _real(classes: int) -> Callable[[], Iterator[Case]]:
    def cases() -> Iterator[Case]:
        logits = street_logits(classes)
        how = "as they are" if classes <= 19 else "each class split by another window's scores"
        yield Case(f"vistas, ESPNet's scores, {how}", (logits,))

    return cases


def _random(classes: int) -> Callable[[], Iterator[Case]]:
    def cases() -> Iterator[Case]:
        rng = np.random.default_rng(0)
        logits = rng.standard_normal((classes, *SAMPLES), dtype=np.float32)
        yield Case("independent normal numbers", (logits,))

    return cases


def _with_target(classes: int) -> Callable[[], Iterator[Case]]:
    def cases() -> Iterator[Case]:
        logits = street_logits(classes)
        # Labels that agree with most of the prediction, moved a little.
        target = np.roll(labelmaps.upsample_argmax(logits, SIZE), (5, 9), axis=(0, 1))
        target[:40] = 255
        yield Case("vistas, ESPNet's scores, its own labels moved", (logits, target))

    return cases


def _confusion(logits: Logits, target: npt.NDArray[np.uint8]) -> Any:
    return labelmaps.upsample_confusion(logits, target, ignore_index=255)


def _as_tensors(*arrays: npt.NDArray[Any]) -> tuple[Any, ...]:
    import torch

    return tuple(torch.from_numpy(array) for array in arrays)


def _torch_enlarged(logits: Any) -> Any:
    import torch

    return torch.nn.functional.interpolate(logits[None], size=SIZE, mode="bilinear")


def _torch_argmax(logits: Any) -> Any:
    return _torch_enlarged(logits).argmax(dim=1)[0]


def _torch_confusion(logits: Any, target: Any) -> Any:
    import torch

    ids, target = _torch_argmax(logits).flatten(), target.flatten().long()
    known = target != 255
    pairs = target[known] * len(logits) + ids[known]
    return torch.bincount(pairs, minlength=len(logits) ** 2).reshape(len(logits), len(logits))


def _torch_confidence(logits: Any) -> Any:
    best = _torch_enlarged(logits).softmax(dim=1).max(dim=1)
    return best.indices[0], best.values[0]


def _same_labels(ours: Any, theirs: Any) -> None:
    share = float(np.mean(np.asarray(ours) != np.asarray(theirs)))
    if share > UNDECIDED:
        raise DisagreementError(f"{share:.1e} of the labels differ")


def _same_counts(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    share = float(np.abs(ours - theirs).sum() / ours.sum())
    if ours.sum() != theirs.sum() or share > 2 * UNDECIDED:
        raise DisagreementError(f"{share:.1e} of the counts differ")


def _same_confidence(ours: Any, theirs: Any) -> None:
    _same_labels(ours[0], theirs[0])
    worst = float(np.abs(np.asarray(ours[1]) - np.asarray(theirs[1])).max())
    if worst > 1e-5:
        raise DisagreementError(f"probabilities {worst:.1e} apart")


_RIVAL = Contender("torch", _torch_argmax, _as_tensors, ("torch",))


def _argmax(name: str, cases: Callable[[], Iterator[Case]]) -> Contest:
    ours = Contender("fastseg", lambda logits: labelmaps.upsample_argmax(logits, SIZE))
    return Contest(name, cases, ours, (_RIVAL,), _same_labels)


CONTESTS = [
    _argmax("argmax_real_c19", _real(19)),
    _argmax("argmax_real_c150", _real(150)),
    _argmax("argmax_random_c19", _random(19)),
    _argmax("argmax_random_c150", _random(150)),
    Contest(
        "confusion_real_c19",
        _with_target(19),
        Contender(
            "fastseg",
            lambda logits, ids: labelmaps.upsample_confusion(logits, ids, ignore_index=255),
        ),
        (Contender("torch", _torch_confusion, _as_tensors, ("torch",)),),
        _same_counts,
    ),
    Contest(
        "confidence_real_c19",
        _real(19),
        Contender("fastseg", lambda logits: tuple(labelmaps.upsample_confidence(logits, SIZE))),
        (Contender("torch", _torch_confidence, _as_tensors, ("torch",)),),
        _same_confidence,
    ),
]
