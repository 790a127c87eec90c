"""Counting: confusion matrices and the mean IoU of many masks.

Real scenes: windows of a 12-megapixel street photograph's labels with a real network's prediction,
and street scenes of a video, each with its neighbour's labels as the prediction. Without them,
colour classes of the example photograph, moved by some pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import workloads
from contests import Case, Contender, Contest, DisagreementError, close

LabelMap = npt.NDArray[np.uint8]

CLASSES = 19
VOID = 255
CAMVID_CLASSES = 11
CAMVID_VOID = 11
MASKS = 100
# Hugging Face's evaluate takes the better part of a second for each.
FEW = 4


def _module(name: str) -> Any:
    # Imported on demand: a measurement must load only what it measures.
    return importlib.import_module(name)


# --- inputs -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _stand_in() -> tuple[LabelMap, LabelMap]:
    """Return prediction and target of 1024×2048, from the example photograph."""
    case = workloads.load("city_1024x2048_c19", 1)[0]
    pred = case.probs.argmax(axis=0).astype(np.uint8)
    target = np.roll(pred, (4, 6), (0, 1))
    target[-80:] = VOID
    return pred, target


def _city() -> Iterator[Case]:
    folder = workloads.data_folder()
    if folder is None:
        yield Case("colour classes of examples/lemur.png", _stand_in())
        return
    vistas = folder / "vistas"
    with Image.open(vistas / "vistas_labels.png") as opened:
        ids = np.load(vistas / "vistas_to_cityscapes_trainid.npy")[np.asarray(opened)]
    with np.load(vistas / "espnet_city_1024x768.npz") as stored:
        costs = stored["q"][:CLASSES].astype(np.float32)
    height, width = ids.shape
    for top, left in ((900, 900), (1400, 300), (600, 1800)):
        # The same window of the network's output, enlarged bilinearly, as a network would be.
        box = tuple(
            edge * size / full
            for edge, size, full in (
                (left, costs.shape[2], width),
                (top, costs.shape[1], height),
                (left + 2048, costs.shape[2], width),
                (top + 1024, costs.shape[1], height),
            )
        )
        bilinear = Image.Resampling.BILINEAR
        large = [Image.fromarray(one).resize((2048, 1024), bilinear, box) for one in costs]
        pred = np.argmin(np.stack([np.asarray(one) for one in large]), axis=0).astype(np.uint8)
        target = np.ascontiguousarray(ids[top : top + 1024, left : left + 2048])
        yield Case(f"vistas.jpg window at ({top}, {left}), ESPNet's prediction", (pred, target))


def _noise() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    pred, target = rng.integers(0, CLASSES, (2, 1024, 2048)).astype(np.uint8)
    yield Case("uniform random labels", (pred, target))


def _masks() -> Iterator[Case]:
    folder = workloads.data_folder()
    if folder is None:
        whole = _stand_in()[0] % (CAMVID_CLASSES + 1)
        rows = range(0, 1024 - 360, 6)
        masks = [np.ascontiguousarray(whole[row : row + 360, :480]) for row in rows][: MASKS + 1]
        source = "windows of colour classes of examples/lemur.png"
    else:
        paths = sorted((folder / "camvid" / "trainannot").glob("*.png"))[: MASKS + 1]
        masks = [np.asarray(Image.open(path), dtype=np.uint8) for path in paths]
        source = "camvid training labels, those of the next picture as the prediction"
    preds = [np.where(mask == CAMVID_VOID, 0, mask).astype(np.uint8) for mask in masks[1:]]
    yield Case(source, (preds, masks[:-1]))


# --- contenders ---------------------------------------------------------------------------------


def _as_int64_tensors(pred: LabelMap, target: LabelMap) -> tuple[Any, Any]:
    torch = _module("torch")
    return torch.from_numpy(pred.astype(np.int64)), torch.from_numpy(target.astype(np.int64))


def _as_int64(pred: LabelMap, target: LabelMap) -> tuple[Any, Any]:
    return pred.astype(np.int64), target.astype(np.int64)


def _fastseg_confusion(pred: Any, target: Any) -> Any:
    metrics = _module("fastseg.metrics")
    return metrics.confusion_matrix(pred, target, num_classes=CLASSES, ignore_index=VOID)


def _bincount_masked(pred: Any, target: Any) -> Any:
    # What most evaluation scripts do.
    valid = target < CLASSES
    pairs = CLASSES * target[valid].astype(np.int64) + pred[valid]
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def _bincount(pred: Any, target: Any) -> Any:
    pairs = CLASSES * target.ravel().astype(np.int64) + pred.ravel()
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def _torchmetrics_confusion(validate: bool) -> Any:
    def run(pred: Any, target: Any) -> Any:
        functional = _module("torchmetrics.functional.classification")
        return functional.multiclass_confusion_matrix(
            pred, target, num_classes=CLASSES, ignore_index=VOID, validate_args=validate
        )

    return run


def _as_tensors(pred: LabelMap, target: LabelMap) -> tuple[Any, Any]:
    torch = _module("torch")
    return torch.from_numpy(pred), torch.from_numpy(target)


def _torchmetrics(prepare: Any) -> tuple[Contender, ...]:
    return tuple(
        Contender(name, _torchmetrics_confusion(validate), prepare, ("torch", "torchmetrics"))
        for name, validate in (("torchmetrics", True), ("torchmetrics, no validation", False))
    )


def _fastseg_mean_iou(preds: list[LabelMap], targets: list[LabelMap]) -> float:
    metric = _module("fastseg.metrics").MeanIoU(
        num_classes=CAMVID_CLASSES, ignore_index=CAMVID_VOID
    )
    for pred, target in zip(preds, targets, strict=True):
        metric.update(pred, target)
    return float(metric.compute())


def _described_mean_iou(preds: Any, targets: Any) -> float:
    """Hugging Face's `mean_iou` as its documentation describes it: histograms of each image."""
    areas = np.zeros((3, CAMVID_CLASSES))
    for given in zip(preds, targets, strict=True):
        pred, target = map(np.asarray, given)  # evaluate hands over lists
        valid = target != CAMVID_VOID
        p, t = pred[valid], target[valid]
        for area, labels in zip(areas, (p[p == t], p, t), strict=True):
            edges = (0, CAMVID_CLASSES - 1)
            area += np.histogram(labels, bins=CAMVID_CLASSES, range=edges)[0]
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(areas[0] / (areas[1] + areas[2] - areas[0])))


def _hugging_face_mean_iou(preds: list[LabelMap], targets: list[LabelMap]) -> float:
    """The same inside Hugging Face's own `evaluate`, which keeps what it is given in a table.

    `evaluate.load` would fetch the script of the metric, which a benchmark must not need.
    """
    evaluate, datasets = _module("evaluate"), _module("datasets")
    labels = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))

    class MeanIoU(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> Any:
            features = datasets.Features({"predictions": labels, "references": labels})
            return evaluate.MetricInfo(
                description="", citation="", inputs_description="", features=features
            )

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return {"mean_iou": _described_mean_iou(predictions, references)}

    scores = MeanIoU(experiment_id="bench").compute(predictions=preds, references=targets)
    return float(scores["mean_iou"])


def _few_masks() -> Iterator[Case]:
    for case in _masks():
        preds, targets = case.inputs
        yield Case(f"{case.source}, {FEW} of them", (preds[:FEW], targets[:FEW]))


def _pair_mean(preds: list[LabelMap], targets: list[LabelMap]) -> float:
    """Return what torchmetrics calls mean IoU: the mean over all pairs of an image and a class."""
    metrics = _module("fastseg.metrics")
    classes = CAMVID_CLASSES + 1
    ious = [
        metrics.iou(metrics.confusion_matrix(pred, target, num_classes=classes))
        for pred, target in zip(preds, targets, strict=True)
    ]
    return float(np.nanmean(ious))


def _torchmetrics_inputs(preds: list[LabelMap], targets: list[LabelMap]) -> tuple[Any, ...]:
    torch = _module("torch")
    tensors = [
        tuple(torch.from_numpy(labels.astype(np.int64))[None] for labels in pair)
        for pair in zip(preds, targets, strict=True)
    ]
    return tensors, _pair_mean(preds, targets), _fastseg_mean_iou(preds, targets)


def _torchmetrics_mean_iou(pairs: Any, pair_mean: float, dataset: float) -> Any:
    metric = _module("torchmetrics.segmentation").MeanIoU(
        num_classes=CAMVID_CLASSES + 1, input_format="index"
    )
    for pred, target in pairs:
        metric.update(pred, target)
    return float(metric.compute()), pair_mean, dataset


def _torchmetrics_agrees(result: tuple[float, float, float]) -> float:
    """Its mean is another (no ignore_index, over pairs): it must equal that other one of ours."""
    theirs, pair_mean, dataset = result
    if abs(theirs - pair_mean) > 1e-5:
        raise DisagreementError(f"{theirs} against {pair_mean}")
    return dataset


CONTESTS = [
    Contest(
        name="confusion_city_u8",
        cases=_city,
        ours=Contender("fastseg", _fastseg_confusion),
        rivals=(Contender("np.bincount", _bincount_masked), *_torchmetrics(_as_tensors)),
    ),
    Contest(
        name="confusion_city_i64",
        cases=_city,
        ours=Contender("fastseg", _fastseg_confusion, _as_int64_tensors, ("torch",)),
        rivals=(
            Contender("np.bincount", _bincount_masked, _as_int64),
            *_torchmetrics(_as_int64_tensors),
        ),
    ),
    Contest(
        name="confusion_noise",
        cases=_noise,
        ours=Contender("fastseg", _fastseg_confusion),
        rivals=(Contender("np.bincount", _bincount),),
    ),
    Contest(
        name="mean_iou_100_masks",
        cases=_masks,
        ours=Contender("fastseg", _fastseg_mean_iou),
        rivals=(
            Contender("HF mean_iou, by its description", _described_mean_iou),
            Contender(
                "torchmetrics MeanIoU",
                _torchmetrics_mean_iou,
                _torchmetrics_inputs,
                ("torch", "torchmetrics"),
                _torchmetrics_agrees,
            ),
        ),
        agree=close(1e-9),
    ),
    Contest(
        name="mean_iou_4_masks",
        cases=_few_masks,
        ours=Contender("fastseg", _fastseg_mean_iou),
        rivals=(
            Contender("HF evaluate", _hugging_face_mean_iou, requires=("datasets", "evaluate")),
        ),
        agree=close(1e-9),
    ),
]
