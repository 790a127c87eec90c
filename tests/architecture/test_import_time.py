"""`import fastseg` loads nothing heavy.

Which modules are loaded is what decides the time; the time itself is measured in
`benches/bench_import.py`.
"""

import subprocess
import sys

import pytest

HEAVY = {"PIL", "nibabel", "numpy", "scipy", "tifffile", "torch", "tqdm"}

REFINE = """
import numpy as np
probs = np.full((2, 8, 8), 0.5, np.float32)
fastseg.crf.refine(probs, np.zeros((8, 8, 3), np.uint8))
"""


def loaded_by(source: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running the source."""
    code = f"{source}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_package_alone_loads_nothing_heavy() -> None:
    loaded = loaded_by("import fastseg")
    assert "fastseg" in loaded
    assert not HEAVY & loaded


@pytest.mark.parametrize(
    "source",
    [
        "import fastseg; fastseg.crf",
        "import fastseg; fastseg.labelmaps",
        "import fastseg; fastseg.set_num_threads(1)",
        "import fastseg.compat.pydensecrf.densecrf, fastseg.compat.pydensecrf.utils",
        "import fastseg.cli",
        "import fastseg\n" + REFINE,
    ],
)
def test_no_part_loads_torch_or_scipy(source: str) -> None:
    loaded = loaded_by(source)
    assert "fastseg" in loaded
    assert not {"scipy", "torch"} & loaded


def test_what_is_heavy_is_seen() -> None:
    assert "numpy" in loaded_by("import numpy")
