"""Losses, forward and backward, against segmentation_models_pytorch, MONAI, kornia and others.

Logits are random and targets are blocks of labels, as a loss takes the same time for any. Values
and gradients of all contenders agree before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from contests import Case, Contender, Contest, DisagreementError

Loss = Callable[[Any, Any], Any]


def _case(batch: int, classes: int, side: int, *, floating: bool = False) -> Iterator[Case]:
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, side, side, generator=generator)
    blocks = torch.randint(0, max(classes, 2), (batch, side // 8, side // 8), generator=generator)
    target = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    # One class: masks, which every rival takes; more: labels.
    masks = target.unsqueeze(1).float() if floating else target
    yield Case(f"random, {batch}x{classes}x{side}x{side}", (logits, masks))


def _trained(make: Callable[[], Loss]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A step of training: value and gradient."""
    made: list[Loss] = []

    def run(logits: Any, target: Any) -> tuple[Any, Any]:
        import torch

        if not made:
            made.append(make())
        leaf = logits.detach().requires_grad_()
        value = made[0](leaf, target)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach().numpy(), gradient.numpy()

    return run


def _agree(ours: Any, theirs: Any) -> None:
    (value, gradient), (their_value, their_gradient) = ours, theirs
    if not np.allclose(value, their_value, rtol=1e-4):
        raise DisagreementError(f"{float(value)} against {float(their_value)}")
    scale = np.abs(gradient).max()
    worst = np.abs(gradient - their_gradient).max() / scale
    if not worst < 1e-3:
        raise DisagreementError(f"gradients {worst:.1e} of the largest apart")


def _ours(name: str, **options: Any) -> Contender:
    def make() -> Loss:
        from fastseg import losses

        function = getattr(losses, name)
        return lambda logits, target: function(logits, target, **options)

    return Contender("fastseg", _trained(make), requires=("torch",))


def _rival(name: str, module: str, make: Callable[[], Loss]) -> Contender:
    return Contender(name, _trained(make), requires=(module,))


def _smp(name: str, mode: str, **options: Any) -> Contender:
    def make() -> Loss:
        import segmentation_models_pytorch as smp

        return getattr(smp.losses, name)(mode, **options)

    return _rival("segmentation_models_pytorch", "segmentation_models_pytorch", make)


def _monai(name: str, *, scale: float = 1.0, labels: bool = True, **options: Any) -> Contender:
    def make() -> Loss:
        import monai.losses

        loss = getattr(monai.losses, name)(**options)
        if labels:
            return lambda logits, target: scale * loss(logits, target.unsqueeze(1))
        return lambda logits, target: scale * loss(logits, target)

    return _rival("monai", "monai", make)


def _kornia(name: str, *, scale: float = 1.0, **options: Any) -> Contender:
    def make() -> Loss:
        import kornia.losses

        function = getattr(kornia.losses, name)
        return lambda logits, target: scale * function(logits, target, **options)

    return _rival("kornia", "kornia", make)


def _torchvision_focal() -> Loss:
    from torchvision.ops import sigmoid_focal_loss

    return lambda logits, target: sigmoid_focal_loss(logits, target, reduction="mean")


def _smp_bce_dice() -> Loss:
    import segmentation_models_pytorch as smp

    bce, dice = smp.losses.SoftBCEWithLogitsLoss(), smp.losses.DiceLoss("binary")
    return lambda logits, target: 0.5 * bce(logits, target) + dice(logits, target)


def _pytorch_msssim() -> Loss:
    from pytorch_msssim import ms_ssim

    return lambda logits, target: 1 - ms_ssim(logits.sigmoid(), target, data_range=1)


def _voc() -> Iterator[Case]:
    return _case(4, 21, 256)


def _binary() -> Iterator[Case]:
    return _case(8, 1, 384, floating=True)


CONTESTS = [
    Contest(
        name="dice_voc_4x21x256",
        cases=_voc,
        ours=_ours("dice_loss"),
        rivals=(_smp("DiceLoss", "multiclass"),),
        agree=_agree,
    ),
    Contest(
        name="dice_per_image_voc_4x21x256",
        cases=_voc,
        ours=_ours("dice_loss", per_image=True),
        rivals=(
            _monai("DiceLoss", softmax=True, to_onehot_y=True),
            _kornia("dice_loss", average="macro"),
        ),
        agree=_agree,
    ),
    Contest(
        name="dice_binary_8x384",
        cases=_binary,
        ours=_ours("dice_loss", per_image=True),
        rivals=(_monai("DiceLoss", labels=False, sigmoid=True),),
        agree=_agree,
    ),
    Contest(
        name="bce_dice_binary_8x384",
        cases=_binary,
        ours=_ours("bce_dice_loss"),
        rivals=(
            _rival("segmentation_models_pytorch", "segmentation_models_pytorch", _smp_bce_dice),
            _monai("DiceCELoss", labels=False, sigmoid=True, lambda_ce=0.5, batch=True),
        ),
        agree=_agree,
    ),
    Contest(
        name="focal_voc_4x21x256",
        cases=_voc,
        ours=_ours("focal_loss"),
        rivals=(
            _monai("FocalLoss", scale=21, use_softmax=True, to_onehot_y=True),
            _kornia("focal_loss", scale=21, alpha=None, reduction="mean"),
        ),
        agree=_agree,
    ),
    Contest(
        name="sigmoid_focal_binary_8x384",
        cases=_binary,
        ours=_ours("sigmoid_focal_loss"),
        rivals=(
            _smp("FocalLoss", "binary", alpha=0.25),
            _kornia("binary_focal_loss_with_logits", reduction="mean"),
            _rival("torchvision", "torchvision", _torchvision_focal),
        ),
        agree=_agree,
    ),
    Contest(
        name="lovasz_voc_4x21x256",
        cases=_voc,
        ours=_ours("lovasz_softmax_loss"),
        rivals=(_smp("LovaszLoss", "multiclass"),),
        agree=_agree,
    ),
    Contest(
        name="lovasz_per_image_voc_4x21x256",
        cases=_voc,
        ours=_ours("lovasz_softmax_loss", per_image=True, absent="count"),
        rivals=(_kornia("lovasz_softmax_loss"),),
        agree=_agree,
    ),
    Contest(
        name="ms_ssim_binary_4x320",
        cases=lambda: _case(4, 1, 320, floating=True),
        ours=_ours("ms_ssim_loss"),
        rivals=(_rival("pytorch_msssim", "pytorch_msssim", _pytorch_msssim),),
        agree=_agree,
    ),
]
