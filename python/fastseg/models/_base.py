"""What every model shares: its checks, its output, and how it is saved."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.errors import DtypeError, ParameterError, ShapeError
from fastseg.layers.checkpointing import checkpointed
from fastseg.models import _saving

# Pixels of a batch from which on channels innermost make training faster. With fewer, it takes
# longer to bring the gradients back into the order of the weights.
_TRAINED_PIXELS = 2**17


class SegmentationOutput(NamedTuple):
    """What a model with auxiliary heads returns while it trains.

    Attributes:
        logits: (B, K, H, W) float, the model's answer at the input's size.
        auxiliary: further outputs by name, for losses alone. Those of the same kind as `logits` are
            (B, K, H, W), too; a model says what its others are.
    """

    logits: Tensor
    auxiliary: dict[str, Tensor]


class SegmentationModel(nn.Module):
    """Base of all models: a picture in, logits of its size out.

    A family implements `scores`; what is the same for all stands here: checks with errors that say
    what to do, bilinear enlargement to the input's size, gradient checkpointing, and saving.

    Args:
        name: the name that `fastseg.create_model` knows the model by.
        num_classes: K, channels of the logits, at least 1.
        in_channels: C, channels of the picture, at least 1.
        options: the builder's further arguments, such that JSON can hold them.

    Attributes:
        config: name and arguments: `create_model(**config)` builds the model again.
        align_corners: how native logits are enlarged to the input's size.
        stride: input pixels per native logit along an axis; 1: nothing is enlarged.
        id2label: names of the classes by index, where a checkpoint gave them.
        preprocessor_config: how pictures are prepared, in Hugging Face's words, where a checkpoint
            said so.
        gradient_checkpointing: whether stages are computed again in the backward pass instead of
            kept: less memory, more time.

    Convention:
        `forward` returns logits (B, K, H, W) at the input's size. A model built with auxiliary
        heads returns a `SegmentationOutput` in training mode, and plain logits in evaluation mode.
    """

    align_corners: bool = False
    # Smallest height and width that the architecture can take.
    minimum_size: int = 1
    stride: int = 1
    # Input pixels per cell of the coarsest map that an encoder normalises by its batch; 0: there is
    # none, or its BatchNorm copes with a single value.
    normalized_stride: int = 0

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        in_channels: int,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = count(num_classes, "num_classes")
        self.in_channels = count(in_channels, "in_channels")
        self.gradient_checkpointing = False
        self.id2label: dict[int, str] | None = None
        self.preprocessor_config: dict[str, Any] | None = None
        self.config: dict[str, Any] = {
            "name": name,
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            **(options or {}),
        }

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the logits at the model's own resolution.

        Args:
            image: (B, C, H, W) float, checked.

        Returns:
            (B, K, h, w) logits, and auxiliary outputs by name: those of four axes are enlarged to
            the input's size. Empty outside training and where there are no auxiliary heads.
        """
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor | SegmentationOutput:
        """Computes logits at the input's size.

        Args:
            image: (B, C, H, W) float, normalised as the model's weights expect.

        Returns:
            (B, K, H, W) logits, or a `SegmentationOutput` of a model in training that has auxiliary
            heads.

        Raises:
            ShapeError: `image` has other axes or channels, or a size that does not fit the depth.
            DtypeError: `image` is not of the dtype of the weights.
        """
        self.check_image(image)
        logits, auxiliary = self.scores(_channels_last(image))
        logits = self.to_input_size(logits, image)
        if not auxiliary:
            return logits
        return SegmentationOutput(
            logits,
            {
                name: self.to_input_size(output, image) if output.ndim == 4 else output
                for name, output in auxiliary.items()
            },
        )

    def native_logits(self, image: Tensor) -> Tensor:
        """Computes logits at the model's own resolution, before they are enlarged.

        Args:
            image: (B, C, H, W) float.

        Returns:
            (B, K, h, w) logits: about H / `stride` by W / `stride`.

        Convention:
            Enlarging them with `align_corners` gives what `forward` returns.
        """
        self.check_image(image)
        return self.scores(_channels_last(image))[0]

    def to_input_size(self, logits: Tensor, image: Tensor) -> Tensor:
        """Enlarges (B, K, h, w) logits to the height and width of the image."""
        if self.stride == 1:
            return logits
        return F.interpolate(
            logits, image.shape[-2:], mode="bilinear", align_corners=self.align_corners
        )

    def check_image(self, image: Tensor) -> None:
        """Raises `ShapeError` or `DtypeError` for a picture that the model cannot take."""
        if not isinstance(image, Tensor):
            raise DtypeError(
                f"image: expected a torch.Tensor, got {type(image).__name__}; convert an array "
                "with torch.from_numpy, or let fastseg.predict do so"
            )
        if image.ndim != 4:
            raise ShapeError(
                f"image: expected a batch (B, {self.in_channels}, H, W), got "
                f"{tuple(image.shape)}; a single picture needs image.unsqueeze(0)"
            )
        if image.shape[1] != self.in_channels:
            raise ShapeError(
                f"image: expected {self.in_channels} channels (in_channels) at axis 1, got "
                f"{image.shape[1]} in {tuple(image.shape)}"
            )
        self._check_dtype(image)
        if not torch.compiler.is_exporting():
            self.check_size(image)

    def check_size(self, image: Tensor) -> None:
        """Raises `ShapeError` for a height or width that does not fit the model's depth."""
        height, width = image.shape[-2:]
        if min(height, width) < self.minimum_size:
            raise ShapeError(
                f"image: {self.config['name']} takes heights and widths from {self.minimum_size} "
                f"pixels on, got {height}x{width}; enlarge or pad the picture"
            )
        step = self.normalized_stride
        if self.training and step and image.shape[0] == 1 and max(height, width) <= step:
            raise ShapeError(
                f"image: a batch of one {height}x{width} picture leaves BatchNorm a single value "
                f"per channel at stride {step}, which cannot train; take a height or width from "
                f"{step + 1} pixels on, or a batch of two"
            )

    def _check_dtype(self, image: Tensor) -> None:
        if not image.is_floating_point():
            raise DtypeError(
                f"image: expected floating point, got {image.dtype}; scale and normalise it first, "
                "or let fastseg.predict do so"
            )
        weights = next((p.dtype for p in self.parameters() if p.is_floating_point()), image.dtype)
        if image.dtype != weights and not torch.is_autocast_enabled(image.device.type):
            raise DtypeError(
                f"image: expected {weights}, the dtype of the weights, got {image.dtype}; convert "
                "one of them, or use torch.autocast"
            )

    def stage(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a stage; with gradient checkpointing, without keeping what it computes."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpointed(function, *arguments)
        return function(*arguments)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Chooses whether training keeps what stages compute, or computes it again.

        Gradients and the running statistics of BatchNorm are the same either way.
        """
        self.gradient_checkpointing = enabled

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `model.safetensors` and `config.json`; `fastseg.load(folder)` reads them.

        Each file is written under a temporary name and renamed: a crash leaves no half-written one.

        Args:
            folder: where to write; made if missing.
        """
        _saving.save(folder, self.state_to_save(), self.config_to_save(), self.preprocessor_config)

    def state_to_save(self) -> dict[str, Tensor]:
        """The tensors that `save_pretrained` writes."""
        return dict(self.state_dict())

    def state_from_saved(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `state_to_save` wrote, under the names of `state_dict`."""
        return state

    def config_to_save(self) -> dict[str, Any]:
        """The object that `save_pretrained` writes as JSON."""
        names = {} if self.id2label is None else {"id2label": self.id2label}
        return {"fastseg": self.config, **names}

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Uploads what `save_pretrained` writes to a repository of the Hugging Face Hub.

        Args:
            repo_id: "user/name"; made if missing.
            private: whether a new repository is private; None: the account's default.
            token: None takes the one that `hf auth login` stored.
            commit_message: None names the model.

        Returns:
            The address of the commit.
        """
        message = commit_message or f"Upload {self.config['name']}"
        return _saving.push(
            self.save_pretrained, repo_id, private=private, token=token, commit_message=message
        )

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, token: str | None = None
    ) -> SegmentationModel:
        """Builds the model that `save_pretrained` or `push_to_hub` wrote.

        `fastseg.load` does the same and knows other libraries' formats, too.

        Args:
            source: a folder, or the name of a repository of the Hugging Face Hub.
            revision: a branch, tag or commit of the repository.
            token: for a private repository.

        Returns:
            The model in evaluation mode, on the CPU.

        Raises:
            CheckpointError: there is no such folder, its files are damaged, or the weights do not
                fit the configuration.
        """
        from fastseg.models._registry import create_model

        folder = _saving.folder_of(source, revision=revision, token=token)
        config = _saving.read_config(folder)
        model = create_model(**config)
        if not isinstance(model, cls):
            raise ParameterError(
                f"{cls.__name__}.from_pretrained: {source} holds a {type(model).__name__}; call "
                "fastseg.load, or from_pretrained of that class"
            )
        state = model.state_from_saved(_saving.read_state(folder))
        _saving.load_state(model, state, folder)
        _saving.annotate(model, folder)
        return model.eval()


def _channels_last(image: Tensor) -> Tensor:
    """The picture with its channels innermost, the layout that convolutions on a CPU are fast in.

    What a convolution makes of it has the same layout, and so have all maps after it. Where there
    is little to gain by that in training, the layout is left to the caller.
    """
    if image.device.type != "cpu" or torch.compiler.is_compiling():
        return image
    if torch.is_grad_enabled() and image[:, 0].numel() < _TRAINED_PIXELS:
        return image
    # With one channel both layouts are the same but for their strides, which decide what follows.
    channels, height, width = image.shape[1:]
    return image.contiguous(memory_format=torch.channels_last).as_strided(
        image.shape, (channels * height * width, 1, channels * width, channels)
    )


def count(value: Any, argument: str) -> int:
    """Checks a number of things of which there must be at least one."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ParameterError(f"{argument}: expected a whole number from 1 on, got {value!r}")
    return number


def counts(values: Any, argument: str, *, length: int | None = None) -> list[int]:
    """Checks a sequence of numbers that are at least 1."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ParameterError(f"{argument}: expected a sequence of whole numbers, got {values!r}")
    if length is not None and len(values) != length:
        raise ParameterError(f"{argument}: expected {length} numbers, got {len(values)}")
    return [count(value, argument) for value in values]


def choice(value: Any, argument: str, allowed: Sequence[Any]) -> Any:
    """Checks an argument that takes one of a few values, of the same type."""
    # True equals 1, and 8.0 equals 8.
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise ParameterError(
            f"{argument}: expected one of {', '.join(map(repr, allowed))}, got {value!r}"
        )
    return value
