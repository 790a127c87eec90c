"""Fast building blocks for image segmentation.

Importing `fastseg` loads nothing heavy: a submodule is loaded when it is first used, so
`fastseg.crf.refine(...)` works after a plain `import fastseg`.

Example:
    >>> import fastseg
    >>> fastseg.set_num_threads(2)
    >>> fastseg.get_num_threads()
    2
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastseg import (
        acceleration,
        augment,
        checkpoints,
        cli,
        compat,
        crf,
        errors,
        inference,
        labelmaps,
        layers,
        losses,
        metrics,
        models,
        ops,
        threads,
    )
    from fastseg.acceleration.accelerate import accelerate, acceleration_report, restore
    from fastseg.checkpoints.load import load
    from fastseg.inference.predict import predict
    from fastseg.models import create_model, list_models
    from fastseg.threads import get_num_threads, set_num_threads

    __version__: str

__all__ = [
    "__version__",
    "accelerate",
    "acceleration",
    "acceleration_report",
    "augment",
    "checkpoints",
    "cli",
    "compat",
    "create_model",
    "crf",
    "errors",
    "get_num_threads",
    "inference",
    "labelmaps",
    "layers",
    "list_models",
    "load",
    "losses",
    "metrics",
    "models",
    "ops",
    "predict",
    "restore",
    "set_num_threads",
    "threads",
]

_SUBMODULES = frozenset(
    {
        "acceleration",
        "augment",
        "checkpoints",
        "cli",
        "compat",
        "crf",
        "errors",
        "inference",
        "labelmaps",
        "layers",
        "losses",
        "metrics",
        "models",
        "ops",
        "threads",
    }
)
_MEMBERS = {
    "accelerate": "fastseg.acceleration",
    "acceleration_report": "fastseg.acceleration",
    "create_model": "fastseg.models",
    "get_num_threads": "fastseg.threads",
    "list_models": "fastseg.models",
    "load": "fastseg.checkpoints",
    "predict": "fastseg.inference",
    "restore": "fastseg.acceleration",
    "set_num_threads": "fastseg.threads",
}


# What parts of the package need beyond NumPy, and what brings it along.
_EXTRAS = {"torch": "models", "timm": "models", "safetensors": "models", "torchvision": "train"}


def _imported(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        raise ModuleNotFoundError(
            f"fastseg.{name} needs {error.name}, which is not installed: "
            f"pip install 'fastseg-rs[{extra}]', or pip install '.[{extra}]' in a clone",
            name=error.name,
        ) from None


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return _imported(f"fastseg.{name}", name)
    if name in _MEMBERS:
        value = getattr(_imported(_MEMBERS[name], name), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("fastseg-rs")
    else:
        raise AttributeError(f"module 'fastseg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
