"""Refinement of tensors where they are: what `refine` does on a GPU. Loaded only where torch is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastseg.crf._task import Task
from fastseg.crf._tensor_mean_field import (
    TensorKernel,
    colors,
    feature_kernel,
    infer,
    positions,
    scores_of_logits,
    scores_of_probs,
)


def refine(task: Task, scores: Tensor, images: Any) -> Tensor:
    """Does a task.

    Args:
        task: what is to be done.
        scores: as `task.layout` describes them, of any float dtype.
        images: for each item one, array or tensor; None if there is none.

    Returns:
        What `fastseg.crf.refine` returns, on the device of the scores.

    Raises:
        UnfitError: the engine must do it, or say what is wrong.
    """
    device = scores.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        spatial = _spatial_kernel(task, device)
        if task.layout.batch is None:
            return _refined(task, scores, images, spatial)
        pictures = [None] * len(scores) if images is None else images
        items = [_refined(task, *item, spatial) for item in zip(scores, pictures, strict=True)]
        return torch.stack(items)


def _refined(task: Task, given: Tensor, picture: Any, spatial: TensorKernel | None) -> Tensor:
    """The result for one item."""
    shape, device = task.layout.shape, given.device
    kernels = [] if spatial is None else [spatial]
    if picture is not None:
        # Checked even where the weight is zero: a wrong image is a mistake all the same.
        channels = colors(picture, shape, task.channel_axis, task.color_sigma, device)
        if task.bilateral is not None:
            axes, compat = task.bilateral
            features = torch.cat([positions(axes, device), channels])
            kernels.append(feature_kernel(features, compat, task.normalization))
    q, _ = infer(
        _scores(task, given),
        kernels,
        iterations=task.iterations,
        tolerance=task.tolerance,
        progress=task.progress,
    )
    if task.wants_labels:
        labels = q.argmax(1).to(torch.uint8 if q.shape[1] <= 256 else torch.int32)
        return labels.view(shape)
    kept = q[:, 1] if task.layout.is_foreground else q.T
    return kept.to(given.dtype).contiguous().view(given.shape)


def _scores(task: Task, given: Tensor) -> Tensor:
    """The scores −U of one item, (N, K) float32."""
    alone = task.layout.is_foreground
    rows = given.float().reshape(1 if alone else len(given), -1)
    if task.are_logits:
        return scores_of_logits(torch.cat([torch.zeros_like(rows), rows]) if alone else rows)
    return scores_of_probs(torch.cat([(1 - rows).clamp(min=0), rows]) if alone else rows, task.clip)


def _spatial_kernel(task: Task, device: torch.device) -> TensorKernel | None:
    if task.spatial is None:
        return None
    axes, compat = task.spatial
    return feature_kernel(positions(axes, device), compat, task.normalization)
