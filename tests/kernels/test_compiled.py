"""Every kernel compiles for six chips, within the limits; the committed table is today's.

Nothing here needs a GPU. `make kernels` writes what these tests compare with.
"""

import ast
import copy
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REMEDY = "run `make kernels` and commit benches/results/kernels.json and docs/kernels-compiled.md"


@pytest.fixture
def table(repository: Path, monkeypatch: pytest.MonkeyPatch):
    """The module benches/kernels_table.py."""
    monkeypatch.syspath_prepend(str(repository / "benches"))
    return importlib.import_module("kernels_table")


@pytest.fixture(scope="module")
def committed(repository: Path) -> dict:
    return json.loads((repository / "benches" / "results" / "kernels.json").read_text("utf-8"))


@pytest.mark.slow
def test_every_kernel_compiles_within_the_limits(
    repository: Path, committed: dict, tmp_path: Path
) -> None:
    out = tmp_path / "kernels.json"
    done = subprocess.run(
        [sys.executable, repository / "benches" / "kernels_table.py", "--part", "--out", out],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    today = json.loads(out.read_text("utf-8"))
    assert launches(today) == launches(committed), REMEDY
    if today["triton"] != committed["triton"]:
        return  # Another compiler gives other code, which is within the limits, too.
    for now, then in zip(today["entries"], committed["entries"], strict=True):
        # The same program by the same compiler; and a part of them compiled again.
        assert now["programs"] == then["programs"], f"{now['kernel']} has changed: {REMEDY}"
        assert now["chips"] in ({}, then["chips"]), REMEDY
        counted = ("traffic", "tensor", "plain")
        assert all(now[what] in (None, then[what]) for what in counted), REMEDY
    assert sum(bool(entry["chips"]) for entry in today["entries"]) >= len(today["entries"]) / 3
    assert any(entry["traffic"] for entry in today["entries"])


def test_the_committed_table_is_whole(committed: dict, table) -> None:
    for entry in committed["entries"]:
        never = table.limits().get(entry["kernel"], {}).get("never", [])
        assert list(entry["chips"]) == [chip for chip in table.CHIPS if chip not in never]
        assert entry["traffic"] is not None
    assert table.misses(committed["entries"]) == []


def test_products_are_held_to_tensor_cores(repository: Path, committed: dict) -> None:
    seen = set()
    for entry in committed["entries"]:
        file = entry["kernel"].split(".")[0]
        if "tl.dot(" not in (repository / "kernels" / f"{file}.py").read_text("utf-8"):
            continue
        exact = (entry["dtype"], entry["options"]["PRECISION"]) == ("fp32", "ieee")
        nvidia = {chip: code for chip, code in entry["chips"].items() if chip.startswith("sm_")}
        assert {code["product"] for code in nvidia.values()} == {not exact}, entry["kernel"]
        seen.add((file, entry["dtype"], entry["options"]["PRECISION"]))
    for file in {file for file, *_ in seen}:
        # TF32 is a program of its own, and 16 bits are the same with and without it.
        ways = {(dtype, how) for name, dtype, how in seen if name == file}
        wanted = {("fp16", "ieee"), ("bf16", "ieee"), ("fp32", "tf32")}
        assert wanted <= ways <= {*wanted, ("fp32", "ieee")}, file


def launches(results: dict) -> list[tuple]:
    return [(e["kernel"], e["dtype"], sorted(e["options"].items())) for e in results["entries"]]


def test_the_page_is_that_of_the_results(repository: Path, table, committed: dict) -> None:
    page = (repository / "docs" / "kernels-compiled.md").read_text("utf-8")
    assert page == table.page(committed), REMEDY


def test_no_kernel_is_left_out(repository: Path, committed: dict) -> None:
    launched = set()
    for path in (repository / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "wrap_triton":
                launched.add(f"{path.stem}.{ast.unparse(node.args[0])}")
    assert launched, "no launches were found: this test would check nothing"
    assert launched == {entry["kernel"] for entry in committed["entries"]}, (
        "add a workload to benches/kernel_workloads.py, and " + REMEDY
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spills": 8}, "spills 8 bytes"),
        ({"fits": False}, "bytes of shared memory"),
        ({"product": True, "tensor_core": 0}, "without tensor cores"),
        ({"occupancy": 0.01}, "occupancy 1%"),
    ],
)
def test_what_misses_a_limit_is_named(table, committed: dict, change: dict, message: str) -> None:
    entries = copy.deepcopy(committed["entries"])
    assert table.misses(entries) == []
    entries[-1]["chips"]["sm_90"].update(change)
    (found,) = table.misses(entries)
    assert message in found
    assert "sm_90" in found


@pytest.fixture
def argmax(committed: dict) -> dict:
    """An entry of a kernel that is held to its traffic."""
    entries = copy.deepcopy(committed["entries"])
    return next(e for e in entries if e["kernel"] == "upsample_argmax._forward")


def test_bytes_beyond_the_limit_are_named(table, argmax: dict) -> None:
    argmax["traffic"] = 9.0
    assert "moves 9.0 ×" in "\n".join(table.misses([argmax]))


def test_what_memory_bounds_needs_a_limit(table, argmax: dict, monkeypatch) -> None:
    monkeypatch.setattr(table, "limits", lambda: {"every": {"occupancy": 0}})
    argmax["tensor"], argmax["plain"] = 0, 8
    # 8 operations for each byte, of which an A100 does 9.6 and an H100 20.
    assert table.arithmetic(argmax) == pytest.approx([0.8365, 0.4006], abs=1e-4)
    assert "memory bounds it" in "\n".join(table.misses([argmax]))
    argmax["plain"] = 21
    assert table.misses([argmax]) == []


def test_a_limit_of_no_kernel_is_named(table) -> None:
    assert "there is no upsample_argmax._forward" in "\n".join(table.misses([]))


@pytest.mark.parametrize(
    ("chip", "registers", "shared", "warps", "expected"),
    [
        # The figures of NVIDIA's occupancy calculator.
        ("sm_80", 32, 0, 4, 1.0),
        ("sm_80", 128, 0, 4, 16 / 64),
        ("sm_80", 129, 0, 4, 12 / 64),
        ("sm_86", 40, 48 * 1024, 8, 16 / 48),
        ("sm_90", 64, 100 * 1024, 4, 8 / 64),
        ("sm_90", 255, 0, 16, 0.0),
        ("gfx942", 128, 0, 4, 16 / 32),
        ("gfx942", 64, 40 * 1024, 4, 4 / 32),
    ],
)
def test_occupancy(table, chip, registers, shared, warps, expected) -> None:
    assert table.CHIPS[chip].occupancy(registers, shared, warps) == pytest.approx(expected)
