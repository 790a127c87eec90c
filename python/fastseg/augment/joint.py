"""Run transforms on an image and its label map, with one sample of parameters for both."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from fastseg._checks import integer
from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError

# torchvision moves label maps through float32, which holds whole numbers up to here.
LARGEST_LABEL = 2**24
# Label types that torch's operations take; others make a detour.
_LABELS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
# Transforms draw from torch's one global generator: only one seeded call at a time.
_SEEDED = threading.Lock()


class JointAugmentation:
    """A sequence of torchvision's v2 transforms on an image and its label map.

    The recipes (`unet_augmentation`, `segformer_augmentation` …) are made of it; any other v2
    transform goes in as well.

    Args:
        transforms: what to do, in this order.
        ignore_index: the label that the transforms fill in; it must fit the label maps' dtype.

    Convention:
        NumPy images are (H, W) or (H, W, C), torch images (C, H, W) or (H, W), plain or tv_tensors.
        What comes out is of the kind, dtype and device that went in. Label maps are moved to the
        nearest pixel, never interpolated. The same seed gives the same result, for NumPy and torch
        alike.

    Example:
        >>> import numpy as np
        >>> from torchvision.transforms import v2
        >>> from fastseg.augment import JointAugmentation
        >>> flip = JointAugmentation([v2.RandomHorizontalFlip(p=1)])
        >>> image, labels = flip(np.uint8([[1, 2, 3]]), np.int64([[0, 0, 7]]))
        >>> image.tolist(), labels.tolist()
        ([[3, 2, 1]], [[7, 0, 0]])
    """

    def __init__(self, transforms: Sequence[v2.Transform], *, ignore_index: int = 255) -> None:
        for transform in transforms:
            if not isinstance(transform, v2.Transform):
                raise DtypeError(
                    "transforms: expected torchvision.transforms.v2 transforms, got "
                    f"{type(transform).__name__}"
                )
        self.ignore_index = integer("ignore_index", ignore_index)
        self.transforms = list(transforms)

    def __call__(
        self,
        image: Any,
        labels: Any,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, Any]:
        """Augments an image and its label map alike.

        Args:
            image: (H, W) or (H, W, C) NumPy array, or (C, H, W) or (H, W) tensor; uint8 in 0 … 255,
                or floating point in 0 … 1 (any range, where colours are left alone).
            labels: (H, W) integer array or tensor, up to 16,777,216.
            seed: what the result depends on; None draws from torch's global generator.
            generator: draws the seed instead; successive calls give different results.

        Returns:
            Image and label map, of the kinds and dtypes that went in.

        Raises:
            ShapeError: they disagree in size, or are shaped otherwise.
            DtypeError: they are of other types, or `generator` is not torch's.
            LabelError: a label is too large to be moved exactly.
            ParameterError: `ignore_index` does not fit the labels' dtype, or both `seed` and
                `generator` are given.
        """
        pixels, image_back = _image_in(image)
        mask, labels_back = self._labels_in(labels)
        if pixels.shape[-2:] != mask.shape:
            raise ShapeError(
                f"labels: expected the image's height and width {tuple(pixels.shape[-2:])}, got "
                f"{tuple(mask.shape)}"
            )
        if pixels.numel() == 0:
            raise ShapeError(f"image: expected pixels, got none in {tuple(pixels.shape)}")
        value: Any = (tv_tensors.Image(pixels), tv_tensors.Mask(mask))
        with _seeded(seed, generator):
            for transform in self.transforms:
                value = transform(*value)
        augmented, moved = (part.as_subclass(Tensor) for part in value)
        return image_back(augmented), labels_back(moved)

    def __repr__(self) -> str:
        listed = "".join(f"\n    {transform}," for transform in self.transforms)
        return f"{type(self).__name__}([{listed}\n], ignore_index={self.ignore_index})"

    def _labels_in(self, labels: Any) -> tuple[Tensor, Any]:
        tensor, back = _tensor("labels", labels)
        if tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex():
            raise DtypeError(
                f"labels: expected integers, got {tensor.dtype}; convert them first, a mask to "
                "uint8 (which has room for ignore_index)"
            )
        if tensor.ndim != 2:
            raise ShapeError(f"labels: expected (H, W), got {tuple(tensor.shape)}")
        limits = torch.iinfo(tensor.dtype)
        if not limits.min <= self.ignore_index <= limits.max:
            raise ParameterError(
                f"ignore_index {self.ignore_index} does not fit labels of {tensor.dtype} "
                f"({limits.min} … {limits.max}); convert the labels, or choose another"
            )
        if tensor.dtype not in _LABELS:
            tensor = tensor.to(torch.int64)
        if limits.max > LARGEST_LABEL and tensor.numel():
            largest = int(tensor.abs().max())
            if largest > LARGEST_LABEL:
                raise LabelError(f"labels: expected at most {LARGEST_LABEL}, got {largest}")
        return tensor, back


def _image_in(image: Any) -> tuple[Tensor, Any]:
    """`image` as (C, H, W), and what brings a result back into its form."""
    tensor, back = _tensor("image", image)
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise DtypeError(
            f"image: expected uint8 or floating point, got {tensor.dtype}; scale it to float32 in "
            "0 … 1"
        )
    if tensor.ndim == 2:
        return tensor.unsqueeze(0), lambda result: back(result[0])
    if tensor.ndim != 3:
        raise ShapeError(
            f"image: expected (H, W) or one axis more for channels, got {tuple(tensor.shape)}; "
            "augment one image at a time"
        )
    if isinstance(image, Tensor):
        return tensor, back
    return tensor.permute(2, 0, 1), lambda result: back(result.permute(1, 2, 0))


def _tensor(name: str, value: Any) -> tuple[Tensor, Any]:
    """`value` as a tensor, and what brings a tensor back into its kind and dtype."""
    if isinstance(value, Tensor):
        plain = value.detach().as_subclass(Tensor)
        if isinstance(value, tv_tensors.TVTensor):
            return plain, lambda result: tv_tensors.wrap(result.to(value.dtype), like=value)
        return plain, lambda result: result.to(value.dtype)
    if not isinstance(value, np.ndarray):
        raise DtypeError(
            f"{name}: expected a NumPy array or a tensor, got {type(value).__name__}; a PIL image "
            "becomes one with numpy.asarray"
        )
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    if not native.flags.writeable or any(stride < 0 for stride in native.strides):
        native = native.copy()
    try:
        tensor = torch.from_numpy(native)
    except TypeError:
        raise DtypeError(f"{name}: expected numbers, got {value.dtype}") from None
    dtype = native.dtype
    return tensor, lambda result: np.ascontiguousarray(result.numpy()).astype(dtype, copy=False)


@contextlib.contextmanager
def _seeded(seed: int | None, generator: torch.Generator | None) -> Iterator[None]:
    """Makes torch's global generator, on the CPU, begin at a seed, and puts it back."""
    if seed is None and generator is None:
        yield
        return
    if generator is not None:
        if seed is not None:
            raise ParameterError("seed and generator say the same: expected one of them, got both")
        if not isinstance(generator, torch.Generator):
            raise DtypeError(
                f"generator: expected a torch.Generator, got {type(generator).__name__}"
            )
        drawn = torch.randint(2**62, (), generator=generator, device=generator.device)
        seed = int(drawn)
    seed = integer("seed", seed, least=0, most=2**63 - 1)
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
