"""MS-SSIM: the formula, pytorch-msssim, clamped terms and small pictures."""

import numpy as np
import pytest
import torch

from fastseg import losses
from fastseg.errors import ShapeError
from losses.cases import IGNORE, scene
from references import plain_losses

SMALL = {"window": 3, "sigma": 0.8, "scale_weights": (0.2, 0.5, 0.3)}


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("size", [(12, 12), (15, 13)])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_against_the_formula(classes, size, ignored):
    logits, target = scene(classes, (2, *size), ignored=ignored)
    # Coarse truth, as noise has no structure that a coarse scale could keep.
    logits = logits / 4 + 1.5 * (target == 0).unsqueeze(1)
    probs, masks, counted = plain_losses.prepared(logits.numpy(), target.numpy(), IGNORE)
    expected = []
    for b in range(2):
        weight = counted[b].reshape(size).astype(float)
        for k in range(classes):
            p, t = probs[b, k].reshape(size) * weight, masks[b, k].reshape(size) * weight
            value = plain_losses.ms_ssim(p, t, 3, 0.8, SMALL["scale_weights"], weight)
            expected.append(1 - value)
    got = losses.ms_ssim_loss(logits, target, ignore_index=IGNORE, **SMALL)
    assert got.item() == pytest.approx(np.mean(expected), rel=1e-10)


def blobs(size, classes=1, seed=0):
    """Logits that are roughly right about a few smooth regions."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, classes, 8, 8, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
    target = (smooth[:, 0] > 0).long() if classes == 1 else smooth.argmax(1)
    noise = torch.randn(smooth.shape, generator=generator, dtype=torch.float64)
    return 3 * smooth + noise, target


def window(channels):
    """Its Gaussian window in float64, as its own is rounded to float32."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    kernel = torch.exp(-(offsets**2) / 4.5)
    return (kernel / kernel.sum()).repeat(channels, 1, 1, 1)


class TestAgainstPytorchMsssim:
    """Deviation: odd sides, which it pads with zeros."""

    msssim = pytest.importorskip("pytorch_msssim")

    @pytest.mark.parametrize("size", [(176, 176), (192, 224)])
    def test_values_and_gradients(self, size):
        logits, target = blobs(size)
        ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
        got = losses.ms_ssim_loss(ours, target)
        expected = 1 - self.msssim.ms_ssim(
            theirs.sigmoid(), target.unsqueeze(1).double(), data_range=1, win=window(1)
        )
        torch.testing.assert_close(got, expected)
        got.backward()
        expected.backward()
        scale = theirs.grad.abs().max()
        torch.testing.assert_close(ours.grad / scale, theirs.grad / scale, rtol=0, atol=1e-6)

    def test_classes(self):
        logits, target = blobs((176, 176), classes=3)
        masks = torch.eye(3, dtype=torch.float64)[target].permute(0, 3, 1, 2)
        expected = 1 - self.msssim.ms_ssim(logits.softmax(1), masks, data_range=1, win=window(3))
        torch.testing.assert_close(losses.ms_ssim_loss(logits, target), expected)

    def test_clamped_terms_have_a_gradient_of_zero(self):
        logits, target = blobs((176, 176))
        wrong = (-logits).requires_grad_()
        value = losses.ms_ssim_loss(wrong, target)
        value.backward()
        assert value == 1
        assert (wrong.grad == 0).all()
        masks = target.unsqueeze(1).double()
        assert self.msssim.ms_ssim(wrong.detach().sigmoid(), masks, data_range=1) == 0

    def test_odd_sides_differ(self):
        logits, target = blobs((181, 181))
        theirs = 1 - self.msssim.ms_ssim(
            logits.sigmoid(), target.unsqueeze(1).double(), data_range=1
        )
        got = losses.ms_ssim_loss(logits, target)
        assert 0 < abs(got - theirs) < 0.05


@pytest.mark.parametrize("size", [(175, 400), (400, 175), (11, 11)])
def test_too_small(size):
    logits, target = scene(1, (1, *size), ignored=0)
    with pytest.raises(ShapeError, match="at least 176"):
        losses.ms_ssim_loss(logits, target)
    with pytest.raises(ShapeError, match="fewer scale_weights"):
        losses.unet3p_hybrid_loss(logits, target)
    assert torch.isfinite(losses.ms_ssim_loss(logits, target, scale_weights=(1.0,)))


def test_a_narrow_window_is_a_pixel():
    logits, target = scene(1, (1, 12, 12), ignored=0)
    narrow = losses.ms_ssim_loss(logits, target, **{**SMALL, "sigma": 1e-30})
    torch.testing.assert_close(
        narrow, losses.ms_ssim_loss(logits, target, **{**SMALL, "sigma": 0.05})
    )


def test_volumes_are_refused():
    logits, target = scene(1, (1, 8, 8, 8), ignored=0)
    with pytest.raises(ShapeError, match=r"\(B, K, H, W\)"):
        losses.ms_ssim_loss(logits, target, **SMALL)


def test_multilabel_masks():
    logits, target = scene(3, (2, 12, 12), ignored=0)
    masks = torch.eye(3, dtype=torch.float64)[target].permute(0, 3, 1, 2)
    got = losses.ms_ssim_loss(logits, masks, multilabel=True, **SMALL)
    each = [losses.ms_ssim_loss(logits[:, k : k + 1], masks[:, k], **SMALL) for k in range(3)]
    torch.testing.assert_close(got, torch.stack(each).mean())
