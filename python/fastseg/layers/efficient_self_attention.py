"""Self-attention over tokens whose keys and values stand for squares of them."""

from torch import Tensor, nn
from torch.nn import functional as F

from fastseg.errors import ParameterError
from fastseg.ops.sequence_reduced_attention import sequence_reduced_attention
from fastseg.ops.sequence_reduction import sequence_reduction
from fastseg.ops.token_linear import token_linear


class EfficientSelfAttention(nn.Module):
    """Multi-head self-attention; keys and values come from a map reduced by a convolution.

    Args:
        dim: C, channels of the tokens.
        num_heads: heads; divides `dim`.
        reduction: side of the squares of tokens that become one key and value; 1: none.
        eps: of the LayerNorm after the reduction.
        attention_dropout: probability that an attention weight is dropped in training.

    Convention:
        Rows and columns that do not fill a square are left out of keys and values.

    Source:
        E. Xie et al.: SegFormer, 2021, eq. 1 and 2.

    Example:
        >>> import torch
        >>> from fastseg.layers import EfficientSelfAttention
        >>> layer = EfficientSelfAttention(32, num_heads=2, reduction=4)
        >>> layer(torch.zeros(1, 9, 16, 32)).shape
        torch.Size([1, 9, 16, 32])
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        reduction: int = 1,
        eps: float = 1e-5,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ParameterError(f"num_heads: expected a divisor of dim={dim}, got {num_heads}")
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.reduce: nn.Conv2d | None = None
        self.reduce_norm: nn.LayerNorm | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(dim, dim, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Lets every token attend to all squares: (B, H, W, C) to (B, H, W, C)."""
        reduced = tokens
        if self.reduce is not None and self.reduce_norm is not None:
            bias = self.reduce.bias
            assert bias is not None  # built with one above
            norm = self.reduce_norm
            reduced = sequence_reduction(
                tokens, self.reduce.weight, bias, norm.weight, norm.bias, eps=norm.eps
            )
        query = token_linear(tokens, self.query.weight, self.query.bias).flatten(1, 2)
        key = token_linear(reduced, self.key.weight, self.key.bias).flatten(1, 2)
        value = token_linear(reduced, self.value.weight, self.value.bias).flatten(1, 2)
        if self.training and self.attention_dropout > 0:
            mixed = self._with_dropout(query, key, value)
        else:
            mixed = sequence_reduced_attention(query, key, value, num_heads=self.num_heads)
        return token_linear(mixed.reshape(tokens.shape), self.proj.weight, self.proj.bias)

    def _with_dropout(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attention_dropout)
        return mixed.transpose(1, 2).flatten(2)
