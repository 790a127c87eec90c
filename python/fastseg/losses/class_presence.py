"""Which classes are in the picture at all: what trains a classification-guided module."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fastseg._checks import integer
from fastseg.errors import DtypeError, ShapeError
from fastseg.losses import _pixels
from fastseg.losses._module import LossModule


def class_presence_loss(
    logits: Tensor, target: Tensor, *, num_classes: int, ignore_index: int | None = None
) -> Tensor:
    """Cross entropy of whether anything, or each class, has any pixel in the target.

    Args:
        logits: (B, 2) float, "nothing" and "something", as U-Net 3+'s module gives them: their
            softmax against whether there is foreground. Or (B, K), K other than 2: column k's
            sigmoid against whether class k is there.
        target: (B, *S) integer labels in 0 … K - 1 (K = 1: 0 and 1), or `ignore_index`. With K = 1
            or the masks of all classes also (B, K, *S), bool, integer or float in 0 … 1.
        num_classes: K, that of the segmentation. Of more than one, the first is the background.
        ignore_index: label of pixels that do not count; None: all count.

    Returns:
        Scalar from 0 on, float32 (float64 for float64 logits).

    Raises:
        ShapeError: logits, target and `num_classes` disagree.
        DtypeError: they are of other types than said here.
        LabelError: a label is out of range.
        DataError: a mask is out of 0 … 1.

    Convention:
        The mean is over images with a pixel that counts, and classes. None: 0, with a gradient of
        0.

    Source:
        Huang et al., U-Net 3+, 2020, section 2.3, where it trains the module that silences
        pictures without an organ.

    Example:
        >>> import torch
        >>> from fastseg.losses import class_presence_loss
        >>> nothing = torch.zeros(1, 4, 4, dtype=torch.long)
        >>> sure = torch.tensor([[9.0, -9.0]])
        >>> class_presence_loss(sure, nothing, num_classes=1).item() < 1e-3
        True
    """
    integer("num_classes", num_classes, least=1)
    for name, value in (("logits", logits), ("target", target)):
        if not isinstance(value, Tensor):
            raise DtypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    columns = sorted({2, num_classes})
    if logits.ndim != 2 or logits.shape[1] not in columns:
        wanted = " or ".join(f"(B, {column})" for column in columns)
        raise ShapeError(
            f"logits: expected {wanted} for {num_classes} classes, got {tuple(logits.shape)}"
        )
    if target.ndim < 2:
        raise ShapeError(f"target: expected pixels (B, …), got {tuple(target.shape)}")
    with_classes = num_classes > 1 and target.shape[1] == num_classes and target.ndim > 3
    flat = target.flatten(2) if with_classes else target.flatten(1)
    # Stands in for logits of pixels, of which only the shape and the device matter to the checks.
    like = logits[:, :1, None].detach().expand(-1, num_classes, flat.shape[-1])
    given = _pixels.masks(like, flat, ignore_index)
    present = (given.masks > 0).any(2)
    scores = logits.to(given.logits.dtype)
    if logits.shape[1] == 2:
        something = present[:, -max(num_classes - 1, 1) :].any(1)
        loss = F.cross_entropy(scores, something.long(), reduction="none").unsqueeze(1)
    else:
        loss = F.binary_cross_entropy_with_logits(
            scores, present.to(scores.dtype), reduction="none"
        )
    if given.counted is None:
        return _pixels.mean_over(loss, None)
    some = given.counted.flatten(1).any(1, keepdim=True)
    return _pixels.mean_over(loss.masked_fill(~some, 0), some)


class ClassPresenceLoss(LossModule):
    """`class_presence_loss` as a module: its options are the function's."""

    def __init__(self, *, num_classes: int, ignore_index: int | None = None) -> None:
        integer("num_classes", num_classes, least=1)
        super().__init__(num_classes=num_classes, ignore_index=ignore_index)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Computes `class_presence_loss(logits, target)` with the module's options."""
        return class_presence_loss(logits, target, **self.options())
