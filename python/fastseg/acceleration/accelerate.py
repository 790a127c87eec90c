"""`accelerate`, `restore`, and what became of each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal, TypeVar

from torch import nn

from fastseg.acceleration import _smp, _transformers
from fastseg.acceleration._layers import FastLayer, has_own_forward
from fastseg.errors import DtypeError

_Model = TypeVar("_Model", bound=nn.Module)

# By module and class.
_FAST: Mapping[tuple[str, str], FastLayer] = {**_transformers.LAYERS, **_smp.LAYERS}
_HOMES = frozenset(home for home, _ in _FAST)
_FORWARDS: frozenset[Callable[..., Any]] = frozenset(fast.forward for fast in _FAST.values())


def accelerate(model: _Model) -> _Model:
    """Makes another library's SegFormer faster, in place.

    Args:
        model: a `SegformerForSemanticSegmentation`, `SegformerModel` or
            `SegformerForImageClassification` of transformers, before or after its version 5.9; a
            `Segformer` or another model on a Mix Transformer of segmentation_models.pytorch; or a
            module that has one inside.

    Returns:
        The model.

    Raises:
        DtypeError: there is no such SegFormer in it.

    Convention:
        Outputs differ by rounding only. Parameters, their names, hooks and classes stay as they
        are, so `state_dict`, `save_pretrained`, Trainer, gradient checkpointing,
        `output_hidden_states`, autocast and `torch.compile` work as before. What a layer cannot do
        in the fast way (attention weights as output, attention dropout in training, layers that
        were exchanged or have hooks) it does in its own way, call by call. A pickled or copied
        model is the plain one and the accelerated one, respectively.

    Source:
        The function is the model's own; `fastseg.ops.folded_decoder` says what makes it faster.

    Example:
        >>> import fastseg
        >>> from transformers import SegformerConfig, SegformerForSemanticSegmentation
        >>> model = SegformerForSemanticSegmentation(SegformerConfig()).eval()
        >>> model = fastseg.accelerate(model)
        >>> print(fastseg.acceleration_report(model).summary())
        42 of 42 layers accelerated
        >>> model = fastseg.restore(model)
    """
    found = False
    for _, module, fast in _candidates(model):
        found = True
        if _obstacle(module, fast) is None:
            # Set past nn.Module's own __setattr__, which would look for parameters in it.
            module.__dict__["forward"] = MethodType(fast.forward, module)
    if not found:
        raise DtypeError(
            "model: expected a SegFormer of transformers or segmentation_models.pytorch, got "
            f"{type(model).__name__}; models of fastseg are fast without this"
        )
    return model


def restore(model: _Model) -> _Model:
    """Takes back what `accelerate` did.

    Args:
        model: the model; one that was not accelerated stays as it is.

    Returns:
        The model.
    """
    for module in model.modules():
        if _is_accelerated(module):
            del module.__dict__["forward"]
    return model


@dataclass(frozen=True)
class AcceleratedLayer:
    """What became of one layer.

    Attributes:
        name: its name in the model.
        kind: its class.
        status: "accelerated"; "left", where it could not be; or "original", where nobody asked.
        detail: what runs now, or why the layer was left.
    """

    name: str
    kind: str
    status: Literal["accelerated", "left", "original"]
    detail: str


@dataclass(frozen=True)
class AccelerationReport:
    """What `accelerate` replaced in a model, and what it left and why.

    Attributes:
        layers: every layer that could be replaced, in the model's order.
    """

    layers: tuple[AcceleratedLayer, ...]

    def summary(self) -> str:
        """One line: how many layers are accelerated."""
        count = sum(layer.status == "accelerated" for layer in self.layers)
        return f"{count} of {len(self.layers)} layers accelerated"

    def __str__(self) -> str:
        """A line for each kind of layer and what became of it."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for layer in self.layers:
            groups.setdefault((layer.kind, layer.status, layer.detail), []).append(layer.name)
        lines = [self.summary()]
        for (kind, status, detail), names in groups.items():
            where = names[0] if len(names) == 1 else f"{len(names)}, such as {names[0]}"
            lines.append(f"  {status}: {kind} ({where}): {detail}")
        return "\n".join(lines)


def acceleration_report(model: nn.Module) -> AccelerationReport:
    """Says what `accelerate` replaced in a model, what it left, and why.

    Args:
        model: any module.

    Returns:
        A report that prints as text; without layers where there is no SegFormer that it knows.
    """
    layers = []
    for name, module, fast in _candidates(model):
        obstacle = _obstacle(module, fast)
        status: Literal["accelerated", "left", "original"]
        if _is_accelerated(module):
            status, detail = "accelerated", _detail(module, fast)
        elif obstacle is not None:
            status, detail = "left", obstacle
        else:
            status, detail = "original", "accelerate was not called for it"
        layers.append(AcceleratedLayer(name, type(module).__name__, status, detail))
    return AccelerationReport(tuple(layers))


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module, FastLayer]]:
    """Every module that has a fast version: its name, it, and that version."""
    for name, module in model.named_modules():
        for base in type(module).__mro__:
            fast = _FAST.get((base.__module__, base.__name__))
            if fast is not None:
                if fast.concerns(module):
                    yield name, module, fast
                break


def _is_accelerated(module: nn.Module) -> bool:
    forward = module.__dict__.get("forward")
    return isinstance(forward, MethodType) and forward.__func__ in _FORWARDS


def _obstacle(module: nn.Module, fast: FastLayer) -> str | None:
    """Why a module cannot be accelerated, or None."""
    if has_own_forward(module) and not _is_accelerated(module):
        return "its forward was replaced by other code"
    if type(module).forward.__module__ not in _HOMES:
        return f"{type(module).__name__} has a forward of its own"
    missing = [name for name in fast.needed if not hasattr(module, name)]
    if missing:
        return f"it has no {', '.join(missing)}: this version of its library is not known"
    return None


def _detail(module: nn.Module, fast: FastLayer) -> str:
    text = (fast.forward.__doc__ or "").split("\n")[0].rstrip(".")
    slow = fast.slow_reason(module)
    return text if slow is None else f"{text}, but runs its own way: {slow}"
