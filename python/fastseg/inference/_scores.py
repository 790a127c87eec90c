"""What `predict` asks of a model: scores at its own resolution, whoever made the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastseg.errors import CheckpointError, DtypeError, ParameterError, ShapeError
from fastseg.inference.preprocessing import Preprocessing

_CONFIG_FILE = "preprocessor_config.json"


class Scorer:
    """Calls a model of fastseg, of transformers, or any callable, and takes the logits out.

    Args:
        model: What was given to `predict`.

    Attributes:
        channels: How many channels the model takes; None where it does not say.
        device: Where its parameters are.
        align_corners: How its logits are to be enlarged.
    """

    def __init__(self, model: Any) -> None:
        if not callable(model):
            raise DtypeError(
                f"model: expected a module or a function of a tensor, got {type(model).__name__}; "
                "fastseg.load(…) reads a checkpoint"
            )
        self._model = model
        native = getattr(model, "native_logits", None)
        self._call: Callable[[Tensor], Any] = native if callable(native) else model
        self.align_corners = bool(getattr(model, "align_corners", False))
        config = getattr(model, "config", None)
        channels = getattr(model, "in_channels", getattr(config, "num_channels", None))
        self.channels: int | None = channels if isinstance(channels, int) else None
        parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
        first = next((each for each in parameters if each.is_floating_point()), None)
        self.device = torch.device("cpu") if first is None else first.device
        self._dtype = torch.float32 if first is None else first.dtype

    def __call__(self, batch: Tensor) -> Tensor:
        """Compute logits.

        Args:
            batch: (B, C, H, W) float32.

        Returns:
            (B, K, h, w) float32.

        Raises:
            ShapeError: The model returned something else.
        """
        result = self._call(batch.to(device=self.device, dtype=self._dtype))
        logits = _logits_in(result)
        if not isinstance(logits, Tensor) or logits.ndim != 4 or len(logits) != len(batch):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ShapeError(
                f"model: expected logits (B, K, h, w) for a batch of {len(batch)}, got {shape}; "
                "only models that segment can predict masks"
            )
        return logits.to(torch.float32)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without gradients, and with dropout and statistics as for evaluation, for a while."""
        modules = list(self._model.modules()) if isinstance(self._model, nn.Module) else []
        trained = [module for module in modules if module.training]
        for module in trained:
            module.training = False
        try:
            with torch.no_grad():
                yield
        finally:
            for module in trained:
                module.training = True

    def preprocessing(self, given: Any) -> Preprocessing:
        """What the model's weights expect, as far as anyone says.

        Args:
            given: The argument of `predict`.

        Raises:
            CheckpointError: The settings that were found are damaged.
            ParameterError: `given` is no preprocessing.
        """
        if isinstance(given, Preprocessing):
            return given
        if isinstance(given, dict):
            return Preprocessing.from_config(given)
        if isinstance(given, str | Path):
            return Preprocessing.from_pretrained(given)
        if given is not None:
            raise ParameterError(
                "preprocessing: expected a Preprocessing, the content of a "
                f"{_CONFIG_FILE}, or where to find one, got {type(given).__name__}"
            )
        content = getattr(self._model, "preprocessor_config", None)
        if isinstance(content, dict):
            return Preprocessing.from_config(content)
        if _is_of_transformers(self._model):
            found = _beside_weights(self._model)
            return Preprocessing.from_config({}) if found is None else found
        if self.channels in (None, 3):
            return Preprocessing()
        return Preprocessing(mean=None, std=None)


def _logits_in(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result
    if hasattr(result, "logits"):
        return result.logits
    if isinstance(result, dict):
        return next((result[key] for key in ("logits", "out") if key in result), None)
    if isinstance(result, tuple | list) and result:
        return result[0]
    return result


def _is_of_transformers(model: Any) -> bool:
    return any(base.__module__.startswith("transformers.") for base in type(model).__mro__)


def _beside_weights(model: Any) -> Preprocessing | None:
    """The settings in the folder, or the local cache of the hub, that the weights came from."""
    source = str(getattr(model, "name_or_path", "") or "")
    if not source:
        return None
    folder = Path(source)
    if folder.is_dir():
        return Preprocessing.from_pretrained(folder) if (folder / _CONFIG_FILE).exists() else None
    from importlib.util import find_spec

    if "/" not in source or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source, _CONFIG_FILE)
    if not isinstance(cached, str):
        return None
    try:
        return Preprocessing.from_pretrained(cached)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}; give preprocessing yourself") from error
