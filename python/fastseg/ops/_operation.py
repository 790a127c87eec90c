"""One operator of one name for all backends, transparent to compilers where it runs Triton."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, infer_schema, triton_op

from fastseg.ops._backends import check_tensors, implementation, runs_triton

Fake = Callable[..., Any]
Implementations = Mapping[str, Callable[..., Any]]


def operation(
    backends: Implementations, *, problem: Callable[..., str | None] | None = None
) -> Callable[[Fake], Any]:
    """Makes `torch.ops.fastseg.<name>` of its implementations and its fake.

    The decorated function is the fake: its name and its annotations are the operator's. Its last
    parameter is `backend: str`, which the implementations do not get. The operator is a
    `torch.library.triton_op`: `torch.compile` sees the kernels that it launches. What runs
    elsewhere than in Triton is in an opaque operator inside, `torch.ops.fastseg.<name>_host`.

    Args:
        backends: implementations by backend; "reference" and "torch" are always there.
        problem: says what the Triton kernels cannot do with these arguments, or None.

    Raises:
        BackendError: when called, where no backend can take the tensors, or the backend that was
            asked for by name cannot run.
    """

    def register(fake: Fake) -> Any:
        name = fake.__name__.strip("_")
        schema = infer_schema(fake, mutates_args=())

        def host(*arguments: Any) -> Any:
            *inputs, backend = arguments
            tensors = _tensors(inputs)
            run_here = implementation(name, backend, backends, tensors)
            if tensors[0].shape[:1] == (0,):
                # An empty batch: empty results, and gradients of zero for the weights.
                return _zeros(fake(*arguments))
            return run_here(*inputs)

        opaque = custom_op(f"fastseg::{name}_host", host, mutates_args=(), schema=schema)
        opaque.register_fake(fake)

        def run(*arguments: Any) -> Any:
            *inputs, backend = arguments
            tensors = _tensors(inputs)
            check_tensors(name, tensors)
            limits = problem(*inputs) if problem is not None else None
            if runs_triton(name, backend, backends, tensors, limits):
                with _current(tensors[0].device):
                    return backends["triton"](*inputs)
            return opaque(*arguments)

        return triton_op(f"fastseg::{name}", run, mutates_args=(), schema=schema)

    return register


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one, where there are several: Triton launches there."""
    several = device.type == "cuda" and torch.cuda.device_count() > 1
    return torch.cuda.device(device) if several else nullcontext()


def _zeros(results: Any) -> Any:
    """The fake's results with values: zeros."""
    if isinstance(results, Tensor):
        return results.zero_()
    return type(results)(_zeros(one) for one in results)


def _tensors(inputs: list[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for x in inputs:
        found += [t for t in (x if isinstance(x, list | tuple) else [x]) if isinstance(t, Tensor)]
    return found
