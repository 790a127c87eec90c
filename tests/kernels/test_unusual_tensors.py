"""Empty batches, mixed devices, dtypes, layouts and modes: kernels work, or say what is wrong."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastseg import ops
from fastseg.errors import BackendError
from fastseg.ops import _backends

LATTICE = ops.permutohedral_lattice(torch.rand(3, 9))


def same(x):
    return x


class Given:
    """Tensors for an operation."""

    def __init__(self, batch=1, *, dtype=torch.float16, device="cpu", first=same) -> None:
        self.batch, self.dtype, self.device, self.change = batch, dtype, device, first

    def some(self, *shape):
        """A tensor like all others."""
        return torch.rand(shape).to(self.device, self.dtype)

    def first(self, *shape):
        """The one that is changed."""
        return self.change(self.some(self.batch, *shape))

    def labels(self):
        """A target of four by four pixels."""
        return torch.zeros(self.batch, 4, 4, dtype=torch.int64, device=self.device)


def mix_ffn(given):
    conv = given.some(6, 1, 3, 3), given.some(6)
    hidden = given.some(6, 3), given.some(6), *conv, given.some(3, 6), given.some(3)
    return ops.mix_ffn(given.first(4, 4, 3), *hidden)


def folded_decoder(given):
    features = [given.first(4, 4, 3), given.some(given.batch, 2, 2, 3)]
    weights, classifier = [given.some(5, 3), given.some(5, 3)], (given.some(2, 5), given.some(2))
    return ops.folded_decoder(features, weights, given.some(5), *classifier)


def attention(given):
    keys = given.some(given.batch, 3, 16)
    return ops.sequence_reduced_attention(given.first(4, 16), keys, keys, num_heads=1)


def sequence_reduction(given):
    vectors = [given.some(5) for _ in range(3)]
    return ops.sequence_reduction(given.first(4, 4, 3), given.some(5, 3, 2, 2), *vectors)


def layer_norm_residual(given):
    branch, vectors = given.some(given.batch, 4, 3), [given.some(3), given.some(3)]
    return ops.layer_norm_residual(given.first(4, 3), branch, *vectors)[1]


CALLS = {
    "depthwise_conv_gelu": lambda given: ops.depthwise_conv_gelu(
        given.first(4, 4, 3), given.some(3, 1, 3, 3), given.some(3)
    ),
    "upsample_sum": lambda given: ops.upsample_sum(
        [given.first(4, 4, 3), given.some(given.batch, 2, 2, 3)], given.some(3)
    ),
    "folded_decoder": folded_decoder,
    "mix_ffn": mix_ffn,
    "attention": attention,
    "sequence_reduction": sequence_reduction,
    "layer_norm_residual": layer_norm_residual,
    "upsample_argmax": lambda given: ops.upsample_argmax(given.first(3, 2, 2), (4, 4)),
    "upsample_confusion": lambda given: ops.upsample_confusion(
        given.first(3, 2, 2), given.labels()
    ),
    "upsample_cross_entropy": lambda given: ops.upsample_cross_entropy(
        given.first(3, 2, 2), given.labels()
    ),
}
# The lattice's tensors have no batch.
POINTS = {
    "splat": lambda given: LATTICE.splat(given.change(given.some(9, 2))),
    "blur": lambda given: LATTICE.blur(given.change(given.some(LATTICE.num_vertices, 2))),
    "slice": lambda given: LATTICE.slice(
        given.change(given.some(LATTICE.num_vertices, 2).to(torch.float32))
    ),
}
EVERYTHING = {**CALLS, **POINTS}


@pytest.mark.parametrize("name", list(CALLS)[:-2])
def test_an_empty_batch_gives_an_empty_result(name) -> None:
    with ops.use_backend("triton"):
        out = CALLS[name](Given(batch=0))
        assert out.shape == (0, *CALLS[name](Given()).shape[1:])


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


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("name", [name for name in EVERYTHING if name != "upsample_argmax"])
def test_tensors_on_different_devices_are_named(name, backend) -> None:
    given = Given(first=lambda x: x.to("meta"))
    message = "all tensors on one device, got cpu, meta"
    with ops.use_backend(backend), pytest.raises(BackendError, match=message):
        EVERYTHING[name](given)


@pytest.mark.parametrize("name", CALLS)
def test_a_device_that_runs_no_kernels_is_named(name) -> None:
    message = "takes tensors on a GPU, got one on meta"
    with ops.use_backend("triton"), pytest.raises(BackendError, match=message):
        CALLS[name](Given(device="meta"))


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_dtype_that_no_kernel_takes_is_named(name) -> None:
    message = r"float32, float16 and bfloat16 tensors, got .*64"
    given = Given(dtype=torch.float64, first=lambda x: x.double())
    with ops.use_backend("triton"), pytest.raises(BackendError, match=message):
        EVERYTHING[name](given)


@pytest.mark.parametrize("backend", ["", "triton", "torch"])
@pytest.mark.parametrize("name", EVERYTHING)
def test_a_layout_that_is_not_dense_is_named(name, backend, monkeypatch) -> None:
    monkeypatch.setattr(_backends, "_chosen", backend)
    message = r"expected dense tensors, got one of layout torch\.sparse_coo; .*\.to_dense\(\)"
    with pytest.raises(BackendError, match=message):
        EVERYTHING[name](Given(first=torch.Tensor.to_sparse))


@pytest.mark.parametrize("name", EVERYTHING)
def test_inference_mode(name) -> None:
    torch.manual_seed(0)
    with ops.use_backend("triton"):
        expected = EVERYTHING[name](Given())
        torch.manual_seed(0)
        with torch.inference_mode():
            got = EVERYTHING[name](Given())
    assert got.is_inference()
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", CALLS)
def test_a_gpu_runs_pytorch_for_other_dtypes(name) -> None:
    with FakeTensorMode():
        out = CALLS[name](Given(batch=2, device="cuda", dtype=torch.float64))
    assert out.device.type == "cuda"
    assert out.shape == CALLS[name](Given(batch=2)).shape


# What kernels have no room for.
BEYOND = {
    "wide heads": lambda some: ops.sequence_reduced_attention(*[some(1, 3, 129)] * 3, num_heads=1),
    "many channels": lambda some: ops.layer_norm_residual(
        some(1, 2049), some(1, 2049), some(2049), some(2049)
    )[1],
    "many outputs": lambda some: ops.sequence_reduction(
        some(1, 2, 2, 1), some(513, 1, 1, 1), some(513), some(513), some(513)
    ),
    "many maps": lambda some: ops.upsample_sum([some(1, 2, 2, 3)] * 5, some(3)),
    "large classes": lambda some: ops.upsample_argmax(some(1, 2, 2**16, 2**16), (1, 1)),
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_gpu_runs_pytorch_for_other_sizes(name) -> None:
    given = Given(device="cuda")
    with FakeTensorMode():
        assert BEYOND[name](given.some).device.type == "cuda"
        with ops.use_backend("triton"), pytest.raises(BackendError, match="the triton backend"):
            BEYOND[name](given.some)


@pytest.mark.parametrize("name", CALLS)
def test_a_gpu_runs_kernels_where_they_can(name, monkeypatch) -> None:
    launched = []

    # Interpreted kernels take no fake tensors.
    def launch(*_: object, **__: object) -> None:
        launched.append(name)

    monkeypatch.setattr("triton.runtime.interpreter.GridExecutor.__call__", launch)
    with FakeTensorMode(), torch.no_grad():
        CALLS[name](Given(device="cuda"))
    assert launched


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_machine_without_triton(name, monkeypatch) -> None:
    monkeypatch.setattr(_backends, "find_spec", lambda _: None)
    EVERYTHING[name](Given())
    with ops.use_backend("triton"), pytest.raises(BackendError, match="needs the triton package"):
        EVERYTHING[name](Given())
