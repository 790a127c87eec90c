"""U-Net 3+'s hybrid: focal for the pixels, MS-SSIM for the patches, IoU for the regions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastseg._checks import number
from fastseg.errors import ParameterError
from fastseg.losses._module import LossModule
from fastseg.losses.focal import focal_loss
from fastseg.losses.iou import iou_loss
from fastseg.losses.ms_ssim import SCALE_WEIGHTS, check_scales, ms_ssim_loss
from fastseg.losses.sigmoid_focal import sigmoid_focal_loss


def unet3p_hybrid_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    gamma: float = 2.0,
    scale_weights: Sequence[float] = SCALE_WEIGHTS,
    window: int = 11,
    ignore_index: int | None = None,
) -> Tensor:
    """Weighted sum of focal, MS-SSIM and IoU loss.

    Args:
        logits: (B, K, H, W) float. K = 1: sigmoids; K ≥ 2: softmax. H and W at least `window` *
            2 ** (scales - 1): 176 as it stands.
        target: (B, H, W) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`. With K =
            1 also (B, 1, H, W) masks, bool, integer or float in 0 … 1.
        weights: of the focal, the MS-SSIM and the IoU loss.
        gamma: of the focal loss.
        scale_weights: of MS-SSIM; fewer for smaller pictures.
        window: of MS-SSIM, in pixels.
        ignore_index: label of pixels that do not count; None: all count.

    Returns:
        Scalar from 0 on, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits and target disagree, or are too small for that many scales.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        DataError: a mask is out of 0 … 1.
        ParameterError: an option is out of its range.

    Convention:
        An empty mask gives no IoU loss. All ignored: 0, with a gradient of 0.

    Source:
        Huang et al., U-Net 3+, 2020, equation 4. The focal loss of K = 1 has no alpha. Public
        versions leave the focal loss out, raise the coarsest scale of MS-SSIM to another power, and
        are NaN on empty masks.

    Example:
        >>> import torch
        >>> from fastseg.losses import unet3p_hybrid_loss
        >>> logits, target = torch.zeros(1, 1, 32, 32), torch.ones(1, 32, 32, dtype=torch.long)
        >>> loss = unet3p_hybrid_loss(logits, target, scale_weights=(0.5, 0.5))
        >>> bool(loss > 0.5)
        True
    """
    _check_weights(weights)
    binary = isinstance(logits, Tensor) and logits.ndim > 1 and logits.shape[1] == 1
    if binary:
        focal = sigmoid_focal_loss(
            logits, target, gamma=gamma, alpha=None, ignore_index=ignore_index
        )
    else:
        focal = focal_loss(logits, target, gamma=gamma, ignore_index=ignore_index)
    similarity = ms_ssim_loss(
        logits, target, window=window, scale_weights=scale_weights, ignore_index=ignore_index
    )
    overlap = iou_loss(logits, target, ignore_index=ignore_index)
    return weights[0] * focal + weights[1] * similarity + weights[2] * overlap


def _check_weights(weights: Sequence[float]) -> None:
    if isinstance(weights, str) or not hasattr(weights, "__len__") or len(weights) != 3:
        raise ParameterError(f"weights must be three (focal, MS-SSIM, IoU), got {weights!r}")
    for name, weight in zip(("focal", "MS-SSIM", "IoU"), weights, strict=True):
        number(f"weights ({name})", weight, least=0)


class UNet3pHybridLoss(LossModule):
    """`unet3p_hybrid_loss` as a module: its options are the function's."""

    def __init__(
        self,
        *,
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        gamma: float = 2.0,
        scale_weights: Sequence[float] = SCALE_WEIGHTS,
        window: int = 11,
        ignore_index: int | None = None,
    ) -> None:
        _check_weights(weights)
        number("gamma", gamma, least=0)
        check_scales(window, scale_weights)
        super().__init__(
            weights=tuple(weights),
            gamma=gamma,
            scale_weights=tuple(scale_weights),
            window=window,
            ignore_index=ignore_index,
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `unet3p_hybrid_loss(logits, target)` with the module's options."""
        return unet3p_hybrid_loss(logits, target, **self.options())
