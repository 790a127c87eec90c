"""Gradient checkpointing that leaves the statistics of BatchNorm alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function without keeping what it computes for the backward pass.

    The backward pass computes it a second time: memory for time.

    Args:
        function: a module, or a function over tensors.
        arguments: its arguments.

    Returns:
        What the function returns.

    Convention:
        The second computation does not move the running statistics of BatchNorm; with PyTorch's own
        `checkpoint` they would move twice in each step.

    Source:
        T. Chen, B. Xu, C. Zhang, C. Guestrin: Training Deep Nets with Sublinear Memory Cost, 2016.

    Example:
        >>> import torch
        >>> from fastseg.layers import checkpointed
        >>> x = torch.ones(2, requires_grad=True)
        >>> checkpointed(torch.exp, x).sum().backward()
        >>> torch.equal(x.grad, x.exp())
        True
    """
    if torch.compiler.is_compiling():
        # In a graph statistics move once, however often a value is computed.
        return checkpoint(function, *arguments, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(function)

    return checkpoint(function, *arguments, use_reentrant=False, context_fn=contexts)


@contextmanager
def _frozen_statistics(function: Callable[..., Any]) -> Iterator[None]:
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    modules = owner.modules() if isinstance(owner, nn.Module) else ()
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]
    # Not by switching the tracking off: autograd compares what both computations keep.
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            norm.num_batches_tracked = None
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = batches
