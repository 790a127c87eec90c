"""The MS-SSIM loss: one minus the structural similarity of masks, at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg._checks import integer, positive, switch
from fastseg.errors import DtypeError, ParameterError, ShapeError
from fastseg.losses import _pixels
from fastseg.losses._module import LossModule

# Wang et al., 2003: how much each scale counts, the finest first.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim_loss(
    logits: Tensor,
    target: Tensor,
    *,
    window: int = 11,
    sigma: float = 1.5,
    scale_weights: Sequence[float] = SCALE_WEIGHTS,
    ignore_index: int | None = None,
    multilabel: bool = False,
) -> Tensor:
    """One minus the MS-SSIM of probabilities and masks, averaged over images and classes.

    At each scale but the coarsest the contrast-structure term counts, at the coarsest the whole
    SSIM; each is clamped at 0 and raised to its scale's weight.

    Args:
        logits: (B, K, H, W) float. K = 1: sigmoid; K ≥ 2: softmax, or sigmoid if `multilabel`.
            H and W at least `window` * 2 ** (scales - 1): 176 for five scales of an 11-window.
        target: (B, H, W) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`. With K =
            1 or `multilabel` also (B, K, H, W) masks, bool, integer or float in 0 … 1.
        window: width in pixels of the Gaussian window, odd.
        sigma: of the window, in pixels.
        scale_weights: one exponent for each scale, the finest first.
        ignore_index: label of pixels that do not count; None: all count.
        multilabel: a yes or no for each class instead of one class per pixel.

    Returns:
        Scalar in 0 … 1, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits and target disagree, or are too small for that many scales.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        DataError: a mask is out of 0 … 1.
        ParameterError: an option is out of its range.

    Convention:
        Windows stay inside the picture. The next scale is the mean of 2x2 pixels; an odd last row
        or column is dropped. Ignored pixels are 0 in probabilities and masks, and a window counts
        as far as its centre does. All ignored: 0, with a gradient of 0.

    Source:
        Wang, Simoncelli and Bovik, 2003, equation 7, with the constants of SSIM (K1 = 0.01,
        K2 = 0.03, range 1). Equal to pytorch-msssim's ms_ssim(data_range=1) for sides that 16
        divides: it pads odd ones with zeros.

    Example:
        >>> import torch
        >>> from fastseg.losses import ms_ssim_loss
        >>> target = torch.zeros(1, 176, 176, dtype=torch.long)
        >>> target[:, 40:90, 60:150] = 1
        >>> right = 20.0 * (2 * target.unsqueeze(1) - 1)
        >>> abs(round(ms_ssim_loss(right, target).item(), 4))
        0.0
    """
    check_scales(window, scale_weights)
    positive("sigma", sigma)
    switch("multilabel", multilabel)
    binary = isinstance(logits, Tensor) and logits.ndim > 1 and logits.shape[1] == 1
    if multilabel or binary:
        given = _pixels.masks(logits, target, ignore_index)
        probs, masks, counted = given.logits.sigmoid(), given.masks, given.counted
    else:
        labels = _pixels.pixels(logits, target, ignore_index)
        probs = labels.logits.softmax(1)
        masks = torch.zeros_like(probs).scatter_(1, labels.target.unsqueeze(1), 1)
        counted = None if labels.counted is None else labels.counted.unsqueeze(1)
        if counted is not None:
            masks = masks * counted
    if logits.ndim != 4:
        raise ShapeError(f"logits: expected (B, K, H, W), got {tuple(logits.shape)}")
    least = window * 2 ** (len(scale_weights) - 1)
    if min(logits.shape[2:]) < least:
        raise ShapeError(
            f"logits: {len(scale_weights)} scales of a window of {window} pixels need sides of at "
            f"least {least}, got {tuple(logits.shape[2:])}; take a smaller window or fewer "
            "scale_weights"
        )
    # Half precision of an enclosing autocast would ruin differences of squares.
    with torch.autocast(logits.device.type, enabled=False):
        size = (*logits.shape[:2], *logits.shape[2:])
        weight = None
        if counted is not None:
            probs = probs * counted
            weight = counted.to(probs.dtype).expand_as(probs).reshape(size)
        similarity, any_counted = _ms_ssim(
            probs.reshape(size), masks.reshape(size), weight, window, sigma, scale_weights
        )
        loss = (1 - similarity) * any_counted
        return loss.sum() / any_counted.sum().clamp(min=1)


def _ms_ssim(
    probs: Tensor,
    masks: Tensor,
    weight: Tensor | None,
    window: int,
    sigma: float,
    scale_weights: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """MS-SSIM of each (B, K), and 1 where any pixel counted, else 0."""
    kernel = _gaussian(window, sigma, probs)
    last = len(scale_weights) - 1
    product = torch.ones_like(probs[:, :, 0, 0])
    any_counted = torch.ones_like(product)
    for scale, exponent in enumerate(scale_weights):
        contrast, luminance = _ssim_maps(probs, masks, kernel)
        term = contrast if scale < last else contrast * luminance
        mean, some = _mean_of_windows(term, weight, window)
        product = product * _power(mean, float(exponent))
        any_counted = any_counted * some
        if scale < last:
            probs, masks = F.avg_pool2d(probs, 2), F.avg_pool2d(masks, 2)
            weight = None if weight is None else F.avg_pool2d(weight, 2)
    return product, any_counted


def _ssim_maps(probs: Tensor, masks: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """The contrast-structure and the luminance term of each window."""
    luminance_constant, contrast_constant = 0.01**2, 0.03**2
    mean_p, mean_m = _filtered(probs, kernel), _filtered(masks, kernel)
    # Only the sum of the two variances is needed: one filter fewer.
    squares = _filtered(probs * probs + masks * masks, kernel)
    products = _filtered(probs * masks, kernel)
    means_product = mean_p * mean_m
    means_squares = mean_p * mean_p + mean_m * mean_m
    contrast = (2 * (products - means_product) + contrast_constant) / (
        squares - means_squares + contrast_constant
    )
    luminance = (2 * means_product + luminance_constant) / (means_squares + luminance_constant)
    return contrast, luminance


def _filtered(maps: Tensor, kernel: Tensor) -> Tensor:
    """Gaussian means of the windows that lie inside (B, K, H, W) maps."""
    if maps.device.type == "cpu" and not torch.compiler.is_compiling():
        filtered: Tensor = _ShiftedSums.apply(maps, kernel)
        return filtered
    channels = maps.shape[1]
    rows = kernel.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = kernel.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(maps, rows, groups=channels), columns, groups=channels)


class _ShiftedSums(torch.autograd.Function):
    """The two convolutions as weighted sums of shifted maps: six times as fast on a CPU."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(kernel)
        taps = kernel.tolist()
        return _weighted_shifts(_weighted_shifts(maps, taps, 2), taps, 3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kernel,) = ctx.saved_tensors
        margin = kernel.shape[0] - 1
        # The kernel is symmetric, so its transpose is itself on a padded map.
        padded = F.pad(gradients[0], [margin] * 4)
        return _ShiftedSums.apply(padded, kernel), None


def _weighted_shifts(maps: Tensor, taps: Sequence[float], axis: int) -> Tensor:
    length = maps.shape[axis] - len(taps) + 1
    total = maps.narrow(axis, 0, length) * taps[0]
    for offset, tap in enumerate(taps[1:], start=1):
        total.add_(maps.narrow(axis, offset, length), alpha=tap)
    return total


def _mean_of_windows(
    values: Tensor, weight: Tensor | None, window: int
) -> tuple[Tensor, Tensor | float]:
    """Means of maps, weighted by the pixels at the windows' centres; 0 and 0 where none counts."""
    if weight is None:
        return values.mean((2, 3)), 1.0
    margin = window // 2
    height, width = weight.shape[2:]
    centres = weight[:, :, margin : height - margin, margin : width - margin]
    total = centres.sum((2, 3))
    some = total > 0
    mean = (values * centres).sum((2, 3)) / total.masked_fill(~some, 1)
    return mean, some.to(values.dtype)


def _power(base: Tensor, exponent: float) -> Tensor:
    """`base` clamped at 0 to the power, with a derivative of 0 where it is clamped."""
    clamped = base <= 0
    return base.masked_fill(clamped, 1).pow(exponent).masked_fill(clamped, 0)


def _gaussian(window: int, sigma: float, like: Tensor) -> Tensor:
    """A Gaussian window (window,) that sums to 1."""
    offsets = torch.arange(window, device=like.device, dtype=like.dtype) - window // 2
    kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
    return kernel / kernel.sum()


def check_scales(window: int, scale_weights: Sequence[float]) -> None:
    """Raises `ParameterError` or `DtypeError` for a window or weights that cannot be."""
    if integer("window", window, least=1) % 2 == 0:
        raise ParameterError(f"window must be odd, got {window}")
    if isinstance(scale_weights, str) or not hasattr(scale_weights, "__len__"):
        raise DtypeError(f"scale_weights: expected a sequence of numbers, got {scale_weights!r}")
    if not len(scale_weights):
        raise ParameterError("scale_weights must name at least one scale, got none")
    for position, weight in enumerate(scale_weights):
        positive(f"scale_weights[{position}]", weight)


class MSSSIMLoss(LossModule):
    """`ms_ssim_loss` as a module: its options are the function's."""

    def __init__(
        self,
        *,
        window: int = 11,
        sigma: float = 1.5,
        scale_weights: Sequence[float] = SCALE_WEIGHTS,
        ignore_index: int | None = None,
        multilabel: bool = False,
    ) -> None:
        check_scales(window, scale_weights)
        positive("sigma", sigma)
        switch("multilabel", multilabel)
        super().__init__(
            window=window,
            sigma=sigma,
            scale_weights=tuple(scale_weights),
            ignore_index=ignore_index,
            multilabel=multilabel,
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `ms_ssim_loss(logits, target)` with the module's options."""
        return ms_ssim_loss(logits, target, **self.options())
