"""Deep supervision around any loss, and the loss of a classification-guided module."""

import pytest
import torch
from torch.nn import functional as F

from fastseg import losses
from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError
from fastseg.models import SegmentationOutput, create_model
from losses.cases import IGNORE, scene


def outputs(classes=3):
    logits, target = scene(classes)
    other, _ = scene(classes, seed=1)
    small, _ = scene(classes, (2, 3, 2), seed=2)
    return SegmentationOutput(logits, {"other": other, "small": small}), target


@pytest.mark.parametrize("loss", [losses.DiceLoss, losses.FocalLoss, losses.LovaszSoftmaxLoss])
def test_sum_of_the_parts(loss):
    output, target = outputs()
    inner = loss(ignore_index=IGNORE)
    grown = F.interpolate(output.auxiliary["small"], (6, 6), mode="bilinear")
    main, other, small = (
        inner(x, target) for x in (output.logits, output.auxiliary["other"], grown)
    )
    got = losses.DeepSupervisionLoss(inner)(output, target)
    torch.testing.assert_close(got, main + 0.4 * (other + small))
    named = losses.DeepSupervisionLoss(inner, auxiliary_weight={"other": 1.0, "small": 0.0})
    torch.testing.assert_close(named(output, target), main + other)


def test_plain_logits_as_in_evaluation_mode():
    output, target = outputs()
    inner = losses.DiceLoss(ignore_index=IGNORE)
    for weight in (0.4, {"other": 1.0, "small": 0.0}):
        loss = losses.DeepSupervisionLoss(inner, auxiliary_weight=weight)
        assert loss(output.logits, target) == inner(output.logits, target)


def test_further_arguments_reach_the_loss():
    output, target = outputs()
    weight = torch.rand(2, 6, 6)
    inner = losses.BorderWeightedCrossEntropy(ignore_index=IGNORE)
    got = losses.DeepSupervisionLoss(inner, auxiliary_weight={"other": 1.0, "small": 0.0})(
        output, target, weight
    )
    expected = inner(output.logits, target, weight)
    expected = expected + inner(output.auxiliary["other"], target, weight)
    torch.testing.assert_close(got, expected)


def test_functions_and_other_modules():
    output, target = outputs()
    cross_entropy = torch.nn.CrossEntropyLoss(ignore_index=IGNORE)
    module = losses.DeepSupervisionLoss(cross_entropy, auxiliary_weight=1)
    function = losses.deep_supervision_loss(
        output,
        target,
        loss=lambda x, y: F.cross_entropy(x, y, ignore_index=IGNORE),
        auxiliary_weight=1,
    )
    torch.testing.assert_close(module(output, target), function)


def test_every_head_learns():
    output, target = outputs()
    heads = [output.logits, *output.auxiliary.values()]
    for head in heads:
        head.requires_grad_()
    losses.DeepSupervisionLoss(losses.DiceLoss(ignore_index=IGNORE))(output, target).backward()
    assert all((head.grad != 0).any() for head in heads)


@pytest.mark.parametrize("classes", [1, 3])
def test_classification_goes_through_presence(classes):
    logits, target = scene(classes)
    columns = 2 if classes == 1 else classes
    presence = torch.randn(2, columns, dtype=torch.float64)
    inner = losses.IoULoss(ignore_index=IGNORE)
    loss = losses.DeepSupervisionLoss(inner, auxiliary_weight=1, ignore_index=IGNORE)
    got = loss(SegmentationOutput(logits, {"presence": presence}), target)
    expected = inner(logits, target) + losses.class_presence_loss(
        presence, target, num_classes=classes, ignore_index=IGNORE
    )
    torch.testing.assert_close(got, expected)


def test_refusals():
    output, target = outputs()
    inner = losses.DiceLoss(ignore_index=IGNORE)
    loss = losses.DeepSupervisionLoss(inner)
    with pytest.raises(DtypeError, match="SegmentationOutput"):
        loss({"out": output.logits}, target)
    with pytest.raises(ShapeError, match="weight 0"):
        loss((output.logits, {"odd": torch.zeros(2, 3, 4)}), target)
    with pytest.raises(ParameterError, match=r"\['other', 'small'\].*got some for \['othr'\]"):
        losses.DeepSupervisionLoss(inner, auxiliary_weight={"othr": 1.0})(output, target)
    for weight, error in ((-1, ParameterError), (float("nan"), ParameterError), ("a", DtypeError)):
        with pytest.raises(error, match="auxiliary_weight"):
            losses.DeepSupervisionLoss(inner, auxiliary_weight=weight)
        with pytest.raises(error, match="auxiliary_weight"):
            losses.deep_supervision_loss(output, target, loss=inner, auxiliary_weight=weight)
    with pytest.raises(DtypeError, match="ignore_index"):
        losses.DeepSupervisionLoss(inner, ignore_index="255")
    with pytest.raises(DtypeError, match="got NoneType for 'odd'"):
        loss((output.logits, {"odd": None}), target)
    with pytest.raises(ParameterError, match="'other'"):
        losses.DeepSupervisionLoss(inner, auxiliary_weight={"other": -1})
    with pytest.raises(DtypeError, match="loss"):
        losses.DeepSupervisionLoss("dice")
    with pytest.raises(DtypeError, match="loss: expected"):
        losses.deep_supervision_loss(output, target, loss=None)


class TestClassPresence:
    def test_classes(self):
        target = torch.tensor([[[0, 2], [2, 255]], [[1, 1], [255, 255]]])
        logits = torch.randn(2, 3, dtype=torch.float64)
        there = torch.tensor([[1.0, 0, 1], [0, 1, 0]], dtype=torch.float64)
        expected = F.binary_cross_entropy_with_logits(logits, there)
        loss = losses.ClassPresenceLoss(num_classes=3, ignore_index=255)
        torch.testing.assert_close(loss(logits, target), expected)

    def test_one_foreground_class(self):
        target = torch.tensor([[[0, 1], [0, 255]], [[0, 0], [255, 255]]])
        two = torch.randn(2, 2, dtype=torch.float64)
        there = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
        loss = losses.ClassPresenceLoss(num_classes=1, ignore_index=255)
        for mask in (target, target.unsqueeze(1), target.double()):
            expected = F.cross_entropy(two, there.long().flatten())
            torch.testing.assert_close(loss(two, mask), expected)
            expected = F.binary_cross_entropy_with_logits(two[:, :1], there)
            torch.testing.assert_close(loss(two[:, :1], mask), expected)

    @pytest.mark.parametrize("classes", [2, 3])
    def test_anything_but_background(self, classes):
        target = torch.zeros(2, 4, 4, dtype=torch.long)
        target[1, 2, 3] = classes - 1
        logits = torch.randn(2, 2, dtype=torch.float64)
        got = losses.class_presence_loss(logits, target, num_classes=classes)
        torch.testing.assert_close(got, F.cross_entropy(logits, torch.tensor([0, 1])))

    def test_trains_the_module_of_unet3p(self):
        model = create_model(
            "unet3p",
            num_classes=1,
            widths=[2, 4],
            branch=2,
            deep_supervision=True,
            classification=True,
        )
        target = torch.zeros(2, 16, 16, dtype=torch.long)
        target[1, :4] = 1
        loss = losses.DeepSupervisionLoss(losses.IoULoss(), auxiliary_weight=1)
        loss(model(torch.rand(2, 3, 16, 16)), target).backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing

    def test_masks_of_all_classes(self):
        masks = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
        masks[0, 1, 2, 2] = True
        logits = torch.randn(1, 3)
        expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([[0.0, 1, 0]]))
        got = losses.class_presence_loss(logits, masks, num_classes=3)
        torch.testing.assert_close(got, expected)

    def test_ignored_images(self):
        logits = torch.randn(2, 3, requires_grad=True)
        target = torch.zeros(2, 4, 4, dtype=torch.long)
        target[1] = 255
        losses.class_presence_loss(logits, target, num_classes=3, ignore_index=255).backward()
        assert (logits.grad[0] != 0).all()
        assert (logits.grad[1] == 0).all()
        nothing = torch.full_like(target, 255)
        assert losses.class_presence_loss(logits, nothing, num_classes=3, ignore_index=255) == 0

    def test_refusals(self):
        target = torch.zeros(1, 4, 4, dtype=torch.long)
        with pytest.raises(ShapeError, match=r"\(B, 1\) or \(B, 2\)"):
            losses.class_presence_loss(torch.zeros(1, 3), target, num_classes=1)
        with pytest.raises(ShapeError, match=r"\(B, 2\) or \(B, 3\)"):
            losses.class_presence_loss(torch.zeros(1, 4), target, num_classes=3)
        with pytest.raises(LabelError, match="7"):
            losses.class_presence_loss(torch.zeros(1, 3), target + 7, num_classes=3)
        with pytest.raises(ShapeError, match="target"):
            losses.class_presence_loss(torch.zeros(2, 3), target, num_classes=3)
        with pytest.raises(ParameterError, match="num_classes"):
            losses.ClassPresenceLoss(num_classes=0)
        with pytest.raises(DtypeError, match="target"):
            losses.class_presence_loss(torch.zeros(1, 3), [[0]], num_classes=3)
