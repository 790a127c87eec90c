"""Which implementation an operation runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastseg.errors import BackendError, ParameterError

BACKENDS = ("reference", "torch", "rust", "triton")

# Not a ContextVar: torch.compile reads it while it traces, and guards on it.
_chosen: str = ""
_decomposing: bool = False


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Makes every operation run one backend, for the length of a `with` block.

    Without it the tensors decide: float32 on a CPU runs "rust", everything else "torch".

    Args:
        name: "reference" (plain and slow), "torch" (PyTorch's own operators), "rust" (the engine of
            fastseg; float32 on a CPU) or "triton" (GPUs; not built yet).

    Raises:
        ParameterError: there is no such backend.
        BackendError: inside the block, by an operation whose tensors the backend cannot take.
            Nothing falls back to another backend silently.

    Convention:
        The choice holds for the whole process, and for the backward pass of what ran inside.

    Example:
        >>> import torch
        >>> from fastseg import ops
        >>> logits = torch.randn(1, 3, 4, 4)
        >>> with ops.use_backend("reference"):
        ...     expected = ops.upsample_argmax(logits, (16, 16))
        >>> torch.equal(ops.upsample_argmax(logits, (16, 16)), expected)
        True
    """
    global _chosen
    if name not in BACKENDS:
        raise ParameterError(
            f"name: expected one of {', '.join(map(repr, BACKENDS))}, got {name!r}"
        )
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def chosen_backend() -> str:
    """The backend that `use_backend` named, or "" where the tensors decide."""
    return _chosen


@contextmanager
def decomposed() -> Iterator[None]:
    """Makes every operation run as plain PyTorch operators, for export to other formats.

    Example:
        >>> from fastseg import ops
        >>> with ops.decomposed():
        ...     pass  # torch.onnx.export(...) sees no custom operator
    """
    global _decomposing
    before, _decomposing = _decomposing, True
    try:
        yield
    finally:
        _decomposing = before


def is_decomposed() -> bool:
    """Whether operations are to be seen as plain PyTorch operators."""
    return _decomposing


def implementation(
    operation: str, backend: str, table: Mapping[str, Any], tensors: list[Tensor]
) -> Any:
    """The function of `table` that `backend` names, or the best one for the tensors.

    Args:
        operation: its name, for messages.
        backend: one of `BACKENDS`, or "".
        table: functions by backend; "reference" and "torch" are always there.
        tensors: what the operation works on.

    Raises:
        BackendError: the backend was asked for by name and cannot run.
    """
    if backend == "":
        fits = "rust" in table and _engine_problem(tensors) is None
        return table["rust" if fits else "torch"]
    if backend == "triton" and "triton" not in table:
        raise BackendError(
            f"{operation}: the triton backend is not built yet; take 'torch', which runs on GPUs"
        )
    if backend not in table:
        raise BackendError(
            f"{operation}: there is no {backend} backend; there are {', '.join(sorted(table))}"
        )
    if backend == "rust":
        problem = _engine_problem(tensors)
        if problem:
            raise BackendError(
                f"{operation}: the rust backend takes float32 tensors on a CPU, got {problem}; "
                "convert them, or leave the choice to fastseg"
            )
    return table[backend]


def _engine_problem(tensors: list[Tensor]) -> str | None:
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"one on {tensor.device}"
        if tensor.dtype != torch.float32:
            return str(tensor.dtype)
    return None
