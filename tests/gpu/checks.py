"""Checks of the kernels on a GPU. They need torch and triton and nothing else, not even pytest.

`make test-gpu` runs this file; under pytest, `tests/gpu/test_gpu.py` runs the same checks.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastseg import ops

# Largest difference to the plain version in float64 on the same values, relative to its largest.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Case:
    """An operation and its arguments.

    Attributes:
        name: of the operation.
        sizes: for readers.
        call: of `fastseg.ops` or `fastseg.ops.reference`, given leaves.
        shapes: of the leaves.
    """

    name: str
    sizes: str
    call: Callable[..., Tensor]
    shapes: list[tuple[int, ...]]


def cases(small: bool = False) -> Iterator[Case]:
    """Operations at awkward sizes; tiny ones for Triton's interpreter."""
    for h, w, c, heads in [(5, 6, 32, 2)] if small else [(64, 64, 64, 1), (33, 47, 160, 5)]:
        keys = max(h // 4, 2) * max(w // 4, 2)

        def attention(module, q, k, v, heads=heads):
            return module.sequence_reduced_attention(q, k, v, num_heads=heads)

        shapes = [(2, h * w, c), (2, keys, c), (2, keys, c)]
        yield Case("sequence_reduced_attention", f"{h}x{w}, {c}", attention, shapes)
    for h, w, c in [(5, 6, 8)] if small else [(64, 64, 256), (33, 47, 130)]:

        def depthwise(module, x, weight, bias):
            return module.depthwise_conv_gelu(x, weight, bias)

        shapes = [(2, h, w, c), (c, 1, 3, 3), (c,)]
        yield Case("depthwise_conv_gelu", f"{h}x{w}, {c}", depthwise, shapes)
    for h, w, d in [(5, 6, 8)] if small else [(64, 64, 256), (33, 47, 96)]:
        sizes = [(h, w), (-(-h // 2), -(-w // 2)), (-(-h // 4), -(-w // 4))]

        def total(module, *maps):
            return module.upsample_sum(list(maps[:-1]), maps[-1])

        shapes = [(2, *size, d) for size in sizes]
        yield Case("upsample_sum", f"{h}x{w}, {d}", total, [*shapes, (d,)])

        def decoder(module, *given):
            return module.folded_decoder(list(given[:3]), list(given[3:6]), *given[6:])

        features = [(2, *size, c) for size, c in zip(sizes, (32, 64, 160), strict=True)]
        weights = [(d, 32), (d, 64), (d, 160)]
        shapes = [*features, *weights, (d,), (19, d), (19,)]
        yield Case("folded_decoder", f"{h}x{w}, {d}", decoder, shapes)
    for k, h, w in [(5, 3, 4)] if small else [(19, 64, 128), (150, 31, 45)]:

        def loss(module, logits):
            return module.upsample_cross_entropy(logits, labels(logits))

        yield Case("upsample_cross_entropy", f"{k}, {h}x{w}", loss, [(2, k, h, w)])


def labels(logits: Tensor) -> Tensor:
    """(B, 4h, 4w) labels that go with logits; a row is ignored."""
    batch, classes, height, width = logits.shape
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, classes, (batch, 4 * height, 4 * width), generator=generator)
    target[:, 0] = 255
    return target.to(logits.device)


def leaves(case: Case, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Random arguments of a case."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator) for shape in case.shapes]
    # As in a network, sums of many products stay of the order of one.
    scaled = [x / x.shape[-1] ** 0.5 if x.ndim == 2 else x for x in made]
    return [x.to(device, dtype).requires_grad_() for x in scaled]


def with_gradients(module, case: Case, given: list[Tensor]) -> dict[str, Tensor]:
    """The result and the gradient of each argument, by name."""
    out = case.call(module, *given)
    generator = torch.Generator().manual_seed(1)
    along = torch.randn(out.shape, generator=generator).to(out.device, out.dtype)
    found = torch.autograd.grad(out, given, along)
    gradients = {f"gradient {i}": gradient for i, gradient in enumerate(found)}
    return {"result": out.detach(), **gradients}


def check_values(case: Case, dtype: torch.dtype, device: str) -> None:
    """Values and every gradient equal the plain version's in float64."""
    given = leaves(case, dtype, device)
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = with_gradients(ops.reference, case, exact)
    with ops.use_backend("triton"):
        got = with_gradients(ops, case, given)
        again = with_gradients(ops, case, given)
    for name, value in got.items():
        wanted = expected[name]
        scale = wanted.abs().max().clamp(min=1e-2)
        difference = float((value.double() - wanted).abs().max() / scale)
        assert value.isfinite().all(), f"{name} is not finite"
        assert difference <= TOLERANCE[dtype], f"{name} differs by {difference:.2g}"
        assert torch.equal(value, again[name]), f"{name} has other bits the second time"


def check_label_maps(device: str) -> None:
    """Labels and counts equal PyTorch's, but where two classes are level within rounding."""
    logits = torch.randn(2, 19, 33, 65, generator=torch.Generator().manual_seed(0)).to(device)
    target = labels(logits)
    with ops.use_backend("triton"):
        got = ops.upsample_argmax(logits, target.shape[1:])
        counts = ops.upsample_confusion(logits, target, ignore_index=255)
        wrong = ops.upsample_confusion(logits, target)
        loss = ops.upsample_cross_entropy(logits, target, ignore_index=254)
    full = torch.nn.functional.interpolate(logits, size=target.shape[1:], mode="bilinear")
    best = full.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-5
    assert torch.equal(got[clear], full.argmax(dim=1)[clear])
    keep = target != 255
    cells = target[keep] * 19 + got[keep]
    assert torch.equal(counts, torch.bincount(cells, minlength=361).view(19, 19))
    assert (wrong == -1).all(), "labels that are none must spoil every count"
    assert loss.isnan(), "labels that are none must make the loss NaN"


def check_lattice(device: str, height: int = 96, width: int = 130, channels: int = 21) -> None:
    """Points are placed to the last bit, also on borders; filters and gradients are as plain."""
    generator = torch.Generator().manual_seed(0)
    # Whole steps put many points on borders between simplices.
    y, x = torch.meshgrid(torch.arange(height) / 8, torch.arange(width) / 8, indexing="ij")
    colors = (torch.rand(3, height, width, generator=generator) * 4).round() / 2
    features = torch.cat([torch.stack([x, y]), colors]).flatten(1).to(device)
    values = torch.rand(height * width, channels, generator=generator).to(device)
    found = {}
    for backend in ("reference", "triton", "triton"):
        given = values.clone().requires_grad_()
        with ops.use_backend(backend):
            lattice = ops.permutohedral_lattice(features)
            out = lattice.filter(given)
            (gradient,) = torch.autograd.grad(out, given, values)
        now = [lattice.splat_weights, lattice.corners, lattice.neighbours, out.detach(), gradient]
        before = found.setdefault(backend, now)
        assert all(map(torch.equal, now, before)), "other bits the second time"
    for got, expected in zip(found["triton"][:3], found["reference"][:3], strict=True):
        assert torch.equal(got, expected), "points lie elsewhere"
    for got, expected in zip(found["triton"][3:], found["reference"][3:], strict=True):
        difference = float((got - expected).abs().max() / expected.abs().max())
        assert difference <= TOLERANCE[torch.float32], f"differs by {difference:.2g}"


def check_compiled(device: str) -> None:
    """`torch.compile` gives the same result, forward and backward."""
    case = next(c for c in cases() if c.name == "depthwise_conv_gelu")
    given = leaves(case, torch.float16, device)
    expected = with_gradients(ops, case, given)
    compiled = torch.compile(lambda *x: case.call(ops, *x), fullgraph=True)
    out = compiled(*given)
    torch.testing.assert_close(out, expected["result"], rtol=2e-3, atol=2e-3)


def check_captured(device: str) -> None:
    """A CUDA graph of an operation replays."""
    x = torch.randn(1, 32, 32, 64, device=device, dtype=torch.float16)
    weight, bias = x.new_ones(64, 1, 3, 3), x.new_zeros(64)
    expected = ops.depthwise_conv_gelu(x, weight, bias)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.depthwise_conv_gelu(x, weight, bias)
    out.zero_()
    graph.replay()
    torch.testing.assert_close(out, expected)


def check_autocast(device: str) -> None:
    """Autocast lowers what a network's kernels compute in."""
    x = torch.randn(1, 32, 32, 64, device=device)
    weight, bias = x.new_ones(64, 1, 3, 3), x.new_zeros(64)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert ops.depthwise_conv_gelu(x, weight, bias).dtype == torch.bfloat16


def check_far_offsets(device: str) -> None:
    """Places beyond 2³¹ elements are addressed rightly."""
    free, _ = torch.cuda.mem_get_info()
    if free < 14 * 2**30:
        raise Skipped(f"needs 14 GiB of memory, {free / 2**30:.0f} are free")
    x = torch.zeros(1, 4224, 4096, 128, device=device, dtype=torch.float16)
    x[0, -1, -1] = 1
    out = ops.depthwise_conv_gelu(x, x.new_ones(128, 1, 3, 3), x.new_zeros(128))
    torch.testing.assert_close(out[0, -1, -1], torch.nn.functional.gelu(x[0, -1, -1]))
    assert not out[0, 0].any()


class Skipped(Exception):  # noqa: N818  (nothing went wrong)
    """A check that this machine cannot run, and why."""


def checks() -> dict[str, Callable[[str], None]]:
    """Every check by name; each takes a device."""
    found: dict[str, Callable[[str], None]] = {}
    for case in cases():
        for dtype in TOLERANCE:
            name = f"{case.name}, {case.sizes}, {str(dtype).removeprefix('torch.')}"
            found[name] = lambda device, c=case, t=dtype: check_values(c, t, device)
    others = (
        check_label_maps,
        check_lattice,
        check_compiled,
        check_captured,
        check_autocast,
        check_far_offsets,
    )
    return {**found, **{each.__name__.removeprefix("check_"): each for each in others}}


def main() -> int:
    """Runs every check, prints what came of it, and returns the exit code."""
    if not torch.cuda.is_available():
        print("no GPU: torch sees no CUDA device")
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    failed = 0
    for name, check in checks().items():
        try:
            check("cuda")
            print(f"  ok      {name}")
        except Skipped as reason:
            print(f"  skipped {name}: {reason}")
        except Exception:
            failed += 1
            print(f"  FAILED  {name}")
            traceback.print_exc(file=sys.stdout)
    print(f"{failed} of {len(checks())} checks failed" if failed else "all is well")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
