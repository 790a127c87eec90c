"""The pairwise term: Gaussian kernels over position, colour or features, and their weights."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg._arrays import to_numpy
from fastseg._checks import number, one_of, positive_per
from fastseg.crf._arrays import Pixels
from fastseg.errors import DataError, DtypeError, FastsegError, ParameterError, ShapeError

Normalization: TypeAlias = Literal["none", "before", "after", "symmetric"]
Compatibility: TypeAlias = float | NDArray[np.float32]

_NORMALIZATIONS = ("none", "before", "after", "symmetric")

# Beyond it, the sum of some messages no longer fits a 32-bit float.
_LARGEST_WEIGHT = 1e30


class Axis(NamedTuple):
    """An axis of the grid of points, as a kernel sees it.

    Attributes:
        name: the sigma that scales it, for errors.
        size: points along it.
        sigma: in the unit of `spacing`.
        spacing: distance of neighbours.
    """

    name: str
    size: int
    sigma: float
    spacing: float

    @property
    def pixels(self) -> float:
        """The sigma in pixels."""
        return self.sigma / self.spacing


def grid(name: str, sigma: Any, spacing: Any, shape: tuple[int, ...]) -> list[Axis]:
    """The axes of the points that have more than one point, slowest first; at least one.

    Args:
        name: what errors call the sigma.
        sigma: one for all axes or one for each, in the unit of `spacing`.
        spacing: distance of neighbours, one for all axes or one for each; None is one.
        shape: the shape of the points.
    """
    sigmas = positive_per(name, sigma, len(shape), "axis")
    spacings = positive_per("spacing", 1.0 if spacing is None else spacing, len(shape), "axis")
    names = [f"{name} along {axis}" for axis in "zyx"[-len(shape) :]]
    axes = [Axis(*axis) for axis in zip(names, shape, sigmas, spacings, strict=True)]
    return [axis for axis in axes if axis.size > 1] or axes[-1:]


def normalization_mode(value: Any) -> Normalization:
    """`value` if it is the name of a normalization."""
    return cast(Normalization, one_of("normalization", value, _NORMALIZATIONS))


def compatibility(name: str, value: Any, num_labels: int, weight: float = 1.0) -> Compatibility:
    """`value` times `weight`: a Potts weight, one for each label, or a penalty for each pair.

    Args:
        name: what errors call it.
        value: a number, (K,) or (K, K).
        num_labels: K.
        weight: a factor.

    Raises:
        DtypeError, ShapeError, ParameterError, DataError: it is none of these, or not finite.
    """
    array, _ = to_numpy(name, value)
    if array.ndim == 0:
        potts = number(name, value) * weight
        if abs(potts) > _LARGEST_WEIGHT:
            raise ParameterError(f"{name} must be at most {_LARGEST_WEIGHT:g}, got {potts:g}")
        return potts
    if array.dtype.kind not in "fiu":
        raise DtypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.shape not in {(num_labels,), (num_labels, num_labels)}:
        raise ShapeError(
            f"{name} must be a number, ({num_labels},) weights or a ({num_labels}, {num_labels}) "
            f"matrix of penalties for {num_labels} labels, got shape {array.shape}"
        )
    weights = array.astype(np.float64) * weight
    largest = np.abs(weights).max()
    if not largest <= _LARGEST_WEIGHT:
        raise DataError(f"{name} must be finite and at most {_LARGEST_WEIGHT:g}, got {largest:g}")
    return weights.astype(np.float32, order="C")


def gaussian_kernel(
    axes: Sequence[Axis], *, normalization: Normalization, workspace: _rust.Workspace
) -> _rust.Kernel:
    """A kernel over position."""
    try:
        return _rust.Kernel.spatial(
            [axis.size for axis in axes],
            [axis.pixels for axis in axes],
            normalization=normalization,
            workspace=workspace,
        )
    except ValueError as error:
        raise _sigma_error(error, axes) from None


def bilateral_kernel(
    axes: Sequence[Axis],
    pixels: Pixels,
    color_sigmas: Sequence[float],
    *,
    normalization: Normalization,
    workspace: _rust.Workspace,
) -> _rust.Kernel:
    """A kernel over position and colour: `pixels` are (N, C), with a sigma for each channel."""
    try:
        return _rust.Kernel.bilateral(
            [axis.size for axis in axes],
            [axis.pixels for axis in axes],
            pixels,
            color_sigmas,
            normalization=normalization,
            workspace=workspace,
        )
    except ValueError as error:
        raise _sigma_error(error, axes, pixels, color_sigmas) from None


def feature_kernel(
    features: NDArray[np.float32],
    shape: tuple[int, ...],
    *,
    normalization: Normalization,
    workspace: _rust.Workspace,
    with_origin: bool = False,
) -> _rust.Kernel:
    """A kernel over `features`, (d, N): `with_origin` counts one more point, of features zero."""
    try:
        return _rust.Kernel.features(
            features,
            shape,
            normalization=normalization,
            with_origin=with_origin,
            workspace=workspace,
        )
    except ValueError as error:
        raise feature_error(error) from None


def feature_error(error: ValueError) -> FastsegError:
    """The engine's complaint about a feature, in words."""
    match error.args:
        case ("feature not finite", feature):
            return DataError(f"features[{feature}] holds NaN or infinity: remove or replace it")
        case ("feature out of range", feature, value, limit):
            return DataError(
                f"features[{feature}] reaches {value:.4g}, more than the {limit:.4g} up to which a "
                "32-bit float can place a point in the lattice: divide by a larger standard "
                "deviation, or subtract the mean"
            )
        case _:
            return ShapeError(f"features cannot be placed: {error}")


def _sigma_error(
    error: ValueError,
    axes: Sequence[Axis],
    pixels: Pixels | None = None,
    color_sigmas: Sequence[float] = (),
) -> FastsegError:
    """The engine's complaint about a feature, as one about the sigma that scaled it."""
    match error.args:
        case ("feature out of range", feature, value, limit):
            name, sigma, _ = _scale(feature, axes, pixels, color_sigmas)
            # Rounded up, so that the number in the message is itself large enough.
            smallest = sigma * value / limit * 1.001
            return ParameterError(
                f"{name} is too small: {sigma:.4g} puts a point {value:.4g} standard deviations "
                f"away, and a 32-bit float can place it only up to {limit:.4g}; the smallest that "
                f"can be used here is {smallest:.4g}"
            )
        case ("feature not finite", feature):
            name, sigma, largest = _scale(feature, axes, pixels, color_sigmas)
            if not math.isfinite(largest):
                channel = feature - len(axes)
                return DataError(
                    f"image holds NaN or infinity in channel {channel}: remove or replace it"
                )
            # A thousand standard deviations are within the range of any lattice that fits.
            return ParameterError(
                f"{name} is too small: dividing by {sigma:.4g} overflows; "
                f"{largest / 1000 or 1.0:.4g}, for example, can be used here"
            )
        case _:
            return ShapeError(f"the points cannot be placed: {error}")


def _scale(
    feature: int, axes: Sequence[Axis], pixels: Pixels | None, color_sigmas: Sequence[float]
) -> tuple[str, float, float]:
    """What scales a feature, its sigma, and the largest value that is divided by it."""
    if feature < len(axes):
        axis = axes[-1 - feature]  # features run x, y, z; axes as in memory
        return axis.name, axis.sigma, (axis.size - 1) * axis.spacing
    channel = feature - len(axes)
    largest = math.inf if pixels is None else float(np.abs(pixels[:, channel]).max())
    return f"color_sigma of channel {channel}", color_sigmas[channel], largest
