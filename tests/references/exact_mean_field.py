"""Mean-field inference with exact Gaussian kernels: every pair of points, in float64, O(N^2).

Source: Krähenbühl & Koltun 2011, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", algorithm 1. No lattice: this is what the lattice approximates. For tiny images only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Kernel(NamedTuple):
    """One pairwise term: features (d, N), already divided by their sigmas."""

    features: ArrayLike
    compat: ArrayLike
    normalization: str = "symmetric"


def gaussian_matrix(features: ArrayLike) -> Array:
    """k(f_i, f_j) = exp(-|f_i - f_j|^2 / 2) for every pair, the diagonal (ones) included."""
    points = np.asarray(features, dtype=np.float64)
    difference = points[:, :, None] - points[:, None, :]
    return np.asarray(np.exp(-0.5 * (difference**2).sum(axis=0)))


def normalized(matrix: Array, normalization: str) -> Array:
    """The same matrix with its row sums divided out on the side that was asked for."""
    sums = matrix.sum(axis=1)
    if normalization == "none":
        return matrix
    if normalization == "before":
        return np.asarray(matrix / sums[None, :])
    if normalization == "after":
        return np.asarray(matrix / sums[:, None])
    if normalization == "symmetric":
        return np.asarray(matrix / np.sqrt(sums[None, :] * sums[:, None]))
    raise ValueError(normalization)


def compatibility_matrix(compat: ArrayLike, num_labels: int) -> Array:
    """The penalty matrix mu (K, K) of every kind of compat; the message is mu @ filtered."""
    given = np.asarray(compat, dtype=np.float64)
    if given.ndim == 0:
        return -given * np.eye(num_labels)
    if given.ndim == 1:
        return -np.diag(given)
    return np.asarray(0.5 * (given + given.T))


def softmax(scores: Array) -> Array:
    """Softmax over the labels (axis 0)."""
    scores = scores - scores.max(axis=0)
    exponentials = np.exp(scores)
    return np.asarray(exponentials / exponentials.sum(axis=0))


def messages(q: ArrayLike, kernels: list[Kernel]) -> Array:
    """Sum over the kernels of mu @ (k q), shape (K, N); the message of a point to itself counts."""
    q = np.asarray(q, dtype=np.float64)
    total = np.zeros_like(q)
    for kernel in kernels:
        matrix = normalized(gaussian_matrix(kernel.features), kernel.normalization)
        total += compatibility_matrix(kernel.compat, len(q)) @ (q @ matrix.T)
    return total


def infer(unary: ArrayLike, kernels: list[Kernel], iterations: int) -> Array:
    """Q (K, N) after so many parallel updates; unary (K, N) is an energy, -log p."""
    unary = np.asarray(unary, dtype=np.float64)
    q = softmax(-unary)
    for _ in range(iterations):
        q = softmax(-unary - messages(q, kernels))
    return q


def free_energy(q: ArrayLike, unary: ArrayLike, kernels: list[Kernel]) -> float:
    """Variational free energy: sum Q ln Q + sum Q U + 1/2 sum Q message(Q)."""
    q = np.asarray(q, dtype=np.float64)
    entropy = np.sum(q * np.log(np.maximum(q, 1e-300)))
    return float(entropy + np.sum(q * unary) + 0.5 * np.sum(q * messages(q, kernels)))
