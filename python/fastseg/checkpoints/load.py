"""Models from files: one function that recognises who wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastseg.checkpoints import public_unets, reading, segformer, torchvision
from fastseg.checkpoints.formats import Format
from fastseg.errors import CheckpointError, ParameterError
from fastseg.models import SegmentationModel, create_model
from fastseg.models._base import choice
from fastseg.models._saving import CONFIG, annotate, read_json


def load(
    source: str | Path,
    *,
    num_classes: int | None = None,
    head: str = "keep",
    revision: str | None = None,
    token: str | None = None,
    **options: Any,
) -> SegmentationModel:
    """Builds the model that a checkpoint holds, whichever library wrote it.

    Recognised are: what `save_pretrained` wrote, Hugging Face's SegFormers (folders and Hub names,
    safetensors and pickles, names from before and after transformers 5.9), state dicts of
    SegFormer from mmsegmentation, NVlabs and segmentation_models.pytorch, and those of
    torchvision's FCN and DeepLab v3. None of these libraries is needed. Pickles are read with
    `weights_only`: no code of theirs runs.

    Args:
        source: a folder, a weights file, or the name of a repository of the Hugging Face Hub.
        num_classes: None takes the checkpoint's; another number needs `head="new"`.
        head: "keep", or "new" for fresh weights in all that depends on the number of classes. A
            checkpoint without a decoder gets a fresh one.
        revision: a branch, tag or commit of a Hub repository.
        token: for a private one.
        options: further ones of `create_model`, such as `drop_path_rate=0`; they replace the
            checkpoint's.

    Returns:
        The model in evaluation mode, on the CPU, in the dtype of the weights. Its attributes
        `preprocessor_config` and `id2label` hold what the folder says about them, or None.

    Raises:
        CheckpointError: nothing is there, it is damaged or unknown, a tensor is missing, left over
            or of another shape, or the number of classes differs.
        ParameterError: `head` is not one of the two, or an option is unknown.

    Convention:
        The eps of LayerNorms is the source's: 1e-5 for Hugging Face; 1e-6, and 1e-5 in patches and
        reductions, for NVlabs and segmentation_models.pytorch; 1e-6 for mmsegmentation. No tensor
        is skipped in silence but those which the source's own model never uses (NVlabs'
        `decode_head.conv_seg`) and BatchNorm's counters of batches.

    Example:
        >>> import fastseg, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fastseg.create_model("segformer_b0", num_classes=19).save_pretrained(folder)
        ...     model = fastseg.load(folder, num_classes=2, head="new")
        >>> model.num_classes
        2
    """
    choice(head, "head", ["keep", "new"])
    path = Path(source)
    if not path.exists():
        name = str(source)
        # The Hub's names are "name" or "user/name"; anything else can only be a missing path.
        if isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise CheckpointError(f"{source}: no such folder or file")
        path = reading.download(name, revision=revision, token=token)
    config: dict[str, Any] = {}
    if path.is_dir():
        config = read_json(path / CONFIG)
        state = reading.read_folder(path)
    else:
        state = reading.read_file(path)
    model, found, left = _converted(config, state, num_classes, head, options, str(source))
    _fill(model, found, left, _fresh(model, head), str(source))
    dtype = next((t.dtype for t in found.values() if t.is_floating_point()), torch.float32)
    if path.is_dir():
        annotate(model, path)
    return model.to(dtype).eval()


def _converted(
    config: dict[str, Any],
    state: dict[str, Tensor],
    num_classes: int | None,
    head: str,
    options: dict[str, Any],
    source: str,
) -> tuple[SegmentationModel, dict[str, Tensor], list[str]]:
    """The model, its tensors as far as they are there, and the names of those left over."""
    form = segformer.recognise(state)
    ours = config.get("fastseg")
    if isinstance(ours, dict) and "name" in ours:
        kept = _classes(ours["num_classes"], num_classes, head, source)
        model = create_model(**{**ours, **options, "num_classes": kept})
        if form is None:
            wanted = model.state_dict()
            return model, _known(state, wanted), [n for n in state if n not in wanted]
        found, left = segformer.convert(form, state, model.state_dict(), _fresh(model, head))
        return model, found, left
    if form is not None:
        return _foreign_segformer(config, state, form, num_classes, head, options, source)
    model_name = torchvision.recognise(state)
    if model_name is not None:
        kept = _classes(torchvision.classes_of(state), num_classes, head, source)
        options = {**torchvision.options_of(model_name, state), **options}
        model = create_model(model_name, num_classes=kept, **options)
        wanted = model.state_dict()
        return model, _known(state, wanted), [n for n in state if n not in wanted]
    model_name = public_unets.recognise(state)
    if model_name is not None:
        kept = _classes(public_unets.classes_of(state), num_classes, head, source)
        options = {**public_unets.options_of(state), **options}
        model = create_model(model_name, num_classes=kept, **options)
        wanted = model.state_dict()
        state = public_unets.convert(state)
        return model, _known(state, wanted), [n for n in state if n not in wanted]
    what = config.get("model_type") or ", ".join(list(state)[:3]) + " …"
    raise CheckpointError(
        f"{source}: not a checkpoint that fastseg knows ({what}); it knows its own, SegFormers of "
        "Hugging Face, mmsegmentation, NVlabs and segmentation_models.pytorch, and torchvision's "
        "FCN and DeepLab v3"
    )


def _foreign_segformer(
    config: dict[str, Any],
    state: dict[str, Tensor],
    form: Format,
    num_classes: int | None,
    head: str,
    options: dict[str, Any],
    source: str,
) -> tuple[SegmentationModel, dict[str, Tensor], list[str]]:
    state = segformer.with_prefix(form, state)
    given = (
        segformer.options_of_config(config)
        if config.get("model_type") == "segformer"
        else segformer.options_of_state(form, state)
    )
    kind, classes = segformer.classes_of(form, state)
    if head == "new" and kind != "segmentation":
        if num_classes is None:
            raise ParameterError(
                f"num_classes: {source} holds no segmentation head; say how many classes the new "
                "one shall have"
            )
        kind, classes = "segmentation", num_classes
        state = {n: t for n, t in state.items() if not n.startswith(("classifier.", "head."))}
        model = segformer.build(form, kind, classes, {**given, **options})
        decoder = [name for name in model.state_dict() if name.startswith("decoder.")]
        found, left = segformer.convert(form, state, model.state_dict(), decoder)
        fresh = {name: model.state_dict()[name] for name in decoder}
        return model, {**fresh, **found}, left
    if kind is None or classes is None:
        raise CheckpointError(
            f"{source}: holds an encoder alone, as {form.name} names it; load it with "
            "fastseg.load(…, num_classes=…, head='new') to get a fresh decoder"
        )
    kept = _classes(classes, num_classes, head, source)
    model = segformer.build(form, kind, kept, {**given, **options})
    found, left = segformer.convert(form, state, model.state_dict(), _fresh(model, head))
    return model, found, left


def _classes(found: int, wanted: int | None, head: str, source: str) -> int:
    if wanted is None or wanted == found:
        return found
    if head == "keep":
        raise CheckpointError(
            f"{source}: has {found} classes, num_classes={wanted} were asked for; "
            f"fastseg.load(…, num_classes={wanted}, head='new') loads all but the classifier"
        )
    return wanted


def _fresh(model: SegmentationModel, head: str) -> set[str]:
    """Names of the tensors that keep their fresh weights."""
    return classifier_tensors(model) if head == "new" else set()


def classifier_tensors(model: SegmentationModel) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    more = {**model.config, "num_classes": model.num_classes + 1}
    with torch.device("meta"):
        other = create_model(**more).state_dict()
    return {n for n, t in model.state_dict().items() if n not in other or other[n].shape != t.shape}


def _known(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name in wanted}


def _fill(
    model: SegmentationModel,
    found: dict[str, Tensor],
    left: list[str],
    fresh: set[str],
    source: str,
) -> None:
    """Loads all tensors, or says which are missing, left over or of another shape."""
    wanted = model.state_dict()
    found = {name: tensor for name, tensor in found.items() if name not in fresh}
    missing = [name for name in wanted if name not in found and name not in fresh]
    # Old files lack the counters, which matter only to a BatchNorm without momentum.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    problems = [f"missing {name}" for name in missing]
    problems += [f"left over {name}" for name in left if not name.endswith("num_batches_tracked")]
    problems += [
        f"{name} is {tuple(tensor.shape)}, expected {tuple(wanted[name].shape)}"
        for name, tensor in found.items()
        if tensor.shape != wanted[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + ("; …" if len(problems) > 5 else "")
        raise CheckpointError(
            f"{source}: the weights do not fit {model.config['name']} ({len(problems)} problems): "
            f"{shown}. To load all but the classifier: fastseg.load(…, num_classes=…, head='new')"
        )
    model.load_state_dict({**wanted, **found})
