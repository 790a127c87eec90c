"""The checks of `checks.py`: on a GPU where there is one, and tiny ones interpreted."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastseg import ops

HERE = Path(__file__).resolve().parent


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("checks")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, HERE / "checks.py"], env=environment)
    assert done.returncode == 0


def test_the_checks_hold_without_a_gpu(checks) -> None:
    for case in checks.cases(small=True):
        checks.check_values(case, torch.float32, "cpu")
    checks.check_lattice("cpu", 5, 7, 3)
    assert len(checks.checks()) >= 5 * len(checks.TOLERANCE) + 5


def test_a_check_can_fail(checks, monkeypatch) -> None:
    case = next(c for c in checks.cases(small=True) if c.name == "upsample_sum")
    plain = ops.reference.upsample_sum
    monkeypatch.setattr(ops, "upsample_sum", lambda maps, bias: plain(maps, bias) * 1.001)
    with pytest.raises(AssertionError, match="result differs"):
        checks.check_values(case, torch.float32, "cpu")


def test_without_a_gpu_the_command_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, HERE / "checks.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no GPU" in done.stdout


# What a machine with a GPU may lack: our engine, and every library but torch, numpy and triton.
BLOCKED = """
import sys
for name in [*{absent}, "fastseg._rust"]:
    sys.modules[name] = None
import torch, fastseg
from fastseg import layers, models, ops
model = fastseg.create_model("segformer_b0", num_classes=3).eval()
with torch.inference_mode():
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)
out = ops.upsample_cross_entropy(torch.zeros(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.long))
print("fine", round(out.item(), 3))
"""
REST = {"PIL", "huggingface_hub", "safetensors", "scipy", "timm", "tqdm", "transformers"}


@pytest.mark.parametrize("absent", [REST, {*REST, "triton"}], ids=["triton", "no triton"])
def test_operations_layers_and_models_work_out_of_the_sources(absent, tmp_path) -> None:
    code = BLOCKED.format(absent=sorted(absent))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine 1.099"
