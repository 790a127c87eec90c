"""SegFormer's decoder, folded: nothing is concatenated, and nothing is fused at full size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.errors import ShapeError
from fastseg.ops.folded_decoder import folded_decoder
from fastseg.ops.token_linear import token_linear
from fastseg.ops.upsample_sum import upsample_sum


class _FoldedDecoder(nn.Module):
    """What the decoders share: a fusion of maps that runs at each map's own resolution."""

    fuse: nn.Conv2d
    norm: nn.BatchNorm2d
    classifier: nn.Conv2d

    def __init__(
        self, in_channels: Sequence[int], dim: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.in_channels = tuple(in_channels)
        self.dim = dim
        self.dropout = dropout
        self.fuse = nn.Conv2d(dim * len(self.in_channels), dim, 1, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.classifier = nn.Conv2d(dim, num_classes, 1)

    def _decode(self, features: Sequence[Tensor], weights: list[Tensor], bias: Tensor) -> Tensor:
        """Sums the projections of (B, h, w, C) features and classifies."""
        classifier_bias = self.classifier.bias
        assert classifier_bias is not None  # built with one above
        classifier = self.classifier.weight.flatten(1)
        if not self.training and not self.norm.training and self.norm.running_mean is not None:
            scale, offset = _affine(self.norm)
            weights = [weight * scale[:, None] for weight in weights]
            bias = bias * scale + offset
            return folded_decoder(features, weights, bias, classifier, classifier_bias)
        maps = [token_linear(x, weight) for x, weight in zip(features, weights, strict=True)]
        hidden = upsample_sum(maps, bias).permute(0, 3, 1, 2)
        hidden = F.dropout(F.relu(self.norm(hidden)), self.dropout, self.training)
        logits = token_linear(hidden.permute(0, 2, 3, 1), classifier, classifier_bias)
        return logits.permute(0, 3, 1, 2)

    def _tokens(self, features: Sequence[Tensor]) -> list[Tensor]:
        if [x.shape[1] if x.ndim == 4 else None for x in features] != list(self.in_channels):
            raise ShapeError(
                f"features: expected (B, C, h, w) with C = {list(self.in_channels)}, got "
                f"{[tuple(x.shape) for x in features]}"
            )
        return [x.permute(0, 2, 3, 1) for x in features]


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and offset of a BatchNorm in evaluation mode."""
    mean, variance = norm.running_mean, norm.running_var
    # The callers look for these.
    assert mean is not None
    assert variance is not None
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    offset = -mean * scale
    return scale, offset if norm.bias is None else offset + norm.bias


class AllMLPDecoder(_FoldedDecoder):
    """Projects the maps of all stages to one width, enlarges, fuses and classifies them.

    The function is the paper's: linear projections, bilinear enlargement to the first map's size,
    concatenation (last stage first), 1×1 convolution, BatchNorm, ReLU, dropout, classifier. It is
    computed without the concatenation, in training and in evaluation; see
    `fastseg.ops.folded_decoder`.

    Args:
        in_channels: channels of each stage's map, the largest map first.
        dim: D, width of the decoder.
        num_classes: K.
        dropout: probability of dropping a value before the classifier, in training.

    Source:
        E. Xie et al.: SegFormer, 2021, eq. 4.

    Example:
        >>> import torch
        >>> from fastseg.layers import AllMLPDecoder
        >>> decoder = AllMLPDecoder([4, 6], 8, num_classes=3)
        >>> decoder([torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 4, 4)]).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self, in_channels: Sequence[int], dim: int, *, num_classes: int, dropout: float = 0.1
    ) -> None:
        super().__init__(in_channels, dim, num_classes, dropout)
        self.projections = nn.ModuleList(nn.Linear(c, dim) for c in in_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w) features, best in channels-last memory, to (B, K, H, W) logits."""
        weights, bias = self.fold()
        return self._decode(self._tokens(features), weights, bias)

    def fold(self) -> tuple[list[Tensor], Tensor]:
        """Multiplies the fusion's matrix into the projections.

        Returns:
            For each stage (D, C) float, and (D) float: what `fastseg.ops.folded_decoder` takes,
            before the BatchNorm.
        """
        # The fusion reads the last stage first.
        parts = self.fuse.weight.flatten(1).chunk(len(self.in_channels), dim=1)[::-1]
        weights, bias = [], self.fuse.weight.new_zeros(self.dim)
        for part, projection in zip(parts, self.projections, strict=True):
            assert isinstance(projection, nn.Linear)
            weights.append(token_linear(projection.weight.T[None], part)[0].T)
            if projection.bias is not None:
                bias = bias + part @ projection.bias
        return weights, bias


class MMSegDecoder(_FoldedDecoder):
    """The decoder of mmsegmentation's SegFormer: BatchNorm and ReLU after each projection, too.

    The fusion reads the first stage first. It is folded as that of `AllMLPDecoder`.

    Args:
        in_channels: channels of each stage's map, the largest map first.
        dim: D, width of the decoder.
        num_classes: K.
        dropout: probability of dropping a value before the classifier, in training.

    Example:
        >>> import torch
        >>> from fastseg.layers import MMSegDecoder
        >>> decoder = MMSegDecoder([4, 6], 8, num_classes=3)
        >>> decoder([torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 4, 4)]).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self, in_channels: Sequence[int], dim: int, *, num_classes: int, dropout: float = 0.1
    ) -> None:
        super().__init__(in_channels, dim, num_classes, dropout)
        self.projections = nn.ModuleList(nn.Conv2d(c, dim, 1, bias=False) for c in in_channels)
        self.projection_norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in in_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w) features, best in channels-last memory, to (B, K, H, W) logits."""
        projected = []
        layers = zip(self._tokens(features), self.projections, self.projection_norms, strict=True)
        for x, projection, norm in layers:
            assert isinstance(projection, nn.Conv2d)
            tokens = token_linear(x, projection.weight.flatten(1)).permute(0, 3, 1, 2)
            projected.append(F.relu(norm(tokens)).permute(0, 2, 3, 1))
        weights = list(self.fuse.weight.flatten(1).chunk(len(self.in_channels), dim=1))
        return self._decode(projected, weights, self.fuse.weight.new_zeros(self.dim))
