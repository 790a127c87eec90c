"""The main job: sharper masks from probabilities and an image, in one call."""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg.crf import arrays
from fastseg.crf.checks import NORMALIZATIONS, compatibility, integer, number, one_of, positive_per
from fastseg.crf.dense_crf import (
    Normalization,
    Progress,
    clip_value,
    kept_axes,
    pixel_sigmas,
    raise_sigma_error,
    require_memory,
    unary_error,
)
from fastseg.crf.presets import PRESETS
from fastseg.crf.workspace import DEFAULT, Workspace
from fastseg.errors import DataError, ParameterError, ShapeError

_T = TypeVar("_T")


def refine(
    probs: Any = None,
    image: Any = None,
    *,
    logits: Any = None,
    preset: str | None = None,
    iterations: int | None = None,
    spatial_weight: float | None = None,
    spatial_sigma: float | Sequence[float] | None = None,
    bilateral_weight: float | None = None,
    bilateral_sigma: float | Sequence[float] | None = None,
    color_sigma: float | Sequence[float] | None = None,
    spacing: Sequence[float] | None = None,
    channel_axis: int | None = None,
    normalization: Normalization = "symmetric",
    compat: Any = None,
    clip: float = 1e-5,
    tolerance: float | None = None,
    return_: Literal["probs", "labels"] = "probs",
    progress: Progress | None = None,
    workspace: Workspace | None = None,
) -> Any:
    """Refines a segmentation with a fully connected CRF: outlines move to the edges of the image.

    Args:
        probs: (K, H, W) float in [0, 1]; or (H, W) or (1, H, W), the probability of the foreground;
            or a batch (B, K, H, W); or volumes (K, D, H, W), (B, K, D, H, W). NumPy or torch,
            float16 to float64, any memory layout. Each pixel's values are divided by their sum, so
            they need not add to one; a pixel of all zeros counts as undecided.
        image: (H, W), (H, W, C) or (C, H, W), any real dtype; a batch has B of them, a volume
            (D, H, W) with or without channels. Needed unless `bilateral_weight` is 0.
        logits: scores before the softmax, (before the sigmoid for a foreground), instead of
            `probs`.
        preset: a name from `fastseg.crf.PRESETS` for the parameters that are not given; None is
            "pydensecrf".
        iterations: mean-field updates; 0 returns the (clipped, normalised) input.
        spatial_weight: weight of the kernel over position; 0 leaves it out.
        spatial_sigma: its standard deviation in pixels (in the unit of `spacing` if that is given),
            one for all axes or one for each, (y, x) or (z, y, x).
        bilateral_weight: weight of the kernel over position and colour; 0 leaves it out.
        bilateral_sigma: its standard deviation over position, as `spatial_sigma`.
        color_sigma: its standard deviation over colour, in the image's values, one for all channels
            or one for each. The presets are for values from 0 to 255.
        spacing: size of a pixel along each axis, for example mm per voxel (z, y, x). Three sizes
            say that the input is a volume where the shapes alone leave that open.
        channel_axis: which axis of one image holds the channels; None finds out, preferring last.
        normalization: of the kernels: "symmetric", "before", "after" or "none".
        compat: (K,) a factor on the weights for each label, or (K, K) a penalty for each pair of
            labels; None is the Potts model.
        clip: least probability, which stands in for zeros.
        tolerance: stop once an update changes the free energy by no more than this, in nats a
            pixel; None runs all iterations.
        return_: "probs", or "labels" for the most probable label (the lowest of equals) in the
            smallest unsigned type; of a foreground probability, 1 where it is above ½.
        progress: called with (done, total) iterations of one image; raising in it stops the work.
        workspace: where memory is kept between calls; by default one that all calls share.

    Returns:
        The refined probabilities, of the shape, kind, dtype and device of the input; or labels
        without the axis K.

    Raises:
        ParameterError: a parameter is out of range, or not exactly one of `probs` and `logits` is
            given.
        ShapeError: the input is empty or shapes disagree.
        DtypeError: the probabilities are no floats, or the image no real numbers.
        DataError: a probability is NaN, negative or above 1, or the image holds NaN.
        MemoryError: the work would not fit the memory that is available.

    Convention:
        A (K, H, W) input is K labels, never a volume: write a foreground volume as (1, D, H, W).

    Source:
        Krähenbühl & Koltun 2011; same result as pydensecrf to 1e-5 when the number of pixels is a
        multiple of four.

    Example:
        >>> import numpy as np, fastseg
        >>> probs = np.full((2, 8, 12), 0.5, dtype="float32")
        >>> image = np.zeros((8, 12, 3), dtype="uint8")
        >>> fastseg.crf.refine(probs, image).shape
        (2, 8, 12)
    """
    if (probs is None) == (logits is None):
        raise ParameterError("give exactly one of probs and logits")
    name, value = ("probs", probs) if logits is None else ("logits", logits)
    base = PRESETS["pydensecrf" if preset is None else one_of("preset", preset, PRESETS)]
    job = _Job(
        iterations=integer("iterations", _or(iterations, base.iterations), least=0),
        spatial_weight=number("spatial_weight", _or(spatial_weight, base.spatial_weight)),
        spatial_sigma=_or(spatial_sigma, base.spatial_sigma),
        bilateral_weight=number("bilateral_weight", _or(bilateral_weight, base.bilateral_weight)),
        bilateral_sigma=_or(bilateral_sigma, base.bilateral_sigma),
        color_sigma=_or(color_sigma, base.color_sigma),
        spacing=spacing,
        channel_axis=channel_axis,
        normalization=one_of("normalization", normalization, NORMALIZATIONS),
        compat=compat,
        clip=None if probs is None else clip_value(clip),
        tolerance=None if tolerance is None else number("tolerance", tolerance),
        labels=one_of("return_", return_, ("probs", "labels")) == "labels",
        progress=progress,
        workspace=workspace or DEFAULT,
        name=name,
    )
    if job.tolerance is not None and job.tolerance < 0:
        raise ParameterError(f"tolerance must not be negative, got {tolerance}")
    if image is None and job.bilateral_weight != 0:
        raise ParameterError("image is needed unless bilateral_weight is 0")
    array, restore = arrays.to_numpy(value)
    arrays.require_float(
        name, array, "divide 8-bit values by 255, or pass labels through unary energies"
    )
    picture = None if image is None else arrays.to_numpy(image)[0]
    if not 2 <= array.ndim <= 5 or array.size == 0:
        raise ShapeError(
            f"{name} must be (K, H, W), (H, W), (B, K, H, W), (K, D, H, W) or (B, K, D, H, W) and "
            f"not empty, got shape {array.shape}"
        )
    if not _is_batch(array.shape, picture, spacing, name):
        return restore(job.run(array, picture))
    if picture is not None and picture.shape[:1] != array.shape[:1]:
        raise ShapeError(
            f"{name} is a batch of {array.shape[0]} and image has shape {picture.shape}: the first "
            "axes must agree"
        )
    pictures = [None] * len(array) if picture is None else list(picture)
    return restore(np.stack([job.run(*pair) for pair in zip(array, pictures, strict=True)]))


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def _is_batch(
    shape: tuple[int, ...],
    image: NDArray[Any] | None,
    spacing: Sequence[float] | None,
    name: str,
) -> bool:
    """Whether the first axis counts images; only four axes can mean two things."""
    if len(shape) != 4:
        return len(shape) == 5
    if spacing is not None:
        return len(tuple(spacing)) == 2
    if image is None:
        return True
    batch, volume = shape[2:], shape[1:]
    is_batch = image.shape[0] == shape[0] and batch in {
        image.shape[1:] if image.ndim == 3 else (),
        image.shape[1:3] if image.ndim == 4 else (),
        image.shape[2:4] if image.ndim == 4 else (),
    }
    is_volume = volume in {image.shape[:3], image.shape[1:] if image.ndim == 4 else ()}
    if is_batch and is_volume:
        raise ShapeError(
            f"{name} {shape} with image {image.shape} can be a batch or a volume: give spacing, "
            "of two axes for a batch or of three for a volume, such as (1, 1, 1)"
        )
    if not is_batch and not is_volume:
        raise ShapeError(
            f"{name} {shape} and image {image.shape} disagree: a batch (B, K, H, W) needs images "
            "(B, H, W), (B, H, W, C) or (B, C, H, W); a volume (K, D, H, W) needs (D, H, W) with "
            "or without channels"
        )
    return is_batch


class _Job:
    """The checked parameters of one call, run on each image."""

    def __init__(self, **parameters: Any) -> None:
        self.__dict__.update(parameters)

    iterations: int
    spatial_weight: float
    spatial_sigma: float | Sequence[float]
    bilateral_weight: float
    bilateral_sigma: float | Sequence[float]
    color_sigma: float | Sequence[float]
    spacing: Sequence[float] | None
    channel_axis: int | None
    normalization: Normalization
    compat: Any
    clip: float | None
    tolerance: float | None
    labels: bool
    progress: Progress | None
    workspace: Workspace
    name: str

    def run(self, values: NDArray[Any], image: NDArray[Any] | None) -> NDArray[Any]:
        """Refines one image or volume."""
        is_plane = values.ndim == 2
        shape = values.shape if is_plane else values.shape[1:]
        is_foreground = is_plane or values.shape[0] == 1
        num_labels = 2 if is_foreground else values.shape[0]
        require_memory(num_labels, shape)
        kernels = self._kernels(shape, image, num_labels)
        unary = self._unary(values, is_foreground)
        try:
            result, _, _ = _rust.infer(
                unary,
                shape,
                clip=self.clip,
                kernels=kernels,
                iterations=self.iterations,
                tolerance=self.tolerance,
                labels=self.labels,
                progress=self.progress,
                workspace=self.workspace._rust,
            )
        except ValueError as error:
            raise unary_error(error, self.name, shape) from None
        if self.labels:
            return result.reshape(shape)
        refined: NDArray[Any] = result[1] if is_foreground else result
        return refined.reshape(values.shape)

    def _unary(self, values: NDArray[Any], is_foreground: bool) -> NDArray[np.float32]:
        """Probabilities, or energies if the input is logits, (K, N)."""
        if self.clip is None:
            if is_foreground:
                rows = arrays.float32(values, 1)
                return -np.concatenate([np.zeros_like(rows), rows])
            return -arrays.float32(values, values.shape[0])
        if not is_foreground:
            return arrays.float32(values, values.shape[0])
        rows = arrays.float32(values, 1)
        if rows.max() > 1 + 1e-3:
            raise DataError(
                f"{self.name} reaches {rows.max()}: the probability of the foreground lies in "
                "[0, 1]; if these are network outputs before the sigmoid, pass them as logits="
            )
        return np.concatenate([np.maximum(1 - rows, 0), rows])

    def _kernels(
        self, shape: tuple[int, ...], image: NDArray[Any] | None, num_labels: int
    ) -> list[tuple[_rust.Kernel, float | NDArray[np.float32]]]:
        compat = 1.0 if self.compat is None else compatibility("compat", self.compat, num_labels)
        kernels: list[tuple[_rust.Kernel, float | NDArray[np.float32]]] = []
        spatial = pixel_sigmas("spatial_sigma", self.spatial_sigma, self.spacing, shape)
        if self.spatial_weight != 0:
            sizes, kept = kept_axes(shape, spatial)
            try:
                kernel = _rust.Kernel.spatial(
                    sizes,
                    kept,
                    normalization=self.normalization,
                    workspace=self.workspace._rust,
                )
            except ValueError as error:
                raise_sigma_error(error, kept, [], ("spatial_sigma", ""))
            kernels.append((kernel, self.spatial_weight * compat))
        bilateral = pixel_sigmas("bilateral_sigma", self.bilateral_sigma, self.spacing, shape)
        if image is not None:
            # Checked even where the weight is zero: a wrong image is a mistake all the same.
            values = arrays.pixels(image, shape, self.channel_axis)
            colors = positive_per("color_sigma", self.color_sigma, values.shape[1], "channel")
            if self.bilateral_weight != 0:
                sizes, kept = kept_axes(shape, bilateral)
                try:
                    kernel = _rust.Kernel.bilateral(
                        sizes,
                        kept,
                        values,
                        colors,
                        normalization=self.normalization,
                        workspace=self.workspace._rust,
                    )
                except ValueError as error:
                    raise_sigma_error(error, kept, colors, ("bilateral_sigma", "color_sigma"))
                kernels.append((kernel, self.bilateral_weight * compat))
        return kernels
