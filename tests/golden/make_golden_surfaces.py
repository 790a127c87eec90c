"""Writes golden_surfaces.npz: what DeepMind's surface-distance, MONAI and medpy measure.

    PYTHONPATH=tests python tests/golden/make_golden_surfaces.py

Made with surface-distance 0.1, MONAI 1.6.1 and medpy 0.5.2.
"""

from pathlib import Path

import numpy as np
import surface_distance
import torch
from medpy.metric import binary
from monai import metrics

from metrics.surface_cases import Case, cases

TOLERANCES = (0, 0.7, 1, 2.5, 4)


def deepmind(case: Case) -> tuple[list[float], list[float]]:
    found = surface_distance.compute_surface_distances(case.target, case.pred, case.spacing)
    return [
        surface_distance.compute_robust_hausdorff(found, 100),
        surface_distance.compute_robust_hausdorff(found, 95),
        surface_distance.compute_average_surface_distance(found)[1],
    ], [surface_distance.compute_surface_dice_at_tolerance(found, near) for near in TOLERANCES]


def monai(case: Case) -> tuple[list[float], list[float]]:
    pred, target = (
        torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32))
        for mask in (case.pred, case.target)
    )
    spacing = case.spacing
    return [
        metrics.compute_hausdorff_distance(pred, target, spacing=spacing).item(),
        metrics.compute_hausdorff_distance(pred, target, percentile=95, spacing=spacing).item(),
        metrics.compute_average_surface_distance(pred, target, spacing=spacing).item(),
    ], [
        metrics.compute_surface_dice(pred, target, [near], spacing=spacing).item()
        for near in TOLERANCES
    ]


def medpy(case: Case) -> list[float]:
    arguments = case.pred, case.target, case.spacing
    return [binary.hd(*arguments), binary.hd95(*arguments), binary.asd(*arguments)]


if __name__ == "__main__":
    both = {"deepmind": list(map(deepmind, cases())), "monai": list(map(monai, cases()))}
    np.savez_compressed(
        Path(__file__).with_name("golden_surfaces.npz"),
        medpy=list(map(medpy, cases())),
        **{name: [one for one, _ in found] for name, found in both.items()},
        **{f"{name}_nsd": [shares for _, shares in found] for name, found in both.items()},
    )
