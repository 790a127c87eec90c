"""SegFormer against the live transformers: outputs, gradients, training; and how it may be used."""

import re

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

import fastseg
from fastseg.checkpoints import segformer as conversion
from fastseg.errors import DtypeError, ParameterError, ShapeError
from references import hugging_face_segformer

PARAMETERS = {
    "b0": 3_752_694,
    "b1": 13_715_798,
    "b2": 27_461_974,
    "b3": 47_337_814,
    "b4": 64_108_374,
    "b5": 84_708_694,
}


def converted(theirs, **options):
    """Our model with the weights of one of transformers."""
    state = dict(theirs.state_dict())
    form = conversion.recognise(state)
    given = conversion.options_of_config(theirs.config.to_dict())
    _, classes = conversion.classes_of(form, state)
    model = conversion.build(form, "segmentation", classes, {**given, **options})
    found, left = conversion.convert(form, state, model.state_dict(), ())
    assert not left
    model.load_state_dict(found)
    return model.eval()


@pytest.fixture(scope="module")
def pair():
    pytest.importorskip("transformers")
    theirs = hugging_face_segformer.segmentation()
    return theirs, converted(theirs)


@pytest.fixture
def tiny():
    return fastseg.create_model(
        "segformer_b0",
        num_classes=5,
        widths=[8, 16, 24, 32],
        depths=[1, 2, 1, 1],
        num_heads=[1, 2, 3, 4],
        decoder_width=24,
    )


def picture(*size, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, *size, generator=generator)


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_are_the_papers(size) -> None:
    with torch.device("meta"):
        model = fastseg.create_model(f"segformer_{size}", num_classes=150)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[size]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("size", "image"),
    [
        ("b0", (64, 64)),
        ("b0", (333, 517)),
        pytest.param("b0", (512, 512), marks=SLOW),
        pytest.param("b0", (1024, 2048), marks=SLOW),
        *[pytest.param(f"b{i}", (64, 64), marks=SLOW) for i in range(1, 6)],
        pytest.param("b2", (333, 517), marks=SLOW),
        pytest.param("b5", (512, 512), marks=SLOW),
    ],
)
def test_logits_equal_those_of_transformers(size, image) -> None:
    pytest.importorskip("transformers")
    theirs = hugging_face_segformer.segmentation(size, num_labels=150)
    model = converted(theirs)
    with torch.inference_mode():
        expected = theirs(picture(*image)).logits
        got = model.native_logits(picture(*image))
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 2e-5


@pytest.mark.parametrize("size", [(29, 29), (31, 64), (33, 97), (64, 64), (61, 130)])
def test_any_size(pair, size) -> None:
    theirs, model = pair
    with torch.inference_mode():
        expected = theirs(picture(*size)).logits
        torch.testing.assert_close(model.native_logits(picture(*size)), expected, rtol=0, atol=1e-5)
        full = F.interpolate(expected, size, mode="bilinear")
        torch.testing.assert_close(model(picture(*size)), full, rtol=0, atol=1e-5)


def without_chance(theirs, **options):
    model = converted(theirs, drop_path_rate=0.0, classifier_dropout=0.0, **options)
    return model.train()


@pytest.fixture
def trainable():
    pytest.importorskip("transformers")
    theirs = hugging_face_segformer.segmentation(drop_path_rate=0.0, classifier_dropout_prob=0.0)
    return theirs.train()


def their_gradients(theirs, image, target):
    theirs(image, labels=target).loss.backward()
    state = {name: p.grad for name, p in theirs.named_parameters()}
    model = converted(theirs)
    form = conversion.recognise(theirs.state_dict())
    return conversion.convert(form, state, dict(model.named_parameters()), ())[0]


# A constant added to all tokens vanishes in the BatchNorm after the sum, and one added to all keys
# in the softmax: these gradients are zero, and what is computed for them is rounding alone.
ZERO = re.compile(
    r"decoder\.projections\.\d\.bias|encoder\.stages\.3\.norm\.bias|.*\.attention\.key\.bias"
)


def assert_same_gradients(model, expected, tolerance, *, zero):
    """Each gradient against its own norm; those that are zero against the largest one's."""
    found = {name: p.grad for name, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in found.items():
        if ZERO.fullmatch(name):
            assert max(gradient.norm(), expected[name].norm()) <= zero * largest, name
        else:
            error = (gradient - expected[name]).norm() / expected[name].norm()
            assert error <= tolerance, name


@pytest.mark.parametrize("backend", ["rust", "torch"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_of_transformers_by_name(trainable, backend, checkpointing) -> None:
    image, target = picture(64, 75, batch=2), torch.randint(0, 5, (2, 64, 75))
    target[:, :9] = 255
    model = without_chance(trainable)
    model.set_gradient_checkpointing(checkpointing)
    with fastseg.ops.use_backend(backend):
        loss = fastseg.ops.upsample_cross_entropy(model.native_logits(image), target)
        loss.backward()
    assert_same_gradients(model, their_gradients(trainable, image, target), 1e-4, zero=1e-6)
    theirs, ours = trainable.decode_head.batch_norm, model.decoder.norm
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "zero"), [(torch.float32, 1e-4, 1e-6), (torch.float64, 1e-12, 1e-15)]
)
def test_gradients_of_b0(dtype, tolerance, zero) -> None:
    pytest.importorskip("transformers")
    quiet = {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
    theirs = hugging_face_segformer.segmentation("b0", num_labels=150, **quiet).train()
    model = without_chance(theirs).to(dtype)
    image, target = picture(64, 75, batch=2).to(dtype), torch.randint(0, 150, (2, 64, 75))
    fastseg.ops.upsample_cross_entropy(model.native_logits(image), target).backward()
    expected = their_gradients(theirs.to(dtype), image, target)
    assert_same_gradients(model, expected, tolerance, zero=zero)


def test_fifty_steps_follow_their_loss(trainable) -> None:
    model = without_chance(trainable)
    image = picture(32, 32, batch=2)
    target = torch.randint(0, 5, (2, 32, 32), generator=torch.Generator().manual_seed(3))
    curves = []
    for one, loss_of in (
        (trainable, lambda: trainable(image, labels=target).loss),
        (model, lambda: fastseg.ops.upsample_cross_entropy(model.native_logits(image), target)),
    ):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.05, momentum=0.9)
        curve = []
        for _ in range(50):
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    theirs, ours = curves
    assert theirs[-1] < 0.97 * theirs[0], "nothing was learned: this compares nothing"
    assert ours == pytest.approx(theirs, rel=5e-3)


def test_it_compiles_once_for_ten_sizes(tiny) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    model = tiny.eval()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.inference_mode():
        for i in range(10):
            image = picture(64 + 13 * i, 160 - 7 * i)
            torch.testing.assert_close(compiled(image), model(image), rtol=0, atol=1e-5)
    # One for the first size, one for any size.
    assert counter.frame_count <= 2


def test_training_compiles_without_graph_breaks(tiny) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(tiny, fullgraph=True, backend="aot_eager")
    compiled(picture(64, 64, batch=2)).square().mean().backward()
    assert all(p.grad is not None for p in tiny.parameters())


@pytest.mark.slow
def test_inductor_computes_the_same(tiny) -> None:
    torch._dynamo.reset()
    model = tiny.eval()
    with torch.inference_mode():
        got = torch.compile(model, fullgraph=True)(picture(64, 96))
        torch.testing.assert_close(got, model(picture(64, 96)), rtol=0, atol=1e-5)


def test_drop_path_and_dropout_act_in_training_only(tiny) -> None:
    rates = [block.drop_path.rate for stage in tiny.encoder.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    image = picture(64, 64, batch=2)
    assert not torch.equal(tiny(image), tiny(image))
    tiny.eval()
    assert torch.equal(tiny(image), tiny(image))


def test_a_frozen_batch_norm_still_trains_the_rest(tiny) -> None:
    tiny.eval()
    tiny(picture(64, 64)).square().mean().backward()
    assert all(p.grad is not None for p in tiny.parameters())


def test_other_channels_and_the_classification_head() -> None:
    model = fastseg.create_model("segformer_b0", num_classes=2, in_channels=5).eval()
    assert model(torch.zeros(1, 5, 64, 64)).shape == (1, 2, 64, 64)
    with pytest.raises(ShapeError, match="expected 5 channels"):
        model(picture(64, 64))
    classifier = fastseg.create_model("segformer_b0", num_classes=7, head="classification")
    assert classifier(picture(64, 70, batch=2)).shape == (2, 7)
    assert fastseg.create_model(**classifier.config).config == classifier.config


@pytest.mark.parametrize("size", [(28, 64), (64, 28), (1, 1)])
def test_pictures_that_are_too_small(tiny, size) -> None:
    with pytest.raises(ShapeError, match="from 29 pixels on"):
        tiny.eval()(picture(*size))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "unet"}, "decoder: expected one of"),
        ({"head": "detection"}, "head: expected one of"),
        ({"depths": [1, 2]}, "depths: expected 4 numbers"),
        ({"widths": [30, 64, 160, 256], "num_heads": [4, 2, 5, 8]}, "divisor of dim=30"),
    ],
)
def test_wrong_options_are_named(options, message) -> None:
    with pytest.raises(ParameterError, match=message):
        fastseg.create_model("segformer_b0", num_classes=2, **options)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_half_precision_on_a_cpu_runs_through_pytorch(pair, dtype, atol) -> None:
    import copy

    model = copy.deepcopy(pair[1]).to(dtype)
    with torch.inference_mode():
        expected = pair[1](picture(64, 64))
        got = model(picture(64, 64).to(dtype))
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), expected, rtol=0, atol=atol)
        with pytest.raises(DtypeError, match="dtype of the weights"):
            model(picture(64, 64))


def test_autocast_runs_in_bfloat16(pair) -> None:
    model = pair[1]
    with torch.inference_mode():
        expected = model(picture(64, 64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = model(picture(64, 64))
    torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.15)


def test_double_precision_is_exact(pair) -> None:
    import copy

    theirs, model = (copy.deepcopy(m).double() for m in pair)
    with torch.inference_mode():
        expected = theirs(picture(61, 75).double()).logits
        got = model.native_logits(picture(61, 75).double())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_torch_export_keeps_the_operations(pair, tmp_path) -> None:
    model = pair[1]
    axis = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        model, (picture(64, 96, batch=2),), dynamic_shapes={"image": {0: axis, 2: axis, 3: axis}}
    )
    torch.export.save(program, tmp_path / "model.pt2")
    back = torch.export.load(tmp_path / "model.pt2").module()
    for size in [(64, 96), (61, 130)]:
        image = picture(*size)
        torch.testing.assert_close(back(image), model(image), rtol=0, atol=1e-5)
