"""The fully connected CRF in its parts: unary term, kernels, compatibility, inference."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg.crf import arrays, memory
from fastseg.crf.checks import (
    NORMALIZATIONS,
    compatibility,
    integer,
    number,
    one_of,
    positive_per,
    shape_text,
)
from fastseg.crf.lattice import feature_error
from fastseg.crf.workspace import DEFAULT, Workspace
from fastseg.errors import DataError, ParameterError, ShapeError

Normalization: TypeAlias = Literal["none", "before", "after", "symmetric"]
Progress: TypeAlias = Callable[[int, int], object]

_AXES = "xyz"


class DenseCRF:
    """A fully connected CRF over the pixels of an image, or any set of points.

    Give it a unary term, add kernels, infer:

        Q = softmax(−U − Σₖ messageₖ(Q)), repeated from Q = softmax(−U).

    Each kernel filters Q with a Gaussian over its features; its `compat` turns the filtered Q̃ into
    messages. A number w is a Potts weight (message −w·Q̃: positive smooths), an array (K,) a weight
    for each label, an array (K, K) a penalty for each pair of labels (message ½(M + Mᵀ)·Q̃:
    positive keeps the two apart).

    Args:
        probs: (K, *shape) float in [0, 1]; each point's values are divided by their sum.
        unary: (K, *shape) float, energies U = −ln p instead; +inf forbids a label.
        clip: least probability, which stands in for zeros.
        workspace: where memory is kept between calls; by default one that all calls share.

    Raises:
        ParameterError: both or none of `probs` and `unary` are given, or `clip` is not in [0, 1).
        DtypeError: the unary term is not floating point.
        ShapeError: it has no labels or no points, or shape is not of one to three axes.
        DataError: a probability is NaN, negative or above 1, or an energy NaN or −inf.

    Convention:
        Axes are (y, x) or (z, y, x), channels of `image` last or first; features of the added
        kernels are ordered x, y, z, channels, as in pydensecrf. Axes of size one are left out of
        the features, so a volume of depth one equals its only slice. The message of a point to
        itself is included.

    Source:
        Krähenbühl & Koltun 2011. Same Q as pydensecrf to 1e-5 when the number of points is a
        multiple of four (pydensecrf adds points of feature zero otherwise). On purpose different:
        the sign of `compat` arrays, and the free energy.

    Example:
        >>> import numpy as np
        >>> from fastseg import crf
        >>> probs = np.full((2, 8, 12), 0.5, dtype="float32")
        >>> model = crf.DenseCRF(probs)
        >>> model.add_gaussian(sigma=3, compat=3)
        >>> model.infer(5).shape
        (2, 8, 12)
    """

    def __init__(
        self,
        probs: Any = None,
        *,
        unary: Any = None,
        clip: float = 1e-5,
        workspace: Workspace | None = None,
    ) -> None:
        if (probs is None) == (unary is None):
            raise ParameterError("give exactly one of probs and unary (energies)")
        name, value = ("probs", probs) if unary is None else ("unary", unary)
        array, self._restore = arrays.to_numpy(value)
        arrays.require_float(name, array, "convert it to float32")
        if not 2 <= array.ndim <= 4 or array.size == 0:
            raise ShapeError(
                f"{name} must be (K, *shape) with at least one label and one point, of one to "
                f"three axes, got shape {array.shape}"
            )
        self._shape = array.shape[1:]
        self._num_labels: int = array.shape[0]
        self._clip = clip_value(clip) if unary is None else None
        self._workspace = (workspace or DEFAULT)._rust
        self._kernels: list[tuple[_rust.Kernel, float | NDArray[np.float32]]] = []
        require_memory(self._num_labels, self._shape)
        self._name = name
        self._unary = arrays.float32(array, self._num_labels)
        # What cannot be used shows now rather than at the first inference.
        self._infer(0, None, None, labels=True)

    @property
    def num_labels(self) -> int:
        """How many labels there are."""
        return self._num_labels

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the points."""
        return self._shape

    def add_gaussian(
        self,
        *,
        sigma: float | Sequence[float],
        compat: Any = 3.0,
        normalization: Normalization = "symmetric",
        spacing: Sequence[float] | None = None,
    ) -> None:
        """Adds a kernel over position: it removes specks and smooths outlines.

        Args:
            sigma: pixels, or the unit of `spacing`; one for all axes or one for each, (y, x) or
                (z, y, x).
            compat: what the kernel says about labels, see the class.
            normalization: of the filter: "none", "before", "after" or "symmetric".
            spacing: size of a pixel along each axis; None is one.

        Raises:
            ParameterError, ShapeError, DtypeError: an argument is out of range or of another size.
        """
        sigmas = pixel_sigmas("sigma", sigma, spacing, self._shape)
        shape, kept = kept_axes(self._shape, sigmas)
        weight = compatibility("compat", compat, self._num_labels)
        mode = one_of("normalization", normalization, NORMALIZATIONS)
        try:
            kernel = _rust.Kernel.spatial(
                shape,
                kept,
                normalization=mode,  # type: ignore[arg-type]  # one_of has checked it
                workspace=self._workspace,
            )
        except ValueError as error:
            raise_sigma_error(error, kept, [], ("sigma", ""))
        self._kernels.append((kernel, weight))

    def add_bilateral(
        self,
        image: Any,
        *,
        sigma: float | Sequence[float],
        color_sigma: float | Sequence[float],
        compat: Any = 10.0,
        normalization: Normalization = "symmetric",
        spacing: Sequence[float] | None = None,
        channel_axis: int | None = None,
    ) -> None:
        """Adds a kernel over position and colour: it moves outlines to edges of the image.

        Args:
            image: (*shape), (*shape, C) or (C, *shape), any real dtype.
            sigma: pixels, or the unit of `spacing`; one for all axes or one for each.
            color_sigma: in the image's values; one for all channels or one for each.
            compat: what the kernel says about labels, see the class.
            normalization: of the filter: "none", "before", "after" or "symmetric".
            spacing: size of a pixel along each axis; None is one.
            channel_axis: which axis of `image` holds the channels; None finds out, preferring last.

        Raises:
            ParameterError, ShapeError, DtypeError: an argument is out of range or of another size.
            DataError: the image holds NaN or infinity.
        """
        sigmas = pixel_sigmas("sigma", sigma, spacing, self._shape)
        shape, kept = kept_axes(self._shape, sigmas)
        array, _ = arrays.to_numpy(image)
        values = arrays.pixels(array, self._shape, channel_axis)
        colors = positive_per("color_sigma", color_sigma, values.shape[1], "channel")
        weight = compatibility("compat", compat, self._num_labels)
        mode = one_of("normalization", normalization, NORMALIZATIONS)
        try:
            kernel = _rust.Kernel.bilateral(
                shape,
                kept,
                values,
                colors,
                normalization=mode,  # type: ignore[arg-type]  # one_of has checked it
                workspace=self._workspace,
            )
        except ValueError as error:
            raise_sigma_error(error, kept, colors, ("sigma", "color_sigma"))
        self._kernels.append((kernel, weight))

    def add_pairwise(
        self,
        features: Any,
        *,
        compat: Any,
        normalization: Normalization = "symmetric",
        _pad_origin: bool = False,
    ) -> None:
        """Adds a kernel over features of your own.

        Args:
            features: (d, *shape) float, each feature divided by its standard deviation. The order
                of the features changes the result slightly.
            compat: what the kernel says about labels, see the class.
            normalization: of the filter: "none", "before", "after" or "symmetric".

        Raises:
            ParameterError, ShapeError, DtypeError: an argument is out of range or of another size.
            DataError: a feature is NaN, infinite, or too large to be placed in the lattice.
        """
        array, _ = arrays.to_numpy(features)
        arrays.require_float("features", array, "convert them to float32")
        if array.shape[1:] != self._shape or array.shape[0] == 0:
            expected = ", ".join(map(str, self._shape))
            raise ShapeError(f"features must be (d, {expected}), got shape {array.shape}")
        weight = compatibility("compat", compat, self._num_labels)
        mode = one_of("normalization", normalization, NORMALIZATIONS)
        try:
            kernel = _rust.Kernel.features(
                arrays.float32(array, array.shape[0]),
                self._shape,
                normalization=mode,  # type: ignore[arg-type]  # one_of has checked it
                with_origin=_pad_origin,
                workspace=self._workspace,
            )
        except ValueError as error:
            raise feature_error(error) from None
        self._kernels.append((kernel, weight))

    def infer(
        self,
        iterations: int = 5,
        *,
        tolerance: float | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Runs mean-field updates from Q = softmax(−U).

        Args:
            iterations: the most updates; 0 gives softmax(−U).
            tolerance: stop once an update changes the free energy by no more than this, in nats a
                point; None runs all iterations.
            progress: called with (done, iterations) after each; raising in it stops the inference.

        Returns:
            (K, *shape) float32, summing to one over labels.

        Raises:
            ParameterError: `iterations` or `tolerance` is negative.
        """
        iterations = integer("iterations", iterations, least=0)
        if tolerance is not None and number("tolerance", tolerance) < 0:
            raise ParameterError(f"tolerance must not be negative, got {tolerance}")
        q: NDArray[np.float32] = self._infer(iterations, tolerance, progress, labels=False)
        return q.reshape(self._num_labels, *self._shape)

    def steps(self, iterations: int) -> Iterator[NDArray[np.float32]]:
        """Yields Q, (K, *shape) float32, after each of `iterations` updates."""
        q = self.infer(0)
        for _ in range(integer("iterations", iterations, least=0)):
            q = self.update(q)
            yield q

    def update(self, q: Any) -> NDArray[np.float32]:
        """One mean-field update of `q`.

        Args:
            q: (K, *shape) float, finite.

        Returns:
            (K, *shape) float32.

        Raises:
            ShapeError, DtypeError, DataError: `q` is of another shape, dtype, or not finite.
        """
        rows = self._probabilities(q)
        result = _rust.update(
            self.energies(), rows, self._shape, kernels=self._kernels, workspace=self._workspace
        )
        return result.reshape(self._num_labels, *self._shape)

    def messages(self, q: Any) -> NDArray[np.float32]:
        """The messages that `q` sends, summed over kernels, as energies: what `update` adds to U.

        Args:
            q: (K, *shape) float, finite.

        Returns:
            (K, *shape) float32.

        Raises:
            ShapeError, DtypeError, DataError: `q` is of another shape, dtype, or not finite.
        """
        rows = self._probabilities(q)
        result = _rust.messages(rows, self._shape, kernels=self._kernels, workspace=self._workspace)
        return result.reshape(self._num_labels, *self._shape)

    def free_energy(self, q: Any = None) -> float:
        """The variational free energy ΣQ·ln Q + ΣQ·U + ½ΣQ·message(Q), in nats.

        It is KL(Q ‖ P) less the constant ln Z, which nobody can compute; differences between two Q
        are differences of the KL divergence. pydensecrf's `klDivergence` leaves out the ½.

        Args:
            q: (K, *shape) float; None takes `infer()`.

        Raises:
            ShapeError, DtypeError, DataError: `q` is of another shape, dtype, or not finite.
        """
        rows = self._probabilities(self.infer() if q is None else q)
        return _rust.free_energy(
            self.energies(), rows, self._shape, kernels=self._kernels, workspace=self._workspace
        )

    def energies(self) -> NDArray[np.float32]:
        """The unary term as energies U, (K, N) float32, clipped and normalised."""
        if self._clip is None:
            return self._unary
        sums = self._unary.sum(0)
        share = np.where(sums > 0, self._unary / np.where(sums > 0, sums, 1), 0)
        tiny = np.finfo(np.float32).tiny
        return -np.log(np.maximum(share, max(self._clip, tiny))).astype(np.float32)

    def _set_unary(self, energies: Any) -> None:
        """Another unary term, of the same shape, for the same kernels."""
        array, _ = arrays.to_numpy(energies)
        arrays.require_float("unary", array, "convert it to float32")
        if array.shape != (self._num_labels, *self._shape):
            raise ShapeError(
                f"unary must be {(self._num_labels, *self._shape)}, got shape {array.shape}"
            )
        self._name, self._clip = "unary", None
        self._unary = arrays.float32(array, self._num_labels)
        self._infer(0, None, None, labels=True)

    def _probabilities(self, q: Any) -> NDArray[np.float32]:
        array, _ = arrays.to_numpy(q)
        arrays.require_float("q", array, "convert it to float32")
        if array.shape != (self._num_labels, *self._shape):
            raise ShapeError(
                f"q must be {(self._num_labels, *self._shape)}, got shape {array.shape}"
            )
        rows = arrays.float32(array, self._num_labels)
        if not np.isfinite(rows).all():
            raise DataError("q must be finite, got NaN or infinity")
        return rows

    def _infer(
        self,
        iterations: int,
        tolerance: float | None,
        progress: Progress | None,
        *,
        labels: bool,
    ) -> NDArray[Any]:
        try:
            result, _, _ = _rust.infer(
                self._unary,
                self._shape,
                clip=self._clip,
                kernels=self._kernels,
                iterations=iterations,
                tolerance=tolerance,
                labels=labels,
                progress=progress,
                workspace=self._workspace,
            )
        except ValueError as error:
            raise unary_error(error, self._name, self._shape) from None
        return result


def clip_value(clip: Any) -> float:
    """`clip` as a float in [0, 1)."""
    value = number("clip", clip)
    if not 0 <= value < 1:
        raise ParameterError(f"clip must be in [0, 1), got {value}")
    return value


def pixel_sigmas(
    name: str, sigma: Any, spacing: Sequence[float] | None, shape: Sequence[int]
) -> list[float]:
    """`sigma` in pixels, one for each axis."""
    sigmas = positive_per(name, sigma, len(shape), "axis")
    if spacing is None:
        return sigmas
    sizes = positive_per("spacing", spacing, len(shape), "axis")
    return [sigma / size for sigma, size in zip(sigmas, sizes, strict=True)]


def kept_axes(shape: Sequence[int], sigmas: Sequence[float]) -> tuple[list[int], list[float]]:
    """The axes that have more than one point, and their sigmas; at least one axis."""
    kept = [(n, s) for n, s in zip(shape, sigmas, strict=True) if n > 1] or [(1, 1.0)]
    return [n for n, _ in kept], [s for _, s in kept]


def require_memory(num_labels: int, shape: Sequence[int]) -> None:
    """Refuses early what would not fit: scores, result, and two lattices' corners and weights."""
    points = int(np.prod([int(n) for n in shape]))
    memory.require(
        points * (8 * num_labels + 80),
        f"inference over {shape_text(shape)} points and {num_labels} labels",
    )


def raise_sigma_error(
    error: ValueError, sigmas: list[float], colors: list[float], names: tuple[str, str]
) -> NoReturn:
    """Turns the engine's complaint about a feature into one about the sigma that scaled it."""
    match error.args:
        case ("feature out of range", feature, value, limit):
            if feature < len(sigmas):
                sigma, name = sigmas[-1 - feature], f"{names[0]} along {_AXES[feature]}"
            else:
                channel = feature - len(sigmas)
                sigma, name = colors[channel], f"{names[1]} of channel {channel}"
            raise ParameterError(
                f"{name} is too small: {sigma:.4g} puts the last point {value:.4g} standard "
                f"deviations away, and a 32-bit float can place it only up to {limit:.4g}; "
                f"the smallest that can be used here is {sigma * value / limit:.4g}"
            ) from None
        case ("feature not finite", feature):
            if feature < len(sigmas):
                raise ParameterError(
                    f"{names[0]} along {_AXES[feature]} is too small: dividing by "
                    f"{sigmas[-1 - feature]:.4g} overflows"
                ) from None
            channel = feature - len(sigmas)
            raise DataError(f"image holds NaN or infinity in channel {channel}") from None
        case _:
            raise ParameterError(str(error)) from None


def unary_error(error: ValueError, name: str, shape: Sequence[int]) -> Exception:
    """The engine's complaint about a value of the unary term, in words."""
    match error.args:
        case ("unary value", label, point, value):
            where = ", ".join(map(str, (label, *np.unravel_index(point, tuple(shape)))))
            if name == "unary":
                return DataError(
                    f"unary[{where}] is {value}: energies must be numbers above −inf, and not all "
                    "labels of a point may be infinite"
                )
            remedy = (
                "remove or replace it"
                if not np.isfinite(value)
                else "probabilities lie in [0, 1]; if these are network outputs before the "
                "softmax, pass them as logits="
            )
            return DataError(f"{name}[{where}] is {value}: {remedy}")
        case _:
            return error
