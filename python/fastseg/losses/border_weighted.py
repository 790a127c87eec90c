"""Cross entropy with a weight for each pixel: U-Net's, which keeps touching cells apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg.errors import DataError, DtypeError, ShapeError
from fastseg.losses import _pixels
from fastseg.losses._module import LossModule


def border_weighted_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor, *, ignore_index: int | None = None
) -> Tensor:
    """Mean over pixels of weight times cross entropy.

    `fastseg.labelmaps.border_weight_map` computes U-Net's weights from instances: large in the
    narrow gaps between them.

    Args:
        logits: (B, K, *S) float. K = 1: sigmoid; K ≥ 2: softmax.
        target: (B, *S) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`. With K = 1
            also (B, 1, *S).
        weight: (B, *S) float from 0 on, or (B, 1, *S).
        ignore_index: label of pixels that do not count; None: all count.

    Returns:
        Scalar from 0 on, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits, target or weights disagree.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        DataError: a weight is negative or not finite.

    Convention:
        The sum is divided by the number of pixels that count, not by their weights: a picture full
        of borders weighs more. All ignored: 0, with a gradient of 0.

    Source:
        Ronneberger et al., U-Net, 2015, equations 1 and 2, divided by the number of pixels.

    Example:
        >>> import torch
        >>> from fastseg.losses import border_weighted_cross_entropy
        >>> logits, target = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
        >>> weight = torch.tensor([[[1.0, 3.0]]])
        >>> border_weighted_cross_entropy(logits, target, weight).item()  # 2 ln 2
        1.3862943649291992
    """
    if isinstance(logits, Tensor) and logits.ndim > 1 and logits.shape[1] == 1:
        given = _pixels.masks(logits, target, ignore_index)
        loss = F.binary_cross_entropy_with_logits(given.logits, given.masks, reduction="none")
        loss, counted = loss.squeeze(1), given.counted
        if counted is not None:
            counted = counted.squeeze(1)
            loss = loss.masked_fill(~counted, 0)
    else:
        labels = _pixels.pixels(logits, target, ignore_index)
        loss, counted = _pixels.cross_entropy(labels), labels.counted
    return _pixels.mean_over(loss * _checked_weight(weight, logits, counted, loss), counted)


def _checked_weight(weight: Tensor, logits: Tensor, counted: Tensor | None, loss: Tensor) -> Tensor:
    """`weight` as (B, N) of the loss' dtype, 0 where the pixel is ignored."""
    if not isinstance(weight, Tensor):
        raise DtypeError(
            f"weight: expected a torch.Tensor, got {type(weight).__name__}; convert an array with "
            "torch.from_numpy"
        )
    pixels = (logits.shape[0], *logits.shape[2:])
    if weight.shape not in (pixels, (pixels[0], 1, *pixels[1:])):
        raise ShapeError(f"weight: expected {pixels}, got {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise DtypeError(f"weight: expected floating point, got {weight.dtype}")
    if weight.device != logits.device:
        raise DtypeError(
            f"weight: expected the logits' device {logits.device}, got {weight.device}"
        )
    flat = weight.detach().reshape(loss.shape).to(loss.dtype)
    if counted is not None:
        flat = flat.masked_fill(~counted, 0)
    if not torch.compiler.is_compiling() and not bool(((flat >= 0) & flat.isfinite()).all()):
        raise DataError("weight: expected finite weights from 0 on, got negative, NaN or infinite")
    return flat


class BorderWeightedCrossEntropy(LossModule):
    """`border_weighted_cross_entropy` as a module: its options are the function's."""

    def __init__(self, *, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index=ignore_index)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Computes `border_weighted_cross_entropy(logits, target, weight)`."""
        return border_weighted_cross_entropy(logits, target, weight, **self.options())
