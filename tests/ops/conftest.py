"""Inputs of every operation, at awkward sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fastseg import ops


@dataclass(frozen=True)
class Case:
    """An operation, its operator, and arguments for it.

    `public` are the arguments of `ops.<name>`, `operator` those of `torch.ops.fastseg.<name>`,
    without the backend at the end.
    """

    name: str
    public: tuple[Any, ...]
    options: dict[str, Any]
    operator: tuple[Any, ...]

    @property
    def counts(self) -> bool:
        """Whether the results are integers."""
        return self.name in ("upsample_argmax", "upsample_confusion")

    def run(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
        """The result, and the leaves that it depends on."""
        arguments = [_converted(a, dtype) for a in self.public]
        leaves = [t for a in arguments for t in (a if isinstance(a, list) else [a])]
        leaves = [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]
        function: Callable[..., Tensor] = getattr(ops, self.name)
        return function(*arguments, **self.options), leaves


def _converted(argument: Any, dtype: torch.dtype) -> Any:
    if isinstance(argument, list):
        return [_converted(a, dtype) for a in argument]
    if isinstance(argument, Tensor) and argument.is_floating_point():
        return argument.detach().to(dtype).requires_grad_()
    return argument


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def _cases() -> dict[str, Case]:
    torch.manual_seed(0)
    cases = {}
    for batch, n, m, heads, width in [(2, 12, 5, 2, 4), (1, 1, 1, 1, 1), (1, 70, 33, 3, 24)]:
        q, k, v = (_random(batch, x, heads * width) for x in (n, m, m))
        cases[f"attention_{n}_{m}_{heads}x{width}"] = Case(
            "sequence_reduced_attention", (q, k, v), {"num_heads": heads}, (q, k, v, heads)
        )
    for shape in [(2, 5, 7, 6), (1, 1, 1, 1), (1, 1, 9, 33), (3, 4, 1, 16), (1, 2, 2, 50)]:
        arguments = _random(*shape), _random(shape[3], 1, 3, 3), _random(shape[3])
        name = "depthwise_" + "x".join(map(str, shape))
        cases[name] = Case("depthwise_conv_gelu", arguments, {}, arguments)
    for shape, hidden, residual in [((2, 5, 7, 6), 24, True), ((1, 1, 1, 1), 1, False)]:
        c = shape[3]
        sizes = [(hidden, c), (hidden,), (hidden, 1, 3, 3), (hidden,), (c, hidden), (c,)]
        arguments = [_random(*shape), *(_random(*size) for size in sizes)]
        arguments += [_random(*shape)] if residual else []
        operator = [*(x.detach() for x in arguments), *([] if residual else [None])]
        name = "mix_ffn_" + "x".join(map(str, shape))
        cases[name] = Case("mix_ffn", tuple(arguments), {}, tuple(operator))
    for shape, channels, filters, rate, padding, relu in [
        ((2, 5, 7), [6], 9, 1, 1, True),
        ((1, 1, 1), [1], 1, 1, 1, False),
        ((1, 9, 6), [20, 3], 33, 2, 2, True),
        ((1, 6, 5), [2, 1, 4], 70, 1, 0, False),
        ((2, 3, 4), [5], 2, 3, 4, True),
    ]:
        maps = [_random(*shape, c) for c in channels]
        rest = _random(filters, sum(channels), 3, 3), _random(filters), _random(filters)
        options = {"rate": rate, "padding": padding, "relu": relu}
        name = f"conv_{'x'.join(map(str, shape))}_{len(maps)}_{rate}_{padding}"
        operator = (maps, *rest, *options.values())
        cases[name] = Case("conv3x3", (maps, *rest), options, operator)
    for sizes in [[(9, 7), (5, 4), (1, 2)], [(1, 1), (1, 1)], [(6, 5)], [(3, 4), (5, 9)]]:
        name = "_".join(f"{h}x{w}" for h, w in sizes)
        maps, bias = [_random(2, h, w, 19) for h, w in sizes], _random(19)
        cases[f"sum_{name}"] = Case("upsample_sum", (maps, bias), {}, (maps, bias))
        features = [_random(2, h, w, 3 + i) for i, (h, w) in enumerate(sizes)]
        weights = [_random(19, 3 + i) for i in range(len(sizes))]
        decoder = (features, weights, bias, _random(5, 19), _random(5))
        cases[f"decoder_{name}"] = Case("folded_decoder", decoder, {}, decoder)
    for k, small, full in [(5, (4, 6), (9, 11)), (1, (1, 1), (3, 2)), (20, (3, 4), (3, 4))]:
        logits = _random(2, k, *small)
        target = torch.randint(0, k, (2, *full))
        target[0, :2] = 255
        for align in (False, True):
            name = f"{k}_{align}"
            cases[f"argmax_{name}"] = Case(
                "upsample_argmax",
                (logits, full),
                {"align_corners": align},
                (logits.detach(), list(full), align),
            )
            options = {"ignore_index": 255, "align_corners": align}
            cases[f"confusion_{name}"] = Case(
                "upsample_confusion",
                (logits, target),
                options,
                (logits.detach(), target, 255, align),
            )
            cases[f"cross_entropy_{name}"] = Case(
                "upsample_cross_entropy",
                (logits, target),
                {"align_corners": align},
                (logits, target, 255, align, True),
            )
    return cases


CASES = _cases()


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    """One operation with one set of arguments."""
    return CASES[request.param]
