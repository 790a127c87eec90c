"""Tokens as kernels take them: any strides, but channels side by side."""

from torch import Tensor


def rows_of_channels(tokens: Tensor) -> Tensor:
    """(B, …, C) tokens with a channel stride of one: the same where they have it, else a copy.

    A thread reads 16 bytes of neighbouring channels at once, which needs nothing else; a view of a
    fused projection stays one.
    """
    return tokens if tokens.stride(-1) == 1 else tokens.contiguous()


def steps(tokens: Tensor) -> tuple[int, int, int]:
    """How many elements lie between samples, rows and columns of (B, H, W, C) tokens."""
    samples, rows, columns, _ = tokens.stride()
    return samples, rows, columns
