"""Times of `import`, each in a fresh interpreter: fastseg beside an empty program and numpy."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

STATEMENTS = {
    "nothing": "pass",
    "numpy": "import numpy",
    "fastseg": "import fastseg",
    "fastseg.crf": "import fastseg.crf",
    "pydensecrf": "import pydensecrf.densecrf, pydensecrf.utils",
}
HEAVY = ("torch", "scipy", "PIL")


def _run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("module", STATEMENTS)
def bench_import(benchmark: Any, module: str) -> None:
    loaded = _run(f"import sys\n{STATEMENTS[module]}\nprint(*sys.modules)").split()
    if module.startswith("fastseg"):
        assert not set(HEAVY) & set(loaded), "import fastseg must stay light"
    benchmark.group = "import, the interpreter's start included"
    benchmark.pedantic(_run, args=(STATEMENTS[module],), rounds=7, warmup_rounds=1)
