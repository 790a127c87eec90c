"""Cut out a random window in which no single class takes up nearly everything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from fastseg._checks import integer, share
from fastseg.augment._inputs import Fill, checked_fill, image_of, mask_of, require_fill
from fastseg.errors import ShapeError


class RandomCategoryCrop(v2.Transform):
    """Cuts out a window of a fixed size, preferring one that holds several classes.

    Windows are drawn until one holds at least two classes and none of them fills `max_ratio` of the
    counted pixels or more; the last draw is taken in any case.

    Args:
        size: (height, width) in pixels, or one number for both. Smaller images are padded at the
            right and below.
        max_ratio: largest share of one class; 1: the first window is taken.
        attempts: windows to draw at most.
        ignore_index: label that does not count, and that fills the label map where it is padded.
        image_fill: value of the padding in the image, one for all channels or one for each.

    Source:
        The random crop of SegFormer's training, with 0.75 and ten attempts.

    Example:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from fastseg.augment import RandomCategoryCrop
        >>> image, labels = torch.zeros(3, 4, 9), torch.zeros(4, 9, dtype=torch.uint8)
        >>> crop = RandomCategoryCrop(6)
        >>> image, labels = crop(tv_tensors.Image(image), tv_tensors.Mask(labels))
        >>> image.shape, labels[4:].unique().tolist()
        (torch.Size([3, 6, 6]), [255])
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        max_ratio: float = 0.75,
        attempts: int = 10,
        ignore_index: int = 255,
        image_fill: Fill = 0.0,
    ) -> None:
        super().__init__()
        sides = (size, size) if not isinstance(size, (tuple, list)) else tuple(size)
        if len(sides) != 2:
            raise ShapeError(f"size: expected (height, width), got {size!r}")
        self.size = tuple(integer("size", side, least=1) for side in sides)
        self.max_ratio = share("max_ratio", max_ratio)
        self.attempts = integer("attempts", attempts, least=1)
        self.ignore_index = integer("ignore_index", ignore_index)
        self.image_fill = checked_fill(image_fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws one window for all inputs."""
        image = image_of(flat_inputs)
        require_fill(self.image_fill, image)
        height, width = image.shape[-2:]
        labels = mask_of(flat_inputs)
        high, wide = self.size
        free_y, free_x = max(height - high, 0), max(width - wide, 0)
        attempts = 1 if labels is None or self.max_ratio == 1 else self.attempts
        top = left = 0
        for _ in range(attempts):
            top = int(torch.randint(free_y + 1, ()))
            left = int(torch.randint(free_x + 1, ()))
            if attempts > 1 and labels is not None:
                window = labels.as_subclass(Tensor)[..., top : top + high, left : left + wide]
                if self._is_varied(window):
                    break
        return {"top": top, "left": left, "pad": (max(high - height, 0), max(wide - width, 0))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Pads one input where it is too small, and cuts the window out."""
        below, right = params["pad"]
        if below or right:
            fill = self.ignore_index if isinstance(inpt, tv_tensors.Mask) else self.image_fill
            inpt = self._call_kernel(v2.functional.pad, inpt, [0, 0, right, below], fill=fill)
        return self._call_kernel(
            v2.functional.crop, inpt, params["top"], params["left"], *self.size
        )

    def _is_varied(self, window: Tensor) -> bool:
        labels, counts = torch.unique(window, return_counts=True)
        counts = counts[labels != self.ignore_index]
        return len(counts) > 1 and float(counts.max() / counts.sum()) < self.max_ratio
