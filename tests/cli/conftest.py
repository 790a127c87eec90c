"""A small scene in every file format, and a way to run the command line in process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from fastseg.cli import main

HEIGHT, WIDTH, CLASSES = 24, 32, 3


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Scene:
    """Three flat colours with a little noise, and unsure probabilities of where they are."""

    image: np.ndarray
    truth: np.ndarray
    probs: np.ndarray
    folder: Path

    def save_image(self, name: str = "scene.png") -> Path:
        path = self.folder / name
        Image.fromarray(self.image).save(path)
        return path

    def save_probs(self, name: str = "scene.npy", values: np.ndarray | None = None) -> Path:
        path = self.folder / name
        np.save(path, self.probs if values is None else values)
        return path

    @property
    def foreground(self) -> np.ndarray:
        return self.probs[1]


def make_scene(folder: Path, seed: int = 0) -> Scene:
    rng = np.random.default_rng(seed)
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[4:20, 5:15] = 1
    truth[8:24, 18:30] = 2
    colors = np.array([(40, 60, 200), (220, 40, 30), (30, 200, 60)])
    image = np.clip(colors[truth] + rng.normal(0, 4, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    logits = 1.2 * np.eye(CLASSES)[truth].transpose(2, 0, 1) + rng.normal(
        0, 0.7, (CLASSES, HEIGHT, WIDTH)
    )
    probs = np.exp(logits) / np.exp(logits).sum(axis=0)
    return Scene(image, truth, probs.astype(np.float32), folder)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return make_scene(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def call(*words: Any) -> Outcome:
        argv: Sequence[str] = [str(word) for word in words]
        capsys.readouterr()
        try:
            code = main(argv)
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
