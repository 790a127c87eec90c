"""How closely results must agree: one table for all tests of fastseg.crf.

The engine computes in float32. Two float32 evaluations of the same mean field differ by the order
of their additions, and every iteration amplifies that where a pixel is undecided.
"""

from __future__ import annotations

import numpy as np

# Q, absolute, by the dtype of the result: engine against a float32 evaluation of the same maths.
Q_ATOL = {
    "float64": 1e-5,
    "float32": 1e-5,
    "float16": 1e-3,  # half a unit in the last place just below 1 is 2.4e-4
    "bfloat16": 8e-3,  # likewise 2e-3
}
# Q after ten iterations, or from random unaries with strong weights (pydensecrf and the plain
# reference themselves differ by up to 3e-5 there).
Q_ATOL_LONG = 1e-4
# Share of pixels whose argmax must agree on real pictures.
ARGMAX_SHARE = 0.9999
# One pass of the lattice filter, relative to the largest response.
FILTER_RTOL = 2e-6
# Sums over all pixels (free energy, dot products), relative to the sum of magnitudes.
SUM_RTOL = 1e-5

# The lattice against the exact Gaussian, measured on the pictures of test_dense_crf.py
# (see test_lattice_approximates_the_exact_mean_field for the numbers).
EXACT_FILTER_MAX, EXACT_FILTER_MEAN = 0.08, 0.01
# Q after five iterations: largest and mean absolute difference, by normalisation.
EXACT_Q = {"symmetric": (0.08, 0.006), "after": (0.08, 0.004), "before": (0.15, 0.012)}
EXACT_ARGMAX_SHARE = 0.98


def q_atol(dtype: object) -> float:
    """Tolerance on Q for a result of this dtype (numpy's, or torch's by its last word)."""
    name = str(dtype).rsplit(".", 1)[-1] if "torch" in str(dtype) else np.dtype(dtype).name  # type: ignore[call-overload]
    return Q_ATOL[name]
