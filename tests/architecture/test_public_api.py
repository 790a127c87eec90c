"""The public names and their signatures change on purpose only."""

import importlib
import pkgutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastseg
from architecture.public_api import MODULES, surface

HERE = Path(__file__).parent
# Public modules whose names are all reached through another one.
REACHED_ELSEWHERE = {"fastseg.threads", "fastseg.compat", "fastseg.kernels"}


def test_the_surface_is_the_one_written_down() -> None:
    assert surface() == (HERE / "public_api.txt").read_text(), (
        "The public surface changed. If that is meant: "
        "python tests/architecture/public_api.py > tests/architecture/public_api.txt"
    )


def test_every_part_is_written_down() -> None:
    parts = {
        f"fastseg.{module.name}"
        for module in pkgutil.iter_modules(fastseg.__path__)
        if not module.name.startswith("_")
    }
    assert "fastseg.crf" in parts
    assert parts - REACHED_ELSEWHERE <= set(MODULES)


@pytest.mark.parametrize("name", fastseg.__all__)
def test_every_advertised_name_exists(name: str) -> None:
    assert getattr(fastseg, name) is not None
    assert name in dir(fastseg)


@pytest.mark.parametrize("name", ["create_model", "losses", "augment"])
def test_what_is_missing_is_named_with_its_remedy(name: str) -> None:
    script = f"""
        import sys
        sys.modules["torch"] = sys.modules["torchvision"] = None
        import fastseg
        try:
            fastseg.{name}
        except ModuleNotFoundError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"fastseg.{name} needs torch"), said
    assert "pip install 'fastseg-rs[" in said


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'fastseg' has no attribute 'no_such_name'"):
        fastseg.no_such_name  # noqa: B018


@pytest.mark.parametrize("path", MODULES)
def test_everything_public_has_a_docstring(path: str) -> None:
    module = importlib.import_module(path)
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if callable(value):
            assert value.__doc__, f"{path}.{name}"
