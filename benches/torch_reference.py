"""Dense CRF in plain PyTorch: the reference row of the benchmarks.

What a PyTorch user would write without a compiled extension: the permutohedral lattice is built
with `torch.unique` and `searchsorted`, splat is `index_add_`, slice is a gather, and no Python loop
runs over pixels. Float32 throughout, with the arithmetic and the operation order of pydensecrf.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Lattice:
    """Permutohedral lattice over a fixed set of points.

    Args:
        features: (N, d) float32, already divided by the standard deviations.

    Raises:
        ValueError: The features span so many cells that a vertex does not fit into 63 bits.
    """

    def __init__(self, features: Tensor) -> None:
        dim = features.shape[1]
        self.dimension = dim
        base, rank, self.weights = _simplex(features)
        # Canonical vertices of class r: r in the dim+1−r lowest ranks, r−dim−1 in the others.
        shifts = torch.tensor(
            [[r if k <= dim - r else r - dim - 1 for r in range(dim + 1)] for k in range(dim + 1)]
        )
        keys = base[:, None, :dim] + shifts[rank].movedim(1, 2)[:, :, :dim]
        low = keys.amin(dim=(0, 1)) - dim
        extent = keys.amax(dim=(0, 1)) + dim - low + 1
        if sum(math.log2(size) for size in extent.tolist()) >= 63:
            raise ValueError("features span too many lattice cells for 63-bit keys")
        strides = torch.ones(dim, dtype=torch.int64)
        strides[1:] = torch.cumprod(extent, 0)[:-1]
        packed = ((keys - low) * strides).sum(dim=-1)
        vertices, offsets = torch.unique(packed, return_inverse=True)
        self.num_vertices = len(vertices)
        self.offsets = offsets.T.contiguous()
        # The step along axis j lowers every coordinate by one and raises coordinate j by d; the
        # last axis has no stored coordinate.
        steps = -strides.sum() + (dim + 1) * torch.cat([strides, strides.new_zeros(1)])
        self.neighbours = [
            (self._find(vertices, vertices + step), self._find(vertices, vertices - step))
            for step in steps
        ]
        self.alpha = 1.0 / (1.0 + 2.0**-dim)

    @staticmethod
    def _find(vertices: Tensor, wanted: Tensor) -> Tensor:
        """Return the index of each wanted key; a missing one gets the zero row past the end."""
        place = torch.searchsorted(vertices, wanted)
        hit = vertices[place.clamp(max=len(vertices) - 1)] == wanted
        return torch.where(hit, place, len(vertices))

    def filter(self, values: Tensor) -> Tensor:
        """Splat, blur and slice (N, C) values; the result is scaled by α but not normalised."""
        grid = values.new_zeros(self.num_vertices + 1, values.shape[1])
        for offset, weight in zip(self.offsets, self.weights, strict=True):
            grid.index_add_(0, offset, values * weight[:, None])
        for before, after in self.neighbours:
            blurred = grid[before]
            blurred += grid[after]
            grid[:-1] += blurred.mul_(0.5)
        result = torch.zeros_like(values)
        for offset, weight in zip(self.offsets, self.weights, strict=True):
            result += grid[offset].mul_((weight * self.alpha)[:, None])
        return result


def _simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex that encloses each point.

    Args:
        features: (N, d) float32.

    Returns:
        Key of the class-0 vertex (N, d+1) int64, rank of each coordinate (N, d+1) int64, and the
        barycentric weights by class (d+1, N) float32.
    """
    count, dim = features.shape
    elevated = features.new_empty(count, dim + 1)
    total = features.new_zeros(count)
    # Rounded twice, as pydensecrf does: one unit in the last place moves points between simplices.
    spread = torch.tensor(math.sqrt(2.0 / 3.0) * (dim + 1), dtype=torch.float32).item()
    for j in range(dim, 0, -1):
        scale = 1.0 / math.sqrt(j * (j + 1.0)) * spread
        scaled = features[:, j - 1] * scale
        elevated[:, j] = total - j * scaled
        total = total + scaled
    elevated[:, 0] = total
    rounded = torch.round(elevated / (dim + 1))
    base = rounded * (dim + 1)
    residual = elevated - base
    rank = torch.zeros(count, dim + 1, dtype=torch.int64)
    for i in range(dim + 1):
        for j in range(i + 1, dim + 1):
            less = residual[:, i] < residual[:, j]
            rank[:, i] += less
            rank[:, j] += ~less
    rank += rounded.sum(dim=1, keepdim=True).long()
    wrap = (rank < 0).long() - (rank > dim).long()
    rank += wrap * (dim + 1)
    base += wrap * (dim + 1)
    residual = (elevated - base) / (dim + 1)
    weights = features.new_zeros(count, dim + 2)
    # The ranks of one point are a permutation, so each scatter touches every slot at most once.
    weights.scatter_add_(1, dim - rank, residual)
    weights.scatter_add_(1, dim + 1 - rank, -residual)
    weights[:, 0] += 1.0 + weights[:, dim + 1]
    return base.long(), rank, weights[:, : dim + 1].T.contiguous()


def spatial_features(height: int, width: int, sigma: float) -> Tensor:
    """Return (H·W, 2) features x/σ, y/σ."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32),
        torch.arange(width, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([x.reshape(-1), y.reshape(-1)], dim=1) / sigma


def bilateral_features(image: Tensor, sigma: float, color_sigma: float) -> Tensor:
    """Return (H·W, 2 + C) features x/σ, y/σ, colours/σ_c of an (H, W, C) picture."""
    height, width, channels = image.shape
    colours = image.reshape(-1, channels).to(torch.float32) / color_sigma
    return torch.cat([spatial_features(height, width, sigma), colours], dim=1)


@torch.inference_mode()
def refine(
    probs: Tensor,
    image: Tensor,
    *,
    iterations: int = 5,
    spatial_weight: float = 3.0,
    spatial_sigma: float = 3.0,
    bilateral_weight: float = 10.0,
    bilateral_sigma: float = 80.0,
    color_sigma: float = 13.0,
    clip: float = 1e-5,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean-field inference with a spatial and a bilateral Potts kernel, symmetric normalisation.

    Args:
        probs: (K, H, W) float32 in [0, 1].
        image: (H, W, C) uint8.
        iterations: Number of mean-field updates.
        spatial_weight: Weight of the spatial kernel.
        spatial_sigma: Its standard deviation in pixels.
        bilateral_weight: Weight of the bilateral kernel.
        bilateral_sigma: Its spatial standard deviation in pixels.
        color_sigma: Its standard deviation in intensity levels.
        clip: Lower bound of the probabilities before the logarithm.
        dtype: Type of the values. The lattice is float32 always, so that float64 tells how far
            rounding alone moves the other implementations.

    Returns:
        (K, H, W) probabilities of type `dtype`.
    """
    labels, height, width = probs.shape
    log_probs = probs.to(dtype).reshape(labels, -1).T.clamp(min=clip, max=1.0).log().contiguous()
    kernels: list[tuple[Lattice, Tensor, float]] = []
    for features, weight in (
        (spatial_features(height, width, spatial_sigma), spatial_weight),
        (bilateral_features(image, bilateral_sigma, color_sigma), bilateral_weight),
    ):
        lattice = Lattice(features)
        lattice.weights = lattice.weights.to(dtype)
        norm = lattice.filter(torch.ones(len(features), 1, dtype=dtype))
        kernels.append((lattice, (norm + 1e-20).rsqrt(), weight))
    q = torch.softmax(log_probs, dim=1)
    for _ in range(iterations):
        score = log_probs.clone()
        for lattice, norm, weight in kernels:
            score += lattice.filter(q * norm).mul_(norm * weight)
        q = torch.softmax(score, dim=1)
    return q.T.reshape(labels, height, width).contiguous()
