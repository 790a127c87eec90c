"""The kernels for label maps, interpreted, against the plain versions."""

import pytest
import torch

from fastseg import ops
from fastseg.errors import BackendError

# Small and full size: SegFormer's factor; odd ones; several tiles; one pixel; the same; smaller.
SIZES = [
    ((4, 6), (16, 24)),
    ((5, 3), (17, 13)),
    ((3, 9), (7, 70)),
    ((1, 1), (3, 2)),
    ((4, 3), (4, 3)),
    ((9, 8), (5, 3)),
    ((2, 3), (1, 1)),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Of the loss and its gradients, relative to their largest, against the plain version in float64.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def scene(small, full, classes=5, batch=2, dtype=torch.float32):
    torch.manual_seed(classes)
    logits = torch.randn(batch, classes, *small).to(dtype)
    target = torch.randint(0, classes, (batch, *full))
    target[0, 0] = 255
    return logits, target


@pytest.fixture(autouse=True)
def _triton():
    with ops.use_backend("triton"):
        yield


def reference_labels(logits, size, align):
    return ops.reference.upsample_argmax(logits.float(), size, align_corners=align)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(("small", "full"), SIZES)
def test_labels(small, full, align) -> None:
    logits, _ = scene(small, full)
    got = ops.upsample_argmax(logits, full, align_corners=align)
    assert got.dtype == torch.int64
    assert torch.equal(got, reference_labels(logits, full, align))


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_of_every_dtype(dtype) -> None:
    logits, _ = scene((4, 6), (16, 24), dtype=dtype)
    got = ops.upsample_argmax(logits, (16, 24))
    assert torch.equal(got, reference_labels(logits, (16, 24), False))


def test_level_classes_give_the_first_and_nan_wins() -> None:
    logits = torch.zeros(1, 4, 2, 2)
    assert not ops.upsample_argmax(logits, (5, 5)).any()
    logits[0, 2] = logits[0, 1] = 1
    assert (ops.upsample_argmax(logits, (5, 5)) == 1).all()
    logits[0, 2:, 0, 0] = float("nan")
    got = ops.upsample_argmax(logits, (5, 5))
    assert torch.equal(got, reference_labels(logits, (5, 5), False))
    assert (got == 2).any()


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(("small", "full"), SIZES)
def test_confusion(small, full, align) -> None:
    logits, target = scene(small, full)
    got = ops.upsample_confusion(logits, target, ignore_index=255, align_corners=align)
    expected = ops.reference.upsample_confusion(
        logits, target, ignore_index=255, align_corners=align
    )
    assert got.dtype == torch.int64
    assert torch.equal(got, expected)
    assert got.sum() == (target != 255).sum()


def test_labels_that_are_none_spoil_every_count() -> None:
    logits, target = scene((2, 2), (4, 4))
    assert (ops.upsample_confusion(logits, target) == -1).all()
    target[target == 255] = 0
    assert ops.upsample_confusion(logits, target).sum() == target.numel()
    target[1, 1, 1] = -1
    assert (ops.upsample_confusion(logits, target) == -1).all()
    assert ops.upsample_confusion(logits, target, ignore_index=-1).sum() == target.numel() - 1


def loss_and_gradient(function, logits, target, **options):
    logits = logits.detach().requires_grad_()
    loss = function(logits, target, **options)
    (gradient,) = torch.autograd.grad(loss * 3, logits)
    return loss.detach(), gradient


def assert_close(got, expected) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.isfinite().all()
        scale = theirs.abs().max().clamp(min=1e-3)
        assert (mine.double() - theirs).abs().max() / scale <= TOLERANCE[mine.dtype]


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(("small", "full"), SIZES)
def test_cross_entropy_and_its_gradient(small, full, align) -> None:
    logits, target = scene(small, full)
    if full == (1, 1):
        target[:] = 1
    got = loss_and_gradient(ops.upsample_cross_entropy, logits, target, align_corners=align)
    reference = ops.reference.upsample_cross_entropy
    expected = loss_and_gradient(reference, logits.double(), target, align_corners=align)
    assert_close(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 40])
def test_cross_entropy_of_any_dtype_and_number_of_classes(dtype, classes) -> None:
    logits, target = scene((3, 5), (6, 10), classes=classes, dtype=dtype)
    got = loss_and_gradient(ops.upsample_cross_entropy, logits, target)
    reference = ops.reference.upsample_cross_entropy
    expected = loss_and_gradient(reference, logits.double(), target)
    assert got[0].dtype == got[1].dtype == dtype
    assert_close(got, expected)


def test_classes_that_are_ruled_out() -> None:
    logits, target = scene((2, 3), (4, 6))
    logits[:, :2] = -1e30
    target[target < 2] = 2
    loss, gradient = loss_and_gradient(ops.upsample_cross_entropy, logits, target)
    expected = torch.nn.functional.cross_entropy(
        torch.nn.functional.interpolate(logits[:, 2:], size=(4, 6), mode="bilinear"),
        (target - 2).where(target != 255, 255),
        ignore_index=255,
    )
    torch.testing.assert_close(loss, expected)
    assert not gradient[:, :2].any()


def test_labels_that_are_none_make_the_loss_and_gradients_nan() -> None:
    logits, target = scene((2, 2), (4, 4))
    target[1, 2, 2] = 5
    loss, gradient = loss_and_gradient(ops.upsample_cross_entropy, logits, target)
    assert loss.isnan()
    assert gradient.isnan().all()


def test_no_pixel_that_counts_gives_nan() -> None:
    logits, target = scene((2, 2), (4, 4))
    assert ops.upsample_cross_entropy(logits, torch.full_like(target, 255)).isnan()


def test_the_same_bits_every_time() -> None:
    logits, target = scene((5, 3), (17, 13))
    first = loss_and_gradient(ops.upsample_cross_entropy, logits, target)
    again = loss_and_gradient(ops.upsample_cross_entropy, logits, target)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_memory_that_is_not_contiguous() -> None:
    logits, target = scene((4, 6), (8, 12))
    last = logits.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    flipped = target.flip(2).contiguous().flip(2)
    wide = torch.cat([target, target], dim=2)[:, :, :12]
    assert torch.equal(ops.upsample_argmax(last, (8, 12)), ops.upsample_argmax(logits, (8, 12)))
    expected = loss_and_gradient(ops.upsample_cross_entropy, logits, target)
    for other in (flipped, wide):
        got = ops.upsample_confusion(last, other, ignore_index=255)
        assert torch.equal(got, ops.upsample_confusion(logits, target, ignore_index=255))
        got = loss_and_gradient(ops.upsample_cross_entropy, last, other)
        assert_close(got, [x.double() for x in expected])


def test_an_empty_batch() -> None:
    logits, target = torch.zeros(0, 3, 2, 2), torch.zeros(0, 4, 4, dtype=torch.long)
    assert ops.upsample_argmax(logits, (4, 4)).shape == (0, 4, 4)
    assert torch.equal(ops.upsample_confusion(logits, target), torch.zeros(3, 3, dtype=torch.long))
    assert ops.upsample_cross_entropy(logits, target).isnan()


def test_inference_mode() -> None:
    logits, target = scene((2, 3), (4, 6))
    expected = ops.upsample_cross_entropy(logits, target)
    with torch.inference_mode():
        assert torch.equal(ops.upsample_cross_entropy(logits, target), expected)
        assert ops.upsample_argmax(logits, (4, 6)).is_inference()
        assert ops.upsample_confusion(logits, target, ignore_index=255).sum() == 42


def test_float64_is_refused() -> None:
    logits, target = scene((2, 3), (4, 6), dtype=torch.float64)
    for call in (
        lambda: ops.upsample_argmax(logits, (4, 6)),
        lambda: ops.upsample_confusion(logits, target, ignore_index=255),
        lambda: ops.upsample_cross_entropy(logits, target),
    ):
        with pytest.raises(BackendError, match="takes float32, float16 and bfloat16"):
            call()
