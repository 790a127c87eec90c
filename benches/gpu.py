"""Measures kernels and models on a GPU, against PyTorch's operators and transformers' SegFormer.

`make bench-gpu` on a machine with a GPU, torch and triton. Results are compared before anything is
timed. Writes `results/gpu_NAME.json` and `.md`, and the launches that were fastest to
`kernels/tuned.json`. What is not installed (transformers) is left out, with a word about it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastseg
from fastseg import ops

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
TUNED = HERE.parent / "kernels" / "tuned.json"
# Largest difference between ours and a rival's result, relative to its largest, in half precision.
AGREEMENT = 2e-2

Call = Callable[[], Any]


@dataclass(frozen=True)
class Contest:
    """Ways to compute the same.

    Attributes:
        name: for readers.
        calls: by contender; "fastseg" is ours.
    """

    name: str
    calls: dict[str, Call]


@dataclass(frozen=True)
class Row:
    """What was measured of a contest: milliseconds by contender, the median of many runs."""

    contest: str
    milliseconds: dict[str, float]
    skipped: dict[str, str]


def operation_contests(
    networks: Sequence[Any], device: str, dtype: torch.dtype
) -> Iterator[Contest]:
    """Each operation in each stage: our kernels, PyTorch's operators, and those compiled."""
    from kernel_workloads import OPERATIONS

    for network in networks:
        for call, stages in OPERATIONS:
            for stage in stages if stages is not None else (None,):
                where = [] if stage is None else [stage]
                made = _inputs(call, network, where, device, dtype)
                yield Contest(
                    " ".join([call.__name__, network.name, *(f"stage {s + 1}" for s in where)]),
                    _operation_calls(call, network, where, made),
                )


def _inputs(
    call: Callable[..., Any], network: Any, stage: list[int], device: str, dtype: torch.dtype
) -> list[Tensor]:
    made: list[Tensor] = []

    def make(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        if dtype.is_floating_point:
            x = torch.randn(shape, device=device) / (shape[-1] ** 0.5 if len(shape) == 2 else 1)
            made.append(x.to(dtype))
        else:
            made.append(torch.randint(0, network.classes, shape, device=device, dtype=dtype))
        return made[-1]

    with ops.use_backend("torch"), torch.no_grad():
        call(network, *stage, make)
    return made


def _operation_calls(
    call: Callable[..., Any], network: Any, stage: list[int], made: list[Tensor]
) -> dict[str, Call]:
    def forward() -> Any:
        remaining = iter(made)
        return call(network, *stage, lambda *_, **__: next(remaining))

    def plain() -> Any:
        with ops.decomposed():
            return forward()

    return {
        "fastseg": forward,
        "torch": plain,
        "torch, compiled": torch.compile(plain, dynamic=False),
    }


def lattice_contests(sizes: Sequence[tuple[int, int, int]], device: str) -> Iterator[Contest]:
    """The CRF's filter by position and colour, in float32: placing the points, and one filter."""
    for height, width, classes in sizes:
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        # Waves with some noise: as many vertices to a point as in a photograph.
        waves = torch.stack([(x / 50 + i).sin() + (y / 70 - i).cos() for i in range(3)])
        colors = (60 * waves + 8 * torch.randn_like(waves)) / 13
        features = torch.cat([torch.stack([x, y]) / 80, colors]).flatten(1).to(device)
        values = torch.rand(height * width, classes, device=device)
        size = f"{height}×{width}×{classes}"
        yield Contest(f"permutohedral_lattice {size}, placing", _placing_calls(features))
        yield Contest(f"permutohedral_lattice {size}, filter", _filter_calls(features, values))


def _placing_calls(features: Tensor) -> dict[str, Call]:
    def ours() -> Tensor:
        return ops.permutohedral_lattice(features).corners

    return {"fastseg": ours, "torch": lambda: _in_torch(ours)}


def _filter_calls(features: Tensor, values: Tensor) -> dict[str, Call]:
    lattice = ops.permutohedral_lattice(features)

    def ours() -> Tensor:
        return lattice.filter(values)

    return {"fastseg": ours, "torch": lambda: _in_torch(ours)}


def _in_torch(call: Call) -> Any:
    with ops.use_backend("torch"):
        return call()


def model_contests(
    sizes: Sequence[tuple[str, int, int, int]], device: str, dtype: torch.dtype
) -> Iterator[Contest]:
    """SegFormer as a whole, from picture to logits: ours, transformers', and both compiled."""
    for size, height, width, classes in sizes:
        model = fastseg.create_model(f"segformer_{size}", num_classes=classes).eval()
        model = model.to(device, dtype)
        picture = torch.randn(1, 3, height, width, device=device).to(dtype)
        yield Contest(f"segformer_{size} {height}×{width}", _model_calls(model, picture))


def _model_calls(model: Any, picture: Tensor) -> dict[str, Call]:
    def plain() -> Tensor:
        with ops.decomposed():
            return model.native_logits(picture)

    calls: dict[str, Call] = {
        "fastseg": lambda: model.native_logits(picture),
        "fastseg, compiled": torch.compile(lambda: model.native_logits(picture), dynamic=False),
        "torch SDPA": plain,
        "torch SDPA, compiled": torch.compile(plain, dynamic=False),
    }
    if importlib.util.find_spec("transformers") is not None:
        theirs = _transformers(model, picture)
        calls["transformers SDPA"] = lambda: theirs(picture).logits
        calls["transformers, compiled"] = lambda: compiled(picture).logits
        compiled = torch.compile(theirs, dynamic=False)
    return calls


def _transformers(model: Any, picture: Tensor) -> Any:
    from transformers import SegformerForSemanticSegmentation

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = SegformerForSemanticSegmentation.from_pretrained(
            folder, attn_implementation="sdpa"
        )
    return theirs.to(picture.device, picture.dtype).eval()


def measure(contest: Contest, clock: Callable[[Call], float]) -> Row:
    """Compares what the contenders compute, and times those that agree."""
    with torch.inference_mode():
        ours = contest.calls["fastseg"]()
        times: dict[str, float] = {}
        skipped: dict[str, str] = {}
        for name, call in contest.calls.items():
            try:
                theirs = call()
            except Exception as error:  # a rival's compiler may fail; that is a result, too
                skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            difference = _difference(ours, theirs)
            if not difference <= AGREEMENT:  # NaN does not agree either
                skipped[name] = f"disagrees by {difference:.2g}"
                continue
            times[name] = clock(call)
    return Row(contest.name, times, skipped)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The share of labels that differ, or the largest difference, relative to the largest value."""
    if not ours.is_floating_point():
        return float((ours != theirs).float().mean())
    scale = theirs.abs().max().float().clamp(min=1e-6)
    return float((ours.float() - theirs.float()).abs().max() / scale)


def table(rows: Sequence[Row], title: str) -> str:
    """The rows as Markdown; in brackets, the contender's time by ours."""
    names = list(dict.fromkeys(n for row in rows for n in [*row.milliseconds, *row.skipped]))
    lines = [f"# {title}", "", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        ours = row.milliseconds.get("fastseg")
        cells = [_cell(row, name, ours) for name in names]
        lines.append(f"| {row.contest} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row, name: str, ours: float | None) -> str:
    if name not in row.milliseconds:
        return row.skipped.get(name, "").replace("|", "/")
    value = row.milliseconds[name]
    ratio = "" if name == "fastseg" or not ours else f" ({value / ours:.2f}×)"
    return f"{value:.3f} ms{ratio}"


def cuda_clock(call: Call) -> float:
    """Milliseconds on the GPU, the median of many runs with cold caches."""
    from triton.testing import do_bench

    return float(do_bench(call, return_mode="median"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks, measures, writes, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="B0 at 512×512 alone")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no GPU: torch sees no CUDA device")
        return 1
    sys.path.insert(0, str(HERE.parent / "tests" / "gpu"))
    if importlib.import_module("checks").main():
        return 1
    # What is measured here is to ship; the user's own cache must not decide it.
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FASTSEG_CACHE"] = folder
        rows = _measure_all(options.quick)
        _write(rows)
        _ship(Path(folder) / "tuned.json")
    return 0


def _measure_all(quick: bool) -> list[Row]:
    from kernel_workloads import NETWORKS

    sizes = [("b0", 512, 512, 150), ("b2", 512, 512, 150)]
    sizes += [("b0", 1024, 2048, 19), ("b2", 1024, 2048, 19)]
    networks = NETWORKS[:1] if quick else NETWORKS
    contests = [
        *operation_contests(networks, "cuda", torch.float16),
        *lattice_contests(
            [(512, 512, 21)] if quick else [(512, 512, 21), (1024, 2048, 19)], "cuda"
        ),
        *model_contests(sizes[:1] if quick else sizes, "cuda", torch.float16),
    ]
    rows = []
    for contest in contests:
        torch._dynamo.reset()
        rows.append(measure(contest, cuda_clock))
        print(rows[-1])
    return rows


def _write(rows: Sequence[Row]) -> None:
    device = torch.cuda.get_device_name()
    stem = RESULTS / f"gpu_{re.sub(r'[^a-z0-9]+', '_', device.lower())}"
    where = {"device": device, "torch": torch.__version__, "fastseg": fastseg.__version__}
    content = {**where, "rows": [dataclasses.asdict(row) for row in rows]}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    title = f"{device}, torch {torch.__version__}, fp16, batch 1"
    stem.with_suffix(".md").write_text(table(rows, title), encoding="utf-8")
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: its SegFormer was not measured")
    print(f"written: {stem}.json, {stem}.md")


def _ship(measured: Path) -> None:
    if measured.exists():
        table = {**json.loads(TUNED.read_text("utf-8")), **json.loads(measured.read_text("utf-8"))}
        TUNED.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
