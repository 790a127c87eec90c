"""Mean-field inference in plain NumPy, float32, on top of `plain_lattice`.

This is what fastseg.crf computes (and pydensecrf, up to the sign of a 1-D compat); only the order
of the additions differs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from references.plain_lattice import PlainLattice

Array32 = NDArray[np.float32]
EPSILON = np.float32(1e-20)


def softmax(scores: Array32) -> Array32:
    """Softmax over the labels (axis 0)."""
    exponentials = np.exp(scores - scores.max(axis=0))
    return np.asarray(exponentials / exponentials.sum(axis=0), dtype=np.float32)


def gaussian_features(
    shape: tuple[int, ...], sigma: ArrayLike, spacing: ArrayLike = 1.0
) -> NDArray[np.float64]:
    """Coordinates over sigma, (d, N), the last axis (x) first; sigma and spacing in axis order."""
    sigmas = np.broadcast_to(np.asarray(sigma, np.float64), (len(shape),))
    steps = np.broadcast_to(np.asarray(spacing, np.float64), (len(shape),))
    grid = np.indices(shape).reshape(len(shape), -1)
    return np.stack([grid[a] * steps[a] / sigmas[a] for a in reversed(range(len(shape)))])


def bilateral_features(
    image: ArrayLike, sigma: ArrayLike, color_sigma: ArrayLike, spacing: ArrayLike = 1.0
) -> NDArray[np.float64]:
    """Coordinates over sigma, then colours over color_sigma; image (*shape, channels)."""
    picture = np.asarray(image, np.float64)
    channels = picture.shape[-1]
    colors = np.broadcast_to(np.asarray(color_sigma, np.float64), (channels,))
    scaled = [picture[..., c].ravel() / colors[c] for c in range(channels)]
    return np.concatenate([gaussian_features(picture.shape[:-1], sigma, spacing), scaled])


def unary_from_probs(probs: ArrayLike, clip: float = 1e-5) -> Array32:
    """Energies -log(max(p, clip)) of probabilities (K, ...), flattened to (K, N)."""
    given = np.asarray(probs, np.float64)
    given = given / given.sum(axis=0)
    return np.asarray(-np.log(np.clip(given, clip, 1.0)).reshape(len(given), -1), dtype=np.float32)


class PlainKernel:
    """One pairwise term: its lattice, normalisation and compatibility."""

    def __init__(
        self,
        features: ArrayLike,
        compat: ArrayLike,
        normalization: str = "symmetric",
        *,
        pad_origin: bool = False,
    ) -> None:
        self.lattice = PlainLattice(features, pad_origin=pad_origin)
        self.compat = np.asarray(compat, np.float32)
        ones = self.lattice.filter(np.ones(self.lattice.num_points, np.float32))
        root = np.float32(1.0) / np.sqrt(ones + EPSILON)
        inverse = np.float32(1.0) / (ones + EPSILON)
        nothing = np.ones_like(ones)
        self.before, self.after = {
            "none": (nothing, nothing),
            "before": (inverse, nothing),
            "after": (nothing, inverse),
            "symmetric": (root, root),
        }[normalization]

    def message(self, q: Array32) -> Array32:
        """Penalty of every label at every point, (K, N): negative where the label is encouraged."""
        filtered = self.lattice.filter(q * self.before) * self.after
        if self.compat.ndim == 0:
            return np.asarray(-self.compat * filtered)
        if self.compat.ndim == 1:
            return np.asarray(-self.compat[:, None] * filtered)
        symmetric = np.float32(0.5) * (self.compat + self.compat.T)
        return np.asarray(symmetric @ filtered, dtype=np.float32)


def messages(q: Array32, kernels: list[PlainKernel]) -> Array32:
    """Sum of the messages of all kernels, (K, N)."""
    total = np.zeros_like(q)
    for kernel in kernels:
        total += kernel.message(q)
    return total


def update(q: Array32, unary: Array32, kernels: list[PlainKernel]) -> Array32:
    """One parallel update of all points: softmax(-U - messages)."""
    scores = -unary
    for kernel in kernels:
        scores = scores - kernel.message(q)
    return softmax(scores)


def infer(unary: ArrayLike, kernels: list[PlainKernel], iterations: int) -> Array32:
    """Q (K, N) after so many updates of softmax(-U)."""
    energies = np.asarray(unary, np.float32)
    q = softmax(-energies)
    for _ in range(iterations):
        q = update(q, energies, kernels)
    return q


def free_energy(q: ArrayLike, unary: ArrayLike, kernels: list[PlainKernel]) -> float:
    """Variational free energy: sum Q ln Q + sum Q U + 1/2 sum Q message(Q), summed in float64."""
    q32 = np.asarray(q, np.float32)
    wide = q32.astype(np.float64)
    entropy = np.sum(wide * np.log(np.maximum(wide, 1e-300)))
    coupling = np.sum(wide * messages(q32, kernels).astype(np.float64))
    return float(entropy + np.sum(wide * np.asarray(unary, np.float64)) + 0.5 * coupling)
