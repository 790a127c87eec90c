"""The fully connected CRF in its parts: unary term, kernels, compatibility, inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from fastseg import _rust
from fastseg._checks import integer
from fastseg.crf._arrays import computes_in_torch
from fastseg.crf._engine_model import EngineModel
from fastseg.crf._inference import Progress, progress_callback, tolerance_value
from fastseg.crf._kernels import Normalization, compatibility, grid, normalization_mode
from fastseg.crf._unary import clip_value
from fastseg.crf.workspace import Workspace, engine_workspace
from fastseg.errors import ParameterError

if TYPE_CHECKING:
    from fastseg.crf._tensor_model import TensorModel


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
        itself is included. Results are arrays, but tensors on its device where the unary term is a
        tensor on a CUDA device, which is then computed with there.

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
        name, value = ("unary", unary) if probs is None else ("probs", probs)
        least = clip_value(clip) if unary is None else None
        self._model = _model(name, value, least, engine_workspace(workspace))
        self._iterations = 5

    @property
    def num_labels(self) -> int:
        """How many labels there are."""
        return self._model.num_labels

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the points."""
        return self._model.shape

    def add_gaussian(
        self,
        *,
        sigma: float | Sequence[float],
        compat: Any = 3.0,
        normalization: Normalization = "symmetric",
        spacing: float | Sequence[float] | None = None,
    ) -> None:
        """Adds a kernel over position: it removes specks and smooths outlines.

        Args:
            sigma: pixels, or the unit of `spacing`; one for all axes or one for each, (y, x) or
                (z, y, x).
            compat: what the kernel says about labels, see the class.
            normalization: of the filter: "none", "before", "after" or "symmetric".
            spacing: size of a pixel along each axis, for example mm; None is one.

        Raises:
            ParameterError: a sigma or spacing is not positive, or too small to place the points.
            ShapeError: `sigma`, `spacing` or `compat` is of another size than the model.
            DtypeError: one of them is no number.
            DataError: `compat` is not finite.
            BackendError: on a GPU, the features need vertices of more than 63 bits.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> model = crf.DenseCRF(np.full((2, 8, 12), 0.5))
            >>> model.add_gaussian(sigma=(6, 3), compat=3)
        """
        axes = grid("sigma", sigma, spacing, self.shape)
        weight = compatibility("compat", compat, self.num_labels)
        self._model.add_gaussian((axes, weight), normalization_mode(normalization))

    def add_bilateral(
        self,
        image: Any,
        *,
        sigma: float | Sequence[float],
        color_sigma: float | Sequence[float],
        compat: Any = 10.0,
        normalization: Normalization = "symmetric",
        spacing: float | Sequence[float] | None = None,
        channel_axis: int | None = None,
    ) -> None:
        """Adds a kernel over position and colour: it moves outlines to edges of the image.

        Args:
            image: (*shape), (*shape, C) or (C, *shape), any real dtype.
            sigma: pixels, or the unit of `spacing`; one for all axes or one for each, (y, x) or
                (z, y, x).
            color_sigma: in the image's values; one for all channels or one for each.
            compat: what the kernel says about labels, see the class.
            normalization: of the filter: "none", "before", "after" or "symmetric".
            spacing: size of a pixel along each axis, for example mm; None is one.
            channel_axis: which axis of `image` holds the channels; None finds out, preferring last.

        Raises:
            ParameterError: a sigma or spacing is not positive, or too small to place the points.
            ShapeError: the image, a sigma, `spacing` or `compat` is of another size than the model.
            DtypeError: one of them holds no real numbers.
            DataError: the image or `compat` is not finite.
            BackendError: on a GPU, the features need vertices of more than 63 bits.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> model = crf.DenseCRF(np.full((2, 8, 12), 0.5))
            >>> image = np.zeros((8, 12, 3), np.uint8)
            >>> model.add_bilateral(image, sigma=80, color_sigma=13, compat=10)
        """
        axes = grid("sigma", sigma, spacing, self.shape)
        weight = compatibility("compat", compat, self.num_labels)
        mode = normalization_mode(normalization)
        self._model.add_bilateral((axes, weight), image, channel_axis, color_sigma, mode)

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
            ParameterError: `normalization` is unknown.
            ShapeError: `features` or `compat` is of another size than the model.
            DtypeError: one of them holds no real numbers.
            DataError: a feature is NaN, infinite, or too large to be placed in the lattice, or
                `compat` is not finite.
            BackendError: on a GPU, the features need vertices of more than 63 bits.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> model = crf.DenseCRF(np.full((2, 8, 12), 0.5))
            >>> position = np.mgrid[0:8, 0:12] / 3.0
            >>> model.add_pairwise(position, compat=[[0, 1], [1, 0]])
        """
        weight = compatibility("compat", compat, self.num_labels)
        mode = normalization_mode(normalization)
        self._model.add_features(features, weight, mode, with_origin=_pad_origin)

    def infer(
        self,
        iterations: int = 5,
        *,
        tolerance: float | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Runs mean-field updates from Q = softmax(−U).

        Args:
            iterations: the most updates; 0 gives softmax(−U).
            tolerance: stop once an update changes the free energy by no more than this, in nats a
                point; None runs all iterations.
            progress: called with (done, iterations) after each; raising in it stops the inference
                and reaches the caller.

        Returns:
            (K, *shape) float32, summing to one over labels.

        Raises:
            ParameterError: `iterations` or `tolerance` is negative.
            DtypeError: `iterations` is no integer, or `progress` cannot be called.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> model = crf.DenseCRF(np.full((2, 8, 12), 0.5))
            >>> model.add_gaussian(sigma=3)
            >>> model.infer(50, tolerance=1e-3).shape
            (2, 8, 12)
        """
        q, self._iterations = self._model.infer(
            integer("iterations", iterations, least=0),
            tolerance_value(tolerance),
            progress_callback(progress),
        )
        return q

    def steps(self, iterations: int) -> Iterator[Any]:
        """Yields Q after each of a number of updates.

        Args:
            iterations: how many.

        Yields:
            (K, *shape) float32, a new array each time.

        Raises:
            ParameterError: `iterations` is negative.
            DtypeError: `iterations` is no integer.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> model = crf.DenseCRF(np.full((2, 8, 12), 0.5))
            >>> model.add_gaussian(sigma=3)
            >>> [model.free_energy(q) < 0 for q in model.steps(2)]
            [True, True]
        """
        return self._steps(integer("iterations", iterations, least=0))

    def _steps(self, iterations: int) -> Iterator[Any]:
        q = self.infer(0)
        for done in range(1, iterations + 1):
            q = self.update(q)
            self._iterations = done
            # The caller may write into what it gets.
            yield deepcopy(q) if done < iterations else q

    def update(self, q: Any) -> Any:
        """One mean-field update: softmax(−U − messages(q)).

        Args:
            q: (K, *shape) float, finite; it need not sum to one.

        Returns:
            (K, *shape) float32, summing to one over labels.

        Raises:
            ShapeError: `q` is of another shape than the model.
            DtypeError: `q` is not floating point.
            DataError: `q` is not finite.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> model = crf.DenseCRF(np.full((2, 8, 12), 0.5))
            >>> model.update(np.zeros((2, 8, 12))).max()
            np.float32(0.5)
        """
        return self._model.update(q)

    def messages(self, q: Any) -> Any:
        """The messages that `q` sends, summed over kernels, as energies: what `update` adds to U.

        Args:
            q: (K, *shape) float, finite; it need not sum to one, the messages are linear in it.

        Returns:
            (K, *shape) float32, in nats.

        Raises:
            ShapeError: `q` is of another shape than the model.
            DtypeError: `q` is not floating point.
            DataError: `q` is not finite.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> model = crf.DenseCRF(np.full((2, 8, 12), 0.5))
            >>> model.add_gaussian(sigma=3, compat=3)
            >>> bool((model.messages(np.full((2, 8, 12), 0.5)) < 0).all())
            True
        """
        return self._model.messages(q)

    def free_energy(self, q: Any = None) -> float:
        """The variational free energy ΣQ·ln Q + ΣQ·U + ½ΣQ·messages(Q), in nats.

        It is KL(Q ‖ P) less the constant ln Z, which nobody can compute; differences between two Q
        are differences of the KL divergence. pydensecrf's `klDivergence` leaves out the ½.

        Args:
            q: (K, *shape) float, probabilities; None is the result of the last `infer` or step (of
                `infer()` before any), which is not kept but inferred again.

        Raises:
            ShapeError: `q` is of another shape than the model.
            DtypeError: `q` is not floating point.
            DataError: `q` is not finite, negative, or does not sum to one over labels.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> model = crf.DenseCRF(unary=np.zeros((2, 8, 12)))
            >>> q = model.infer(3)
            >>> model.free_energy() == model.free_energy(q)
            True
        """
        return self._model.free_energy(self.infer(self._iterations) if q is None else q)

    def energies(self) -> Any:
        """The unary term as energies U = −ln p, clipped and normalised.

        Returns:
            (K, *shape) float32, in nats; a copy.

        Example:
            >>> import numpy as np
            >>> from fastseg import crf
            >>> crf.DenseCRF(np.full((2, 3), 0.5)).energies()[0]
            array([0.6931472, 0.6931472, 0.6931472], dtype=float32)
        """
        return self._model.energies()

    def __repr__(self) -> str:
        return (
            f"DenseCRF(num_labels={self.num_labels}, shape={self.shape}, "
            f"kernels={self._model.num_kernels})"
        )

    def _set_unary(self, energies: Any) -> None:
        """Puts energies of the same shape in the place of the unary term; kernels stay."""
        assert isinstance(self._model, EngineModel), "for arrays: what pydensecrf's interface takes"
        self._model.set_unary(energies)


def _model(
    name: str, value: Any, clip: float | None, workspace: _rust.Workspace
) -> EngineModel | TensorModel:
    """What computes with a unary term: torch with a tensor on a GPU, else the engine."""
    if computes_in_torch(value):
        from fastseg.crf._tensor_lattice import UnfitError
        from fastseg.crf._tensor_model import TensorModel

        try:
            return TensorModel(value, clip, workspace)
        except UnfitError:
            pass  # the engine says what is wrong
    return EngineModel(name, value, clip, workspace)
