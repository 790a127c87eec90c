"""U-Net++: a triangle of nodes between encoder and decoder, supervised at every depth.

Zhou, Siddiquee, Tajbakhsh, Liang: UNet++: A Nested U-Net Architecture for Medical Image
Segmentation, DLMIA 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.errors import ParameterError
from fastseg.layers import Conv2d, ConvNormAct
from fastseg.models._base import SegmentationModel, choice, counts
from fastseg.models._registry import register


@register("unetpp")
class UNetPlusPlus(SegmentationModel):
    """U-Net++ with deep supervision, and pruning of a trained net to a shallower one.

    Node (i, j) lies at level i and reads all nodes (i, 0 … j − 1) of its row and the enlarged
    (i + 1, j − 1) below. The top row ends in a head for each depth L1 … L4.

    Args:
        num_classes: K.
        in_channels: C.
        widths: channels of each level, from the top down.
        deep_supervision: a head for each depth; without it one for the deepest.
        norm: whether BatchNorm follows each convolution.
        up: "bilinear" interpolates; "transposed" learns how to enlarge and takes the channels of
            the level above.
        depth: L1 … L4 as 1 … 4: nodes beyond it are not built; None is all. See `prune`.

    Convention:
        In training with deep supervision `auxiliary` holds "L1" … of the shallower depths; `logits`
        is the deepest. In evaluation `logits` is the deepest head alone: the paper's fast mode is
        `prune(depth)`, its accurate mode `mean_logits`.

    Example:
        >>> import torch, fastseg
        >>> model = fastseg.create_model(
        ...     "unetpp", num_classes=2, widths=[4, 8, 16], deep_supervision=True
        ... )
        >>> model(torch.zeros(2, 3, 32, 32)).auxiliary.keys()
        dict_keys(['L1'])
        >>> model.prune(1).eval()(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        deep_supervision: bool = False,
        norm: bool = True,
        up: str = "bilinear",
        depth: int | None = None,
    ) -> None:
        levels = counts(widths, "widths")
        if len(levels) < 2:
            raise ParameterError(f"widths: expected at least two levels, got {levels}")
        choice(up, "up", ("bilinear", "transposed"))
        full = len(levels) - 1
        depth = full if depth is None else depth
        choice(depth, "depth", range(1, full + 1))
        super().__init__(
            "unetpp",
            num_classes=num_classes,
            in_channels=in_channels,
            options={
                "widths": levels,
                "deep_supervision": deep_supervision,
                "norm": norm,
                "up": up,
                "depth": depth,
            },
        )
        self.depth = depth
        self.deep_supervision = deep_supervision
        self.nodes = nn.ModuleDict()
        self.ups = nn.ModuleDict()
        for column in range(depth + 1):
            for row in range(depth + 1 - column):
                if column == 0:
                    inputs = levels[row - 1] if row else in_channels
                elif up == "transposed":
                    self.ups[_key(row, column)] = nn.ConvTranspose2d(
                        levels[row + 1], levels[row], 2, stride=2
                    )
                    inputs = (column + 1) * levels[row]
                else:
                    inputs = column * levels[row] + levels[row + 1]
                self.nodes[_key(row, column)] = _node(inputs, levels[row], norm=norm)
        heads = range(1, depth + 1) if deep_supervision else [depth]
        self.heads = nn.ModuleDict(
            {f"L{head}": nn.Conv2d(levels[0], num_classes, 1) for head in heads}
        )
        self.minimum_size = 2**depth

    def scores(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the deepest head's logits at the image's size; in training the others', too."""
        row = self.top_row(image)
        logits = self.heads[f"L{self.depth}"](row[-1])
        if not (self.training and self.deep_supervision):
            return logits, {}
        return logits, {
            name: self.heads[name](row[column])
            for column, name in enumerate(self.heads, start=1)
            if column < self.depth
        }

    def mean_logits(self, image: Tensor) -> Tensor:
        """Averages the logits of all heads: the paper's accurate mode.

        Args:
            image: (B, C, H, W) float.

        Returns:
            (B, K, H, W).

        Raises:
            ParameterError: the model was built without deep supervision.
        """
        if not self.deep_supervision:
            raise ParameterError("deep_supervision: the mean of all heads needs it; there is one")
        self.check_image(image)
        row = self.top_row(image)
        return torch.stack(
            [head(node) for head, node in zip(self.heads.values(), row[1:], strict=True)]
        ).mean(0)

    def top_row(self, image: Tensor) -> list[Tensor]:
        """Computes the nodes (0, 0 … depth).

        Args:
            image: (B, C, H, W) float.

        Returns:
            Maps (B, widths[0], H, W).
        """
        # Diagonal by diagonal: a new map of the encoder, then the nodes that it makes possible.
        # Each node is enlarged once, and a row's last node needs nothing of the row below.
        rows: list[list[Tensor]] = []
        features = image
        for level in range(self.depth + 1):
            if level:
                features = F.max_pool2d(features, 2)
            features = self.stage(self.nodes[_key(level, 0)], features)
            rows.append([features])
            deep = features
            for row in reversed(range(level)):
                column = level - row
                deep = self._node(row, column, rows[row], deep)
                rows[row].append(deep)
        return rows[0]

    def _node(self, row: int, column: int, before: list[Tensor], below: Tensor) -> Tensor:
        node = self.nodes[_key(row, column)]
        size = (before[0].shape[-2], before[0].shape[-1])
        if _key(row, column) in self.ups:
            up = self.ups[_key(row, column)](below)
            rest = (0, size[1] - up.shape[-1], 0, size[0] - up.shape[-2])
            up = F.pad(up, rest)
        else:
            up = F.interpolate(below, size, mode="bilinear", align_corners=True)
        out: Tensor = self.stage(node, [*before, up])
        return out

    def prune(self, depth: int) -> UNetPlusPlus:
        """Makes the shallower model that deep supervision has trained along.

        Args:
            depth: 1 … the model's own: L1 … L4.

        Returns:
            A model of its own with copies of the weights, on the same device, of the same dtype;
            its logits are those of the head `L{depth}`.

        Raises:
            ParameterError: the depth is out of range, or the model has no head there.
        """
        choice(depth, "depth", range(1, self.depth + 1))
        if f"L{depth}" not in self.heads:
            raise ParameterError(
                f"depth: the model has no head at L{depth}; train it with deep_supervision=True"
            )
        options = {key: value for key, value in self.config.items() if key != "name"}
        pruned = UNetPlusPlus(**{**options, "depth": depth})
        kept = pruned.state_dict().keys()
        pruned.load_state_dict({k: v for k, v in self.state_dict().items() if k in kept})
        like = next(self.parameters())
        return pruned.to(device=like.device, dtype=like.dtype).train(self.training)


def _key(row: int, column: int) -> str:
    return f"{row}_{column}"


def _node(in_channels: int, out_channels: int, *, norm: bool) -> nn.Sequential:
    if norm:
        return nn.Sequential(
            ConvNormAct(in_channels, out_channels, bias=True),
            ConvNormAct(out_channels, out_channels, bias=True),
        )
    return nn.Sequential(
        Conv2d(in_channels, out_channels, 3, padding=1),
        nn.ReLU(inplace=True),
        Conv2d(out_channels, out_channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )
