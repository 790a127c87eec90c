"""Change colours and grey values, never places."""

from __future__ import annotations

from typing import Any

from torchvision import tv_tensors
from torchvision.transforms import v2

from fastseg._checks import share
from fastseg.augment._inputs import image_of, interval, require_colors, uniform


class PhotometricDistortion(v2.RandomPhotometricDistort):
    """Changes brightness, contrast, saturation and hue, each in half of the images.

    torchvision's, without its permutation of channels, with the hue range of segmentation's usual
    recipes, and refusing images whose values it would clip.

    Args:
        brightness: least and largest factor.
        contrast: least and largest factor.
        saturation: least and largest factor.
        hue: least and largest turn, in turns of the colour circle, -0.5 … 0.5.
        p: share of images in which each of the four is changed.

    Source:
        Liu et al., SSD, 2016. There brightness is added to (32 of 255); here it is a factor.

    Example:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from fastseg.augment import PhotometricDistortion
        >>> PhotometricDistortion()(tv_tensors.Image(torch.rand(3, 4, 4))).shape
        torch.Size([3, 4, 4])
    """

    def __init__(
        self,
        *,
        brightness: tuple[float, float] = (0.875, 1.125),
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: tuple[float, float] = (-0.1, 0.1),
        p: float = 0.5,
    ) -> None:
        super().__init__(
            brightness=interval("brightness", brightness, least=0),
            contrast=interval("contrast", contrast, least=0),
            saturation=interval("saturation", saturation, least=0),
            hue=interval("hue", hue, least=-0.5, most=0.5),
            p=share("p", p),
        )

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws one change of colours."""
        require_colors(image_of(flat_inputs))
        return {**super().make_params(flat_inputs), "channel_permutation": None}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Changes an image; leaves a label map alone."""
        return super().transform(inpt, params) if isinstance(inpt, tv_tensors.Image) else inpt


class RandomGreyValues(v2.Transform):
    """Changes brightness, contrast and gamma of an image.

    Args:
        brightness: least and largest factor of the values.
        contrast: least and largest factor of their distances from the mean.
        gamma: least and largest exponent of the values, taken in 0 … 1.

    Source:
        Ronneberger et al., U-Net, 2015, section 3.1, asks for robustness to grey value variations
        and names no numbers; these are moderate ones.

    Example:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from fastseg.augment import RandomGreyValues
        >>> grey = RandomGreyValues(brightness=(0.5, 0.5), contrast=(1, 1), gamma=(1, 1))
        >>> grey(tv_tensors.Image(torch.ones(1, 1, 2))).tolist()
        [[[0.5, 0.5]]]
    """

    def __init__(
        self,
        *,
        brightness: tuple[float, float] = (0.8, 1.2),
        contrast: tuple[float, float] = (0.8, 1.2),
        gamma: tuple[float, float] = (0.8, 1.25),
    ) -> None:
        super().__init__()
        self.brightness = interval("brightness", brightness, least=0)
        self.contrast = interval("contrast", contrast, least=0)
        self.gamma = interval("gamma", gamma, least=1e-3)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws one change of grey values."""
        require_colors(image_of(flat_inputs))
        return {
            "brightness": uniform(*self.brightness),
            "contrast": uniform(*self.contrast),
            "gamma": uniform(*self.gamma),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Changes an image; leaves a label map alone."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        changed = self._call_kernel(v2.functional.adjust_brightness, inpt, params["brightness"])
        changed = self._call_kernel(v2.functional.adjust_contrast, changed, params["contrast"])
        return self._call_kernel(v2.functional.adjust_gamma, changed, params["gamma"])
