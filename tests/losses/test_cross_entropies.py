"""Border-weighted cross entropy, hard examples, BCE + Dice, and U-Net 3+'s hybrid."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastseg import losses
from fastseg.errors import DataError, DtypeError, ShapeError
from losses.cases import IGNORE, scene
from references import plain_losses


class TestBorderWeighted:
    def weights(self, shape=(2, 6, 6)):
        return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    @pytest.mark.parametrize("classes", [1, 3])
    def test_formula(self, classes):
        logits, target = scene(classes)
        weight = self.weights()
        keep = target != IGNORE
        safe = target.masked_fill(~keep, 0)
        if classes == 1:
            each = F.binary_cross_entropy_with_logits(logits[:, 0], safe.double(), reduction="none")
        else:
            each = F.cross_entropy(logits, safe, reduction="none")
        expected = (weight * each)[keep].mean()
        loss = losses.BorderWeightedCrossEntropy(ignore_index=IGNORE)
        torch.testing.assert_close(loss(logits, target, weight), expected)
        torch.testing.assert_close(loss(logits, target, weight.unsqueeze(1)), expected)

    def test_weights_of_one_are_cross_entropy(self):
        logits, target = scene(3)
        got = losses.border_weighted_cross_entropy(
            logits, target, torch.ones(2, 6, 6), ignore_index=IGNORE
        )
        expected = F.cross_entropy(logits, target, ignore_index=IGNORE)
        torch.testing.assert_close(got, expected)

    def test_a_weight_of_an_ignored_pixel_may_be_anything(self):
        logits, target = scene(3)
        weight = self.weights()
        expected = losses.border_weighted_cross_entropy(logits, target, weight, ignore_index=IGNORE)
        weight[target == IGNORE] = float("nan")
        got = losses.border_weighted_cross_entropy(logits, target, weight, ignore_index=IGNORE)
        assert got == expected

    def test_bad_weights(self):
        logits, target = scene(3, ignored=0)
        weight = self.weights()
        call = losses.border_weighted_cross_entropy
        for bad in (-weight, weight * float("nan"), weight / 0):
            with pytest.raises(DataError, match="weight"):
                call(logits, target, bad)
        with pytest.raises(ShapeError, match=r"weight: expected \(2, 6, 6\)"):
            call(logits, target, weight[:1])
        with pytest.raises(DtypeError, match="floating point"):
            call(logits, target, weight.long())
        with pytest.raises(DtypeError, match=r"torch\.from_numpy"):
            call(logits, target, weight.numpy())


class TestHardExamples:
    @pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7, 1.0])
    @pytest.mark.parametrize("min_kept", [0, 1, 7, 30, 1000])
    def test_formula(self, threshold, min_kept):
        logits, target = scene(3)
        expected = plain_losses.ohem(
            logits.numpy(), target.numpy(), threshold, min_kept, ignore_index=IGNORE
        )
        got = losses.ohem_cross_entropy_loss(
            logits, target, threshold=threshold, min_kept=min_kept, ignore_index=IGNORE
        )
        assert got.item() == pytest.approx(expected, rel=1e-12)

    def test_everything_kept_is_cross_entropy(self):
        logits, target = scene(3)
        got = losses.ohem_cross_entropy_loss(logits, target, threshold=1, ignore_index=IGNORE)
        expected = F.cross_entropy(logits, target, ignore_index=IGNORE)
        torch.testing.assert_close(got, expected)

    def test_easy_pixels_get_no_gradient(self):
        logits, target = scene(3, ignored=0)
        logits.requires_grad_()
        losses.ohem_cross_entropy_loss(logits, target, threshold=0.5, min_kept=3).backward()
        probs = logits.detach().softmax(1).gather(1, target.unsqueeze(1))
        moved = (logits.grad != 0).any(1, keepdim=True)
        assert torch.equal(moved, probs <= 0.5)


class TestHybrids:
    @pytest.mark.parametrize("classes", [1, 3])
    def test_bce_dice(self, classes):
        logits, target = scene(classes)
        bce = losses.sigmoid_focal_loss(logits, target, gamma=0, alpha=None, ignore_index=IGNORE)
        dice = losses.dice_loss(logits, target, multilabel=True, ignore_index=IGNORE)
        got = losses.bce_dice_loss(
            logits, target, bce_weight=0.25, dice_weight=2, ignore_index=IGNORE
        )
        torch.testing.assert_close(got, 0.25 * bce + 2 * dice)

    def test_bce_dice_is_the_papers(self):
        logits, target = scene(1, ignored=0)
        p, y = logits.sigmoid().numpy().ravel(), target.numpy().ravel()
        bce = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
        dice = 2 * (p * y).sum() / (p.sum() + y.sum())
        got = losses.bce_dice_loss(logits, target)
        assert got.item() == pytest.approx(0.5 * bce + 1 - dice, rel=1e-12)

    def test_bce_against_segmentation_models(self):
        smp = pytest.importorskip("segmentation_models_pytorch.losses")
        logits, target = scene(1)
        theirs = smp.SoftBCEWithLogitsLoss(ignore_index=IGNORE, reduction="sum")
        expected = theirs(logits, target.unsqueeze(1).double()) / (target != IGNORE).sum()
        got = losses.bce_dice_loss(logits, target, bce_weight=1, dice_weight=0, ignore_index=IGNORE)
        torch.testing.assert_close(got, expected)

    @pytest.mark.parametrize("classes", [1, 3])
    def test_unet3p(self, classes):
        logits, target = scene(classes, (2, 12, 12))
        options = {"window": 3, "scale_weights": (0.5, 0.5)}
        common = {"ignore_index": IGNORE}
        focal = (
            losses.sigmoid_focal_loss(logits, target, gamma=1.5, alpha=None, **common)
            if classes == 1
            else losses.focal_loss(logits, target, gamma=1.5, **common)
        )
        expected = (
            0.5 * focal
            + losses.ms_ssim_loss(logits, target, **options, **common)
            + 2 * losses.iou_loss(logits, target, **common)
        )
        got = losses.unet3p_hybrid_loss(
            logits, target, weights=(0.5, 1, 2), gamma=1.5, **options, **common
        )
        torch.testing.assert_close(got, expected)
