"""The LayerNorm of transformers on tokens."""

from torch import Tensor, nn

from fastseg.ops.layer_norm import layer_norm


class TokenNorm(nn.LayerNorm):
    """A LayerNorm of the last axis that stays whole where a compiler would make it slower.

    Args:
        dim: C.
        eps: added to the variance.

    Example:
        >>> import torch
        >>> from fastseg.layers.token_norm import TokenNorm
        >>> TokenNorm(8)(torch.zeros(1, 5, 7, 8)).shape
        torch.Size([1, 5, 7, 8])
    """

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps (B, …, C) tokens to tokens of the same shape."""
        return layer_norm(tokens, self.weight, self.bias, eps=self.eps)
