"""Records what the launch functions in `kernels/` launch, so that no signature is written twice.

A workload calls the public operations. While it is recorded, `wrap_triton` in the modules of the
kernels notes the kernel, its grid and its arguments instead of launching it, and `choose` hands
every candidate to the launch function, not the best one alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastseg import ops
from fastseg.kernels.launching import Launch
from fastseg.ops import _backends

FOLDER = Path(__file__).resolve().parent.parent / "kernels"

Maker = Callable[..., Tensor]


@dataclass(frozen=True)
class Workload:
    """Something that launches kernels.

    Attributes:
        operation: the operation's name.
        place: where in which network, for readers.
        run: calls the operation; it is given a function that makes tensors of a shape.
        dtype: of the tensors that are made.
        tf32: whether float32 may be multiplied as TF32.
    """

    operation: str
    place: str
    run: Callable[[Maker], object]
    dtype: torch.dtype
    tf32: bool = False


@dataclass(frozen=True)
class Recorded:
    """One launch.

    Attributes:
        kernel: what `triton.jit` made.
        name: module and function, such as "depthwise_conv_gelu._forward".
        grid: number of programs along each axis.
        arguments: of the kernel, in order.
        options: blocks and options by name.
        workload: what launched it.
    """

    kernel: Any
    name: str
    grid: tuple[int, int, int]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    workload: Workload | None

    @property
    def programs(self) -> int:
        """How many programs run."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments."""
        values = [*self.arguments, *self.options.values()]
        return [value for value in values if isinstance(value, Tensor)]


Listener = Callable[[Recorded], None]


def modules() -> list[Any]:
    """The modules with kernels: those that use `wrap_triton`."""
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    found = [importlib.import_module(f"fastseg.kernels.{name}") for name in names]
    return [module for module in found if hasattr(module, "wrap_triton")]


@contextmanager
def listening(
    workload: Workload | None, listener: Listener, *, every: bool = True
) -> Iterator[None]:
    """Hands the launches inside the block to `listener`, and launches nothing.

    Args:
        workload: what the block runs.
        listener: is called with each launch.
        every: whether every candidate is launched, and not the first alone.
    """

    def choose_every(
        _kernel: str,
        _key: object,
        candidates: Sequence[Launch],
        run: Callable[[Launch], object],
        _like: Tensor,
    ) -> Launch:
        for candidate in candidates if every else ():
            run(candidate)
        return candidates[0]

    with ExitStack() as stack:
        for module in modules():

            def wrap(kernel: Any, module: Any = module) -> _Wrapped:
                name = f"{module.__name__.rsplit('.', 1)[1]}.{kernel.fn.__name__}"
                return _Wrapped(kernel, name, workload, listener)

            stack.enter_context(mock.patch.object(module, "wrap_triton", wrap))
            if hasattr(module, "choose"):
                stack.enter_context(mock.patch.object(module, "choose", choose_every))
        # The tensors are on a CPU, where autograd runs without a driver; nothing is launched.
        stack.enter_context(mock.patch.object(_backends, "_interprets", return_value=True))
        stack.enter_context(ops.use_backend("triton"))
        yield


class _Wrapped:
    """Stands in for `wrap_triton(kernel)`."""

    def __init__(
        self, kernel: Any, name: str, workload: Workload | None, listener: Listener
    ) -> None:
        self.kernel, self.name, self.workload, self.listener = kernel, name, workload, listener

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            names = self.kernel.arg_names
            size = (
                grid({**dict(zip(names, arguments, strict=False)), **options})
                if callable(grid)
                else grid
            )
            self.listener(
                Recorded(
                    self.kernel,
                    self.name,
                    tuple([*size, 1, 1][:3]),
                    arguments,
                    options,
                    self.workload,
                )
            )

        return launch


def record(workload: Workload) -> list[Recorded]:
    """What a workload launches, forward and backward, without computing anything."""
    found: list[Recorded] = []

    def make(*shape: int, dtype: torch.dtype = workload.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, requires_grad=dtype.is_floating_point)

    with FakeTensorMode(), _tf32(workload.tf32), listening(workload, found.append):
        result = workload.run(make)
        if isinstance(result, Tensor) and result.requires_grad:
            result.backward(torch.empty_like(result))
    return found


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def interpreting() -> bool:
    """Whether kernels are interpreted, which Triton decides when it is imported."""
    return _backends._interprets()
