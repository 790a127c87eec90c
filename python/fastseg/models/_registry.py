"""Models by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from fastseg.errors import DtypeError, ParameterError
from fastseg.models._base import SegmentationModel, choice, count

Builder = TypeVar("Builder", bound=Callable[..., SegmentationModel])

_BUILDERS: dict[str, Callable[..., SegmentationModel]] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Makes a builder known to `create_model` by a name.

    Args:
        name: lower case, unique.

    Returns:
        A decorator for a function that takes `num_classes`, `in_channels` and its own options by
        keyword, and returns a `SegmentationModel` whose `config` names it.
    """

    def decorate(builder: Builder) -> Builder:
        if name in _BUILDERS:
            raise ParameterError(f"name: a model called {name!r} is already registered")
        _BUILDERS[name] = builder
        return builder

    return decorate


def create_model(
    name: str, *, num_classes: int, in_channels: int = 3, **options: Any
) -> SegmentationModel:
    """Builds a model by name.

    Args:
        name: one of `list_models()`.
        num_classes: K, channels of the logits.
        in_channels: C, channels of the picture.
        options: what the model's builder takes beyond those, such as `encoder=`; see the page of
            its family.

    Returns:
        The model in training mode. With fresh weights, unless the options ask for others.

    Raises:
        ParameterError: an unknown name or option (the nearest known one is suggested), a count
            below 1, or an option out of its range.
        DtypeError: an option of another type.

    Example:
        >>> import torch, fastseg
        >>> model = fastseg.create_model("unet_padded", num_classes=2, widths=[4, 8, 16]).eval()
        >>> model(torch.zeros(1, 3, 33, 50)).shape
        torch.Size([1, 2, 33, 50])
    """
    if not isinstance(name, str) or name not in _BUILDERS:
        raise ParameterError(
            f"name: no model is called {name!r}{nearest(name, _BUILDERS)}; "
            "fastseg.list_models() names them all"
        )
    num_classes = count(num_classes, "num_classes")
    in_channels = count(in_channels, "in_channels")
    builder = _BUILDERS[name]
    parameters = inspect.signature(builder).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        known = [option for option in parameters if option not in ("num_classes", "in_channels")]
        for option in options:
            if option not in known:
                raise ParameterError(
                    f"{option}: {name} has no such option{nearest(option, known)}; it takes "
                    f"{', '.join(known) or 'none'}"
                )
    for option, value in options.items():
        if option in parameters and isinstance(parameters[option].default, bool):
            # "no" would count as true.
            choice(value, option, (True, False))
    return builder(num_classes=num_classes, in_channels=in_channels, **options)


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` knows, sorted.

    Args:
        pattern: with `*`, `?` and `[…]` as in a shell.

    Raises:
        DtypeError: the pattern is no string.

    Example:
        >>> import fastseg
        >>> fastseg.list_models("deeplab_v3*")
        ['deeplab_v3', 'deeplab_v3plus']
    """
    if not isinstance(pattern, str):
        raise DtypeError(f"pattern: expected a string, got {pattern!r}")
    return sorted(name for name in _BUILDERS if fnmatchcase(name, pattern))


def nearest(name: object, known: Iterable[str]) -> str:
    """Suggests the known names that are close: "(did you mean …?)" after a space, or nothing."""
    close = get_close_matches(str(name).lower(), list(known), n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
