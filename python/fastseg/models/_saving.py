"""Models as files: safetensors for the weights, JSON for what builds the model."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastseg.errors import CheckpointError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"


@contextmanager
def renamed_when_complete(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`, and renames the file if all goes well."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    # There is no way to read the mask but to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def save(
    folder: str | Path,
    state: dict[str, Tensor],
    config: dict[str, Any],
    preprocessor: dict[str, Any] | None = None,
) -> None:
    """Writes weights and configurations into a folder, which is made if missing."""
    from safetensors.torch import save_file

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    # What JSON cannot hold shall fail before anything is written.
    text = json.dumps(config, indent=2) + "\n"
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    with renamed_when_complete(target / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})
    with renamed_when_complete(target / CONFIG) as part:
        part.write_text(text, encoding="utf-8")
    if preprocessor is not None:
        with renamed_when_complete(target / PREPROCESSOR) as part:
            part.write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")


def folder_of(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder that `source` names; what is no folder is downloaded from the Hub."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    name = str(source)
    # The Hub's names are "name" or "user/name"; anything else can only be a missing folder.
    if isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError(f"{source}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        local = snapshot_download(
            name, revision=revision, token=token, allow_patterns=[WEIGHTS, CONFIG, PREPROCESSOR]
        )
    except Exception as error:
        raise CheckpointError(
            f"{source}: neither a folder nor a repository that the Hugging Face Hub gives out "
            f"({type(error).__name__}: {error})"
        ) from error
    return Path(local)


def read_config(folder: Path) -> dict[str, Any]:
    """The arguments of `create_model` that `save` wrote."""
    ours = read_json(folder / CONFIG).get("fastseg")
    if not isinstance(ours, dict) or "name" not in ours:
        raise CheckpointError(
            f"{folder / CONFIG}: not written by fastseg (no 'fastseg' entry with a name); "
            "fastseg.load recognises other formats"
        )
    return ours


def annotate(model: Any, folder: Path) -> None:
    """Names the model's classes and its preprocessing as the folder does, if it does."""
    labels = read_json(folder / CONFIG).get("id2label")
    if isinstance(labels, dict) and len(labels) == model.num_classes:
        model.id2label = {int(i): str(name) for i, name in labels.items()}
    if (folder / PREPROCESSOR).is_file():
        model.preprocessor_config = read_json(folder / PREPROCESSOR)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: there is no {path.name}, which says what to build; name the weights "
            "file itself, and fastseg.load tells the architecture from its tensors"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def read_state(folder: Path) -> dict[str, Tensor]:
    """The weights that `save` wrote, on the CPU."""
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except Exception as error:
        raise CheckpointError(f"{folder / WEIGHTS}: cannot be read: {error}") from error
    return state


def load_state(model: nn.Module, state: dict[str, Tensor], source: object) -> None:
    """Loads all weights, or says which are missing, unknown or of another shape."""
    wanted = model.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in state]
    problems += [f"unknown {name}" for name in state if name not in wanted]
    problems += [
        f"{name} is {tuple(tensor.shape)}, the model's is {tuple(wanted[name].shape)}"
        for name, tensor in state.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + ("; …" if len(problems) > 5 else "")
        raise CheckpointError(
            f"{source}: the weights do not fit {type(model).__name__} ({len(problems)} problems): "
            f"{shown}; build the model with the classes, channels and options it was trained with"
        )
    model.load_state_dict(state)


def push(
    save_to: Callable[[Path], None],
    repo_id: str,
    *,
    private: bool | None,
    token: str | None,
    commit_message: str,
) -> str:
    """Saves into a temporary folder and uploads it to the Hub in one commit."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repository = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as name:
        save_to(Path(name))
        commit = api.upload_folder(
            repo_id=repository, folder_path=name, commit_message=commit_message
        )
    return str(commit)
