"""TF32 is what PyTorch's flag says, and for float32 alone."""

import pytest
import torch

from fastseg.kernels.precision import input_precision


@pytest.mark.parametrize("allowed", [True, False])
def test_the_flag_is_for_float32(allowed) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        assert input_precision(torch.ones(1)) == ("tf32" if allowed else "ieee")
        assert input_precision(torch.ones(1).half()) == "ieee"
        assert input_precision(torch.ones(1).bfloat16()) == "ieee"
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
