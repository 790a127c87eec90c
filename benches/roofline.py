"""Bounds of SegFormer's time on GPUs, layer by layer, from counted bytes and operations.

A model and not a measurement; it needs no GPU. Networks run on tensors without memory, and every
operator is counted: an operator takes at least as long as its memory traffic (each tensor that it
reads or writes once) and at least as long as its arithmetic. Views are free, launches cost nothing,
caches keep nothing between operators. Writes `docs/roofline.md`.
"""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import fastseg
from kernel_launches import Recorded, listening

PAGE = Path(__file__).resolve().parent.parent / "docs" / "roofline.md"
SIZES = [("b0", 512, 512, 150), ("b2", 512, 512, 150)]
SIZES += [("b0", 1024, 2048, 19), ("b2", 1024, 2048, 19)]
PATHS = ("eager", "SDPA", "fastseg")


@dataclass(frozen=True)
class Card:
    """A GPU, from its maker's data sheet.

    Attributes:
        name: for readers.
        bandwidth: bytes a second.
        tensor: operations a second of tensor cores, fp16, dense.
        plain: operations a second of the other cores, fp32.
    """

    name: str
    bandwidth: float
    tensor: float
    plain: float


CARDS = [
    Card("A100 SXM 80 GB", 2.039e12, 312e12, 19.5e12),
    Card("H100 SXM", 3.35e12, 989e12, 66.9e12),
]


@dataclass(frozen=True)
class Work:
    """What an operator does.

    Attributes:
        moved: bytes read and written.
        tensor: operations that tensor cores do.
        plain: operations of the other cores, as far as they are counted: depthwise convolutions.
    """

    moved: float
    tensor: float = 0
    plain: float = 0

    def seconds(self, card: Card) -> float:
        """The least time that it can take."""
        arithmetic = self.tensor / card.tensor + self.plain / card.plain
        return max(self.moved / card.bandwidth, arithmetic)


class Counter(TorchDispatchMode):
    """Notes the work of every operator, by the layer that it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.work: defaultdict[str, list[Work]] = defaultdict(list)
        self.layers: list[str] = []
        # Matrix products of the kernel that is to be launched next.
        self.products = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        if func.namespace == "fastseg":
            # Look inside: what it launches is counted, and so are PyTorch's operators around it.
            self.products = _products(name, args)
            with self:
                return OPDEFS[name]._abstract_fn(*args, **kwargs)
        out = func(*args, **kwargs)
        if _computes(func):
            flops = flop_registry.get(func.overloadpacket)
            count = float(flops(*args, **kwargs, out_val=out)) if flops else 0.0
            if "scaled_dot_product" in name:
                count = 4.0 * args[0].numel() * args[1].shape[2]
            depthwise = name == "aten::convolution" and args[8] == args[0].shape[1] > 1
            moved = _bytes([*tree_leaves(args), *tree_leaves(kwargs), *tree_leaves(out)])
            self.note(Work(moved, 0 if depthwise else count, count if depthwise else 0))
        return out

    def launched(self, launch: Recorded) -> None:
        """Notes the launch of a kernel: each of its tensors moves once."""
        self.note(Work(_bytes(launch.tensors), tensor=self.products))
        self.products = 0.0

    def note(self, work: Work) -> None:
        """Adds work to the layer at hand."""
        self.work[self.layers[-1] if self.layers else "other"].append(work)


def _computes(func: Any) -> bool:
    views = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
    return not views and "empty" not in func.name() and "_unsafe_view" not in func.name()


def _bytes(values: list[Any]) -> float:
    tensors = {id(v): v for v in values if isinstance(v, Tensor)}.values()
    return float(sum(t.numel() * t.element_size() for t in tensors))


def _products(name: str, args: Any) -> float:
    """Operations of matrix products inside of the kernels of an operation."""
    if name == "fastseg::sequence_reduced_attention":
        query, key = args[:2]
        return 4.0 * query.numel() * key.shape[1]
    if name == "fastseg::folded_decoder":
        batch, height, width = args[0][0].shape[:3]
        return 2.0 * batch * height * width * args[3].numel()
    if name == "fastseg::mix_ffn":
        tokens, hidden = args[0], args[1].shape[0]
        return 4.0 * tokens.numel() * hidden
    if name == "fastseg::sequence_reduction":
        tokens, outputs = args[0], args[1].shape[0]
        return 2.0 * tokens.numel() * outputs
    return 0


# The layers of our SegFormer, of transformers' since 5.9, and what they are called on the page.
KINDS = {
    "OverlapPatchEmbed": "patch embedding",
    "SegformerOverlapPatchEmbeddings": "patch embedding",
    "EfficientSelfAttention": "attention",
    "SegformerAttention": "attention",
    "MixFFN": "Mix-FFN",
    "SegformerMixMLP": "Mix-FFN",
    "AllMLPDecoder": "decoder",
    "SegformerDecodeHead": "decoder",
}


@contextmanager
def _layers(model: nn.Module, counter: Counter) -> Iterator[None]:
    """Tells the counter which layer runs."""
    handles = []
    for path, module in model.named_modules():
        kind = KINDS.get(type(module).__name__)
        stage = re.search(r"stages\.(\d+)", path)
        if kind is None and re.search(r"stages\.\d+(\.blocks\.\d+|\.norm)?$", path):
            kind = "norms, sums"
        if kind is None:
            continue
        layer = f"stage {int(stage[1]) + 1}, {kind}" if stage else kind

        def enter(*_: Any, layer: str = layer) -> None:
            counter.layers.append(layer)

        def leave(*_: Any) -> None:
            counter.layers.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def count(path: str, size: str, height: int, width: int, classes: int) -> dict[str, list[Work]]:
    """The work of a SegFormer's layers, from a picture to logits at a quarter of its size."""
    counter = Counter()
    model = _model(path, size, classes).half().eval()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # Not inference mode, which hands over whole compositions such as `linear`.
    with torch.no_grad(), fake, listening(None, counter.launched, every=False):
        picture = torch.empty(1, 3, height, width, dtype=torch.half)
        run: Callable[[Tensor], Any] = getattr(model, "native_logits", model)
        with _layers(model, counter), counter:
            run(picture)
    return dict(counter.work)


def _model(path: str, size: str, classes: int) -> nn.Module:
    if path == "fastseg":
        return fastseg.create_model(f"segformer_{size}", num_classes=classes)
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    from fastseg.models.segformer import SIZES as PUBLISHED

    widths, depths, decoder = PUBLISHED[size]
    config = SegformerConfig(
        num_labels=classes,
        hidden_sizes=list(widths),
        depths=list(depths),
        decoder_hidden_size=decoder,
        attn_implementation="sdpa" if path == "SDPA" else "eager",
    )
    return SegformerForSemanticSegmentation(config)


PREFACE = """# A roofline of SegFormer

**This is a model, and not a measurement**: `make roofline` wrote it on a machine without a GPU. It
bounds from below how long a layer takes, whoever programs it so: no operator is faster than its
bytes through the memory's bandwidth, or than its matrix products through the tensor cores. Real
times are longer; what the page is good for is to see where the bytes are.

- Half precision, one picture, from picture to logits at a quarter of its size.
- **eager** and **SDPA** are transformers' SegFormer with its two kinds of attention, each PyTorch
  operator by itself. **fastseg** is ours with its Triton kernels: each tensor that a kernel is
  given moves once ([how near the kernels come](kernels-compiled.md)).
- Views are free, launches take no time, and no cache keeps anything from one operator to the next.
  Operators and copies are those that PyTorch dispatches for tensors on a CPU.
- {cards}.
- Counted with {versions}.

"""


def page() -> str:
    """The bounds as Markdown."""
    cards = ". ".join(
        f"{card.name}: {card.bandwidth / 1e12:.3g} TB/s, {card.tensor / 1e12:.3g} Tflop/s"
        for card in CARDS
    )
    text = PREFACE.format(cards=cards, versions=versions())
    for size, height, width, classes in SIZES:
        found = {path: count(path, size, height, width, classes) for path in PATHS}
        text += f"## {size.upper()}, {height}×{width}, {classes} classes\n\n{_table(found)}\n"
    return text.rstrip() + "\n"


def versions() -> str:
    """The libraries whose operators are counted."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))


def _table(found: dict[str, dict[str, list[Work]]]) -> str:
    layers = sorted({layer for works in found.values() for layer in works}, key=_order)
    titles = ["layer", *(f"{path}, MB" for path in PATHS)]
    titles += [f"{card.name.split()[0]} {path}, µs" for card in CARDS for path in PATHS]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for layer in layers:
        lines.append([layer, *_cells([found[path].get(layer, []) for path in PATHS])])
    everything = [[w for works in found[path].values() for w in works] for path in PATHS]
    lines.append(["**all**", *_cells(everything)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _order(layer: str) -> tuple[bool, str]:
    return not layer.startswith("stage"), layer


def _cells(works: list[list[Work]]) -> list[str]:
    moved = [f"{sum(w.moved for w in each) / 1e6:.1f}" for each in works]
    times = [f"{sum(w.seconds(card) for w in each) * 1e6:.1f}" for card in CARDS for each in works]
    return [*moved, *times]


def main() -> int:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
