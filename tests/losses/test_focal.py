"""The focal losses: the formula, kornia, MONAI, torchvision and segmentation_models_pytorch."""

import pytest
import torch
from torch.nn import functional as F

from fastseg import losses
from losses.cases import IGNORE, scene
from references import plain_losses


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 0.0]])
def test_softmax_against_the_formula(gamma, weight):
    logits, target = scene(3)
    expected = plain_losses.focal(
        logits.numpy(), target.numpy(), gamma=gamma, ignore_index=IGNORE, class_weight=weight
    )
    got = losses.focal_loss(logits, target, gamma=gamma, ignore_index=IGNORE, class_weight=weight)
    assert got.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25, 1.0])
def test_sigmoid_against_the_formula(classes, gamma, alpha):
    logits, target = scene(classes)
    expected = plain_losses.sigmoid_focal(
        logits.numpy(), target.numpy(), gamma=gamma, alpha=alpha, ignore_index=IGNORE
    )
    got = losses.sigmoid_focal_loss(logits, target, gamma=gamma, alpha=alpha, ignore_index=IGNORE)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_gamma_of_zero_is_cross_entropy():
    logits, target = scene(3)
    expected = F.cross_entropy(logits, target, ignore_index=IGNORE)
    got = losses.focal_loss(logits, target, gamma=0, ignore_index=IGNORE)
    torch.testing.assert_close(got, expected)
    logits, target = scene(1, ignored=0)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], target.double())
    got = losses.sigmoid_focal_loss(logits, target, gamma=0, alpha=None)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("strength", [60.0, 1e4])
def test_certain_pixels_have_finite_gradients(gamma, strength):
    for classes, function in ((3, losses.focal_loss), (1, losses.sigmoid_focal_loss)):
        _, target = scene(classes, ignored=0)
        sign = 2.0 * target - 1 if classes == 1 else torch.eye(3)[target].permute(0, 3, 1, 2)
        logits = (strength * sign).reshape(2, classes, 6, 6).float().requires_grad_()
        value = function(logits, target, gamma=gamma)
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-6)
        assert torch.isfinite(logits.grad).all()


class TestAgainstKornia:
    """Deviation: its mean divides by the ignored pixels, too, and a softmax's by the classes."""

    kornia = pytest.importorskip("kornia.losses")

    @pytest.mark.parametrize("gamma", [0.5, 2.0])
    def test_softmax(self, gamma):
        logits, target = scene(4)
        theirs = self.kornia.focal_loss(
            logits, target, alpha=None, gamma=gamma, reduction="sum", ignore_index=IGNORE
        )
        got = losses.focal_loss(logits, target, gamma=gamma, ignore_index=IGNORE)
        torch.testing.assert_close(got, theirs / (target != IGNORE).sum())

    def test_mean(self):
        logits, target = scene(4, ignored=0)
        theirs = self.kornia.focal_loss(logits, target, alpha=None, reduction="mean")
        torch.testing.assert_close(losses.focal_loss(logits, target) / 4, theirs)

    def test_sigmoid(self):
        logits, target = scene(1, ignored=0)
        theirs = self.kornia.binary_focal_loss_with_logits(
            logits, target.unsqueeze(1).double(), reduction="mean"
        )
        torch.testing.assert_close(losses.sigmoid_focal_loss(logits, target), theirs)


class TestAgainstMonai:
    """Deviation: its mean divides the softmax loss by the classes, too."""

    monai = pytest.importorskip("monai.losses")

    def test_softmax(self):
        logits, target = scene(4, ignored=0)
        theirs = self.monai.FocalLoss(use_softmax=True, to_onehot_y=True)
        got = losses.focal_loss(logits, target)
        torch.testing.assert_close(got / 4, theirs(logits, target.unsqueeze(1)).to(got.dtype))

    def test_sigmoid(self):
        logits, target = scene(1, ignored=0)
        theirs = self.monai.FocalLoss(alpha=0.25)(logits, target.unsqueeze(1))
        got = losses.sigmoid_focal_loss(logits, target)
        torch.testing.assert_close(got, theirs.to(got.dtype), rtol=1e-6, atol=0)


def test_sigmoid_against_torchvision():
    ops = pytest.importorskip("torchvision.ops")
    for classes in (1, 4):
        logits, target = scene(classes, ignored=0)
        masks = target.unsqueeze(1) if classes == 1 else torch.eye(4)[target].permute(0, 3, 1, 2)
        theirs = ops.sigmoid_focal_loss(logits, masks.double(), reduction="mean")
        torch.testing.assert_close(losses.sigmoid_focal_loss(logits, target), theirs)


def test_sigmoid_against_segmentation_models():
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = scene(4)
    theirs = smp.FocalLoss("multiclass", alpha=0.25, ignore_index=IGNORE)(logits, target)
    got = losses.sigmoid_focal_loss(logits, target, ignore_index=IGNORE)
    torch.testing.assert_close(got, theirs)
