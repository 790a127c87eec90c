"""Models in training: a step forward and back over two pictures of 128×128, without an optimizer.

All contenders of a contest start with the same weights. Their losses, and gradients of the
pictures, agree before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

import contests_models as models
from contests import Case, Contender, Contest, DisagreementError


def _case() -> Iterator[Case]:
    import torch

    image = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    yield Case("random, 2x3x128x128", (image,))


def _contender(name: str, make: Callable[[], Any], requires: str) -> Contender:
    network = cache(make)

    def run(network: Any, image: Any) -> Any:
        import torch

        torch.manual_seed(0)  # dropout
        leaf = image.detach().requires_grad_()
        output = network(leaf)
        logits = output["out"] if isinstance(output, dict) else output
        loss = logits.square().mean()
        loss.backward()
        return loss.detach().numpy(), leaf.grad.numpy()

    return Contender(name, run, prepare=lambda image: (network(), image), requires=(requires,))


def _agree(ours: Any, theirs: Any) -> None:
    (loss, gradient), (their_loss, their_gradient) = ours, theirs
    if not np.allclose(loss, their_loss, rtol=1e-3):
        raise DisagreementError(f"losses {float(loss):.6g} and {float(their_loss):.6g}")
    # The mean: rounding turns a ReLU or a maximum here and there.
    apart = np.abs(gradient - their_gradient).mean() / np.abs(their_gradient).mean()
    if not apart < 1e-2:
        raise DisagreementError(f"gradients {apart:.1e} of their mean apart")


def _contest(
    model: str,
    num_classes: int,
    rivals: dict[str, Callable[[Any], Any]],
    label: str | None = None,
    **options: Any,
) -> Contest:
    def ours() -> Any:
        return models.built(model, num_classes, **options).train()

    def rival(name: str, make: Callable[[Any], Any]) -> Contender:
        requires = "torch" if name == models.PUBLIC_WAY else name

        def theirs() -> Any:
            made = make(ours())
            # A plain version is a function over the layers of ours, which train.
            return made.train() if hasattr(made, "train") else made

        return _contender(name, theirs, requires)

    return Contest(
        name=f"{label or model}_training_128",
        cases=_case,
        ours=_contender("fastseg", ours, "torch"),
        rivals=tuple(rival(name, make) for name, make in rivals.items()),
        agree=_agree,
    )


CONTESTS = [
    _contest("fcn_resnet50", 21, {"torchvision": models.torchvision("fcn_resnet50")}),
    _contest(
        "unet_padded",
        2,
        {"segmentation_models_pytorch": models.smp_unet},
        label="unet_resnet34",
        encoder="resnet34",
    ),
    _contest("unet_padded", 2, {"monai": models.monai_unet}),
    _contest("unet3p", 1, {models.PUBLIC_WAY: models.plain("unet3p")}),
    _contest(
        "deeplab_v3plus",
        21,
        {models.PUBLIC_WAY: models.plain("deeplab_v3plus")},
        encoder="resnet50",
    ),
]
