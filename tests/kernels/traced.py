"""Compiles and exports every operation without running it, and prints what came of it as JSON.

A process of its own, with TRITON_INTERPRET=0: what is traced are the kernels that Triton compiles.
Tensors are fake and on a CPU, where autograd needs no driver.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import triton
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from triton.backends.compiler import GPUTarget

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benches"))

from fastseg import ops
from fastseg.ops import _backends
from kernel_workloads import OPERATIONS, Network

# The keys of attention are 90 to 110: a kernel is compiled for each power of two of them.
NETWORKS = [
    Network("tiny", (32, 64, 64, 64), 32, height, width, 5)
    for height, width in [(288, 320), (320, 352), (288, 352), (288, 384)]
]


def kernels_in(graph: GraphModule) -> int:
    """How many launches of Triton kernels a graph holds."""
    return sum("triton_kernel_wrapper" in str(node.target) for node in graph.graph.nodes)


def counting(found: list[int]) -> Callable[..., object]:
    """A compiler that notes the launches in each graph and leaves it as it is."""

    def compiler(graph: GraphModule, _: object) -> object:
        found.append(kernels_in(graph))
        return make_boxed_func(graph.forward)

    return compiler


def inputs_of(call: Callable[..., object], network: Network, *stage: int) -> list[Tensor]:
    """The tensors that an operation takes in a network."""
    made: list[Tensor] = []

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        made.append(torch.empty(shape, dtype=dtype, requires_grad=dtype.is_floating_point))
        return made[-1]

    call(network, *stage, make)
    return made


def traced(call: Callable[..., object], *stage: int) -> dict[str, object]:
    """Compiles an operation for pictures of several sizes, and exports it."""

    def function(*tensors: Tensor) -> Tensor:
        remaining = iter(tensors)
        return call(NETWORKS[0], *stage, lambda *_, **__: next(remaining))

    forward: list[int] = []
    backward: list[int] = []
    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=counting(forward), bw_compiler=counting(backward))
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for network in NETWORKS:
        out = compiled(*inputs_of(call, network, *stage))
        if out.requires_grad:
            out.sum().backward()
    module = torch.nn.Module()
    module.forward = function
    arguments = tuple(x.detach() for x in inputs_of(call, NETWORKS[0], *stage))
    exported = torch.export.export(module, arguments)
    targets = [str(node.target) for node in exported.graph.nodes]
    return {
        "forward": forward,
        "backward": backward,
        "differentiable": out.requires_grad,
        "exported": [name for name in targets if name.startswith("fastseg.")],
    }


def main() -> None:
    warnings.simplefilter("ignore")
    target = GPUTarget("cuda", 90, 32)
    # Without it float32 runs Mix-FFN in parts.
    torch.backends.cuda.matmul.allow_tf32 = True
    triton.runtime.driver.set_active(SimpleNamespace(get_current_target=lambda: target))
    with (
        FakeTensorMode(),
        mock.patch.object(_backends, "_interprets", return_value=True),
        ops.use_backend("triton"),
    ):
        found = {
            call.__name__: traced(call, *([0] if stages else [])) for call, stages in OPERATIONS
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
