"""The augmentations that the papers trained with."""

from __future__ import annotations

from torchvision.transforms import v2

from fastseg._checks import share, switch
from fastseg.augment._inputs import Fill
from fastseg.augment.category_crop import RandomCategoryCrop
from fastseg.augment.colors import PhotometricDistortion, RandomGreyValues
from fastseg.augment.deformation import RandomDeformation
from fastseg.augment.joint import JointAugmentation
from fastseg.augment.scale import RandomScale


def unet_augmentation(
    *,
    sigma: float = 10.0,
    points: int = 3,
    shift: float = 0.1,
    rotation: float = 15.0,
    grey_values: bool = True,
    ignore_index: int = 255,
    image_fill: Fill = 0.0,
) -> JointAugmentation:
    """The U-Net paper's: shift, rotation, elastic deformation and grey values.

    Args:
        sigma: of the elastic displacements, in pixels.
        points: of the elastic grid along each axis.
        shift: largest shift as a share of height and width.
        rotation: largest rotation in degrees; 180 where a picture has no top.
        grey_values: whether brightness, contrast and gamma change.
        ignore_index: label of pixels that come from outside the image.
        image_fill: their value in the image.

    Returns:
        A function of image and labels (and a seed): see `JointAugmentation`.

    Source:
        Ronneberger et al., U-Net, 2015, section 3.1. It names the grid and sigma; the ranges of
        shift, rotation and grey values are ours.

    Example:
        >>> import numpy as np
        >>> from fastseg.augment import unet_augmentation
        >>> augment = unet_augmentation()
        >>> image, labels = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
        >>> image, labels = augment(image, labels, seed=0)
        >>> image.shape, sorted(set(labels.ravel().tolist()))
        ((64, 64), [0, 255])
    """
    deformation = RandomDeformation(
        sigma=sigma,
        points=points,
        shift=shift,
        rotation=rotation,
        ignore_index=ignore_index,
        image_fill=image_fill,
    )
    further = [RandomGreyValues()] if switch("grey_values", grey_values) else []
    return JointAugmentation([deformation, *further], ignore_index=ignore_index)


def deeplab_augmentation(
    size: int | tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    ignore_index: int = 255,
    image_fill: Fill = 0.0,
) -> JointAugmentation:
    """DeepLab's: random scale, random crop, and a flip from left to right.

    Args:
        size: of the crop, (height, width) in pixels or one number for both.
        scale: least and largest factor.
        flip: share of images that are flipped.
        ignore_index: label of padded pixels.
        image_fill: their value in the image.

    Returns:
        A function of image and labels (and a seed): see `JointAugmentation`.

    Source:
        Chen et al., DeepLab v3, 2017, section 4.1.

    Example:
        >>> import numpy as np
        >>> from fastseg.augment import deeplab_augmentation
        >>> augment = deeplab_augmentation(32)
        >>> image, labels = np.zeros((50, 40, 3), np.uint8), np.zeros((50, 40), np.uint8)
        >>> augment(image, labels, seed=0)[0].shape
        (32, 32, 3)
    """
    return JointAugmentation(
        [
            RandomScale(scale),
            RandomCategoryCrop(size, max_ratio=1, ignore_index=ignore_index, image_fill=image_fill),
            v2.RandomHorizontalFlip(share("flip", flip)),
        ],
        ignore_index=ignore_index,
    )


def segformer_augmentation(
    size: int | tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 2.0),
    max_ratio: float = 0.75,
    flip: float = 0.5,
    photometric: bool = True,
    ignore_index: int = 255,
    image_fill: Fill = 0.0,
) -> JointAugmentation:
    """SegFormer's: scale, a crop of several classes, a flip, and photometric distortion.

    Args:
        size: of the crop, (height, width) in pixels or one number for both.
        scale: least and largest factor.
        max_ratio: largest share of the crop that one class should fill.
        flip: share of images that are flipped.
        photometric: whether colours change.
        ignore_index: label of padded pixels, which does not count as a class.
        image_fill: their value in the image.

    Returns:
        A function of image and labels (and a seed): see `JointAugmentation`.

    Source:
        Xie et al., SegFormer, 2021, section 4.1, and the crop and distortion that its training
        takes from its toolbox. That scales to the size of the data set first; here it is the
        image's own size that is scaled.

    Example:
        >>> import numpy as np
        >>> from fastseg.augment import segformer_augmentation
        >>> augment = segformer_augmentation(32)
        >>> image, labels = np.zeros((50, 40, 3), np.uint8), np.zeros((50, 40), np.uint8)
        >>> augment(image, labels, seed=0)[1].shape
        (32, 32)
    """
    further = [PhotometricDistortion()] if switch("photometric", photometric) else []
    return JointAugmentation(
        [
            RandomScale(scale),
            RandomCategoryCrop(
                size, max_ratio=max_ratio, ignore_index=ignore_index, image_fill=image_fill
            ),
            v2.RandomHorizontalFlip(share("flip", flip)),
            *further,
        ],
        ignore_index=ignore_index,
    )
