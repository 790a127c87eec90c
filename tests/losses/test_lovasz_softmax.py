"""Lovász-softmax: the extension by its definition, segmentation_models_pytorch, kornia."""

import pytest
import torch

from fastseg import losses
from fastseg.losses import lovasz_softmax
from losses.cases import IGNORE, scene
from references import plain_losses


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("absent", ["skip", "count"])
@pytest.mark.parametrize("per_image", [False, True])
def test_against_the_definition(classes, absent, per_image):
    logits, target = scene(classes)
    if classes > 1:
        target = target.masked_fill(target == 2, 0)
    options = {"absent": absent, "per_image": per_image}
    expected = plain_losses.lovasz(logits.numpy(), target.numpy(), ignore_index=IGNORE, **options)
    got = losses.lovasz_softmax_loss(logits, target, ignore_index=IGNORE, **options)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_multilabel():
    logits, target = scene(3)
    expected = plain_losses.lovasz(
        logits.numpy(), target.numpy(), ignore_index=IGNORE, multilabel=True
    )
    got = losses.lovasz_softmax_loss(logits, target, ignore_index=IGNORE, multilabel=True)
    assert got.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("per_image", [False, True])
def test_against_segmentation_models(per_image):
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = scene(4, (2, 16, 16), dtype=torch.float32)  # it takes no other
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = smp.LovaszLoss("multiclass", per_image=per_image, ignore_index=IGNORE)
    expected = loss(theirs, target)
    got = losses.lovasz_softmax_loss(ours, target, per_image=per_image, ignore_index=IGNORE)
    # It takes differences of float32 sums.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)
    got.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_against_kornia():
    kornia = pytest.importorskip("kornia.losses")
    logits, target = scene(4, (2, 16, 16), ignored=0)
    expected = kornia.lovasz_softmax_loss(logits, target)
    got = losses.lovasz_softmax_loss(logits, target, absent="count", per_image=True)
    torch.testing.assert_close(got, expected)


def test_a_hard_answer_has_the_jaccard_loss():
    _, target = scene(3, (1, 12, 12), ignored=0)
    answer = target.roll(1, 2)
    logits = 1e3 * torch.eye(3, dtype=torch.float64)[answer].permute(0, 3, 1, 2)
    ious = [
        ((answer == k) & (target == k)).sum() / ((answer == k) | (target == k)).sum()
        for k in range(3)
    ]
    got = losses.lovasz_softmax_loss(logits, target)
    assert got.item() == pytest.approx(1 - torch.stack(ious).mean().item(), rel=1e-6)


def test_small_slopes_are_not_lost_in_a_large_picture():
    """Differences of float32 sums are rounded to multiples of 6e-8; these slopes are smaller."""
    logits, target = scene(2, (1, 600, 600), ignored=0, dtype=torch.float32)
    wide = logits.double().requires_grad_()
    logits.requires_grad_()
    losses.lovasz_softmax_loss(logits, target).backward()
    losses.lovasz_softmax_loss(wide, target).backward()
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=1e-3, atol=1e-10)


def _without_engine(monkeypatch):
    monkeypatch.setattr(lovasz_softmax, "_engine_takes", lambda errors: False)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("per_image", [False, True])
def test_the_engine_gives_what_sorting_in_torch_gives(classes, per_image, monkeypatch):
    logits, target = scene(classes, (2, 40, 50), dtype=torch.float32)
    # Level errors, some of them at the border of 0 and 1.
    logits = (4 * logits).round() / 4
    logits[0, 0, :5] = 200
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    options = {"ignore_index": IGNORE, "per_image": per_image, "absent": "count"}
    got = losses.lovasz_softmax_loss(ours, target, **options)
    _without_engine(monkeypatch)
    expected = losses.lovasz_softmax_loss(theirs, target, **options)
    torch.testing.assert_close(got, expected)
    got.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_under_transforms_of_torch_func():
    logits, target = scene(3, (2, 6, 7), dtype=torch.float32)

    def loss(logits):
        return losses.lovasz_softmax_loss(logits, target, ignore_index=IGNORE)

    leaf = logits.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(torch.func.grad(loss)(logits), leaf.grad)
