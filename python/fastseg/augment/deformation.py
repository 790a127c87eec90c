"""Shift, rotation and elastic deformation in one resampling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from fastseg._checks import integer, number, share
from fastseg.augment._inputs import Fill, checked_fill, image_of, require_fill, uniform


class RandomDeformation(v2.Transform):
    """Moves pixels along a smooth random field, after a random shift and rotation.

    A displacement is drawn for each point of a coarse grid over the image and interpolated in
    between. As all three are one field, the image is interpolated once.

    Args:
        sigma: standard deviation of the displacements in pixels, for x and y alike.
        points: of the grid, along each axis; the outer ones lie on the image's border.
        shift: largest shift as a share of the height and width.
        rotation: largest rotation in degrees, either way.
        ignore_index: label of pixels that come from outside the image.
        image_fill: value of those pixels in the image, one for all channels or one for each.

    Convention:
        Image: bilinear. Label map: nearest. Grid to pixels: bicubic.

    Source:
        Ronneberger et al., U-Net, 2015, section 3.1: a 3x3 grid, sigma of 10 pixels, bicubic.

    Example:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from fastseg.augment import RandomDeformation
        >>> deform = RandomDeformation(sigma=10)
        >>> image, labels = tv_tensors.Image(torch.rand(1, 32, 32)), torch.ones(32, 32).byte()
        >>> image, labels = deform(image, tv_tensors.Mask(labels))
        >>> set(labels.unique().tolist()) <= {1, 255}
        True
    """

    def __init__(
        self,
        *,
        sigma: float = 10.0,
        points: int = 3,
        shift: float = 0.0,
        rotation: float = 0.0,
        ignore_index: int = 255,
        image_fill: Fill = 0.0,
    ) -> None:
        super().__init__()
        self.sigma = number("sigma", sigma, least=0)
        self.points = integer("points", points, least=2)
        self.shift = share("shift", shift)
        self.rotation = number("rotation", rotation, least=0)
        self.ignore_index = integer("ignore_index", ignore_index)
        self.image_fill = checked_fill(image_fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws one field for all inputs."""
        image = image_of(flat_inputs)
        require_fill(self.image_fill, image)
        height, width = image.shape[-2:]
        coarse = self.sigma * torch.randn(1, 2, self.points, self.points)
        angle = math.radians(uniform(-self.rotation, self.rotation))
        shift_x = uniform(-self.shift, self.shift) * width
        shift_y = uniform(-self.shift, self.shift) * height
        moved = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
        if angle:
            y = torch.arange(height).unsqueeze(1) - (height - 1) / 2
            x = torch.arange(width).unsqueeze(0) - (width - 1) / 2
            cosine, sine = math.cos(angle) - 1, math.sin(angle)
            moved = moved + torch.stack([cosine * x - sine * y, sine * x + cosine * y])
        moved = moved + torch.tensor([shift_x, shift_y]).reshape(2, 1, 1)
        # torchvision's unit: 2 is the whole width or height.
        scale = torch.tensor([2 / width, 2 / height])
        return {"displacement": (moved.permute(1, 2, 0) * scale).unsqueeze(0)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resamples one input along the field."""
        displacement: Tensor = params["displacement"]
        is_mask = isinstance(inpt, tv_tensors.Mask)
        fill = self.ignore_index if is_mask else self.image_fill
        return self._call_kernel(v2.functional.elastic, inpt, displacement, fill=fill)
