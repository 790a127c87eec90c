"""Autocast on a GPU, which is not there: operations compute in its dtype, as layers do."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastseg import ops
from fastseg.errors import DtypeError


@pytest.fixture
def autocast():
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", before)


def test_operations_compute_in_the_dtype_of_autocast(autocast) -> None:
    # The kernels are interpreted in tests, and the interpreter takes no fake tensors.
    with FakeTensorMode(), torch.no_grad(), ops.use_backend("torch"):

        def some(*shape):
            return torch.empty(shape, device="cuda")

        tokens, small = some(1, 4, 4, 8), some(1, 2, 2, 8)
        hidden = some(32, 8), some(32), some(32, 1, 3, 3), some(32), some(8, 32), some(8)
        decoder = [some(8, 8), some(8, 8)], some(8), some(3, 8), some(3)
        results = [
            ops.depthwise_conv_gelu(tokens, some(8, 1, 3, 3), some(8)),
            ops.folded_decoder([tokens, small], *decoder),
            ops.mix_ffn(tokens, *hidden),
            ops.sequence_reduced_attention(*[some(1, 4, 8)] * 3, num_heads=1),
            ops.sequence_reduction(tokens, some(6, 8, 2, 2), *[some(6)] * 3),
            ops.layer_norm_residual(tokens, tokens, some(8), some(8))[1],
        ]
        assert [out.dtype for out in results] == [torch.bfloat16] * 6
        # The residual stream stays as it is; sums are not on autocast's list.
        assert ops.mix_ffn(tokens, *hidden, tokens).dtype == torch.float32
        assert ops.upsample_sum([tokens, small], some(8)).dtype == torch.float32


def test_double_precision_stays_as_pytorch_has_it(autocast) -> None:
    with FakeTensorMode(), torch.no_grad(), ops.use_backend("torch"):
        query = torch.empty(1, 4, 8, device="cuda", dtype=torch.float64)
        assert ops.sequence_reduced_attention(*[query] * 3, num_heads=1).dtype == torch.float64
        with pytest.raises(DtypeError):
            ops.sequence_reduced_attention(*[query.long()] * 3, num_heads=1)


def test_losses_are_computed_in_float32(autocast) -> None:
    with FakeTensorMode(), ops.use_backend("torch"):
        logits = torch.empty(1, 3, 4, 4, device="cuda", dtype=torch.bfloat16)
        target = torch.empty(1, 8, 8, device="cuda", dtype=torch.long)
        assert ops.upsample_cross_entropy(logits, target).dtype == torch.float32
