"""Augmentation of an image and its label map together, on torchvision's v2 transforms.

Recipes are functions of an image, its labels and a seed. Label maps are never interpolated, and
what comes from outside the image is labelled `ignore_index`.
"""

from fastseg.augment.category_crop import RandomCategoryCrop
from fastseg.augment.colors import PhotometricDistortion, RandomGreyValues
from fastseg.augment.deformation import RandomDeformation
from fastseg.augment.joint import JointAugmentation
from fastseg.augment.recipes import (
    deeplab_augmentation,
    segformer_augmentation,
    unet_augmentation,
)
from fastseg.augment.scale import RandomScale

__all__ = [
    "JointAugmentation",
    "unet_augmentation",
    "deeplab_augmentation",
    "segformer_augmentation",
    "RandomDeformation",
    "RandomScale",
    "RandomCategoryCrop",
    "RandomGreyValues",
    "PhotometricDistortion",
]
