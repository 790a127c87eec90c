"""Fixtures of the kernels' tests, which need Triton."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

# Triton is no dependency where it has no wheels: macOS, Windows, ARM.
collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]

_MAKERS = [
    *((torch, name) for name in ("empty", "empty_like", "empty_strided")),
    *((Tensor, name) for name in ("new_empty", "new_empty_strided")),
]


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills memory that nobody has written with NaN (the smallest integer, True).

    What a kernel forgets to write then shows, instead of being what happened to lie there.
    """
    for owner, name in _MAKERS:
        monkeypatch.setattr(owner, name, _poisoning(getattr(owner, name)))


def _poisoning(make):
    def poisoned(*arguments, **options):
        made = make(*arguments, **options)
        with torch.no_grad():
            return made.fill_(_poison(made.dtype))

    return poisoned


def _poison(dtype: torch.dtype) -> float | int | bool:
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return True if dtype == torch.bool else torch.iinfo(dtype).min
