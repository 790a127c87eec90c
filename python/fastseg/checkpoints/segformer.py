"""SegFormers that other libraries saved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fastseg.checkpoints.formats import FORMATS, Format
from fastseg.errors import CheckpointError
from fastseg.models import segformer
from fastseg.models._base import SegmentationModel
from fastseg.models._registry import create_model
from fastseg.models._segformer_names import split_name

_OURS = "encoder.stages.0.patch_embed.proj.weight"


def recognise(state: Mapping[str, Tensor]) -> Format | None:
    """The library that wrote a state dict, or None where it is no SegFormer of theirs."""
    if _OURS in state:
        return None
    for form in FORMATS:
        if form.marker in state or form.encoder_prefix + form.marker in state:
            return form
    return None


def with_prefix(form: Format, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of an encoder that was saved alone, as they are inside a whole model."""
    if form.encoder_prefix + form.marker in state:
        return state
    return {
        name if name.startswith(("head.", "decode_head.")) else form.encoder_prefix + name: tensor
        for name, tensor in state.items()
    }


def options_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `create_model` from a Hugging Face config.json."""
    # What SegformerConfig takes where a file does not say.
    defaults: dict[str, Any] = {
        "depths": [2, 2, 2, 2],
        "sr_ratios": [8, 4, 2, 1],
        "hidden_sizes": [32, 64, 160, 256],
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "num_attention_heads": [1, 2, 5, 8],
        "mlp_ratios": [4, 4, 4, 4],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "drop_path_rate": 0.1,
        "decoder_hidden_size": 256,
    }
    given = {key: config.get(key, default) for key, default in defaults.items()}
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise CheckpointError(
            f"hidden_act: fastseg's SegFormer computes the exact 'gelu', the checkpoint wants "
            f"{activation!r}"
        )
    stages = config.get("num_encoder_blocks", 4)
    return {
        "in_channels": config.get("num_channels", 3),
        "widths": given["hidden_sizes"][:stages],
        "depths": given["depths"][:stages],
        "reductions": given["sr_ratios"][:stages],
        "patch_sizes": given["patch_sizes"][:stages],
        "strides": given["strides"][:stages],
        "num_heads": given["num_attention_heads"][:stages],
        "mlp_ratios": given["mlp_ratios"][:stages],
        "dropout": given["hidden_dropout_prob"],
        "attention_dropout": given["attention_probs_dropout_prob"],
        "classifier_dropout": given["classifier_dropout_prob"],
        "drop_path_rate": given["drop_path_rate"],
        "decoder_width": given["decoder_hidden_size"],
    }


def options_of_state(form: Format, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of `create_model` from the shapes of the tensors.

    Heads leave no trace in them: they are taken to be as wide as in the paper, 32 channels where
    the first stage has 32, and 64 otherwise.
    """

    def shape(ours: str, i: int = 0, j: int = 0) -> tuple[int, ...] | None:
        name, _ = _source(form, ours, i, j, "weight", len(widths) or 4)
        tensor = state.get(name)
        return None if tensor is None else tuple(tensor.shape)

    widths: list[int] = []
    patches, in_channels = [], 3
    while (found := shape("encoder.stages.{i}.patch_embed.proj", len(widths))) is not None:
        if not widths:
            in_channels = found[1]
        widths.append(found[0])
        patches.append(found[2])
    depths, reductions, ratios = [], [], []
    block = "encoder.stages.{i}.blocks.{j}."
    for i, width in enumerate(widths):
        depth = 0
        while shape(block + "norm1", i, depth) is not None:
            depth += 1
        depths.append(depth)
        reduce, hidden = shape(block + "attention.reduce", i), shape(block + "ffn.fc1", i)
        reductions.append(reduce[2] if reduce else 1)
        ratios.append((hidden[0] if hidden else 4 * width) / width)
    per_head = 32 if widths and widths[0] == 32 else 64
    if not widths or 0 in depths or any(width % per_head for width in widths):
        raise CheckpointError(
            f"expected SegFormer's tensors as {form.name} names them, with heads of {per_head} "
            f"channels, got stages of {widths} channels and {depths} blocks"
        )
    fuse = shape("decoder.fuse")
    options: dict[str, Any] = {
        "in_channels": in_channels,
        "widths": widths,
        "depths": depths,
        "reductions": reductions,
        "patch_sizes": patches,
        "strides": [4] + [2] * (len(widths) - 1),
        "num_heads": [width // per_head for width in widths],
        "mlp_ratios": [int(r) if r == int(r) else r for r in ratios],
    }
    return options | ({"decoder_width": fuse[0]} if fuse else {})


def classes_of(form: Format, state: Mapping[str, Tensor]) -> tuple[str | None, int | None]:
    """Which head a state dict has, "segmentation", "classification" or None, and its classes."""
    for head, ours in (("segmentation", "decoder.classifier"), ("classification", "classifier")):
        if ours in form.names:
            tensor = state.get(_source(form, ours, 0, 0, "weight", 4)[0])
            if tensor is not None:
                return head, tensor.shape[0]
    return None, None


def name_of(options: Mapping[str, Any]) -> str:
    """The registered name whose sizes a model has, or that of the smallest."""
    for size, (widths, depths, _) in segformer.SIZES.items():
        if list(options["widths"]) == widths and list(options["depths"]) == depths:
            return f"segformer_{size}"
    return "segformer_b0"


def build(form: Format, head: str, num_classes: int, options: dict[str, Any]) -> SegmentationModel:
    """The model that a checkpoint of this format describes, with fresh weights."""
    options = {"norm_eps": form.norm_eps, "embed_norm_eps": form.embed_norm_eps, **options}
    if head == "classification":
        for option in ("decoder_width", "classifier_dropout"):
            options.pop(option, None)
    else:
        options = {"decoder": form.decoder, "align_corners": form.align_corners, **options}
    return create_model(name_of(options), num_classes=num_classes, head=head, **options)


def convert(
    form: Format, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], fresh: Iterable[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Renames, cuts and reshapes another library's tensors.

    Args:
        form: how they are named.
        state: theirs.
        wanted: our model's state dict, for names and shapes.
        fresh: our names that are not looked for.

    Returns:
        Ours by name, as far as they are there, and the names of theirs that nothing asked for.
    """
    fresh = set(fresh)
    stages = 1 + max(split_name(n)[1][0] for n in wanted if n.startswith("encoder.stages."))
    found, used = {}, set()
    for name, target in wanted.items():
        pattern, numbers, leaf = split_name(name)
        if pattern not in form.names:
            continue
        i, j = (*numbers, 0, 0)[:2]
        theirs, part = _source(form, pattern, i, j, leaf, stages)
        used.add(theirs)
        if theirs not in state or name in fresh:
            continue
        tensor = state[theirs]
        if part is not None and tensor.ndim and tensor.shape[0] % part[1] == 0:
            tensor = tensor.chunk(part[1])[part[0]]
        found[name] = _fitted(tensor, target)
    unused = tuple(form.unused)
    return found, [n for n in state if n not in used and not n.startswith(unused or "\0")]


def _fitted(tensor: Tensor, target: Tensor) -> Tensor:
    """A linear layer's matrix as a 1×1 convolution's, or the other way round."""
    if tensor.ndim != target.ndim and _matrix(tensor.shape) == _matrix(target.shape):
        return tensor.reshape(target.shape)
    return tensor


def _matrix(shape: Iterable[int]) -> tuple[int, ...]:
    sizes = tuple(shape)
    return sizes[:2] if set(sizes[2:]) <= {1} else sizes


_PART = re.compile(r"\|(\d)/(\d)$")


def _source(
    form: Format, pattern: str, i: int, j: int, leaf: str, stages: int
) -> tuple[str, tuple[int, int] | None]:
    """Another library's name of a tensor, and which part of it is meant."""
    template = form.names[pattern]
    cut = _PART.search(template)
    template = _PART.sub("", template)
    if "{leaf}" not in template:
        template += ".{leaf}"
    name = template.format(i=i, s=i + 1, r=stages - 1 - i, j=j, leaf=leaf)
    return name, (int(cut[1]), int(cut[2])) if cut else None
