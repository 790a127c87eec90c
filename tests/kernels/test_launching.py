"""How a launch is chosen: what is timed, what is remembered, and when nothing is."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastseg.kernels import launching
from fastseg.kernels.launching import Launch, choose

CANDIDATES = [Launch({"BLOCK": 32}), Launch({"BLOCK": 64}), Launch({"BLOCK": 64}, num_warps=8)]
KEY = (2, 100, "torch.float16")


class Machine:
    """A GPU that is not there: how long each candidate takes, and what was timed."""

    def __init__(self) -> None:
        self.times = dict(zip(CANDIDATES_BY_BLOCK, (3.0, 1.0, 2.0), strict=True))
        self.timed: list[Launch] = []
        self.name = "GPU of 2031"
        self.like = SimpleNamespace(device=torch.device("cuda"))

    def milliseconds(self, run, launch: Launch) -> float:
        run(launch)
        self.timed.append(launch)
        return self.times[str(launch)]

    def choose(self, key=KEY, candidates=CANDIDATES) -> Launch:
        return choose("some_kernel", key, candidates, lambda launch: None, self.like)


CANDIDATES_BY_BLOCK = [str(candidate) for candidate in CANDIDATES]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Machine:
    made = Machine()
    monkeypatch.setenv("FASTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FASTSEG_AUTOTUNE", raising=False)
    monkeypatch.setattr(launching, "_chosen", {})
    monkeypatch.setattr(launching, "SHIPPED", tmp_path / "shipped.json")
    monkeypatch.setattr(launching, "_milliseconds", made.milliseconds)
    monkeypatch.setattr(launching, "_cannot_time", lambda like: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: made.name)
    yield made
    launching._table.cache_clear()


def restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what only a process knows."""
    monkeypatch.setattr(launching, "_chosen", {})
    launching._table.cache_clear()


def table(machine: Machine, options: dict, key: str = "2:128:torch.float16") -> str:
    return json.dumps({f"{machine.name}, some_kernel, {key}": options})


def test_the_fastest_is_chosen_once(machine) -> None:
    assert machine.choose() == CANDIDATES[1]
    assert machine.timed == CANDIDATES
    assert machine.choose() == CANDIDATES[1]
    assert machine.timed == CANDIDATES


def test_similar_sizes_are_measured_together(machine) -> None:
    machine.choose()
    machine.choose((2, 128, "torch.float16"))
    assert len(machine.timed) == len(CANDIDATES)
    machine.choose((2, 129, "torch.float16"))
    machine.choose((2, 100, "torch.float32"))
    assert len(machine.timed) == 3 * len(CANDIDATES)


def test_a_choice_lasts_longer_than_the_process(machine, monkeypatch) -> None:
    machine.choose()
    restarted(monkeypatch)
    assert machine.choose() == CANDIDATES[1]
    assert len(machine.timed) == len(CANDIDATES)
    (written,) = launching.cache_file().parent.iterdir()
    assert json.loads(written.read_text()) == json.loads(
        table(machine, {"BLOCK": 64, "num_warps": 4, "num_stages": 2})
    )


def test_another_device_is_measured_again(machine, monkeypatch) -> None:
    machine.choose()
    machine.name = "GPU of 2032"
    machine.times = dict(zip(CANDIDATES_BY_BLOCK, (1.0, 2.0, 3.0), strict=True))
    assert machine.choose() == CANDIDATES[0]
    restarted(monkeypatch)
    machine.name = "GPU of 2031"
    assert machine.choose() == CANDIDATES[1]


def test_what_another_process_measured_stays(machine) -> None:
    machine.choose()
    path = launching.cache_file()
    others = {"another GPU, some_kernel, 1": CANDIDATES[0].options()}
    path.write_text(json.dumps(others))
    machine.choose((4096,))
    assert set(json.loads(path.read_text())) == {*others, f"{machine.name}, some_kernel, 4096"}


def test_shipped_choices_are_taken_without_measuring(machine) -> None:
    launching.SHIPPED.write_text(table(machine, CANDIDATES[2].options()))
    assert machine.choose() == CANDIDATES[2]
    assert not machine.timed


@pytest.mark.parametrize(
    "content", ["{", "[]", "", '{"GPU of 2031, some_kernel, 2:128:torch.float16": []}']
)
def test_a_cache_that_is_broken_or_old_is_measured_again(machine, content) -> None:
    path = launching.cache_file()
    path.parent.mkdir()
    path.write_text(content)
    assert machine.choose() == CANDIDATES[1]


def test_a_candidate_of_another_version_is_measured_again(machine) -> None:
    launching.SHIPPED.write_text(table(machine, {"BLOCK": 16, "num_warps": 4, "num_stages": 2}))
    assert machine.choose() == CANDIDATES[1]


def test_a_folder_that_cannot_be_written_is_no_error(machine, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTSEG_CACHE", str(tmp_path / "file"))
    assert machine.choose() == CANDIDATES[1]
    assert machine.choose() == CANDIDATES[1]
    assert machine.timed == CANDIDATES


def test_measuring_can_be_switched_off(machine, monkeypatch) -> None:
    monkeypatch.setenv("FASTSEG_AUTOTUNE", "0")
    assert machine.choose() == CANDIDATES[0]
    launching.SHIPPED.write_text(table(machine, CANDIDATES[2].options()))
    launching._table.cache_clear()
    assert machine.choose() == CANDIDATES[2]
    assert not machine.timed


def test_what_cannot_be_timed_is_not_remembered(machine, monkeypatch) -> None:
    monkeypatch.setattr(launching, "_cannot_time", lambda like: True)
    assert machine.choose() == CANDIDATES[0]
    assert not machine.timed
    monkeypatch.setattr(launching, "_cannot_time", lambda like: False)
    assert machine.choose() == CANDIDATES[1]


def test_one_candidate_and_cpu_tensors_need_no_timing(machine) -> None:
    assert machine.choose(candidates=CANDIDATES[2:]) == CANDIDATES[2]
    machine.like = torch.empty(0)
    assert machine.choose() == CANDIDATES[0]
    assert not machine.timed


def test_tracing_and_capturing_cannot_be_timed(monkeypatch) -> None:
    with FakeTensorMode():
        assert launching._cannot_time(torch.empty(1))
    for capturing in (False, True):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda c=capturing: c)
        assert launching._cannot_time(torch.empty(1)) is capturing


def test_the_shipped_table_names_candidates(repository) -> None:
    shipped = json.loads((repository / "kernels" / "tuned.json").read_text())
    assert all({"num_warps", "num_stages"} <= set(options) for options in shipped.values())


def test_where_the_cache_is(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("FASTSEG_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert launching.cache_file() == tmp_path / "fastseg" / "tuned.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert launching.cache_file() == tmp_path / ".cache" / "fastseg" / "tuned.json"
