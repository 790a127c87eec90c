"""Fixtures that every test may use."""

import os
import signal
from pathlib import Path

import pytest

# Test processes share the cores: each has as many threads of PyTorch and NumPy as fall to it, which
# is read when they are first imported. Threads of the engine sleep when they have nothing to do.
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if PROCESSES > 1:
    share = max(1, (os.cpu_count() or 1) // PROCESSES)
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

# Triton reads it when first imported; `make test-gpu` sets 0, everything else interprets kernels.
os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell has what it runs in the background ignore interrupts, and all that this starts: a test
# that interrupts a long computation would wait for its end.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real pictures that FASTSEG_DATA names; skips where there is none."""
    named = os.environ.get("FASTSEG_DATA")
    if not named:
        pytest.skip("FASTSEG_DATA is not set: it names the folder with real pictures")
    folder = ROOT / named
    if not folder.is_dir():
        pytest.fail(f"FASTSEG_DATA names {named!r}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The frozen results of other implementations, with the scripts that made them."""
    return ROOT / "tests" / "golden"
