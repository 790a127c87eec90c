"""The benches for GPUs, as far as a machine without one can tell."""

import importlib
import json

import pytest
import torch


@pytest.fixture
def gpu(repository, monkeypatch: pytest.MonkeyPatch):
    """The module benches/gpu.py; compiled rivals run as they are."""
    monkeypatch.syspath_prepend(str(repository / "benches"))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    return importlib.import_module("gpu")


@pytest.fixture
def network(gpu):
    workloads = importlib.import_module("kernel_workloads")
    return workloads.Network("tiny", (32, 64, 160, 256), 32, 64, 64, 5)


def test_contenders_of_operations_agree(gpu, network) -> None:
    contests = list(gpu.operation_contests([network], "cpu", torch.float32))
    workloads = importlib.import_module("kernel_workloads")
    names = {contest.name.split()[0] for contest in contests}
    assert names == {call.__name__ for call, _ in workloads.OPERATIONS}
    for contest in contests:
        row = gpu.measure(contest, lambda call: 1.0)
        assert not row.skipped, contest.name
        assert len(row.milliseconds) == 3


def test_contenders_of_lattices_agree(gpu) -> None:
    placing, filtering = gpu.lattice_contests([(9, 12, 3)], "cpu")
    for contest in (placing, filtering):
        row = gpu.measure(contest, lambda call: 1.0)
        assert set(row.milliseconds) == {"fastseg", "torch"}


def test_contenders_of_models_agree(gpu) -> None:
    pytest.importorskip("transformers")
    (contest,) = gpu.model_contests([("b0", 64, 64, 5)], "cpu", torch.float32)
    row = gpu.measure(contest, lambda call: 1.0)
    assert not row.skipped
    assert len(row.milliseconds) == 6


def test_who_disagrees_or_fails_is_not_timed(gpu) -> None:
    def fails():
        raise ValueError("no | kernel")

    calls = {
        "fastseg": lambda: torch.ones(3),
        "other": lambda: torch.zeros(3),
        "empty": lambda: torch.full((3,), torch.nan),
        "broken": fails,
    }
    row = gpu.measure(gpu.Contest("contest", calls), lambda call: 2.0)
    assert row.milliseconds == {"fastseg": 2.0}
    assert "disagrees" in row.skipped["other"]
    assert "disagrees" in row.skipped["empty"]
    text = gpu.table([row], "GPU")
    row_of_table = "| contest | 2.000 ms | disagrees by 1e+06 | disagrees by nan |"
    assert f"{row_of_table} ValueError: no / kernel |" in text


def test_measured_launches_ship(gpu, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(gpu, "TUNED", tmp_path / "tuned.json")
    gpu.TUNED.write_text('{"a": {"num_warps": 4}}')
    gpu._ship(tmp_path / "none.json")
    (tmp_path / "new.json").write_text('{"b": {"num_warps": 8}}')
    gpu._ship(tmp_path / "new.json")
    assert set(json.loads(gpu.TUNED.read_text())) == {"a", "b"}


def test_without_a_gpu_nothing_is_measured(gpu, capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "no GPU" in capsys.readouterr().out
