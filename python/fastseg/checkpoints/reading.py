"""State dicts out of files, without running code from them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastseg.errors import CheckpointError
from fastseg.models._saving import CONFIG, PREPROCESSOR, WEIGHTS, read_json

PICKLED = "pytorch_model.bin"
# Where training frameworks put the state dict inside their files.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "state_dict_ema", "params")
# What data-parallel and Lightning wrappers put before every name.
_WRAPPER_PREFIXES = ("module.", "model.", "_orig_mod.")


def download(source: str, *, revision: str | None, token: str | None) -> Path:
    """The folder with a Hub repository's configuration and weights.

    Raises:
        CheckpointError: the Hub gives out no such repository.
    """
    try:
        from huggingface_hub import list_repo_files, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise CheckpointError(
            f"{source}: no such folder or file, and downloading needs huggingface-hub: "
            "pip install 'fastseg-rs[models]'"
        ) from None
    try:
        try:
            files = list_repo_files(source, revision=revision, token=token)
        except HfHubHTTPError:
            raise
        except Exception:
            # Without a network, what an earlier call brought is still here.
            return Path(snapshot_download(source, revision=revision, local_files_only=True))
        safe = any(name.endswith(".safetensors") for name in files)
        weights = ["model*.safetensors*"] if safe else ["pytorch_model*.bin*"]
        folder = snapshot_download(
            source,
            revision=revision,
            token=token,
            allow_patterns=[CONFIG, PREPROCESSOR, *weights],
        )
    except Exception as error:
        raise CheckpointError(
            f"{source}: neither a folder or file here nor a repository that the Hugging Face Hub "
            f"gives out ({type(error).__name__}: {error})"
        ) from error
    return Path(folder)


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder: safetensors before pickles, in one file or in parts.

    Raises:
        CheckpointError: there are none, or they cannot be read.
    """
    for name in (WEIGHTS, PICKLED):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read_file(folder / name)
        if index.is_file():
            parts = read_json(index).get("weight_map")
            if not isinstance(parts, dict):
                raise CheckpointError(f"{index}: expected a 'weight_map', got none")
            state: dict[str, Tensor] = {}
            for part in sorted({Path(str(part)).name for part in parts.values()}):
                state |= read_file(folder / part)
            return state
    raise CheckpointError(f"{folder}: there are no weights; expected {WEIGHTS} or {PICKLED}")


def read_file(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file or in a pickle of plain tensors.

    Raises:
        CheckpointError: the file is missing or damaged, holds no state dict, or would run code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except Exception as error:
            raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    try:
        with warnings.catch_warnings():
            # PyTorch warns of pickle protocols that it refuses or reads all the same.
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not loaded, because it holds more than tensors, or is damaged: reading it "
            "could run code. If you trust it, save its state dict alone: torch.save("
            "torch.load(path, weights_only=False)['state_dict'], 'weights.pth')"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return _state_dict(value, path)


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if not isinstance(value, Mapping):
            break
        tensors = {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
        if tensors and len(tensors) == len(value):
            return _unwrapped(tensors)
        inner = next((value[name] for name in _WRAPPERS if name in value), None)
        if inner is None:
            break
        value = inner
    raise CheckpointError(
        f"{path}: expected a state dict, names and tensors (also under 'state_dict' or 'model'), "
        f"got {_described(value)}"
    )


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(sorted(map(repr, value))[:5]) or 'nothing'}"
    return type(value).__name__


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _unwrapped({name.removeprefix(prefix): t for name, t in state.items()})
    return state
