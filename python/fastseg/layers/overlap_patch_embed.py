"""Overlapping patches as tokens."""

from torch import Tensor, nn

from fastseg.errors import ShapeError
from fastseg.layers.token_norm import TokenNorm


class OverlapPatchEmbed(nn.Module):
    """A strided convolution whose windows overlap, and a LayerNorm, in token layout.

    Args:
        in_channels: channels of the input.
        dim: C, channels of the tokens.
        patch_size: height and width of a window; odd.
        stride: distance between windows.
        eps: of the LayerNorm.

    Source:
        E. Xie et al.: SegFormer, 2021, section 3.1.

    Example:
        >>> import torch
        >>> from fastseg.layers import OverlapPatchEmbed
        >>> OverlapPatchEmbed(3, 32, patch_size=7, stride=4)(torch.zeros(1, 3, 33, 64)).shape
        torch.Size([1, 9, 16, 32])
    """

    def __init__(
        self, in_channels: int, dim: int, *, patch_size: int, stride: int, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride, patch_size // 2)
        self.norm = TokenNorm(dim, eps=eps)

    def forward(self, image: Tensor) -> Tensor:
        """Turns a (B, C, H, W) picture into (B, ⌈H / stride⌉, ⌈W / stride⌉, dim) tokens."""
        if image.ndim != 4 or image.shape[1] != self.proj.in_channels:
            raise ShapeError(
                f"image: expected (B, {self.proj.in_channels}, H, W), got {tuple(image.shape)}"
            )
        tokens: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return tokens
