"""What `refine` was asked for, checked: all that does not depend on the kind of array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastseg.crf._inference import Progress
from fastseg.crf._kernels import Axis, Compatibility, Normalization
from fastseg.crf._layout import Layout

# The axes of a kernel, and what it says about labels.
WeightedGrid: TypeAlias = tuple[Sequence[Axis], Compatibility]


@dataclass(frozen=True)
class Task:
    """What `refine` was asked for.

    Attributes:
        name: the argument that holds the scores, "probs" or "logits".
        layout: what the axes of the scores mean.
        spatial: axes and compatibility of the kernel over position; None leaves it out.
        bilateral: the same of the kernel over position and colour.
        color_sigma: one for all channels or one for each, not yet checked.
        channel_axis: of one image; None finds out.
        normalization: of both kernels.
        clip: the least probability.
        iterations: the most updates.
        tolerance: the change of the free energy to stop at, in nats a pixel; None never stops.
        wants_labels: whether labels are returned instead of probabilities.
        progress: called after every update.
    """

    name: str
    layout: Layout
    spatial: WeightedGrid | None
    bilateral: WeightedGrid | None
    color_sigma: Any
    channel_axis: int | None
    normalization: Normalization
    clip: float
    iterations: int
    tolerance: float | None
    wants_labels: bool
    progress: Progress | None

    @property
    def are_logits(self) -> bool:
        """Whether the scores are those before the softmax."""
        return self.name == "logits"
