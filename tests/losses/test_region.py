"""Dice, IoU and Tversky: their values, against the formula and three libraries."""

import numpy as np
import pytest
import torch

from fastseg import losses
from losses.cases import IGNORE, scene
from references import plain_losses


def dice_score(tp, fp, fn, smooth=0.0):
    return (2 * tp + smooth) / (2 * tp + fp + fn + smooth)


def iou_score(tp, fp, fn, smooth=0.0):
    return (tp + smooth) / (tp + fp + fn + smooth)


def tversky_score(tp, fp, fn, alpha=0.3, beta=0.7, smooth=0.0):
    return (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)


SCORES = {
    losses.dice_loss: dice_score,
    losses.iou_loss: iou_score,
    losses.tversky_loss: tversky_score,
}
FUNCTIONS = pytest.mark.parametrize("function", SCORES, ids=lambda f: f.__name__)


def with_an_absent_class(classes=4):
    logits, target = scene(classes)
    return logits, target.masked_fill(target == 2, 0)


@FUNCTIONS
@pytest.mark.parametrize("absent", ["skip", "count"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("multilabel", [False, True])
def test_against_the_formula(function, absent, per_image, multilabel):
    logits, target = with_an_absent_class()
    target[0, :3] = 1
    options = {"absent": absent, "per_image": per_image, "multilabel": multilabel}
    expected = plain_losses.region(
        logits.numpy(), target.numpy(), SCORES[function], ignore_index=IGNORE, **options
    )
    got = function(logits, target, ignore_index=IGNORE, **options)
    assert got.item() == pytest.approx(expected, rel=1e-12)


@FUNCTIONS
def test_options_against_the_formula(function):
    logits, target = with_an_absent_class()
    weight = [0.5, 2.0, 1.0, 0.0]
    expected = plain_losses.region(
        logits.numpy(),
        target.numpy(),
        lambda tp, fp, fn: SCORES[function](tp, fp, fn, smooth=1.5),
        ignore_index=IGNORE,
        absent="count",
        class_weight=weight,
    )
    got = function(
        logits, target, ignore_index=IGNORE, smooth=1.5, absent="count", class_weight=weight
    )
    assert got.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.75, 2.0])
def test_focal_tversky(gamma):
    logits, target = scene(3)
    expected = plain_losses.region(
        logits.numpy(),
        target.numpy(),
        lambda tp, fp, fn: tversky_score(tp, fp, fn, 0.2, 0.9),
        ignore_index=IGNORE,
        gamma=gamma,
    )
    got = losses.tversky_loss(logits, target, ignore_index=IGNORE, alpha=0.2, beta=0.9, gamma=gamma)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_tversky_is_between_dice_and_iou():
    logits, target = scene(3, ignored=0)
    dice = losses.tversky_loss(logits, target, alpha=0.5, beta=0.5)
    iou = losses.tversky_loss(logits, target, alpha=1, beta=1)
    torch.testing.assert_close(dice, losses.dice_loss(logits, target))
    torch.testing.assert_close(iou, losses.iou_loss(logits, target))


@FUNCTIONS
def test_masks_are_taken_like_labels(function):
    logits, target = scene(3)
    labels = function(logits, target, ignore_index=IGNORE, multilabel=True)
    one_hot = torch.stack([target == k for k in range(3)], 1).long()
    one_hot[(target == IGNORE).unsqueeze(1).expand_as(one_hot)] = IGNORE
    masks = function(logits, one_hot, ignore_index=IGNORE, multilabel=True)
    torch.testing.assert_close(masks, labels)
    logits, target = scene(1, ignored=0)
    expected = function(logits, target)
    for mask in (target.bool(), target.double(), target.unsqueeze(1), target.unsqueeze(1).bool()):
        torch.testing.assert_close(function(logits, mask), expected)


def test_float_masks_may_be_ignored_in_part():
    logits, target = scene(1)
    expected = losses.dice_loss(logits, target, ignore_index=IGNORE)
    torch.testing.assert_close(
        losses.dice_loss(logits, target.double().unsqueeze(1), ignore_index=IGNORE), expected
    )
    unsigned = target.masked_fill(target == IGNORE, 0).to(torch.uint8)
    torch.testing.assert_close(
        losses.dice_loss(logits, unsigned, ignore_index=-1), losses.dice_loss(logits, unsigned)
    )


def test_a_long_sum_keeps_its_small_terms():
    """A million pixels of one class at 0.3: one running float32 sum would be off by a hundredth."""
    logits = torch.zeros(1, 2, 3000, 3000)
    logits[:, 1] = np.log(0.3 / 0.7)
    target = torch.ones(1, 3000, 3000, dtype=torch.uint8)
    value = losses.dice_loss(logits, target)
    assert value.item() == pytest.approx(1 - 0.6 / 1.3, rel=1e-5)


class TestAgainstSegmentationModels:
    """Deviations: it divides by absent classes, too, though they add nothing to its sum; its Dice
    halves the smoothing; its focal Tversky takes the power of the mean, not of each class.
    """

    smp = pytest.importorskip("segmentation_models_pytorch.losses")

    @pytest.mark.parametrize("smooth", [0.0, 1.0])
    @pytest.mark.parametrize(
        ("function", "name", "options"),
        [
            (losses.dice_loss, "DiceLoss", {}),
            (losses.iou_loss, "JaccardLoss", {}),
            (losses.tversky_loss, "TverskyLoss", {"alpha": 0.3, "beta": 0.7}),
        ],
    )
    def test_multiclass(self, function, name, options, smooth):
        logits, target = scene(4, (2, 16, 16), ignored=0)
        theirs = getattr(self.smp, name)("multiclass", smooth=smooth, **options)
        ours = 2 * smooth if name == "DiceLoss" else smooth
        got = function(logits, target, smooth=ours, **options)
        torch.testing.assert_close(got, theirs(logits, target))

    def test_focal_tversky(self):
        logits, target = scene(1, ignored=0)
        theirs = self.smp.TverskyLoss("binary", alpha=0.3, beta=0.7, gamma=0.75)
        got = losses.tversky_loss(logits, target, gamma=0.75)
        torch.testing.assert_close(got, theirs(logits, target))

    def test_ignored_pixels(self):
        logits, target = scene(4, (2, 16, 16))
        for mode, classes in (("multiclass", 4), ("binary", 1)):
            theirs = self.smp.DiceLoss(mode, ignore_index=IGNORE)
            few = logits[:, :classes]
            truth = target if classes > 1 else target.where(target == IGNORE, target.clamp(max=1))
            got = losses.dice_loss(few, truth, ignore_index=IGNORE)
            torch.testing.assert_close(got, theirs(few, truth))

    def test_absent_classes_are_not_divided_by(self):
        logits, target = with_an_absent_class()
        theirs = self.smp.DiceLoss("multiclass", ignore_index=IGNORE)
        got = losses.dice_loss(logits, target, ignore_index=IGNORE)
        torch.testing.assert_close(got, theirs(logits, target) * 4 / 3)


class TestAgainstMonai:
    """Deviation: IoU; it adds its smoothing to twice the sums, so ours is half of it."""

    monai = pytest.importorskip("monai.losses")

    @pytest.mark.parametrize("absent", [False, True])
    def test_dice(self, absent):
        logits, target = with_an_absent_class() if absent else scene(4)
        target = target.masked_fill(target == IGNORE, 0)
        theirs = self.monai.DiceLoss(softmax=True, to_onehot_y=True)(logits, target.unsqueeze(1))
        got = losses.dice_loss(logits, target, absent="count", per_image=True, smooth=1e-5)
        torch.testing.assert_close(got, theirs)

    def test_iou(self):
        logits, target = scene(4, ignored=0)
        theirs = self.monai.DiceLoss(softmax=True, to_onehot_y=True, jaccard=True)
        got = losses.iou_loss(logits, target, absent="count", per_image=True, smooth=0.5e-5)
        torch.testing.assert_close(got, theirs(logits, target.unsqueeze(1)))

    def test_tversky(self):
        logits, target = scene(4, ignored=0)
        theirs = self.monai.TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7)
        got = losses.tversky_loss(
            logits, target, alpha=0.3, beta=0.7, absent="count", per_image=True, smooth=1e-5
        )
        torch.testing.assert_close(got, theirs(logits, target.unsqueeze(1)))

    def test_sigmoid(self):
        logits, target = scene(1, ignored=0)
        theirs = self.monai.DiceLoss(sigmoid=True)(logits, target.unsqueeze(1))
        got = losses.dice_loss(logits, target, absent="count", per_image=True, smooth=1e-5)
        torch.testing.assert_close(got, theirs)


class TestAgainstKornia:
    """Deviation: an image of nothing but ignored pixels is a loss of 1 there, and nothing here."""

    kornia = pytest.importorskip("kornia.losses")

    @pytest.mark.parametrize("weight", [None, [0.5, 2.0, 1.0, 3.0]])
    def test_macro_dice(self, weight):
        logits, target = with_an_absent_class()
        theirs = self.kornia.dice_loss(
            logits,
            target,
            average="macro",
            weight=None if weight is None else torch.tensor(weight, dtype=torch.float64),
            ignore_index=IGNORE,
        )
        got = losses.dice_loss(
            logits, target, per_image=True, ignore_index=IGNORE, class_weight=weight
        )
        torch.testing.assert_close(got, theirs)

    def test_images_without_a_counted_pixel(self):
        logits, target = scene(3)
        target[1] = IGNORE
        theirs = self.kornia.dice_loss(logits, target, average="macro", ignore_index=IGNORE)
        got = losses.dice_loss(logits, target, per_image=True, ignore_index=IGNORE)
        torch.testing.assert_close((got + 1) / 2, theirs)
