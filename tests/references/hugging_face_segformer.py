"""Small SegFormers of transformers, with weights that leave nothing at its default."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SIZES = {
    "b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}
TINY: dict[str, Any] = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 2, 1, 1],
    "num_attention_heads": [1, 2, 3, 4],
    "decoder_hidden_size": 24,
}


def randomised(model: nn.Module) -> nn.Module:
    """Gives every weight and BatchNorm's statistics values that matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif name.endswith("running_mean"):
                tensor.normal_(0, 0.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
            elif tensor.ndim > 1:
                tensor.normal_(0, 0.04, generator=generator)
    return model


def segmentation(size: str | None = None, *, num_labels: int = 5, **config: Any) -> nn.Module:
    """`SegformerForSemanticSegmentation` in evaluation mode; tiny without a size."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    if size is None:
        config = {**TINY, **config}
    else:
        widths, depths, decoder = SIZES[size]
        config = {
            "hidden_sizes": widths,
            "depths": depths,
            "decoder_hidden_size": decoder,
            **config,
        }
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=num_labels, **config))
    return randomised(model).eval()


def classification(**config: Any) -> nn.Module:
    """A tiny `SegformerForImageClassification` in evaluation mode."""
    from transformers import SegformerConfig, SegformerForImageClassification

    return randomised(
        SegformerForImageClassification(SegformerConfig(num_labels=5, **TINY, **config))
    ).eval()
