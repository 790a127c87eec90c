"""Enlarge or reduce by a random factor."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from fastseg.augment._inputs import image_of, interval, uniform


class RandomScale(v2.Transform):
    """Scales height and width by one random factor.

    Args:
        scale: the least and the largest factor, drawn uniformly.

    Convention:
        Image: bilinear, antialiased when it gets smaller. Label map: nearest, with pixel centres
        where the image has them (torchvision's own resize takes the pixel's corner for them).

    Source:
        Chen et al., DeepLab v2, 2017: 0.5 … 1.5; SegFormer and most since: 0.5 … 2.

    Example:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from fastseg.augment import RandomScale
        >>> RandomScale((0.5, 0.5))(tv_tensors.Image(torch.rand(3, 8, 6))).shape
        torch.Size([3, 4, 3])
    """

    def __init__(self, scale: tuple[float, float] = (0.5, 2.0)) -> None:
        super().__init__()
        low, high = interval("scale", scale, least=1e-3)
        self.scale = (low, high)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws one size for all inputs."""
        height, width = image_of(flat_inputs).shape[-2:]
        factor = uniform(*self.scale)
        return {"size": [max(round(height * factor), 1), max(round(width * factor), 1)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resizes one input."""
        if not isinstance(inpt, tv_tensors.Mask):
            return self._call_kernel(v2.functional.resize, inpt, params["size"], antialias=True)
        plain = inpt.as_subclass(Tensor).unsqueeze(0)
        resized = v2.functional.resize(
            plain, params["size"], interpolation=InterpolationMode.NEAREST_EXACT
        )
        return tv_tensors.wrap(resized.squeeze(0), like=inpt)
