"""Puts tests/ on the path, so that tests can import `references` and `crf.tolerances`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))


@pytest.fixture
def data() -> Path:
    """The folder of real pictures that FASTSEG_DATA names."""
    folder = os.environ.get("FASTSEG_DATA")
    if not folder:
        pytest.skip("FASTSEG_DATA is not set")
    path = Path(folder)
    if not path.is_dir():
        pytest.skip(f"FASTSEG_DATA names {path}, which is no folder")
    return path


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Gives the pool its number of threads back after the test."""
    import fastseg

    before = fastseg.get_num_threads()
    yield
    fastseg.set_num_threads(before)
