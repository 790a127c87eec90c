"""Compiles every kernel in every way it is launched, for six chips, and writes what that needs.

Needs no GPU. Writes `results/kernels.json` and `docs/kernels-compiled.md`, prints what misses the
limits of `kernel_limits.toml`, and then exits with 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import json
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import triton

from kernel_code import CHIPS, Code, compile_for, fingerprint, precision
from kernel_launches import Recorded, interpreting, modules, record
from kernel_traffic import Count, name
from kernel_workloads import workloads

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "kernels.json"
PAGE = HERE.parent / "docs" / "kernels-compiled.md"
LIMITS = HERE / "kernel_limits.toml"
# Code that was read before, by how it was read and what it was compiled from.
READER = hashlib.sha256((HERE / "kernel_code.py").read_bytes()).hexdigest()[:8]
CACHE = HERE.parent / "target" / "kernels" / READER

Entry = dict[str, Any]
NOT_COUNTED = dict.fromkeys(("traffic", "tensor", "plain"))
_jobs: list[tuple[str, Recorded, str]] = []


def launches() -> dict[tuple[str, str], dict[str, tuple[str, Recorded]]]:
    """What to compile.

    Returns:
        By (kernel and how it is launched, dtype): by fingerprint, the chip and a launch.
    """
    found: dict[tuple[str, str], dict[str, tuple[str, Recorded]]] = {}
    held = limits()
    for module in modules():
        for kernel in vars(module).values():
            # Where a kernel stands in its file does not change its code, only what it is called by.
            if hasattr(kernel, "starting_line_number"):
                kernel.starting_line_number = 0
    for workload in workloads():
        for launch in record(workload):
            variants = found.setdefault((name(launch), precision(launch)), {})
            never = held.get(launch.name, {}).get("never", [])
            chips = [chip for chip in CHIPS if chip not in never]
            if fingerprint(launch, CHIPS[chips[0]]) not in variants:
                for chip in chips:
                    variants[fingerprint(launch, CHIPS[chip])] = (chip, launch)
    return found


def compiled(jobs: Sequence[tuple[str, Recorded, str]]) -> dict[str, Code]:
    """The code of each job (chip, launch, fingerprint) by fingerprint, on every core."""
    CACHE.mkdir(parents=True, exist_ok=True)
    _jobs[:] = jobs
    # Forked processes have the launches already, and Triton loaded.
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        done = pool.imap_unordered(_compile, range(len(jobs)), chunksize=1)
        return {key: Code(**code) for key, code in done}


def _compile(index: int) -> tuple[str, dict[str, Any]]:
    chip, launch, key = _jobs[index]
    kept = CACHE / f"{key}.json"
    if not kept.exists():
        try:
            code = dataclasses.asdict(compile_for(launch, CHIPS[chip]))
        except Exception as error:
            raise RuntimeError(f"{name(launch)}, {precision(launch)}, {chip}: {error}") from error
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(code), encoding="utf-8")
        part.replace(kept)
    return key, json.loads(kept.read_text(encoding="utf-8"))


def limits() -> dict[str, dict[str, float]]:
    """What the compiled kernels are held to, by kernel; under "every", what all are held to."""
    # Python 3.10 has no tomllib; pytest brings its predecessor along there.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    found: dict[str, dict[str, float]] = toml.loads(LIMITS.read_text(encoding="utf-8"))
    return found


def counting(names: Iterable[str]) -> subprocess.Popen[str]:
    """Starts counting, in a process of its own: Triton either interprets or compiles."""
    held = limits()
    most = {name: held.get(name.split()[0], {}).get("traffic", math.inf) for name in names}
    return subprocess.Popen(
        [sys.executable, HERE / "kernel_traffic.py", json.dumps(most)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def in_part(dtype: str, variants: Iterable[str]) -> bool:
    """Whether a launch belongs to the part that tests compile: fp16, and an eighth of the rest."""
    return dtype == "fp16" or in_eighth(variants)


def in_eighth(variants: Iterable[str]) -> bool:
    """Whether a launch is one of the eighth whose bytes tests count."""
    return int(min(variants), 16) % 8 == 0


def collect(part: bool) -> dict[str, Any]:
    """Everything that the page and the limits need, as JSON; of a part only, if so wished."""
    wanted = launches()

    def is_counted(variants: Iterable[str]) -> bool:
        return not part or in_eighth(variants)

    counter = counting(launch for (launch, _), v in wanted.items() if is_counted(v))
    chosen = {at: v for at, v in wanted.items() if not part or in_part(at[1], v)}
    codes = compiled([(c, r, key) for v in chosen.values() for key, (c, r) in v.items()])
    printed, _ = counter.communicate()
    if counter.returncode:
        raise SystemExit("counting bytes failed")
    counts = json.loads(printed)
    entries = []
    for (launch, dtype), variants in sorted(wanted.items()):
        kernel, options = launch.split(" ", 1)
        compiled_for = {chip for chip, _ in variants.values()}
        chips = {
            chip: _worst(codes[key] for key, (where, _) in variants.items() if where == chip)
            for chip in CHIPS
            if chip in compiled_for and (launch, dtype) in chosen
        }
        entries.append(
            {
                "kernel": kernel,
                "dtype": dtype,
                "options": json.loads(options),
                "programs": hashlib.sha256(" ".join(sorted(variants)).encode()).hexdigest()[:20],
                **(_rounded(counts[launch]) if is_counted(variants) else NOT_COUNTED),
                "chips": chips,
            }
        )
    return {"triton": triton.__version__, "entries": entries}


def _rounded(counted: dict[str, float]) -> dict[str, float]:
    return {what: round(value, 3) for what, value in counted.items()}


def _worst(codes: Iterable[Code]) -> Entry:
    """What to expect of the variants of a kernel that differ in alignment alone."""
    found = list(codes)
    return {
        "registers": max(code.registers for code in found),
        "spills": max(code.spills for code in found),
        "shared": max(code.shared for code in found),
        "tensor_core": min(code.tensor_core for code in found),
        "product": any(code.product for code in found),
        "occupancy": round(min(code.occupancy for code in found), 4),
        "fits": all(code.fits for code in found),
    }


def arithmetic(entry: Entry) -> list[float]:
    """How much longer the operations of an entry take than its bytes, at least, on two cards."""
    return Count(entry["traffic"], entry["tensor"], entry["plain"]).arithmetic()


def misses(entries: Sequence[Entry]) -> list[str]:
    """What is not within the limits, one line each."""
    known = {entry["kernel"] for entry in entries}
    held = limits()
    wrong = [f"{LIMITS.name}: there is no {key}" for key in held.keys() - known - {"every"}]
    for entry in entries:
        limit = {**held["every"], **held.get(entry["kernel"], {})}
        where = f"{entry['kernel']} {entry['dtype']} {_how(entry)}"
        if entry["traffic"] is not None:
            if entry["traffic"] > limit.get("traffic", math.inf):
                wrong.append(f"{where}: moves {entry['traffic']} × the fewest bytes")
            if min(arithmetic(entry)) < 1 and "traffic" not in limit:
                wrong.append(f"{where}: memory bounds it, and its traffic has no limit")
        for chip, code in entry["chips"].items():
            if code["spills"]:
                wrong.append(f"{where}, {chip}: spills {code['spills']} bytes")
            if not code["fits"]:
                wrong.append(f"{where}, {chip}: {code['shared']} bytes of shared memory")
            if code["product"] and not code["tensor_core"]:
                wrong.append(f"{where}, {chip}: a matrix product without tensor cores")
            if code["occupancy"] < limit["occupancy"]:
                wrong.append(f"{where}, {chip}: occupancy {code['occupancy']:.0%}")
    return wrong


def _how(entry: Entry) -> str:
    options = entry["options"]
    blocks = [f"{key.lower()} {value}" for key, value in options.items() if key.isupper()]
    return ", ".join([*blocks, f"{options['num_warps']} warps, {options['num_stages']} stages"])


PREFACE = """# Kernels, compiled

Written by `make kernels`, which needs no GPU: **these are properties of machine code, and no
measurements**. Every kernel is compiled by Triton {triton} in every way it is launched in SegFormer
B0 and B2 at 512×512 and 1024×2048, float32 with and without TF32, for six chips.
[Kernels](kernels.md) says what each one does.

- **Registers** of a thread and **shared** memory of a block (KiB), from the assembler. Registers
  that spill: {spills}.
- **Occupancy**: the share of a chip's warps that run at a time, from registers, shared memory and
  the limits in the makers' manuals.
- **Tensor cores**: instructions for them (`mma`, `wgmma`, `tcgen05.mma`, `mfma`); "no product"
  where the kernel has no matrix product for them. NVIDIA's have none in full float32.
- **Traffic**: bytes moved by the fewest possible, that is, every tensor argument once. Counted in
  Triton's interpreter where a launch is largest, mostly in the first stage of B2 at 1024×2048:
  programs run 16 at a time, what such a wave touches moves once, in sectors of 32 bytes, and
  nothing stays in a cache between waves. Where these programs share too little for the limit, 108
  run at a time, one on each multiprocessor of an A100. What the lattice's kernels touch depends on
  the picture: over [a photograph](../examples/lemur.png) programs run one after the other and share
  a cache of 4 MB, the smallest of the six chips' ([Kernels](kernels.md)).
- **Arithmetic**: the least time that the operations take by the least time that the fewest bytes
  take, on an A100 / H100 (the figures of [the roofline](roofline.md)), counted likewise. Below 1
  memory's bandwidth bounds the kernel: its traffic is at most 1.15× then.

Where numbers differ between chips they are those of {chips}.
Kernels that are compiled several times because sizes are aligned differently state the worst.

"""


def page(results: dict[str, Any]) -> str:
    """The table as Markdown."""
    entries = results["entries"]
    spilling = sum(code["spills"] > 0 for entry in entries for code in entry["chips"].values())
    text = PREFACE.format(
        triton=results["triton"],
        chips=", ".join(CHIPS),
        spills=f"in {spilling} cases" if spilling else "none anywhere",
    )
    header = ("dtype", "launch", "registers", "shared", "occupancy", "tensor cores")
    header += ("traffic", "arithmetic")
    kernels = sorted({entry["kernel"] for entry in entries})
    for kernel in kernels:
        rows = [_row(entry) for entry in entries if entry["kernel"] == kernel]
        lines = [header, ("---",) * len(header), *rows]
        table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
        absent = limits().get(kernel, {}).get("never", [])
        never = "".join(f"It never runs on {chip}.\n\n" for chip in absent)
        text += f"## `{kernel}`\n\n{never}{table}\n\n"
    return text.rstrip() + "\n"


def _row(entry: Entry) -> tuple[str, ...]:
    chips = list(entry["chips"].values())
    product = any(code["product"] for code in chips)
    return (
        entry["dtype"],
        _how(entry),
        _joined(str(code["registers"]) for code in chips),
        _joined(f"{code['shared'] / 1024:.4g}" for code in chips),
        _joined(f"{code['occupancy']:.0%}" for code in chips),
        _joined(str(code["tensor_core"]) for code in chips) if product else "no product",
        f"{entry['traffic']:.2f}×",
        " / ".join(f"{share:.2f}" for share in arithmetic(entry)),
    )


def _joined(values: Iterable[str]) -> str:
    found = list(values)
    return found[0] if len(set(found)) == 1 else " / ".join(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles, writes, judges, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write this JSON and no page")
    parser.add_argument("--part", action="store_true", help="compile fp16 and some of the rest")
    parser.add_argument("--page-of", type=Path, metavar="FILE", help="print the page of a JSON")
    options = parser.parse_args(arguments)
    if options.page_of:
        print(page(json.loads(options.page_of.read_text(encoding="utf-8"))), end="")
        return 0
    if interpreting():
        parser.error("Triton interprets kernels: set TRITON_INTERPRET=0")
    # Triton 3.9 wants it in words; 3.10 is to change what it takes without.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    if options.part and not options.out:
        parser.error("--part is for --out: the page is about everything")
    results = collect(options.part)
    text = _json(results)
    (options.out or RESULTS).write_text(text, encoding="utf-8")
    if not options.out:
        PAGE.write_text(page(results), encoding="utf-8")
    wrong = misses(results["entries"])
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


def _json(results: dict[str, Any]) -> str:
    """JSON with a line for each entry, so that a change shows where it is."""
    lines = ",\n".join(json.dumps(entry) for entry in results["entries"])
    return f'{{"triton": "{results["triton"]}", "entries": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    sys.exit(main())
