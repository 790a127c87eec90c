"""Writes down the public surface of fastseg: every name, with its parameters and defaults.

After a change that is meant:
    python tests/architecture/public_api.py > tests/architecture/public_api.txt
"""

import enum
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType

MODULES = [
    "fastseg",
    "fastseg.augment",
    "fastseg.acceleration",
    "fastseg.crf",
    "fastseg.inference",
    "fastseg.labelmaps",
    "fastseg.checkpoints",
    "fastseg.layers",
    "fastseg.losses",
    "fastseg.metrics",
    "fastseg.models",
    "fastseg.ops",
    "fastseg.errors",
    "fastseg.compat.pydensecrf.densecrf",
    "fastseg.compat.pydensecrf.utils",
    "fastseg.cli",
]


def public_names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )


def signature(value: object) -> str:
    """Parameters and defaults, without the annotations (mypy watches those)."""
    try:
        given = inspect.signature(value)  # type: ignore[arg-type]
    except ValueError:
        return "(...)"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in given.parameters.values()
        if not parameter.name.startswith("_")
    ]
    return str(given.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def describe(name: str, value: object) -> Iterator[str]:
    if isinstance(value, ModuleType):
        yield f"module {name}"
    elif isinstance(value, type):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        is_error = issubclass(value, Exception)
        yield f"class {name}({bases})" if bases else f"class {name}"
        if not is_error and not issubclass(value, enum.Enum) and "__init__" in vars(value):
            yield f"    {name}{signature(value)}"
        for member, attribute in sorted(vars(value).items()):
            if member.startswith("_"):
                continue
            attribute = getattr(attribute, "__func__", attribute)
            if callable(attribute):
                yield f"    .{member}{signature(attribute)}"
            else:
                yield f"    .{member}"
    elif callable(value):
        yield f"{name}{signature(value)}"
    elif isinstance(value, str | int | float):
        yield f"{name}: {type(value).__name__}"
    else:
        yield name


def surface() -> str:
    lines: list[str] = []
    for path in MODULES:
        module = importlib.import_module(path)
        lines.append(f"[{path}]")
        for name in public_names(module):
            lines += describe(name, getattr(module, name))
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(surface(), end="")
