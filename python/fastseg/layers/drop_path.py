"""Stochastic depth."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Leaves out a residual branch for a random part of the batch while training.

    What is kept is divided by the probability of being kept, so the expectation stays.

    Args:
        rate: probability in [0, 1) that a sample's branch is left out.

    Source:
        G. Huang et al.: Deep Networks with Stochastic Depth, 2016.

    Example:
        >>> import torch
        >>> from fastseg.layers import DropPath
        >>> DropPath(0.5).eval()(torch.ones(2, 3)).sum().item()
        6.0
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Drops samples of a (B, …) float branch."""
        factor = self.factor(branch)
        if factor is None:
            return branch
        return (branch * factor.view(-1, *[1] * (branch.ndim - 1))).to(branch.dtype)

    def factor(self, branch: Tensor) -> Tensor | None:
        """What each sample of a (B, …) float branch is multiplied with: (B) float; None: one."""
        if self.rate == 0.0 or not self.training:
            return None
        keep = torch.rand(len(branch), dtype=branch.dtype, device=branch.device) >= self.rate
        return keep / (1 - self.rate)

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"rate={self.rate}"
