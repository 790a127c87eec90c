"""Small SegFormers of whichever transformers is installed, with weights that matter."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

SMALL = {
    "num_labels": 5,
    "depths": [1, 2, 1, 1],
    "hidden_sizes": [8, 16, 20, 32],
    "decoder_hidden_size": 24,
    "num_attention_heads": [1, 2, 5, 4],
}


def build(kind: str = "SegformerForSemanticSegmentation", **changes: Any) -> Any:
    """A model in evaluation mode, whose BatchNorm has seen something."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(**{**SMALL, **changes})
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
        else:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
