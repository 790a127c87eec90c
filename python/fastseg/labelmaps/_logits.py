"""Logits as the engine takes them: any float type and memory layout, NumPy or PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastseg._arrays import Restore, is_tensor, require_float, to_numpy
from fastseg._checks import integer
from fastseg.errors import DtypeError, ShapeError


@dataclass(frozen=True)
class Logits:
    """A batch of logits.

    Attributes:
        values: (B, K, h, w) float32 or float64, or the bits of 16-bit floats as uint16; any
            strides.
        brain: Whether 16 bits are bfloat16 rather than float16.
        batched: Whether the caller passed a batch.
        restore: Turns a result into the caller's kind of array.
    """

    values: NDArray[Any]
    brain: bool
    batched: bool
    restore: Restore

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.values.shape[1])

    def unbatched(self, result: NDArray[Any]) -> Any:
        """Return a result (B, …) as the caller wants it."""
        return self.restore(result if self.batched else result[0])


def is_on_gpu(logits: Any) -> bool:
    """Whether logits are a torch tensor on a CUDA device."""
    return is_tensor(logits) and logits.device.type == "cuda"


def as_logits(logits: Any) -> Logits:
    """Return logits as the engine takes them, without a copy where memory allows.

    Args:
        logits: (K, h, w) or (B, K, h, w), float16, bfloat16, float32 or float64.

    Raises:
        DtypeError: They are not floating point.
        ShapeError: They have another number of axes, no classes or no pixels.
    """
    torch = sys.modules.get("torch")
    brain = (
        torch is not None and isinstance(logits, torch.Tensor) and logits.dtype == torch.bfloat16
    )
    if torch is not None and isinstance(logits, torch.Tensor):
        # Labels and probabilities keep their own types: they go back as from integers.
        _, restore = to_numpy("logits", logits.new_empty(0, dtype=torch.uint8))
    else:
        restore = _unchanged
    if brain and torch is not None:
        # NumPy has no bfloat16: its bits travel as integers.
        values = to_numpy("logits", logits.detach().view(torch.int16))[0].view(np.uint16)
    else:
        values, _ = to_numpy("logits", logits)
        require_float("logits", values, "take scores before the argmax")
        if values.dtype.itemsize not in (2, 4, 8):
            raise DtypeError(f"logits must be float16, float32 or float64, got {values.dtype}")
        values = np.require(values, values.dtype.newbyteorder("="), ["A"])
        if values.dtype.itemsize == 2:
            values = values.view(np.uint16)
    if values.ndim not in (3, 4):
        raise ShapeError(f"logits must be (K, h, w) or (B, K, h, w), got {values.shape}")
    batched = values.ndim == 4
    if not batched:
        values = values[np.newaxis]
    if 0 in values.shape[1:]:
        raise ShapeError(
            f"logits must have at least one class and one pixel, got (K, h, w) = {values.shape[1:]}"
        )
    return Logits(values, brain, batched, restore)


def _unchanged(result: NDArray[Any]) -> NDArray[Any]:
    return result


def as_size(size: Any) -> tuple[int, int]:
    """Return the size (H, W) of an output in pixels.

    Raises:
        ShapeError: It is not two numbers.
        DtypeError: They are not integers.
        ParameterError: One is below 1.
    """
    if not isinstance(size, Sequence | np.ndarray) or isinstance(size, str) or len(size) != 2:
        raise ShapeError(f"size must be (height, width) in pixels, got {size!r}")
    height, width = (
        integer(f"size[{axis}]", value, least=1, most=2**24) for axis, value in enumerate(size)
    )
    return height, width
