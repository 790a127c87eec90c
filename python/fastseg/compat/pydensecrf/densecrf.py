"""pydensecrf's `densecrf` on fastseg's engine: the fully connected CRF and its mean field.

Convention: point i of a w × h image is the pixel (x, y) with i = y·w + x. Unary energies are
negative log-probabilities, (nlabels, nvar). A positive number as `compat` smooths; so does a
vector or the diagonal of a matrix when it is *negative*, because those are added as penalties.

Source: Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011, as pydensecrf implements it. The package's docstring lists what differs.
"""

import enum
import operator
from collections.abc import Callable
from numbers import Number
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastseg.compat.pydensecrf import eigen
from fastseg.compat.pydensecrf._buffers import float_buffer, typed_buffer
from fastseg.compat.pydensecrf.eigen import MatrixXf
from fastseg.crf import DenseCRF as _Engine
from fastseg.errors import DataError, DtypeError, ParameterError, ShapeError

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "NormalizationType",
    "Unary",
    "eigen",
]

_Floats: TypeAlias = NDArray[np.float32]


class KernelType(enum.IntEnum):
    """How a kernel could be parametrised for learning; inference is the same for all three."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(enum.IntEnum):
    """On which side of the filter the messages are divided by the kernel's row sums."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL = KernelType.CONST_KERNEL
DIAG_KERNEL = KernelType.DIAG_KERNEL
FULL_KERNEL = KernelType.FULL_KERNEL
NO_NORMALIZATION = NormalizationType.NO_NORMALIZATION
NORMALIZE_BEFORE = NormalizationType.NORMALIZE_BEFORE
NORMALIZE_AFTER = NormalizationType.NORMALIZE_AFTER
NORMALIZE_SYMMETRIC = NormalizationType.NORMALIZE_SYMMETRIC

_NORMALIZATION_NAMES = {
    NO_NORMALIZATION: "none",
    NORMALIZE_BEFORE: "before",
    NORMALIZE_AFTER: "after",
    NORMALIZE_SYMMETRIC: "symmetric",
}

# Stands for +inf, so that products with a probability stay numbers.
_IMPOSSIBLE = np.float32(1e30)

# The least probability of which klDivergence takes the logarithm.
_LEAST = np.float32(1e-20)

# pydensecrf filters four points at a time and pads the last group with points at the origin.
_PADDING_GROUP = 4


class Unary:
    """Base of the unary energies that `DenseCRF.setUnary` takes."""

    _energies: _Floats | None = None


class ConstUnary(Unary):
    """Fixed unary energies."""

    def __init__(self, u: Any) -> None:
        """Copies the energies.

        Args:
            u: (nlabels, nvar) float32, C-contiguous, negative log-probabilities.

        Raises:
            ShapeError: `u` is not 2-D or not C-contiguous.
            DtypeError: `u` is no array, or not float32 (also a ValueError then).
        """
        self._energies = float_buffer(u, "u", 2).copy()


class LogisticUnary(Unary):
    """Unary energies L·f that are linear in given features."""

    def __init__(self, L: Any, f: Any) -> None:
        """Computes the energies.

        Args:
            L: (nlabels, d) float32, C-contiguous.
            f: (d, nvar) float32, C-contiguous.

        Raises:
            ShapeError: An array is not 2-D or not C-contiguous, or the two don't fit.
            DtypeError: An argument is no array, or not float32 (also a ValueError then).
        """
        self._energies = _product(L, f)


class DenseCRF:
    """A fully connected CRF over any points, with Gaussian kernels over their features."""

    def __init__(self, nvar: int, nlabels: int, *_: object, **__: object) -> None:
        """Makes a CRF without potentials; further arguments are ignored, as in pydensecrf.

        Args:
            nvar: The number of points.
            nlabels: The number of labels.

        Raises:
            ParameterError: A number is less than 1.
            DtypeError: An argument is not a number.
        """
        nvar = _integer(nvar, "nvar", minimum=1)
        self._set_up((nvar,), _integer(nlabels, "nlabels", minimum=1))

    def _set_up(self, shape: tuple[int, ...], nlabels: int) -> None:
        self._shape = shape
        self._nvar = int(np.prod(shape))
        self._nlabel = nlabels
        self._unary: _Floats | None = None
        self._engine: _Engine | None = None

    def setUnaryEnergy(self, u: Any, f: Any = None) -> None:  # noqa: N802
        """Sets the unary energies; those set before are replaced.

        Args:
            u: (nlabels, nvar) float32, C-contiguous, negative log-probabilities. +inf makes a
                label impossible. With `f`, the (nlabels, d) weights of a logistic unary.
            f: (d, nvar) float32, C-contiguous: the features of a logistic unary u·f.

        Raises:
            ShapeError: A shape is wrong, or an array is not C-contiguous.
            DtypeError: An argument is no array, or not float32 (also a ValueError then).
            DataError: An energy is NaN or −inf, or a point has no possible label.
        """
        self._take_unary(float_buffer(u, "u", 2) if f is None else _product(u, f, "u"))

    def setUnary(self, u: Any) -> None:  # noqa: N802
        """Sets the unary energies from a `ConstUnary` or `LogisticUnary`.

        Args:
            u: A `Unary` with energies of shape (nlabels, nvar).

        Raises:
            ShapeError: The energies have another shape.
            DtypeError: `u` is not a unary.
            DataError: An energy is NaN or −inf, or a point has no possible label.
        """
        energies = u._energies if isinstance(u, Unary) else None
        if energies is None:
            raise DtypeError(
                f"u must be a ConstUnary or LogisticUnary, got {type(u).__name__}; "
                f"for an array call setUnaryEnergy"
            )
        self._take_unary(energies)

    def addPairwiseEnergy(  # noqa: N802
        self,
        features: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Adds the kernel exp(−½‖f_i − f_j‖²) over given features.

        Args:
            features: (d, nvar) float32, C-contiguous, already divided by the standard deviations.
            compat: How labels interact, with Q̃ the filtered probabilities: a number w subtracts
                w·Q̃ from the energies; a (nlabels,) float32 vector v adds v∘Q̃; a
                (nlabels, nlabels) float32 matrix M adds ½(M + Mᵀ)·Q̃.
            kernel: A `KernelType`; it does not change inference.
            normalization: A `NormalizationType`.

        Raises:
            ShapeError: A shape is wrong, or an array is not C-contiguous.
            DtypeError: An argument has the wrong type or dtype (also a ValueError for arrays).
            ParameterError: `kernel` or `normalization` is not one of its enumeration.
            DataError: A feature or compatibility is NaN or out of range.
        """
        array = float_buffer(features, "features", 2)
        if array.shape[1] != self._nvar or not len(array):
            raise ShapeError(
                f"features must have shape (d, {self._nvar}), one column per point, "
                f"got {array.shape}"
            )
        self._add_features(array, self._options(compat, kernel, normalization))

    def inference(self, niter: int) -> MatrixXf:
        """Runs the mean field from softmax(−U).

        Args:
            niter: The number of updates; 0 gives softmax(−U).

        Returns:
            Q: (nlabels, nvar) float32 probabilities.

        Raises:
            DtypeError: `niter` is not a number.
        """
        q = self._model().infer(max(_integer(niter, "niter"), 0))
        return MatrixXf._wrap(self._as_matrix(q))  # type: ignore[no-any-return]

    def startInference(self) -> tuple[MatrixXf, MatrixXf, MatrixXf]:  # noqa: N802
        """Prepares a mean field that is run step by step.

        Returns:
            Q: (nlabels, nvar) float32, softmax(−U), or zeros where no unary is set; and two
            matrices for `stepInference`, whose content means nothing.
        """
        if self._unary is None:
            q = np.zeros((self._nlabel, self._nvar), dtype=np.float32)
        else:
            q = self._as_matrix(self._model().infer(0))
        return MatrixXf._wrap(q), MatrixXf(), MatrixXf()

    def stepInference(self, Q: MatrixXf, tmp1: MatrixXf, tmp2: MatrixXf) -> None:  # noqa: N802
        """Does one mean-field update in place.

        Args:
            Q: (nlabels, nvar) float32, overwritten with the next Q.
            tmp1: As `startInference` returned it.
            tmp2: As `startInference` returned it.

        Raises:
            DtypeError: An argument is not a `MatrixXf`.
            ShapeError: `Q` has another shape.
        """
        q = self._check_matrix(Q, "Q")
        for name, value in (("tmp1", tmp1), ("tmp2", tmp2)):
            if not isinstance(value, MatrixXf):
                raise DtypeError(f"{name} must be a MatrixXf, got {type(value).__name__}")
        q[...] = self._as_matrix(self._model().update(self._as_image(q)))

    def klDivergence(self, Q: MatrixXf) -> float:  # noqa: N802
        """Computes what pydensecrf calls the KL divergence of `Q` from the CRF.

        ΣQ·ln max(Q, 1e-20) + ΣU·Q + Σ_kernels ΣQ∘μ(Q̃): the pairwise part counts twice and the
        partition function is missing, so it may be negative and need not fall from step to step.
        `fastseg.crf.DenseCRF.free_energy` does.

        Args:
            Q: (nlabels, nvar) float32.

        Returns:
            The sum.

        Raises:
            DtypeError: `Q` is not a `MatrixXf`.
            ShapeError: `Q` has another shape.
        """
        q = self._check_matrix(Q, "Q")
        total = np.sum(q * np.log(np.maximum(q, _LEAST)), dtype=np.float64)
        if self._unary is not None:
            # A label that is impossible and has no probability costs nothing.
            total += np.sum(self._unary * q, dtype=np.float64, where=q > _LEAST)
        messages = self._as_matrix(self._model().messages(self._as_image(q)))
        return float(total + np.sum(messages * q, dtype=np.float64))

    def _take_unary(self, energies: _Floats) -> None:
        """Checks and copies unary energies, and hands them to the engine if there is one."""
        if energies.shape != (self._nlabel, self._nvar):
            raise ShapeError(
                f"u must have shape (nlabels, nvar) = {(self._nlabel, self._nvar)}, "
                f"got {energies.shape}"
            )
        # NaN passes through minimum and fails both comparisons.
        lowest = energies.min(axis=0)
        if not (np.all(lowest > -np.inf) and np.all(lowest < np.inf)):
            point = int(np.flatnonzero(~np.isfinite(lowest))[0])
            raise DataError(
                f"u must be finite or +inf, with a finite energy at every point; "
                f"point {point} has {energies[:, point]}"
            )
        self._unary = np.minimum(energies, _IMPOSSIBLE)
        if self._engine is not None:
            self._engine._set_unary(self._as_image(self._unary))

    def _options(self, compat: Any, kernel: Any, normalization: Any) -> dict[str, Any]:
        """Checks what every kernel takes, and says it as the engine does."""
        _member(KernelType, kernel, "kernel")
        mode = _member(NormalizationType, normalization, "normalization")
        return {
            "compat": _compatibility(compat, self._nlabel),
            "normalization": _NORMALIZATION_NAMES[mode],
        }

    def _add_features(self, features: _Floats, options: dict[str, Any]) -> None:
        """Adds a kernel over (d, nvar) features."""
        self._model().add_pairwise(
            features.reshape(len(features), *self._shape),
            **options,
            _pad_origin=self._nvar % _PADDING_GROUP != 0,
        )

    def _model(self) -> _Engine:
        """The engine, with a zero unary until one is set: that changes no other potential."""
        if self._engine is None:
            unary = self._unary
            if unary is None:
                unary = np.zeros((self._nlabel, self._nvar), dtype=np.float32)
            self._engine = _Engine(unary=self._as_image(unary))
        return self._engine

    def _as_image(self, matrix: _Floats) -> _Floats:
        return np.asarray(matrix).reshape(self._nlabel, *self._shape)

    def _as_matrix(self, image: _Floats) -> _Floats:
        return image.reshape(self._nlabel, self._nvar)

    def _check_matrix(self, value: Any, name: str) -> _Floats:
        """Returns a `MatrixXf` of the CRF's shape as a plain view."""
        if not isinstance(value, MatrixXf):
            raise DtypeError(
                f"{name} must be a MatrixXf, got {type(value).__name__}; "
                f"wrap an array with eigen.matrixXf({name})"
            )
        if value.shape != (self._nlabel, self._nvar):
            raise ShapeError(
                f"{name} must have shape (nlabels, nvar) = {(self._nlabel, self._nvar)}, "
                f"got {value.shape}"
            )
        return value.view(np.ndarray)


class DenseCRF2D(DenseCRF):
    """A fully connected CRF over the pixels of an image."""

    def __init__(self, w: int, h: int, nlabels: int, *_: object, **__: object) -> None:
        """Makes a CRF without potentials; further arguments are ignored, as in pydensecrf.

        Args:
            w: The image's width in pixels.
            h: The image's height in pixels.
            nlabels: The number of labels.

        Raises:
            ParameterError: A number is less than 1.
            DtypeError: An argument is not a number.
        """
        shape = (_integer(h, "h", minimum=1), _integer(w, "w", minimum=1))
        self._set_up(shape, _integer(nlabels, "nlabels", minimum=1))

    def addPairwiseGaussian(  # noqa: N802
        self,
        sxy: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Adds a kernel over pixel positions.

        Args:
            sxy: The standard deviation in pixels, or that of x and that of y.
            compat: See `addPairwiseEnergy`.
            kernel: See `addPairwiseEnergy`.
            normalization: See `addPairwiseEnergy`.

        Raises:
            ParameterError: A standard deviation is not positive.
            Exception: As `addPairwiseEnergy`.
        """
        options = self._options(compat, kernel, normalization)
        x, y = _deviations(sxy, 2, "sxy")
        if self._is_plain(x, y):
            self._model().add_gaussian(sigma=(y, x), **options)
        else:
            self._add_features(self._positions(x, y, 0), options)

    def addPairwiseBilateral(  # noqa: N802
        self,
        sxy: Any,
        srgb: Any,
        rgbim: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Adds a kernel over pixel positions and colors.

        Args:
            sxy: The standard deviation in pixels, or that of x and that of y.
            srgb: The standard deviation of color on the scale 0…255, or one per channel.
            rgbim: (h, w, 3) uint8, C-contiguous.
            compat: See `addPairwiseEnergy`.
            kernel: See `addPairwiseEnergy`.
            normalization: See `addPairwiseEnergy`.

        Raises:
            ShapeError: The image has another size, or not three channels.
            DtypeError: The image is not uint8 (also a ValueError then).
            ParameterError: A standard deviation is not positive.
            Exception: As `addPairwiseEnergy`.
        """
        image = typed_buffer(rgbim, "rgbim", np.uint8, 3)
        if image.shape[:2] != self._shape:
            raise ShapeError(
                f"rgbim must have shape (h, w, 3) = {(*self._shape, 3)}, got {image.shape}"
            )
        if image.shape[2] != 3:
            raise ShapeError(
                f"rgbim must have three channels, got {image.shape[2]}; for another number "
                f"make features with utils.create_pairwise_bilateral and call addPairwiseEnergy"
            )
        options = self._options(compat, kernel, normalization)
        x, y = _deviations(sxy, 2, "sxy")
        colors = _deviations(srgb, 3, "srgb")
        if self._is_plain(x, y, *colors):
            self._model().add_bilateral(
                image, sigma=(y, x), color_sigma=colors, channel_axis=-1, **options
            )
        else:
            features = self._positions(x, y, 3)
            for channel, deviation in enumerate(colors):
                features[2 + channel] = image[..., channel].ravel() / np.float32(deviation)
            self._add_features(features, options)

    def _is_plain(self, *sigmas: float) -> bool:
        """Whether the engine's own image kernels are pydensecrf's, which saves the features.

        They leave out an axis of one pixel, refuse an infinite sigma, and know no padding.
        """
        aligned = self._nvar % _PADDING_GROUP == 0 and min(self._shape) > 1
        return aligned and bool(np.isfinite(sigmas).all())

    def _positions(self, sx: float, sy: float, channels: int) -> _Floats:
        """Makes (2 + channels, nvar) features with x and y filled in, in that order."""
        height, width = self._shape
        features = np.empty((2 + channels, height, width), dtype=np.float32)
        features[0] = np.arange(width, dtype=np.float32) / np.float32(sx)
        rows = np.arange(height, dtype=np.float32) / np.float32(sy)
        features[1] = rows[:, np.newaxis]
        return features.reshape(2 + channels, self._nvar)


def _product(L: Any, f: Any, name: str = "L") -> _Floats:
    """Multiplies the weights and features of a logistic unary."""
    weights, features = float_buffer(L, name, 2), float_buffer(f, "f", 2)
    if weights.shape[1] != features.shape[0]:
        raise ShapeError(
            f"{name} and f must have shapes (nlabels, d) and (d, nvar), "
            f"got {weights.shape} and {features.shape}"
        )
    return weights @ features


def _compatibility(compat: Any, nlabels: int) -> float | _Floats:
    """Checks a compatibility and gives it the engine's sign."""
    if isinstance(compat, Number):
        return float(np.float32(_real(compat, "compat")))
    try:
        ndim = memoryview(compat).ndim
    except TypeError:
        raise DtypeError(
            f"compat must be a number or a float32 array, got {type(compat).__name__}"
        ) from None
    if ndim not in (1, 2):
        raise ShapeError(f"compat must be a number or have 1 or 2 dimensions, got {ndim}")
    array = float_buffer(compat, "compat", ndim)
    if array.shape != (nlabels,) * ndim:
        raise ShapeError(f"compat must have shape {(nlabels,) * ndim}, got {array.shape}")
    # A vector is a penalty here, and a weight in the engine.
    return -array if ndim == 1 else array


def _deviations(values: Any, count: int, name: str) -> tuple[float, ...]:
    """Checks standard deviations and rounds them to float32; values beyond `count` are ignored."""
    if isinstance(values, Number):
        values = (values,) * count
    try:
        listed = tuple(values)
    except TypeError:
        raise DtypeError(f"{name} must be a number or {count} numbers, got {values!r}") from None
    if len(listed) < count:
        raise ShapeError(f"{name} must be a number or {count} numbers, got {values!r}")
    deviations = tuple(float(np.float32(_real(value, name))) for value in listed[:count])
    if not all(deviation > 0 for deviation in deviations):
        raise ParameterError(f"{name} must be positive, got {values!r}")
    return deviations


def _real(value: Any, name: str) -> float:
    """Converts a number of any kind."""
    if not isinstance(value, str | bytes):
        try:
            return float(value)
        except TypeError:
            pass
    raise DtypeError(f"{name} must be a real number, got {value!r}")


def _integer(value: Any, name: str, minimum: int | None = None) -> int:
    """Converts a whole number of any type."""
    if np.ndim(value) > 0:
        raise DtypeError(f"{name} must be an integer, got an array of shape {np.shape(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        real = _real(value, name)
        if not real.is_integer():
            raise ParameterError(f"{name} must be a whole number, got {value!r}") from None
        number = int(real)
    if minimum is not None and number < minimum:
        raise ParameterError(f"{name} must be at least {minimum}, got {number}")
    return number


def _member(kind: Callable[[int], Any], value: Any, name: str) -> Any:
    """Looks up a member of an enumeration by its number."""
    try:
        return kind(_integer(value, name))
    except ValueError:
        raise ParameterError(f"{name} must be a {kind.__name__}, got {value!r}") from None
