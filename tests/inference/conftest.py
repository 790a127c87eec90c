"""A smooth picture, and a model whose answer can be computed by hand."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 without noise, so that labels change rarely."""
    rng = np.random.default_rng(seed)
    coarse = (rng.random((5, 7, 3)) * 255).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Quarter(nn.Module):
    """Logits at a quarter of the size: fixed mixtures of the mean colour of 4×4 pixels."""

    def __init__(self, num_classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(num_classes, channels, 1, 1, generator=generator)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(image.shape))
        return F.conv2d(F.avg_pool2d(image, 4, ceil_mode=True), self.weight)


@pytest.fixture
def picture() -> np.ndarray:
    return smooth_picture(60, 92)


@pytest.fixture
def model() -> Quarter:
    return Quarter()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
