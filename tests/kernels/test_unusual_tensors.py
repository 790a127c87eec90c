"""Empty batches, mixed devices, dtypes and modes: the kernels work, or say what is wrong."""

import pytest
import torch

from fastseg import ops
from fastseg.errors import BackendError


def call(name, batch=1, *, dtype=torch.float16, device="cpu", first_device="cpu"):
    """Calls an operation; the tensors with a batch axis come first."""

    def some(*shape, device=device):
        return torch.rand(shape, device=device).to(dtype)

    tokens, half = some(batch, 4, 4, 3, device=first_device), some(batch, 2, 2, 3)
    conv = some(6, 1, 3, 3), some(6)
    arguments = {
        "depthwise_conv_gelu": lambda: (tokens, some(3, 1, 3, 3), some(3)),
        "upsample_sum": lambda: ([tokens, half], some(3)),
        "folded_decoder": lambda: (
            *([tokens, half], [some(5, 3), some(5, 3)]),
            *(some(5), some(2, 5), some(2)),
        ),
        "mix_ffn": lambda: (tokens, some(6, 3), some(6), *conv, some(3, 6), some(3)),
    }
    with ops.use_backend("triton"):
        return getattr(ops, name)(*arguments[name]())


@pytest.fixture(params=["depthwise_conv_gelu", "upsample_sum", "folded_decoder", "mix_ffn"])
def name(request):
    return request.param


def test_an_empty_batch_gives_an_empty_result(name) -> None:
    out = call(name, batch=0)
    assert out.shape == (0, *call(name).shape[1:])


def test_gradients_of_an_empty_batch_are_zero() -> None:
    tokens = torch.zeros(0, 4, 4, 3, requires_grad=True)
    weight, bias = torch.ones(3, 1, 3, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    with ops.use_backend("triton"):
        ops.depthwise_conv_gelu(tokens, weight, bias).sum().backward()
        maps = [tokens, torch.zeros(0, 2, 2, 3, requires_grad=True)]
        offset = torch.ones(3, requires_grad=True)
        ops.upsample_sum(maps, offset).sum().backward()
    assert maps[1].grad.shape == (0, 2, 2, 3)
    assert not weight.grad.any()
    assert not bias.grad.any()
    assert not offset.grad.any()


def test_tensors_on_different_devices_are_named(name) -> None:
    with pytest.raises(BackendError, match="all tensors on one device, got cpu, meta"):
        call(name, first_device="meta")


def test_a_device_that_runs_no_kernels_is_named(name) -> None:
    with pytest.raises(BackendError, match="takes tensors on a GPU, got one on meta"):
        call(name, device="meta", first_device="meta")


def test_a_dtype_that_no_kernel_takes_is_named(name) -> None:
    with pytest.raises(BackendError, match=r"float32, float16 and bfloat16 tensors, got .*64"):
        call(name, dtype=torch.float64)


def test_inference_mode(name) -> None:
    torch.manual_seed(0)
    expected = call(name)
    torch.manual_seed(0)
    with torch.inference_mode():
        got = call(name)
    assert got.is_inference()
    assert torch.equal(got, expected)
