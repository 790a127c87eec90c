"""Which implementation an operation runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from fastseg._engine import engine_problem
from fastseg.errors import BackendError, ParameterError

BACKENDS = ("reference", "torch", "rust", "triton")

# Not a ContextVar: torch.compile reads it while it traces, and guards on it.
_chosen: str = ""
_decomposing: bool = False


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Makes every operation run one backend, for the length of a `with` block.

    Without it the tensors decide: float32 on a CPU runs "rust", a GPU "triton" where it can, and
    everything else "torch".

    Args:
        name: "reference" (plain and slow), "torch" (PyTorch's own operators), "rust" (the engine of
            fastseg; float32 on a CPU) or "triton" (fused kernels for GPUs; under
            `TRITON_INTERPRET=1` also on a CPU, slowly).

    Raises:
        ParameterError: there is no such backend.
        BackendError: inside the block, by an operation whose tensors the backend cannot take.
            Nothing falls back to another backend silently.

    Convention:
        The choice holds for the whole process, and for the backward pass of what ran inside.
        Under "rust" what the engine has no version of (`sequence_reduction`, `layer_norm_residual`)
        runs PyTorch's operators, so that whole models run.

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
    """Whether operations are to run as plain PyTorch operators: for export, and in `torch.func`.

    Raises:
        BackendError: another backend was asked for by name inside a transform of `torch.func`.
    """
    if _decomposing or not torch._C._are_functorch_transforms_active():
        return _decomposing
    if _chosen not in ("", "torch"):
        raise BackendError(
            f"the {_chosen} backend does not work inside vmap, grad and other transforms of "
            "torch.func; take 'torch' there, or leave the choice to fastseg"
        )
    return True


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
        fits = "rust" in table and engine_problem(tensors) is None
        return table["rust" if fits else "torch"]
    if backend not in table:
        raise BackendError(
            f"{operation}: there is no {backend} backend; there are {', '.join(sorted(table))}"
        )
    if backend == "rust":
        problem = engine_problem(tensors)
        if problem:
            raise BackendError(
                f"{operation}: the rust backend takes float32 tensors on a CPU, got {problem}; "
                "convert them, or leave the choice to fastseg"
            )
    return table[backend]


def check_tensors(operation: str, tensors: list[Tensor]) -> None:
    """Raises where no backend can take tensors.

    Args:
        operation: its name, for messages.
        tensors: what the operation works on.

    Raises:
        BackendError: they are on different devices, or one is sparse or in an opaque layout.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise BackendError(
            f"{operation}: expected all tensors on one device, got "
            f"{', '.join(sorted(map(str, devices)))}; move them together with .to(device)"
        )
    for tensor in tensors:
        if tensor.layout is not torch.strided:
            raise BackendError(
                f"{operation}: expected dense tensors, got one of layout {tensor.layout}; convert "
                "it with .to_dense()"
            )


def runs_triton(
    operation: str,
    backend: str,
    table: Mapping[str, Any],
    tensors: list[Tensor],
    limits: str | None,
) -> bool:
    """Whether an operation launches its Triton kernels.

    Args:
        operation: its name, for messages.
        backend: one of `BACKENDS`, or "": then a GPU runs them wherever they can.
        table: functions by backend.
        tensors: what the operation works on.
        limits: what its kernels cannot do with the arguments at hand, or None.

    Raises:
        BackendError: "triton" was asked for by name and cannot run.
    """
    if "triton" not in table or backend not in ("", "triton"):
        return False
    if backend == "" and tensors[0].device.type != "cuda":
        return False
    problem = _triton_problem(tensors) or limits
    if problem and backend == "triton":
        raise BackendError(
            f"{operation}: the triton backend {problem}; take 'torch', which runs everywhere, or "
            "leave the choice to fastseg"
        )
    return problem is None


TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _triton_problem(tensors: list[Tensor]) -> str | None:
    if find_spec("triton") is None:
        return "needs the triton package, which is not installed"
    floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    if any(dtype not in TRITON_DTYPES for dtype in floating):
        return f"takes float32, float16 and bfloat16 tensors, got {floating[0]}"
    device = tensors[0].device.type
    if device != "cuda" and not (device == "cpu" and _interprets()):
        return f"takes tensors on a GPU, got one on {device}"
    return None


def _interprets() -> bool:
    """Whether Triton interprets kernels on the CPU, which serves tests."""
    from triton import knobs

    return bool(knobs.runtime.interpret)
