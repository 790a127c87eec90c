"""The main job: sharper masks from probabilities and an image, in one call."""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastseg import _rust
from fastseg._arrays import is_tensor, require_float, to_numpy
from fastseg._checks import integer, number, one_of, positive_per
from fastseg.crf._arrays import computes_in_torch, pixels
from fastseg.crf._inference import (
    Progress,
    infer,
    progress_callback,
    require_memory,
    tolerance_value,
)
from fastseg.crf._kernels import (
    Normalization,
    bilateral_kernel,
    compatibility,
    gaussian_kernel,
    grid,
    normalization_mode,
)
from fastseg.crf._layout import layout
from fastseg.crf._task import Task, WeightedGrid
from fastseg.crf._unary import Unary, clip_value, rows_of_labels
from fastseg.crf.presets import PRESETS
from fastseg.crf.workspace import Workspace, engine_workspace
from fastseg.errors import ParameterError, ShapeError

_T = TypeVar("_T")

# What 16-bit labels can number.
_MOST_LABELS = 1 << 16


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
    spacing: float | Sequence[float] | None = None,
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
        logits: scores before the softmax (before the sigmoid for a foreground) instead of `probs`;
            −inf forbids a label.
        preset: a name from `fastseg.crf.PRESETS` for the parameters that are not given; None is
            "pydensecrf".
        iterations: mean-field updates; 0 returns the clipped, normalised input.
        spatial_weight: weight of the kernel over position; 0 leaves it out.
        spatial_sigma: its standard deviation in pixels (in the unit of `spacing` if that is given),
            one for all axes or one for each, (y, x) or (z, y, x).
        bilateral_weight: weight of the kernel over position and colour; 0 leaves it out.
        bilateral_sigma: its standard deviation over position, as `spatial_sigma`.
        color_sigma: its standard deviation over colour, in the image's values, one for all channels
            or one for each. The presets are for values from 0 to 255.
        spacing: size of a pixel along each axis, for example mm per voxel (z, y, x). Three sizes
            say that the input is a volume, two that it is an image, where the shapes alone leave
            that open.
        channel_axis: which axis of one image holds the channels; None finds out, preferring last.
        normalization: of the kernels: "symmetric", "before", "after" or "none".
        compat: (K,) a factor on the weights for each label, or (K, K) a penalty for each pair of
            labels, on top of the weights; None is the Potts model.
        clip: least probability in [0, 1), which stands in for zeros; `logits` are not clipped.
        tolerance: stop once an update changes the free energy by no more than this, in nats a
            pixel; None runs all iterations.
        return_: "probs", or "labels" for the most probable label (the lowest of equals) as uint8,
            or uint16 for more than 256 labels (int32 in torch); of a foreground probability, 1
            where it is above ½.
        progress: called with (done, total) iterations of one image; raising in it stops the work
            and reaches the caller.
        workspace: where memory is kept between calls; by default one that all calls share.

    Returns:
        The refined probabilities, of the shape, kind, dtype and device of the input; or labels
        without the axis K.

    Raises:
        ParameterError: a parameter is out of range, or not exactly one of `probs` and `logits` is
            given.
        ShapeError: the input is empty or shapes disagree.
        DtypeError: the probabilities are no floats, the image no real numbers, or a parameter of
            another type than it should be.
        DataError: a probability is NaN, negative or above 1, a logit NaN or +inf, or the image
            holds NaN or infinity.
        MemoryError: the work would not fit the memory that is available (on a GPU it is PyTorch's
            OutOfMemoryError).
        BackendError: a backend that was asked for by name cannot do it.

    Convention:
        A (K, H, W) input is K labels, never a volume: write a foreground volume as (1, D, H, W).
        Nothing is written to, and contiguous float32 probabilities and (H, W, C) uint8 images are
        read where they are. Tensors on a CUDA device are refined there; see docs/crf.md.

    Source:
        Krähenbühl & Koltun 2011, "Efficient inference in fully connected CRFs with Gaussian edge
        potentials". Same result as pydensecrf to 1e-5 when the number of pixels is a multiple of
        four; otherwise pydensecrf adds points that are not in the image, and this does not.

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
    iterations = integer("iterations", _or(iterations, base.iterations), least=0)
    spatial_weight = number("spatial_weight", _or(spatial_weight, base.spatial_weight))
    bilateral_weight = number("bilateral_weight", _or(bilateral_weight, base.bilateral_weight))
    mode = normalization_mode(normalization)
    clip = clip_value(clip)
    tolerance = tolerance_value(tolerance)
    wants_labels = one_of("return_", return_, ("probs", "labels")) == "labels"
    progress = progress_callback(progress)
    engine = engine_workspace(workspace)

    if image is None and bilateral_weight != 0:
        raise ParameterError("image is needed unless bilateral_weight is 0")

    def task(scores: Any, images: Any) -> Task:
        shape = tuple(scores.shape)
        found = layout(name, shape, None if images is None else tuple(images.shape), spacing)
        if wants_labels and found.num_labels > _MOST_LABELS:
            raise ShapeError(
                f'return_="labels" can number {_MOST_LABELS} labels, got {found.num_labels}: take '
                "the probabilities and their argmax"
            )

        def grid_of(kind: str, sigma: Any, weight: float) -> WeightedGrid | None:
            axes = grid(f"{kind}_sigma", sigma, spacing, found.shape)
            if compat is None:
                says = compatibility(f"{kind}_weight", weight, found.num_labels)
            else:
                says = compatibility("compat", compat, found.num_labels, weight)
            return None if weight == 0 else (axes, says)

        return Task(
            name=name,
            layout=found,
            spatial=grid_of("spatial", _or(spatial_sigma, base.spatial_sigma), spatial_weight),
            bilateral=grid_of(
                "bilateral", _or(bilateral_sigma, base.bilateral_sigma), bilateral_weight
            ),
            color_sigma=_or(color_sigma, base.color_sigma),
            channel_axis=channel_axis,
            normalization=mode,
            clip=clip,
            iterations=iterations,
            tolerance=tolerance,
            wants_labels=wants_labels,
            progress=progress,
        )

    if computes_in_torch(value):
        from fastseg.crf import _tensor_refinement
        from fastseg.crf._tensor_lattice import UnfitError

        images = image if image is None or is_tensor(image) else to_numpy("image", image)[0]
        try:
            return _tensor_refinement.refine(task(value, images), value, images)
        except UnfitError:
            pass  # the engine can, or says what is wrong
    scores, restore = to_numpy(name, value)
    require_float(name, scores, "divide 8-bit values by 255, or make label maps one-hot")
    images = None if image is None else to_numpy("image", image)[0]
    return restore(_refined(task(scores, images), scores, images, engine))


def _refined(
    task: Task, scores: NDArray[Any], images: NDArray[Any] | None, workspace: _rust.Workspace
) -> NDArray[Any]:
    """What the engine makes of one item or of a batch."""
    batch = task.layout.batch
    shape, dtype = _result_of_batch(scores, task)
    result_bytes = 0 if batch is None else math.prod(shape) * dtype.itemsize
    require_memory(task.layout.num_labels, task.layout.shape, result_bytes)
    if batch is None:
        return _refined_item(task, scores, images, (), workspace)
    results = np.empty(shape, dtype)
    for item in range(batch):
        picture = None if images is None else images[item, ...]
        results[item] = _refined_item(task, scores[item, ...], picture, (item,), workspace)
    return results


def _refined_item(
    task: Task,
    given: NDArray[Any],
    picture: NDArray[Any] | None,
    index: tuple[int, ...],
    workspace: _rust.Workspace,
) -> NDArray[Any]:
    shape, mode = task.layout.shape, task.normalization
    kernels = []
    if task.spatial is not None:
        axes, says = task.spatial
        kernels.append((gaussian_kernel(axes, normalization=mode, workspace=workspace), says))
    if picture is not None:
        # Checked even where the weight is zero: a wrong image is a mistake all the same.
        colors = pixels(picture, shape, task.channel_axis)
        sigmas = positive_per("color_sigma", task.color_sigma, colors.shape[1], "channel")
        if task.bilateral is not None:
            axes, says = task.bilateral
            kernel = bilateral_kernel(axes, colors, sigmas, normalization=mode, workspace=workspace)
            kernels.append((kernel, says))
    unary = Unary(
        rows_of_labels(given, shape, are_logits=task.are_logits),
        shape,
        clip=None if task.are_logits else task.clip,
        name=task.name,
        given=given,
        index=index,
    )
    result, _ = infer(
        unary,
        kernels,
        iterations=task.iterations,
        tolerance=task.tolerance,
        labels=task.wants_labels,
        progress=task.progress,
        workspace=workspace,
    )
    if task.wants_labels:
        return result.reshape(shape)
    kept: NDArray[Any] = result[1] if task.layout.is_foreground else result
    return kept.reshape(given.shape)


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def _result_of_batch(scores: NDArray[Any], task: Task) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype of all results together."""
    if not task.wants_labels:
        return scores.shape, scores.dtype.newbyteorder("=")
    dtype = np.dtype(np.uint8 if task.layout.num_labels <= 256 else np.uint16)
    return (len(scores), *task.layout.shape), dtype
