"""The demo runs on the pictures that ship with it, and refining helps there."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def demo():
    return runpy.run_path(str(EXAMPLES / "demo.py"))


def test_demo(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py"), "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "intersection over union" in line)
    before, after = (float(word) for word in line.split()[-2:])
    assert 0.85 < before < 0.92
    assert after > 0.985
    page = np.asarray(Image.open(tmp_path / "before_after.png"))
    assert page.shape[1] > 4 * 680
    assert page.std() > 30


def test_coarse_map_is_reproducible_and_coarse(demo):
    truth = np.asarray(Image.open(EXAMPLES / "lemur_matte.png")) >= 128
    first = demo["coarse_probabilities"](truth, seed=3)
    np.testing.assert_array_equal(first, demo["coarse_probabilities"](truth, seed=3))
    assert (first != demo["coarse_probabilities"](truth, seed=4)).any()
    assert first.shape == truth.shape
    assert 0 < first.min() < first.max() < 1
    assert 0.8 < demo["iou"](first > 0.5, truth) < 0.95


def test_band_surrounds_the_outline(demo):
    truth = np.zeros((20, 40), bool)
    truth[:, 20:] = True
    assert demo["band"](truth, 3).any(axis=0).nonzero()[0].tolist() == list(range(16, 23))


def test_attribution_ships():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert "Mathias Appel" in text
    assert "CC0" in text
    assert "MIT License" in (EXAMPLES / "LICENSE-pymatting").read_text(encoding="utf-8")
