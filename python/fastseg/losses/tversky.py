"""The Tversky loss: Dice with a price of its own for false positives and false negatives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastseg._checks import number
from fastseg.errors import ParameterError
from fastseg.losses._module import LossModule, class_weights
from fastseg.losses._region import Absent, Overlap, check_region_options, region_loss


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    ignore_index: int | None = None,
    smooth: float = 0.0,
    absent: Absent = "skip",
    per_image: bool = False,
    multilabel: bool = False,
    class_weight: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """Tversky loss: (1 - (TP + s) / (TP + α FP + β FN + s)) ** γ for each class, averaged.

    TP = Σ p t, FP = Σ p (1 - t), FN = Σ (1 - p) t. α = β = 0.5 is the Dice loss (of s / 2), α = β =
    1 the IoU loss.

    Args:
        logits: (B, K, *S) float. K = 1: sigmoid; K ≥ 2: softmax, or sigmoid if `multilabel`.
        target: (B, *S) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`. With K = 1
            or `multilabel` also (B, K, *S) masks, bool, integer or float in 0 … 1.
        alpha: α, price of false positives.
        beta: β, price of false negatives.
        gamma: γ; above or below 1: the focal Tversky loss (Abraham and Khan call it 1 / γ).
        ignore_index: label of pixels that do not count; None: all count.
        smooth: s, in pixels, added above and below the fraction.
        absent: "skip" leaves classes without a true pixel out of the mean; "count" keeps them, so
            that predicting them costs.
        per_image: one index per image and class, averaged over images that have one; otherwise the
            sums run over the whole batch.
        multilabel: a yes or no for each class instead of one class per pixel.
        class_weight: (K,) weights of the classes in the mean; 0 leaves one out.

    Returns:
        Scalar in 0 … 1, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits, target or weights disagree.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        DataError: a mask is out of 0 … 1.
        ParameterError: an option is out of its range.

    Convention:
        Half precision is summed in float32. Where nothing takes part (all ignored, or no class
        present with "skip") the loss is 0 and its gradient 0.

    Source:
        Salehi et al., 2017, equation 3, whose α and β these are. Equal to
        segmentation_models_pytorch's where all classes are present and, with `absent="count",
        per_image=True, smooth=1e-5`, to MONAI's.

    Example:
        >>> import torch
        >>> from fastseg.losses import tversky_loss
        >>> logits, target = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> tversky_loss(logits, target, alpha=0.5, beta=0.5).item()
        0.5
    """
    _check_prices(alpha, beta)

    def tversky(overlap: Overlap, smooth: float) -> tuple[Tensor, Tensor]:
        inside = overlap.inside
        false_positives = overlap.predicted - inside
        false_negatives = overlap.true - inside
        return inside + smooth, inside + alpha * false_positives + beta * false_negatives + smooth

    return region_loss(
        tversky,
        logits,
        target,
        ignore_index=ignore_index,
        smooth=smooth,
        absent=absent,
        per_image=per_image,
        multilabel=multilabel,
        class_weight=class_weight,
        gamma=gamma,
    )


def _check_prices(alpha: float, beta: float) -> None:
    if number("alpha", alpha, least=0) + number("beta", beta, least=0) == 0:
        raise ParameterError(
            "alpha, beta: expected one above 0, got 0 and 0, for which any answer is perfect"
        )


class TverskyLoss(LossModule):
    """`tversky_loss` as a module: its options are the function's."""

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        ignore_index: int | None = None,
        smooth: float = 0.0,
        absent: Absent = "skip",
        per_image: bool = False,
        multilabel: bool = False,
        class_weight: Tensor | Sequence[float] | None = None,
    ) -> None:
        _check_prices(alpha, beta)
        check_region_options(
            smooth=smooth, absent=absent, per_image=per_image, multilabel=multilabel, gamma=gamma
        )
        super().__init__(
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            ignore_index=ignore_index,
            smooth=smooth,
            absent=absent,
            per_image=per_image,
            multilabel=multilabel,
            class_weight=class_weights(class_weight),
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `tversky_loss(logits, target)` with the module's options."""
        return tversky_loss(logits, target, **self.options())
