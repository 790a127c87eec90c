"""Compilers see through every operation: kernels in the graphs, no breaks, few recompilations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def traced() -> dict:
    """What compiling and exporting each operation gave, by name."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("traced.py")],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_operation_with_kernels_is_traced(traced, repository: Path) -> None:
    kernels = {path.stem for path in (repository / "kernels").glob("*.py")}
    operations = {path.stem for path in (repository / "python/fastseg/ops").glob("*.py")}
    # The lattice stands apart: its shapes depend on the values of a picture.
    assert set(traced) == (kernels & operations) - {"permutohedral_lattice"}


def test_graphs_hold_the_kernels(traced) -> None:
    for name, found in traced.items():
        assert all(count >= 1 for count in found["forward"]), name
        # The gradient of the reduction is PyTorch's: matrix products and a LayerNorm.
        if found["differentiable"] and name != "sequence_reduction":
            both = zip(found["forward"], found["backward"], strict=True)
            # The gradient of the cross entropy is computed along with it.
            assert all(forward + backward >= 2 for forward, backward in both), name


def test_sizes_are_compiled_twice_at_most(traced) -> None:
    for name, found in traced.items():
        # Four sizes: the first as it is, all others by one graph.
        assert len(found["forward"]) == 2, name


def test_exported_programs_keep_the_operation(traced) -> None:
    for name, found in traced.items():
        assert found["exported"] == [f"fastseg.{name}.default"]
