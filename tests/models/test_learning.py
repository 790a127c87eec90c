"""Every model learns: it overfits four pictures."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fastseg.models import SegmentationModel, SegmentationOutput
from models.specs import SMALL, logits_of, small

SIDE = 64
STEPS = 300
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
    """Windows of four micrographs, enlarged to a nucleus or two each, and where these are."""
    images, labels = [], []
    for path in sorted((folder / "dsb2018").glob("*_img.png")):
        nuclei = np.asarray(Image.open(str(path).replace("_img", "_inst"))) > 0
        window, share = _evenest_window(nuclei if nuclei.ndim == 2 else nuclei.any(-1))
        if not 0.3 < share < 0.5:
            continue
        picture = Image.open(path).convert("RGB").crop(window).resize((SIDE, SIDE))
        label = Image.fromarray(nuclei).crop(window).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        images.append(torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1))
        labels.append(torch.from_numpy(np.array(label, dtype=np.int64)))
    image = torch.stack(images[:4])
    return (image - image.mean()) / image.std(), torch.stack(labels[:4])


def _evenest_window(mask: NDArray[np.bool_]) -> tuple[tuple[int, int, int, int], float]:
    """Left, top, right and bottom of a window of which the mask has nearest to 0.4; its share."""
    side = SIDE // 2
    shares = {
        (x, y, x + side, y + side): float(mask[y : y + side, x : x + side].mean())
        for y in range(0, mask.shape[0] - side + 1, side // 2)
        for x in range(0, mask.shape[1] - side + 1, side // 2)
    }
    return min(shares.items(), key=lambda item: abs(item[1] - 0.4))


def _mean_iou(logits: Tensor, labels: Tensor) -> float:
    answer = logits.argmax(1)
    classes = labels.unique()
    shares = [
        ((answer == c) & (labels == c)).sum() / ((answer == c) | (labels == c)).sum()
        for c in classes
    ]
    return float(torch.stack(shares).mean())


def _steps_to_learn(
    model: SegmentationModel, image: Tensor, labels: Tensor, rate: float
) -> tuple[int, float]:
    """Trains until the evaluated mIoU exceeds 0.9; the steps that took, and the mIoU."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.3
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    reached = 0.0
    for step in range(1, STEPS + 1):
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
    return STEPS, reached


@pytest.fixture(scope="module")
def pictures(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Real ones where there are any."""
    if not os.environ.get("FASTSEG_DATA"):
        return _made()
    return _real(request.getfixturevalue("data_dir"))


@pytest.mark.slow
@pytest.mark.parametrize("case", SMALL)
def test_learns_four_pictures(case: str, pictures: tuple[Tensor, Tensor]) -> None:
    image, labels = pictures
    model = small(case, num_classes=len(labels.unique()))
    steps, reached = _steps_to_learn(model, image, labels, LEARNING_RATE.get(case, 5e-3))
    assert reached > 0.9, f"mIoU {reached:.3f} after {steps} steps"
