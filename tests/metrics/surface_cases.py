"""Pairs of masks of every kind that surfaces are measured on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """A prediction and its target."""

    name: str
    pred: NDArray[np.bool_]
    target: NDArray[np.bool_]
    spacing: tuple[float, ...]


def blob(shape: tuple[int, ...], seed: int, size: float) -> NDArray[np.bool_]:
    """A ball with a bumpy surface."""
    random = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    centre = random.uniform(-0.3, 0.3, len(shape)).reshape(-1, *[1] * len(shape))
    bumps = sum(np.sin(random.uniform(2, 9) * place + random.uniform(0, 6)) for place in places)
    mask: NDArray[np.bool_] = np.sqrt(((places - centre) ** 2).sum(0)) + 0.08 * bumps < size
    return mask


def cases() -> list[Case]:
    made = []
    for shape, spacings in (
        ((30, 41), [(1.0, 1.0), (0.7, 1.9)]),
        ((17, 64), [(3.0, 2.0)]),
        ((14, 22, 19), [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (2.5, 0.8, 1.3)]),
    ):
        random = np.random.default_rng(7)
        for spacing in spacings:
            text = f"{shape}-{spacing}"
            near = blob(shape, 1, 0.6), blob(shape, 2, 0.55)
            made.append(Case(f"blobs-{text}", *near, spacing))
            noise = random.random(shape) < 0.3, random.random(shape) < 0.4
            made.append(Case(f"noise-{text}", *noise, spacing))
            made.append(Case(f"edge-{text}", np.ones(shape, bool), near[1], spacing))
            point = np.zeros(shape, bool)
            point.flat[0] = True
            made.append(Case(f"corner-{text}", point, near[0], spacing))
            made.append(Case(f"same-{text}", near[0], near[0], spacing))
    return made
