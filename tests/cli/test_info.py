"""`fastseg info`: what it says, and that saying it stays cheap."""

import json
import subprocess
import sys

import pytest

import fastseg
from fastseg.cli import info


def test_text(run):
    outcome = run("info")
    assert outcome.code == 0, outcome.out
    for word in ("fastseg", "threads", "instruction set", "rust", "torch", "triton", "nibabel"):
        assert word in outcome.out


def test_json(run):
    outcome = run("info", "--json")
    assert outcome.code == 0
    facts = json.loads(outcome.out)
    assert facts["fastseg"] == fastseg.__version__
    assert facts["threads"] == fastseg.get_num_threads()
    assert facts["instruction_set"] in ("avx512", "avx2", "neon", "baseline")
    assert facts["backends"]["rust"]["available"] is True
    for state in facts["backends"].values():
        assert state["available"] is (state["reason"] is None)
    assert set(facts["readers"]) == {"tifffile", "nibabel"}


def test_torch_is_not_loaded():
    code = (
        "import sys; from fastseg.cli import main; main(['info']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'triton', 'scipy', 'nibabel')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_engine_that_cannot_be_loaded(run, monkeypatch):
    monkeypatch.setattr(info, "_engine", lambda: ({}, "the compiled engine cannot be loaded: why"))
    outcome = run("info")
    assert outcome.code == 1
    assert "cannot be loaded: why" in outcome.out


@pytest.mark.parametrize("missing", ["torch", "triton", "tifffile"])
def test_missing_packages(run, monkeypatch, missing):
    original = info.find_spec
    monkeypatch.setattr(info, "find_spec", lambda name: None if name == missing else original(name))
    facts = json.loads(run("info", "--json").out)
    state = {**facts["backends"], **facts["readers"]}[missing]
    assert state["available"] is False


needs_triton = pytest.mark.skipif(info.find_spec("triton") is None, reason="needs triton")


@needs_triton
def test_kernels_without_a_gpu(run, monkeypatch):
    monkeypatch.setattr(info.Path, "exists", lambda path: False)
    state = json.loads(run("info", "--json").out)["backends"]["triton"]
    assert "no GPU is visible to run the kernels of" in state["reason"]


@needs_triton
def test_kernels_with_a_gpu(run, monkeypatch):
    monkeypatch.setattr(info.Path, "exists", lambda path: True)
    state = json.loads(run("info", "--json").out)["backends"]["triton"]
    assert state["available"] is True
    assert {"depthwise_conv_gelu", "upsample_argmax"} <= set(state["kernels"])
    assert f", the kernels of {len(state['kernels'])} operations" in run("info").out
