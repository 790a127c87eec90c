"""Every model learns: it overfits four pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fastseg.models import SegmentationModel, SegmentationOutput
from models.specs import SMALL, logits_of, small

SIDE = 64
STEPS = 150
# Without BatchNorm, or starting from zeros, the same number of steps leads less far.
LEARNING_RATE = {
    "fcn32s": 2e-3,
    "fcn16s": 2e-3,
    "fcn8s": 2e-3,
    "fcn8s at once": 2e-3,
    "unet": 2e-3,
    "unetpp transposed": 2e-3,
    "deeplab_v1": 2e-3,
    "segnet": 1e-2,
}


def _made() -> tuple[Tensor, Tensor]:
    """Four pictures (4, 3, S, S) of a disc and a bar on noise, and their labels (4, S, S)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, SIDE, SIDE, generator=generator) * 0.2
    labels = torch.zeros(4, SIDE, SIDE, dtype=torch.long)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for index, (cy, cx) in enumerate([(20, 20), (44, 24), (22, 42), (40, 40)]):
        labels[index][(y - cy) ** 2 + (x - cx) ** 2 < 16**2] = 1
        start = 0 if index % 2 else 48
        labels[index][:, start : start + 16] = 2
    for label, colour in enumerate([(0, 0, 0), (0.8, 0.2, 0.1), (0.1, 0.3, 0.9)]):
        image += torch.tensor(colour)[:, None, None] * (labels == label)[:, None]
    return (image - image.mean()) / image.std(), labels


def _real(folder: Path) -> tuple[Tensor, Tensor]:
    """Four micrographs of nuclei, a window each, and where the nuclei are."""
    images, labels = [], []
    for path in sorted((folder / "dsb2018").glob("*_img.png")):
        picture = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
        cells = np.asarray(Image.open(str(path).replace("_img", "_inst"))) > 0
        cells = cells if cells.ndim == 2 else cells.any(-1)
        window = (slice(0, 2 * SIDE), slice(0, 2 * SIDE))
        if min(cells.shape) < 2 * SIDE or not 0.1 < cells[window].mean() < 0.9:
            continue
        images.append(torch.from_numpy(picture[window]).permute(2, 0, 1))
        labels.append(torch.from_numpy(cells[window].astype(np.int64)))
        if len(images) == 4:
            break
    assert len(images) == 4
    image = torch.stack(images)
    return (image - image.mean()) / image.std(), torch.stack(labels)


def _mean_iou(logits: Tensor, labels: Tensor) -> float:
    answer = logits.argmax(1)
    classes = labels.unique()
    shares = [
        ((answer == c) & (labels == c)).sum() / ((answer == c) | (labels == c)).sum()
        for c in classes
    ]
    return float(torch.stack(shares).mean())


def _steps_to_learn(
    model: SegmentationModel, image: Tensor, labels: Tensor, rate: float, most: int
) -> tuple[int, float]:
    """Trains until the evaluated mIoU exceeds 0.9; the steps that took, and the mIoU."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.3
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    reached = 0.0
    for step in range(1, most + 1):
        model.train()
        output: Any = model(image)
        loss = F.cross_entropy(logits_of(output), labels)
        if isinstance(output, SegmentationOutput):
            for one in output.auxiliary.values():
                loss = loss + 0.4 * F.cross_entropy(
                    one, labels if one.ndim == 4 else (labels > 0).flatten(1).any(1).long()
                )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            model.eval()
            with torch.inference_mode():
                reached = _mean_iou(model(image), labels)
            if reached > 0.9:
                return step, reached
    return most, reached


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL)
def test_learns_four_made_pictures(case: str) -> None:
    image, labels = _made()
    model = small(case, num_classes=3)
    rate = LEARNING_RATE.get(case, 5e-3)
    steps, reached = _steps_to_learn(model, image, labels, rate, STEPS)
    assert reached > 0.9, f"mIoU {reached:.3f} after {steps} steps"


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("case", ["unet_padded", "unetpp", "unet3p"])
def test_learns_four_real_pictures(case: str, data_dir: Path) -> None:
    image, labels = _real(data_dir)
    model = small(case, num_classes=2)
    steps, reached = _steps_to_learn(model, image, labels, LEARNING_RATE.get(case, 5e-3), 2 * STEPS)
    assert reached > 0.9, f"mIoU {reached:.3f} after {steps} steps"
