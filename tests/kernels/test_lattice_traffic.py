"""The count of what the lattice's kernels move: its cache, and what it takes as touched."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastseg import ops


@pytest.fixture
def counting(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module benches/lattice_traffic.py."""
    monkeypatch.syspath_prepend(str(repository / "benches"))
    return importlib.import_module("lattice_traffic")


@pytest.mark.parametrize(
    ("rounds", "sectors", "missed"),
    [
        (1, 500, 500),
        (4, 100, 100),  # all of them stay
        (40, 110, 40 * 110),  # each is gone when its turn comes
    ],
)
def test_a_cache_of_a_hundred_sectors(counting, monkeypatch, rounds, sectors, missed) -> None:
    monkeypatch.setattr(counting, "CACHE", 100 * 32)
    touched = 7000 + np.tile(np.arange(sectors), rounds)
    # A sector is touched by one program at a time, so many programs hold as many sectors.
    programs = np.arange(len(touched))
    assert counting._missed(programs, touched, len(touched)) == missed


def test_what_a_program_touches_twice_moves_once(counting, monkeypatch) -> None:
    monkeypatch.setattr(counting, "CACHE", 0)
    assert counting._missed(np.array([0, 0, 0, 1]), np.array([5, 6, 5, 5]), 2) == 3


@pytest.fixture
def launches(counting) -> list[Any]:
    """Those of a filter over 300 points with 5 channels."""
    generator = torch.Generator().manual_seed(0)
    lattice = ops.permutohedral_lattice(torch.randn(2, 300, generator=generator))
    found: list[Any] = []
    with counting.listening(None, found.append, every=False):
        lattice.filter(torch.empty(300, 5), start=torch.empty(300, 5))
    assert {launch.name.split(".")[1] for launch in found} == {"_splat", "_sum", "_blur", "_slice"}
    return found


def test_what_fits_the_cache_moves_once(counting, launches) -> None:
    for launch in launches:
        # The tensors, and a rim of sectors that are not theirs alone.
        assert 0.95 < counting.traffic(launch) < 1.2, launch.name


def test_kernels_touch_what_is_counted(counting, launches, monkeypatch) -> None:
    for kernel, accesses in counting._ACCESSES.items():

        def fewer(*arguments: Any, accesses: Any = accesses) -> list[Any]:
            return list(accesses(*arguments))[:-1]

        launch = next(launch for launch in launches if launch.name.endswith(kernel))
        monkeypatch.setitem(counting._ACCESSES, kernel, fewer)
        with pytest.raises(AssertionError, match=f"{kernel} touches other sectors"):
            counting.traffic(launch)
