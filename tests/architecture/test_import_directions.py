"""The parts of fastseg may import each other in one direction only: docs/architecture.md."""

import ast
import re
from pathlib import Path

import pytest

# Each part, and the parts that it may import. `errors`, the array door and the checks of parameters
# may be imported by all, and `_rust` by those of which it is said here. A part that is missing
# from this table fails the test.
BASE = {"_arrays", "_checks", "errors", "threads"}
ENGINE = BASE | {"_rust", "ops"}
APPLICATION = ENGINE | {"augment", "checkpoints", "crf", "labelmaps", "layers", "metrics", "models"}
ALLOWED = {
    "__main__": {"cli"},
    "_pictures": {"errors"},
    "errors": set(),
    "_arrays": {"errors"},
    "_checks": {"errors"},
    "threads": {"errors", "_rust"},
    "_engine": {"_rust"},
    "kernels": set(),
    "ops": BASE | {"_engine", "_rust", "kernels"},
    "crf": ENGINE,
    "metrics": ENGINE,
    "labelmaps": ENGINE,
    "augment": ENGINE,
    "layers": BASE | {"ops"},
    "losses": BASE | {"_engine"},
    "models": BASE | {"ops", "layers"},
    "checkpoints": BASE | {"ops", "layers", "models"},
    "acceleration": BASE | {"ops", "layers", "models"},
    "inference": APPLICATION | {"_pictures"},
    "training": APPLICATION | {"inference", "losses"},
    "compat": ENGINE | {"crf", "labelmaps", "metrics"},
    "cli": APPLICATION | {"_pictures", "inference", "training"},
}
# Libraries that `pip install fastseg-rs` does not bring: never imported when a module is loaded.
OPTIONAL = {
    "huggingface_hub",
    "lightning",
    "nibabel",
    "safetensors",
    "scipy",
    "tifffile",
    "timm",
    "torch",
    "torchmetrics",
    "torchvision",
    "triton",
}
# Modules that are themselves loaded only once the library that they adapt to is.
ADAPTERS = {
    "crf/_tensor_lattice.py",
    "crf/_tensor_mean_field.py",
    "crf/_tensor_model.py",
    "crf/_tensor_refinement.py",
    "metrics/_torchmetrics.py",
}
NEEDS_TORCH = {
    "_engine",
    "augment",
    "ops",
    "layers",
    "losses",
    "models",
    "checkpoints",
    "acceleration",
    "inference",
    "training",
}


def package(repository: Path) -> Path:
    return repository / "python" / "fastseg"


def modules(repository: Path) -> list[Path]:
    found = sorted(package(repository).rglob("*.py"))
    assert found, "no sources found: this test would check nothing"
    return found


def part_of(path: Path, repository: Path) -> str:
    return path.relative_to(package(repository)).parts[0].removesuffix(".py")


def imported_names(nodes: list[ast.AST]) -> list[tuple[str, int]]:
    """Full names of what the statements import, with their lines."""
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return names


def parts_imported(tree: ast.Module) -> list[tuple[str, int]]:
    return [
        (name.split(".")[1], line)
        for name, line in imported_names(list(ast.walk(tree)))
        if name.startswith("fastseg.")
    ]


def statements_run_on_import(node: ast.AST) -> list[ast.AST]:
    """Every node outside function bodies and `if TYPE_CHECKING` blocks."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                found += [other, *statements_run_on_import(other)]
            continue
        found += [child, *statements_run_on_import(child)]
    return found


def test_parts_import_in_one_direction(repository: Path) -> None:
    wrong = []
    for path in modules(repository):
        part = part_of(path, repository)
        if part == "__init__":
            continue
        assert part in ALLOWED, f"{path}: say in ALLOWED what {part!r} may import"
        for name, line in parts_imported(ast.parse(path.read_text())):
            if name != part and name not in ALLOWED[part]:
                wrong.append(f"{path.relative_to(repository)}:{line}: {part} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_loading_a_module_needs_no_optional_library(repository: Path) -> None:
    wrong = []
    for path in modules(repository):
        inside = path.relative_to(package(repository)).as_posix()
        if part_of(path, repository) in NEEDS_TORCH or inside in ADAPTERS:
            continue
        nodes = statements_run_on_import(ast.parse(path.read_text()))
        for name, line in imported_names(nodes):
            if name.split(".")[0] in OPTIONAL:
                wrong.append(f"{path.relative_to(repository)}:{line}: imports {name} when loaded")
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_its_parts_only_when_used(repository: Path) -> None:
    tree = ast.parse((package(repository) / "__init__.py").read_text())
    names = {name.split(".")[0] for name, _ in imported_names(statements_run_on_import(tree))}
    assert names == {"importlib", "typing"}


def test_the_core_crate_knows_nothing_of_python(repository: Path) -> None:
    def names(crate: str) -> set[str]:
        manifest = (repository / "rust" / crate / "Cargo.toml").read_text()
        return set(re.findall(r"^([\w-]+)(?:\.workspace)? *=", manifest, flags=re.MULTILINE))

    assert "rayon" in names("fastseg-core"), "the manifest was not read"
    assert not {"fastseg-py", "numpy", "pyo3"} & names("fastseg-core")
    assert "fastseg-core" in names("fastseg-py")


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import fastseg.crf.refine", ["crf"]),
        ("from fastseg import models", ["models"]),
        ("from fastseg.models.unet import UNet", ["models"]),
        ("def f():\n    from fastseg import cli", ["cli"]),
        ("import fastsegment.crf", []),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, parts: list[str]) -> None:
    assert [name for name, _ in parts_imported(ast.parse(source))] == parts


def test_a_guarded_import_does_not_count_as_run() -> None:
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "else:\n    import scipy\n"
        "class A:\n    import tifffile\n"
        "def f():\n    import timm\n"
    )
    names = [name for name, _ in imported_names(statements_run_on_import(tree))]
    assert names == ["typing.TYPE_CHECKING", "scipy", "tifffile"]
