"""The wheel and the source distribution hold what they should, and work where nothing else is."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Stands in for a Triton kernel, so that the way of kernels/ into the packages is tested even
# while there are none.
PROBE = "probe_of_the_packaging_test.py"

REFINE = """
import importlib.util
import sys
import numpy as np
import fastseg

assert fastseg.__file__.startswith(sys.prefix), fastseg.__file__
for absent in ("PIL", "scipy", "torch", "tqdm"):
    assert importlib.util.find_spec(absent) is None, absent

image = np.zeros((16, 20, 3), np.uint8)
image[:, 10:] = 200
foreground = np.full((16, 20), 0.3, np.float32)
foreground[:, 9:] = 0.7                       # one column too wide
refined = fastseg.crf.refine(foreground, image)
assert refined.shape == (16, 20), refined.shape
assert refined.dtype == np.float32, refined.dtype
assert (refined[:, 9] < 0.5).all(), "the column that belongs to the dark side stayed"
assert (refined[:, 10:] > 0.5).all(), "the bright side was lost"
print("refined with", fastseg.__version__)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    # What the project's own environment sets must not leak into the ones made here.
    inherited = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def build_settings(repository: Path) -> dict[str, str]:
    """A target folder of the test's own, and a quicker build: what is tested is the packaging."""
    return {
        "CARGO_TARGET_DIR": str(repository / "target" / "packaging"),
        "CARGO_PROFILE_RELEASE_LTO": "off",
        "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
        "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0",
    }


@pytest.fixture(scope="module")
def dist(
    repository: Path, build_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder with the sdist, and the wheel that was built from it."""
    if shutil.which("cargo") is None:
        pytest.skip("building needs cargo")
    source = tmp_path_factory.mktemp("source")
    for name in ("Cargo.toml", "Cargo.lock", "pyproject.toml", "README.md", "LICENSE"):
        if (repository / name).exists():
            shutil.copy(repository / name, source / name)
    for name in ("kernels", "python", "rust"):
        shutil.copytree(
            repository / name,
            source / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "target"),
        )
    (source / "kernels" / PROBE).write_text("")
    # The files of an sdist carry a fixed date, so cargo would take an older build for a fresh one.
    clean = ["cargo", "clean", "--release", "--package", "fastseg-core", "--package", "fastseg-py"]
    run(*clean, cwd=source, **build_settings)
    build = [sys.executable, "-m", "maturin", "build", "--release", "--sdist", "--out", "dist"]
    run(*build, "--interpreter", sys.executable, cwd=source, **build_settings)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (found,) = dist.glob("*.tar.gz")
    return found


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def expected_kernels(repository: Path) -> set[str]:
    kernels = {path.name for path in (repository / "kernels").glob("*.py")}
    return kernels | {PROBE, "tuned.json"}


def kernels_among(names: list[str]) -> set[str]:
    folder = "fastseg/kernels/"
    inside = [name.split(folder)[1] for name in names if folder in name]
    return {name for name in inside if name.endswith((".py", ".json"))}


def test_wheel_serves_every_python_from_3_10(wheel: Path) -> None:
    python, abi, _platform = wheel.stem.split("-")[-3:]
    assert (python, abi) == ("cp310", "abi3")


def test_wheel_holds_the_package_and_nothing_beside_it(wheel: Path, repository: Path) -> None:
    names = names_in(wheel)
    version = wheel.stem.split("-")[1]
    roots = {name.split("/")[0] for name in names}
    assert roots == {"fastseg", f"fastseg_rs-{version}.dist-info"}
    assert kernels_among(names) == expected_kernels(repository)
    assert "fastseg/py.typed" in names
    assert "fastseg/_rust.pyi" in names
    assert f"fastseg_rs-{version}.dist-info/licenses/LICENSE" in names


def test_wheel_holds_every_source_file(wheel: Path, repository: Path) -> None:
    package = repository / "python"
    sources = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "kernels" not in path.parts
    }
    assert "fastseg/crf/__init__.py" in sources
    assert sources <= set(names_in(wheel))


def test_sdist_holds_what_a_build_needs(sdist: Path, repository: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    inside = {name.split("/", 1)[1] for name in names if "/" in name}
    needed = {"Cargo.toml", "LICENSE", "README.md", "pyproject.toml"}
    needed |= {
        path.relative_to(repository).as_posix() for path in (repository / "rust").rglob("*.rs")
    }
    assert needed <= inside
    assert kernels_among(names) == expected_kernels(repository)


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_refine_runs_where_there_is_only_numpy(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    build_settings: dict[str, str],
) -> None:
    package = request.getfixturevalue(kind)
    run(sys.executable, "-m", "venv", "empty", cwd=tmp_path)
    python = tmp_path / "empty" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet"]
    run(*install, "numpy", cwd=tmp_path)
    run(*install, "--no-deps", package, cwd=tmp_path, **build_settings)
    assert "refined with" in run(python, "-I", "-c", REFINE, cwd=tmp_path)
