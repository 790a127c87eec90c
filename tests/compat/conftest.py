"""What the tests of the drop-in for pydensecrf share."""

import types
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def peer() -> types.SimpleNamespace:
    """The installed pydensecrf, whatever distribution it comes from."""
    return types.SimpleNamespace(
        densecrf=pytest.importorskip("pydensecrf.densecrf"),
        eigen=pytest.importorskip("pydensecrf.eigen"),
        utils=pytest.importorskip("pydensecrf.utils"),
    )


@pytest.fixture
def ours() -> types.SimpleNamespace:
    from fastseg.compat.pydensecrf import densecrf, eigen, utils

    return types.SimpleNamespace(densecrf=densecrf, eigen=eigen, utils=utils)


class Scene:
    """A small picture of smooth blobs with noise, and noisy energies for its labels."""

    def __init__(self, height: int, width: int, labels: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width]
        truth = ((3 * y) // height + (2 * x) // width) % labels
        color = rng.integers(30, 220, (labels, 3))[truth] + rng.normal(0, 8, (height, width, 3))
        self.height, self.width, self.labels = height, width, labels
        self.points = height * width
        self.image = np.clip(color, 0, 255).astype(np.uint8)
        scores = rng.normal(0, 1, (labels, height, width)) + 1.5 * (
            truth == np.arange(labels)[:, None, None]
        )
        probs = np.exp(scores)
        self.probs = (probs / probs.sum(0)).astype(np.float32)
        self.unary = -np.log(self.probs).reshape(labels, -1)

    def compat(self, kind: str, weight: float) -> Any:
        """A compatibility of any kind that smooths with about this weight."""
        rng = np.random.default_rng(1)
        if kind == "number":
            return weight
        if kind == "vector":
            return -(weight * rng.uniform(0.5, 1.5, self.labels)).astype(np.float32)
        # Not symmetric: what counts is the mean of it and its transpose.
        matrix = weight * rng.uniform(0, 0.5, (self.labels, self.labels))
        matrix -= np.diag(weight * rng.uniform(0.5, 1, self.labels))
        return matrix.astype(np.float32)


@pytest.fixture
def make_scene() -> type[Scene]:
    return Scene
