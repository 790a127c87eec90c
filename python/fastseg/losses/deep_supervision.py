"""Deep supervision: the same loss on a model's answer and on its auxiliary outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fastseg._checks import number
from fastseg.errors import DtypeError, ParameterError, ShapeError
from fastseg.losses._pixels import ignored_label
from fastseg.losses.class_presence import class_presence_loss


def deep_supervision_loss(
    output: Any,
    target: Tensor,
    *further: Tensor,
    loss: Callable[..., Tensor],
    auxiliary_weight: float | Mapping[str, float] = 0.4,
    ignore_index: int | None = None,
) -> Tensor:
    """Loss of the logits plus weighted losses of the auxiliary outputs.

    Args:
        output: what a model returns: logits (B, K, *S), or a `SegmentationOutput` of logits and
            auxiliary outputs by name. One of as many axes as the logits goes through `loss`, after
            a bilinear enlargement if it is smaller; one of two axes, (B, P), says which classes are
            there and goes through `class_presence_loss`.
        target: what `loss` takes.
        further: further arguments of `loss`, such as the weights of pixels.
        loss: a loss module or function of logits and target.
        auxiliary_weight: weight of every auxiliary output, or one by name; 0 leaves one out.
        ignore_index: for `class_presence_loss`; `loss` has its own.

    Returns:
        Scalar.

    Raises:
        DtypeError: `output` is neither a tensor nor such a pair, or `loss` no function.
        ShapeError: an auxiliary output has other axes.
        ParameterError: a weight is negative, or missing for an output, or for none.

    Source:
        Lee et al., Deeply-Supervised Nets, 2015. The weight 0.4 is that of PSPNet and SETR; U-Net++
        and U-Net 3+ weigh all heads alike: `auxiliary_weight=1`.

    Example:
        >>> import torch
        >>> from fastseg import losses
        >>> logits, target = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
        >>> output = (logits, {"middle": torch.zeros(1, 2, 1, 1)})
        >>> loss = losses.DeepSupervisionLoss(losses.IoULoss(), auxiliary_weight=1.0)
        >>> loss(output, target).item(), loss(logits, target).item()
        (1.0, 0.5)
    """
    _check_options(loss, auxiliary_weight, ignore_index)
    logits, auxiliary = _parts(output)
    total = loss(logits, target, *further)
    for name, weight in _weights(auxiliary_weight, auxiliary).items():
        if weight == 0:
            continue
        part = auxiliary[name]
        if not isinstance(part, Tensor):
            raise DtypeError(
                f"output: expected tensors as auxiliary outputs, got {type(part).__name__} for "
                f"{name!r}"
            )
        if part.ndim == 2:
            value = class_presence_loss(
                part, target, num_classes=logits.shape[1], ignore_index=ignore_index
            )
        elif part.ndim == logits.ndim:
            value = loss(_enlarged(part, logits), target, *further)
        else:
            raise ShapeError(
                f"output: expected auxiliary outputs like the logits {tuple(logits.shape)}, or "
                f"(B, P), got {tuple(part.shape)} for {name!r}; leave it out with weight 0"
            )
        total = total + weight * value
    return total


def _parts(output: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
    if isinstance(output, Tensor):
        return output, {}
    if isinstance(output, tuple) and len(output) == 2:
        logits, auxiliary = output
        if isinstance(logits, Tensor) and isinstance(auxiliary, Mapping):
            return logits, auxiliary
    raise DtypeError(
        "output: expected logits, or a SegmentationOutput of logits and auxiliary outputs by name, "
        f"got {type(output).__name__}"
    )


def _weights(
    given: float | Mapping[str, float], auxiliary: Mapping[str, Tensor]
) -> dict[str, float]:
    if not isinstance(given, Mapping):
        return dict.fromkeys(auxiliary, given)
    # In evaluation mode there are no auxiliary outputs, and nothing to name.
    if auxiliary and set(given) != set(auxiliary):
        raise ParameterError(
            f"auxiliary_weight: expected weights for {sorted(auxiliary)}, the auxiliary outputs, "
            f"got some for {sorted(given)}; 0 leaves one out"
        )
    return {name: given[name] for name in auxiliary}


def _enlarged(part: Tensor, logits: Tensor) -> Tensor:
    if part.shape[2:] == logits.shape[2:]:
        return part
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[part.ndim]
    return F.interpolate(part, logits.shape[2:], mode=mode, align_corners=False)


def _check_options(
    loss: Callable[..., Tensor], given: float | Mapping[str, float], ignore_index: int | None
) -> None:
    if not callable(loss):
        raise DtypeError(f"loss: expected a loss module or function, got {loss!r}")
    ignored_label(ignore_index)
    if not isinstance(given, Mapping):
        number("auxiliary_weight", given, least=0)
        return
    for name, weight in given.items():
        number(f"auxiliary_weight[{name!r}]", weight, least=0)


class DeepSupervisionLoss(nn.Module):
    """`deep_supervision_loss` as a module around any loss."""

    def __init__(
        self,
        loss: Callable[..., Tensor],
        *,
        auxiliary_weight: float | Mapping[str, float] = 0.4,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        _check_options(loss, auxiliary_weight, ignore_index)
        self.loss = loss
        self.auxiliary_weight = auxiliary_weight
        self.ignore_index = ignore_index

    def forward(self, output: Any, target: Tensor, *further: Tensor) -> Tensor:
        """Computes `deep_supervision_loss(output, target, *further)` with the module's options."""
        return deep_supervision_loss(
            output,
            target,
            *further,
            loss=self.loss,
            auxiliary_weight=self.auxiliary_weight,
            ignore_index=self.ignore_index,
        )
