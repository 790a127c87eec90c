"""A feed-forward network that knows where it is."""

from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.ops.depthwise_conv_gelu import depthwise_conv_gelu
from fastseg.ops.mix_ffn import mix_ffn
from fastseg.ops.token_linear import token_linear


class MixFFN(nn.Module):
    """Linear, depthwise 3×3 convolution, GELU, linear; the zero padding tells positions.

    Args:
        dim: C, channels of the tokens.
        hidden_dim: channels between the two linear layers.
        dropout: probability of dropping a value after the GELU and at the end, in training.

    Source:
        E. Xie et al.: SegFormer, 2021, eq. 3 (without the residual connection).

    Example:
        >>> import torch
        >>> from fastseg.layers import MixFFN
        >>> MixFFN(8, 32)(torch.zeros(1, 5, 7, 8)).shape
        torch.Size([1, 5, 7, 8])
    """

    def __init__(self, dim: int, hidden_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.dropout = dropout

    def forward(self, tokens: Tensor, residual: Tensor | None = None) -> Tensor:
        """Maps (B, H, W, C) tokens to tokens of the same shape, and adds a residual if there is."""
        bias = self.dwconv.bias
        assert bias is not None  # built with one above
        if not (self.training and self.dropout > 0):
            return mix_ffn(
                *(tokens, self.fc1.weight, self.fc1.bias, self.dwconv.weight, bias),
                *(self.fc2.weight, self.fc2.bias, residual),
            )
        hidden = token_linear(tokens, self.fc1.weight, self.fc1.bias)
        hidden = depthwise_conv_gelu(hidden, self.dwconv.weight, bias)
        hidden = F.dropout(hidden, self.dropout)
        out = F.dropout(token_linear(hidden, self.fc2.weight, self.fc2.bias), self.dropout)
        return out if residual is None else residual + out
