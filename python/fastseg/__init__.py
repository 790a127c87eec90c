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


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"fastseg.{name}")
    if name in _MEMBERS:
        value = getattr(importlib.import_module(_MEMBERS[name]), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("fastseg-rs")
    else:
        raise AttributeError(f"module 'fastseg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
