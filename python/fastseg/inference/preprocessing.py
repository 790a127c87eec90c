"""From pictures to a model's input, as the Hugging Face image processor does it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fastseg.errors import CheckpointError, DtypeError, ParameterError, ShapeError
from fastseg.inference import _images

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]

# In the order of Pillow's numbers, which the configuration files hold.
_RESAMPLES: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_TORCH_MODES = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic"}
_FILE = "preprocessor_config.json"
_IGNORED = 255


@dataclass(frozen=True)
class Preprocessing:
    """Size, range and normalisation that a model's weights expect.

    Example:
        >>> import numpy as np
        >>> from fastseg.inference import Preprocessing
        >>> prepare = Preprocessing(size=(64, 64))
        >>> prepare(np.zeros((48, 80, 3), np.uint8)).shape
        torch.Size([1, 3, 64, 64])

    Attributes:
        size: Height and width that every picture is resized to; None leaves its size.
        shortest_edge: Instead of `size`: length of the shorter side, with the picture's aspect.
        longest_edge: With `shortest_edge`: no side becomes longer than this.
        resample: The filter of resizing.
        scale: Factor on the values 0 … 255; None for none.
        mean: Subtracted from the scaled values, for each channel; None for none.
        std: The difference is divided by it.
        reduce_labels: Label maps count from 1, and 0 says that there is none (ADE20K): `labels`
            takes one away. It changes no picture.
        engine: Who resizes: "torch", as the default of transformers 5, or "pillow", as its
            Pillow-backed processors; they differ by up to one grey level.

    Source:
        `SegformerImageProcessor` of transformers: bit for bit the same with `engine="torch"` as
        with its torchvision backend, and within 2e-7 with "pillow" as with its Pillow backend.
    """

    size: tuple[int, int] | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    resample: Resample = "bilinear"
    scale: float | None = 1 / 255
    mean: tuple[float, ...] | None = IMAGENET_MEAN
    std: tuple[float, ...] | None = IMAGENET_STD
    reduce_labels: bool = False
    engine: Literal["torch", "pillow"] = "torch"

    def __post_init__(self) -> None:
        if self.size is not None and self.shortest_edge is not None:
            raise ParameterError("give one of size and shortest_edge")
        if self.longest_edge is not None and self.shortest_edge is None:
            raise ParameterError("longest_edge goes with shortest_edge")
        sides = (*(self.size or ()), self.shortest_edge, self.longest_edge)
        if any(side is not None and side < 1 for side in sides) or len(self.size or (1, 1)) != 2:
            raise ParameterError(f"size: expected (height, width) of at least 1, got {self.size}")
        if self.resample not in _RESAMPLES:
            raise ParameterError(
                f"resample: expected one of {', '.join(_RESAMPLES)}, got {self.resample!r}"
            )
        if self.engine not in ("torch", "pillow"):
            raise ParameterError(f'engine: expected "torch" or "pillow", got {self.engine!r}')
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ParameterError("mean and std: give both, one number for each channel")
        if any(value == 0 for value in self.std or ()):
            raise ParameterError(f"std: expected numbers other than 0, got {self.std}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Take the settings of a `preprocessor_config.json`.

        Args:
            config: Its content; what it does not say has the defaults of
                `SegformerImageProcessor`.

        Raises:
            CheckpointError: A setting has a form that is not known.
        """
        resample = config.get("resample", 2)
        if not isinstance(resample, int) or not 0 <= resample < len(_RESAMPLES):
            raise CheckpointError(f"{_FILE}: resample {resample!r} is not known")
        normalizes = config.get("do_normalize", True)
        mean, std = (
            config.get("image_mean", IMAGENET_MEAN),
            config.get("image_std", IMAGENET_STD),
        )
        kind = str(config.get("image_processor_type", ""))
        return cls(
            **(_size_of(config) if config.get("do_resize", True) else {}),
            resample=_RESAMPLES[resample],
            scale=config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else None,
            mean=_per_channel(mean) if normalizes else None,
            std=_per_channel(std) if normalizes else None,
            reduce_labels=bool(config.get("do_reduce_labels", config.get("reduce_labels", False))),
            engine="pillow" if kind.endswith("Pil") else "torch",
        )

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Preprocessing:
        """Read the `preprocessor_config.json` of a checkpoint.

        Args:
            source: A folder, the file itself, or the id of a repository of the Hugging Face Hub,
                which needs huggingface-hub.

        Raises:
            CheckpointError: There is no such file, or it is damaged.
        """
        path = Path(source)
        if path.is_dir():
            path = path / _FILE
        if not path.exists():
            path = _downloaded(str(source))
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: expected an object, got {type(content).__name__}")
        return cls.from_config(content)

    def replace(self, **changes: Any) -> Preprocessing:
        """A copy with other settings."""
        return dataclasses.replace(self, **changes)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that a picture gets: its height and width in pixels."""
        if self.size is not None:
            return self.size
        if self.shortest_edge is None:
            return height, width
        short, long = sorted((height, width))
        wanted, exact = self.shortest_edge, float(self.shortest_edge)
        if self.longest_edge is not None and long / short * wanted > self.longest_edge:
            exact = self.longest_edge * short / long
            wanted = round(exact)
        # What is truncated, and after what, follows transformers.
        other = int(exact * long / short) if short != wanted else long
        return (wanted, other) if height <= width else (other, wanted)

    def __call__(self, images: Any) -> Tensor:
        """Prepare one picture, or several of the same prepared size.

        Args:
            images: A path, a Pillow picture, an array (H, W) or (H, W, C), a tensor (C, H, W), or
                a sequence of these; values 0 … 255, for floating point also 0 … 1.

        Returns:
            (B, C, h, w) float32.

        Raises:
            ReadError: A file is missing, broken, animated or partly transparent.
            DtypeError: One is no picture.
            ShapeError: It has the wrong axes, or the prepared sizes differ.
            DataError: Values lie outside their range.
        """
        given = [images] if _images.is_picture(images) else list(images)
        channels = None if self.mean is None or len(self.mean) == 1 else len(self.mean)
        prepared = [
            self.normalized(self.resized(_images.read(image, channels=channels).values))
            for image in given
        ]
        sizes = {tuple(one.shape) for one in prepared}
        if len(sizes) != 1:
            raise ShapeError(
                f"images: expected at least one, and of one prepared size, got {sorted(sizes)}; "
                "set size, or prepare them one by one"
            )
        return torch.stack(prepared)

    def resized(self, values: Tensor, factor: float = 1.0) -> Tensor:
        """Resize a picture.

        Args:
            values: (C, H, W) uint8, or float32 in 0 … 255.
            factor: On the height and width that result.

        Returns:
            (C, h, w) of the same dtype.
        """
        height, width = self.output_size(int(values.shape[1]), int(values.shape[2]))
        if factor != 1:
            height, width = max(1, round(height * factor)), max(1, round(width * factor))
        if (height, width) == tuple(values.shape[1:]):
            return values
        if self.engine == "pillow" or self.resample not in _TORCH_MODES:
            return _resized_by_pillow(values, (height, width), self.resample)
        if self.resample == "nearest":
            return F.interpolate(values[None], (height, width), mode="nearest-exact")[0]
        resized = F.interpolate(
            values[None],
            (height, width),
            mode=_TORCH_MODES[self.resample],
            antialias=True,
            align_corners=False,
        )[0]
        # Cubic weights are partly negative.
        return resized.clamp(0, 255) if self.resample == "bicubic" else resized

    def normalized(self, values: Tensor) -> Tensor:
        """Scale and normalise.

        Args:
            values: (…, C, h, w) uint8, or float32 in 0 … 255.

        Returns:
            The same shape in float32, never the same memory.

        Raises:
            ShapeError: `mean` is for another number of channels.
        """
        if self.mean is None or self.std is None:
            scale = 1.0 if self.scale is None else self.scale
            return values.to(torch.float32) * scale
        if len(self.mean) not in (1, values.shape[-3]):
            raise ShapeError(
                f"mean: there are {len(self.mean)} for pictures of {values.shape[-3]} channels; "
                "give one for each"
            )
        mean, std = (
            torch.tensor(each, dtype=torch.float32, device=values.device)[:, None, None]
            for each in (self.mean, self.std)
        )
        if self.engine == "pillow":
            scaled = values.to(torch.float64).mul_(1.0 if self.scale is None else self.scale)
            return scaled.to(torch.float32).sub_(mean).div_(std)
        if self.scale is not None:
            # One pass instead of two, and the rounding that the processor has.
            mean, std = mean * (1.0 / self.scale), std * (1.0 / self.scale)
        return (values.to(torch.float32) - mean).div_(std)

    def labels(self, ids: ArrayLike) -> Tensor:
        """Prepare a label map for training or evaluation beside the prepared picture.

        Args:
            ids: (H, W) integers.

        Returns:
            (h, w) int64, resized without mixing labels; with `reduce_labels` one less than given,
            and 255 where that was 0.

        Raises:
            ShapeError: The labels are not (H, W).
            DtypeError: They are not integers.
        """
        given = np.asarray(ids)
        if given.dtype.kind not in "iu":
            raise DtypeError(f"ids: expected integer labels, got {given.dtype}")
        if given.ndim != 2:
            raise ShapeError(f"ids: expected (H, W), got {given.shape}")
        labels = torch.from_numpy(given.astype(np.int64))
        if self.reduce_labels:
            labels = torch.where((labels == 0) | (labels == _IGNORED), _IGNORED, labels - 1)
        size = self.output_size(*given.shape)
        # Labels of 24 bits and fewer are exact in float32, which nearest neighbours need.
        resized = F.interpolate(labels[None, None].to(torch.float64), size, mode="nearest-exact")
        return resized[0, 0].to(torch.int64)


def _size_of(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config.get("size", {"height": 512, "width": 512})
    if isinstance(size, int):
        return {"size": (size, size)}
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2:
        return {"size": (int(size[0]), int(size[1]))}
    if isinstance(size, Mapping):
        if size.get("height") and size.get("width"):
            return {"size": (int(size["height"]), int(size["width"]))}
        if size.get("shortest_edge"):
            return {
                "shortest_edge": int(size["shortest_edge"]),
                "longest_edge": size.get("longest_edge"),
            }
    raise CheckpointError(
        f"{_FILE}: size {size!r} is not known; expected height and width, or shortest_edge"
    )


def _per_channel(value: Any) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, int | float) else tuple(float(x) for x in value)


def _downloaded(source: str) -> Path:
    from importlib.util import find_spec

    if "/" not in source or find_spec("huggingface_hub") is None:
        raise CheckpointError(f"{source}: there is no {_FILE}, and it is no folder that holds one")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, _FILE))
    # The hub's client has an error of its own for each of many causes.
    except Exception as error:
        raise CheckpointError(f"{source}: {_FILE} cannot be had: {error}") from error


def _resized_by_pillow(values: Tensor, size: tuple[int, int], resample: Resample) -> Tensor:
    how = Image.Resampling[resample.upper()]
    pixels = values.cpu().numpy()
    if pixels.shape[0] == 3 and pixels.dtype == np.uint8:
        whole = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        resized = np.asarray(whole.resize(size[::-1], how)).transpose(2, 0, 1)
    else:
        resized = np.stack(
            [np.asarray(Image.fromarray(plane).resize(size[::-1], how)) for plane in pixels]
        )
    return torch.from_numpy(np.ascontiguousarray(resized)).to(values.device)
