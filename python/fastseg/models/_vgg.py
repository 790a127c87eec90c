"""VGG-16's convolutions, with the changes that FCN, SegNet and DeepLab made to them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastseg._checks import positive
from fastseg.errors import CheckpointError
from fastseg.layers import Conv2d, ConvNormAct

# Widths of the convolutions between poolings.
VGG16_BLOCKS: tuple[tuple[int, ...], ...] = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)
WEIGHTS = "vgg16.tv_in1k"


def convolutions(
    in_channels: int, widths: Sequence[int], *, norm: bool = False, rate: int = 1, padding: int = 1
) -> nn.Sequential:
    """One block: 3×3 convolutions with ReLU between the poolings.

    Args:
        in_channels: channels of the input.
        widths: channels after each convolution.
        norm: whether BatchNorm follows each.
        rate: distance between taps.
        padding: of the first convolution, in taps.
    """
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        pad = rate * (padding if index == 0 else 1)
        if norm:
            layers.append(ConvNormAct(in_channels, width, 3, rate=rate, bias=True, padding=pad))
        else:
            layers.append(Conv2d(in_channels, width, 3, padding=pad, dilation=rate))
            layers.append(nn.ReLU(inplace=True))
        in_channels = width
    block = nn.Sequential(*layers)
    start_for_relu(block)
    return block


def start_for_relu(module: nn.Module) -> None:
    """Gives convolutions fresh weights that keep the size of what passes them (He et al. 2015).

    Without BatchNorm PyTorch's own start lets a signal fade over thirteen layers.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def scaled(blocks: Sequence[Sequence[int]], width: float) -> list[list[int]]:
    """The widths times a factor above 0, at least 1."""
    positive("width", width)
    return [[max(1, round(channels * width)) for channels in block] for block in blocks]


def load_convolutions(blocks: Sequence[nn.Module], state: dict[str, Tensor]) -> None:
    """Copies VGG-16's convolutions into the blocks, in order.

    Args:
        blocks: the convolutional blocks, from the input on.
        state: a state dict of timm's or torchvision's `vgg16`, of which `features.*` are taken.

    Raises:
        CheckpointError: another number or other shapes of convolutions.
    """
    targets = [m for block in blocks for m in block.modules() if isinstance(m, nn.Conv2d)]
    names = [
        name.removesuffix(".weight")
        for name, tensor in state.items()
        if name.startswith("features.") and name.endswith(".weight") and tensor.ndim == 4
    ]
    given = [(tuple(state[f"{name}.weight"].shape)) for name in names]
    wanted = [tuple(conv.weight.shape) for conv in targets]
    if given != wanted:
        raise CheckpointError(
            f"state: expected the {len(wanted)} convolutions of VGG-16 under 'features.', got "
            f"{len(given)}, of shapes {given[:2]} … where {wanted[:2]} … are wanted; pretrained "
            "weights need in_channels=3 and width=1"
        )
    for name, conv in zip(names, targets, strict=True):
        conv.load_state_dict({"weight": state[f"{name}.weight"], "bias": state[f"{name}.bias"]})


def download() -> dict[str, Tensor]:
    """VGG-16's ImageNet weights, from timm."""
    import timm

    state: dict[str, Tensor] = timm.create_model(WEIGHTS, pretrained=True).state_dict()
    return state
