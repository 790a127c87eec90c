"""What every loss has to keep: ignored pixels, empty targets, half precision, gradients."""

import pickle
import warnings

import numpy as np
import pytest
import torch

from fastseg.errors import (
    DtypeError,
    FastsegError,
    LabelError,
    ParameterError,
    ShapeError,
)
from losses.cases import IGNORE, LOSSES, scene


def those(*, separable=False, labels=False, masks=False, plain=False):
    """Parametrises a test over the losses of which all that is said holds."""
    names = [
        name
        for name, loss in LOSSES.items()
        if (loss.separable or not separable)
        and (loss.classes > 1 or not labels)
        and (loss.classes == 1 or not masks)
        and (not name.startswith("border") or not plain)
    ]
    return pytest.mark.parametrize("loss", [LOSSES[name] for name in names], ids=names)


every_loss = those()


def value_and_gradient(loss, logits, target, **options):
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, target, **options)
    value.backward()
    return value.detach(), leaf.grad


@every_loss
def test_gradients(loss):
    logits, target = scene(loss.classes)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss(x, target, ignore_index=IGNORE), logits, atol=1e-6, rtol=1e-4
    )


@every_loss
def test_ignored_pixels_have_no_say(loss):
    logits, target = scene(loss.classes)
    value, gradient = value_and_gradient(loss, logits, target, ignore_index=IGNORE)
    drop = (target == IGNORE).unsqueeze(1)
    assert drop.any()
    assert (gradient.masked_select(drop) == 0).all()
    assert (gradient.masked_select(~drop) != 0).any()
    other = torch.where(drop, torch.full_like(logits, 3.0), logits)
    again, _ = value_and_gradient(loss, other, target, ignore_index=IGNORE)
    torch.testing.assert_close(again, value)


@those(separable=True, plain=True)
def test_ignored_pixels_may_as_well_be_missing(loss):
    logits, target = scene(loss.classes, (1, 6, 6))
    keep = target != IGNORE
    fewer = logits.flatten(2)[:, :, keep.flatten()]
    expected = loss(fewer, target[keep].unsqueeze(0))
    torch.testing.assert_close(loss(logits, target, ignore_index=IGNORE), expected)


@every_loss
def test_nothing_ignored_is_like_no_ignore_index(loss):
    logits, target = scene(loss.classes, ignored=0)
    torch.testing.assert_close(loss(logits, target, ignore_index=IGNORE), loss(logits, target))


@every_loss
def test_the_ignored_label_may_be_negative_or_a_class(loss):
    logits, target = scene(loss.classes)
    expected = loss(logits, target, ignore_index=IGNORE)
    negative = target.masked_fill(target == IGNORE, -100)
    assert loss(logits, negative, ignore_index=-100) == expected
    one = target.masked_fill(target == IGNORE, 1)
    assert torch.isfinite(loss(logits, one, ignore_index=1))


@every_loss
def test_all_ignored_gives_zero(loss):
    logits, target = scene(loss.classes)
    value, gradient = value_and_gradient(
        loss, logits, torch.full_like(target, IGNORE), ignore_index=IGNORE
    )
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_one_ignored_image_of_two(loss):
    logits, target = scene(loss.classes)
    target[0] = IGNORE
    value, gradient = value_and_gradient(loss, logits, target, ignore_index=IGNORE)
    assert torch.isfinite(value)
    assert (gradient[0] == 0).all()
    assert torch.isfinite(gradient).all()


@every_loss
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("strength", [0.0, 30.0, -200.0])
def test_targets_of_one_label(loss, label, strength):
    logits, target = scene(loss.classes, ignored=0, dtype=torch.float32)
    target.fill_(label)
    value, gradient = value_and_gradient(loss, logits * strength, target)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["dice_binary", "iou_binary", "lovasz_binary"])
def test_an_empty_mask_costs_a_region_loss_nothing(name):
    logits, target = scene(1, ignored=0)
    value, gradient = value_and_gradient(LOSSES[name], logits, torch.zeros_like(target))
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_the_right_answer_is_the_least(loss):
    _, target = scene(loss.classes, ignored=0)
    shape = (2, loss.classes, 6, 6)
    if loss.classes == 1:
        right = (20.0 * (2 * target - 1)).reshape(shape)
    else:
        right = 20.0 * (2 * torch.eye(loss.classes)[target].permute(0, 3, 1, 2) - 1)
    assert -1e-6 <= loss(right, target).item() < 1e-3
    assert loss(-right, target).item() > 0.3


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(loss, dtype):
    """Also on the CPU, and past the 65,504 pixels at which a float16 sum is infinite."""
    side = 300
    logits, target = scene(loss.classes, (1, side, side), dtype=torch.float32)
    half = logits.to(dtype)
    options = {"ignore_index": IGNORE}
    value, gradient = value_and_gradient(loss, half, target, **options)
    expected, wide = value_and_gradient(loss, half.float(), target, **options)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert value == expected
    torch.testing.assert_close(gradient, wide.to(dtype), atol=1e-6, rtol=1e-2)


@every_loss
def test_autocast_changes_nothing(loss):
    logits, target = scene(loss.classes, dtype=torch.float32)
    expected = loss(logits, target, ignore_index=IGNORE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, target, ignore_index=IGNORE)
    torch.testing.assert_close(value, expected)


@every_loss
def test_float64_stays(loss):
    logits, target = scene(loss.classes)
    assert loss(logits, target, ignore_index=IGNORE).dtype == torch.float64


@every_loss
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_label_dtypes(loss, dtype):
    logits, target = scene(loss.classes)
    expected = loss(logits, target, ignore_index=IGNORE)
    assert loss(logits, target.to(dtype), ignore_index=IGNORE) == expected


@every_loss
def test_memory_layouts(loss):
    logits, target = scene(loss.classes)
    options = {"ignore_index": IGNORE}
    expected = loss(logits, target, **options)
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(loss(channels_last, target, **options), expected)
    turned = logits.transpose(2, 3).contiguous().transpose(2, 3)
    other = target.transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    torch.testing.assert_close(loss(turned, other, **options), expected)
    wide = torch.zeros(2, loss.classes, 6, 12, dtype=logits.dtype)
    wide[..., ::2] = logits
    torch.testing.assert_close(loss(wide[..., ::2], target, **options), expected)


@every_loss
def test_inputs_are_left_alone(loss):
    logits, target = scene(loss.classes)
    before = logits.clone(), target.clone()
    loss(logits, target, ignore_index=IGNORE)
    assert torch.equal(logits, before[0])
    assert torch.equal(target, before[1])


@those(separable=True)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (2, 5), (1, 2, 3, 4)])
def test_other_shapes(loss, shape):
    logits, target = scene(loss.classes, shape)
    value, gradient = value_and_gradient(loss, logits, target, ignore_index=IGNORE)
    assert value.shape == ()
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@those(separable=True)
def test_no_image_at_all_gives_zero(loss):
    logits, target = scene(loss.classes, (1, 4, 4))
    assert loss(logits[:0], target[:0], ignore_index=IGNORE) == 0


@every_loss
def test_batches_are_deterministic(loss):
    logits, target = scene(loss.classes, (2, 40, 40), dtype=torch.float32)
    first = value_and_gradient(loss, logits, target, ignore_index=IGNORE)
    second = value_and_gradient(loss, logits, target, ignore_index=IGNORE)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@those(plain=True)
def test_the_module_is_the_function(loss):
    logits, target = scene(loss.classes)
    module = loss.module(**loss.options, ignore_index=IGNORE)
    expected = loss(logits, target, ignore_index=IGNORE)
    assert module(logits, target) == expected
    again = pickle.loads(pickle.dumps(module))
    assert again(logits, target) == expected
    assert "ignore_index=255" in repr(module)
    assert not module.state_dict()


@pytest.mark.parametrize("name", ["dice", "focal", "bce_dice", "lovasz", "unet3p_hybrid", "ohem"])
@pytest.mark.slow
def test_compiles_into_one_graph(name):
    loss = LOSSES[name]
    logits, target = scene(loss.classes, dtype=torch.float32)
    expected = value_and_gradient(loss, logits, target, ignore_index=IGNORE)
    compiled = torch.compile(
        lambda x, y: loss(x, y, ignore_index=IGNORE), fullgraph=True, backend="aot_eager"
    )
    leaf = logits.clone().requires_grad_()
    value = compiled(leaf, target)
    value.backward()
    torch.testing.assert_close(value.detach(), expected[0])
    torch.testing.assert_close(leaf.grad, expected[1])


class TestBadInput:
    @every_loss
    def test_labels_out_of_range(self, loss):
        logits, target = scene(loss.classes, ignored=0)
        most = max(loss.classes, 2) - 1
        for wrong in (most + 1, -1, IGNORE):
            bad = target.clone()
            bad[0, 0, 0] = wrong
            with pytest.raises(LabelError, match=rf"target: expected .* 0 … {most}.*{wrong}"):
                loss(logits, bad)
        with pytest.raises(LabelError, match="ignore_index"):
            loss(logits, bad, ignore_index=-1)

    @every_loss
    def test_shapes_that_disagree(self, loss):
        logits, target = scene(loss.classes)
        with pytest.raises(ShapeError, match=r"got \(2, 6, 5\)"):
            loss(logits, target[..., :5], ignore_index=IGNORE)
        with pytest.raises(ShapeError, match=r"got \(1, 6, 6\)"):
            loss(logits, target[:1], ignore_index=IGNORE)
        with pytest.raises(ShapeError, match="logits"):
            loss(logits[:, :, 0, 0], target[:, 0, 0], ignore_index=IGNORE)

    @those(labels=True, plain=True)
    def test_an_axis_of_one_too_many(self, loss):
        logits, target = scene(loss.classes)
        with pytest.raises(ShapeError, match=r"target\.squeeze\(1\)"):
            loss(logits, target.unsqueeze(1), ignore_index=IGNORE)

    @those(labels=True)
    def test_labels_that_are_no_integers(self, loss):
        logits, target = scene(loss.classes)
        with pytest.raises(DtypeError, match=r"target\.long\(\)"):
            loss(logits, target.double(), ignore_index=IGNORE)

    @those(masks=True)
    def test_masks_out_of_range(self, loss):
        logits, target = scene(1, ignored=0)
        with pytest.raises(FastsegError, match="0 … 1"):
            loss(logits, target.double() * 255)
        with pytest.raises(FastsegError, match="0 … 1"):
            loss(logits, target.double() / 0.0)

    @every_loss
    def test_logits_that_are_none(self, loss):
        logits, target = scene(loss.classes)
        with pytest.raises(DtypeError, match=r"logits.*floating point"):
            loss(logits.long(), target, ignore_index=IGNORE)
        with pytest.raises(DtypeError, match=r"logits.*torch.from_numpy"):
            loss(logits.numpy(), target, ignore_index=IGNORE)
        if loss.function.__name__ != "_border_weighted":
            with pytest.raises(DtypeError, match=r"target.*torch.from_numpy"):
                loss(logits, target.numpy(), ignore_index=IGNORE)

    @every_loss
    def test_no_classes(self, loss):
        logits, target = scene(loss.classes)
        with pytest.raises(ShapeError, match="logits"):
            loss(logits[:, :0], target, ignore_index=IGNORE)

    @every_loss
    @pytest.mark.parametrize("ignored", [1.5, "255", True])
    def test_ignore_index_that_is_no_integer(self, loss, ignored):
        logits, target = scene(loss.classes, ignored=0)
        with pytest.raises(DtypeError, match="ignore_index"):
            loss(logits, target, ignore_index=ignored)

    @pytest.mark.parametrize("name", ["focal", "ohem"])
    def test_a_single_class_where_a_softmax_is_meant(self, name):
        logits, target = scene(1)
        with pytest.raises(ShapeError, match="at least 2 classes"):
            LOSSES[name](logits, target, ignore_index=IGNORE)

    @pytest.mark.parametrize(
        ("name", "option", "value"),
        [
            ("dice", "smooth", -1.0),
            ("dice", "absent", "none"),
            ("dice", "class_weight", [1.0, -1.0, 1.0]),
            ("dice", "class_weight", [1.0, float("nan"), 1.0]),
            ("iou", "smooth", float("inf")),
            ("tversky", "alpha", -0.1),
            ("tversky", "beta", -0.1),
            ("tversky", "gamma", -1.0),
            ("focal", "gamma", -1.0),
            ("sigmoid_focal", "alpha", 1.5),
            ("ms_ssim", "window", 4),
            ("ms_ssim", "sigma", 0.0),
            ("ms_ssim", "scale_weights", ()),
            ("lovasz", "absent", "all"),
            ("bce_dice", "bce_weight", -1.0),
            ("ohem", "threshold", 1.5),
            ("ohem", "min_kept", -1),
            ("unet3p_hybrid", "weights", (1.0, 1.0)),
            ("unet3p_hybrid", "weights", 1.0),
            ("unet3p_hybrid", "window", 4),
            ("unet3p_hybrid", "scale_weights", ()),
        ],
    )
    def test_options_out_of_range(self, name, option, value):
        loss = LOSSES[name]
        logits, target = scene(loss.classes)
        options = {**loss.options, option: value, "ignore_index": IGNORE}
        with pytest.raises(ParameterError, match=option):
            loss.function(logits, target, **options)
        with pytest.raises(ParameterError, match=option):
            loss.module(**options)

    @pytest.mark.parametrize(
        ("name", "option", "value"),
        [
            ("dice", "per_image", "no"),
            ("iou", "multilabel", 1),
            ("tversky", "smooth", None),
            ("lovasz", "per_image", None),
            ("ms_ssim", "multilabel", "no"),
            ("ms_ssim", "scale_weights", 0.5),
            ("bce_dice", "per_image", "no"),
            ("focal", "gamma", "two"),
            ("ohem", "min_kept", 1.5),
        ],
    )
    def test_options_of_other_types(self, name, option, value):
        loss = LOSSES[name]
        logits, target = scene(loss.classes)
        options = {**loss.options, option: value, "ignore_index": IGNORE}
        with pytest.raises(DtypeError, match=option):
            loss.function(logits, target, **options)
        with pytest.raises(DtypeError, match=option):
            loss.module(**options)

    @every_loss
    @pytest.mark.parametrize("ignored", [1.5, "255", True])
    def test_modules_say_so_when_they_are_made(self, loss, ignored):
        with pytest.raises(DtypeError, match="ignore_index"):
            loss.module(**loss.options, ignore_index=ignored)

    def test_prices_of_nothing(self):
        logits, target = scene(3, ignored=0)
        with pytest.raises(ParameterError, match="any answer is perfect"):
            LOSSES["tversky"](logits, target, alpha=0, beta=0)

    @every_loss
    def test_broken_logits_show(self, loss):
        # A loss that hid them would let training go on.
        logits, target = scene(loss.classes, ignored=0)
        logits[0, 0, 2, 2] = float("nan")
        assert loss(logits, target).isnan()

    @pytest.mark.parametrize("name", ["dice", "iou", "tversky", "focal"])
    def test_class_weights_of_the_wrong_shape(self, name):
        logits, target = scene(3, ignored=0)
        with pytest.raises(ShapeError, match="class_weight: expected 3 numbers"):
            LOSSES[name](logits, target, class_weight=[1.0, 2.0])
        with pytest.raises(ShapeError, match="one axis"):
            LOSSES[name](logits, target, class_weight=torch.ones(3, 1))
        with pytest.raises(DtypeError, match="class_weight"):
            LOSSES[name](logits, target, class_weight=["a", "b", "c"])


def test_numpy_is_not_needed_to_say_no():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DtypeError):
            LOSSES["dice"](np.zeros((1, 2, 3, 3), np.float32), torch.zeros(1, 3, 3).long())
