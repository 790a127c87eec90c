"""What holds for every model, whatever its family."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastseg
from fastseg import layers
from fastseg.errors import DtypeError, ShapeError
from fastseg.models import SegmentationModel, SegmentationOutput, list_models
from models.specs import NUM_CLASSES, ONE_OF_A_KIND, SMALL, logits_of, picture, settled, small

every_model = pytest.mark.parametrize("case", SMALL)
one_of_a_kind = pytest.mark.parametrize("case", ONE_OF_A_KIND)


def test_no_model_is_left_out() -> None:
    tested = {name for name, _ in SMALL.values()}
    # SegFormer's sizes differ in numbers only.
    left_out = {name for name in list_models() if name not in tested}
    assert left_out <= set(list_models("segformer_*"))


@every_model
def test_logits_have_the_size_of_the_picture(case: str) -> None:
    model = settled(small(case))
    with torch.inference_mode():
        for batch, height, width in [(2, 64, 64), (1, 65, 71), (1, 97, 34)]:
            logits = model(picture(batch, height, width))
            assert isinstance(logits, Tensor)
            assert logits.shape == (batch, NUM_CLASSES, height, width)
            assert logits.isfinite().all()


@every_model
@pytest.mark.parametrize(("num_classes", "in_channels"), [(1, 1), (2, 5)])
def test_classes_and_channels(case: str, num_classes: int, in_channels: int) -> None:
    model = settled(small(case, num_classes=num_classes, in_channels=in_channels))
    with torch.inference_mode():
        logits = model(picture(1, 64, 64, channels=in_channels))
    assert logits.shape == (1, num_classes, 64, 64)


@every_model
def test_native_logits_become_the_logits(case: str) -> None:
    model = settled(small(case))
    image = picture(1, 70, 65)
    with torch.inference_mode():
        native = model.native_logits(image)
        enlarged = F.interpolate(
            native, (70, 65), mode="bilinear", align_corners=model.align_corners
        )
        assert torch.allclose(enlarged, model(image), atol=1e-5)


@every_model
def test_a_batch_of_one_trains_every_weight(case: str) -> None:
    model = small(case).train()
    output = model(picture(1, 64, 64))
    outputs = [logits_of(output)]
    if isinstance(output, SegmentationOutput):
        assert output.auxiliary
        outputs += output.auxiliary.values()
    loss = sum((one**2).mean() for one in outputs)
    assert isinstance(loss, Tensor)
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@every_model
def test_auxiliary_outputs_are_for_training_alone(case: str) -> None:
    model = small(case).train()
    output = model(picture(2, 64, 64))
    if isinstance(output, SegmentationOutput):
        for one in output.auxiliary.values():
            assert one.shape[0] == 2
            assert one.ndim == 2 or one.shape == output.logits.shape
    assert isinstance(model.eval()(picture(2, 64, 64)), Tensor)


@every_model
def test_two_runs_have_the_same_bits(case: str) -> None:
    image = picture(1, 64, 48)
    with torch.inference_mode():
        first, second = (settled(small(case))(image) for _ in range(2))
    assert torch.equal(first, second)


@every_model
def test_pictures_of_a_batch_do_not_mix(case: str) -> None:
    model = settled(small(case))
    images = picture(2, 64, 48)
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


@every_model
def test_gradients_do_not_change_the_logits(case: str) -> None:
    # Without gradients BatchNorm works in place.
    model = settled(small(case))
    image = picture(1, 64, 48)
    with torch.inference_mode():
        without = model(image)
    assert torch.allclose(model(image), without, atol=1e-5)


# Their decoders convolve too little here to save products.
UNCHANGED = ("segformer", "setr_naive", "setr_mla")


@every_model
def test_the_engine_gives_the_logits_of_pytorch(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = settled(small(case))
    image = picture(1, 64, 96)
    seen: list[bool] = []
    scaled = layers.Conv2d.scaled

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(True)
        return scaled(*arguments, **options)

    monkeypatch.setattr(layers.Conv2d, "scaled", watched)
    with torch.inference_mode():
        ours = model(image)
        assert bool(seen) != case.startswith(UNCHANGED)
        with fastseg.ops.use_backend("torch"):
            theirs = model(image)
    # The mean: SegNet follows a maximum that rounding has moved.
    assert (ours - theirs).abs().mean() <= 1e-4 * theirs.abs().mean()


@every_model
def test_saved_and_loaded(case: str, tmp_path: Path) -> None:
    if case.startswith("segformer"):
        pytest.skip("writes transformers' format: tests/checkpoints")
    model = settled(small(case))
    model.save_pretrained(tmp_path / "deep" / "model")
    config = json.loads((tmp_path / "deep" / "model" / "config.json").read_text())
    assert config["fastseg"] == model.config
    loaded = SegmentationModel.from_pretrained(tmp_path / "deep" / "model")
    assert not loaded.training
    image = picture(1, 64, 48)
    with torch.inference_mode():
        assert torch.equal(loaded(image), model(image))


def _step(
    case: str, *, checkpointing: bool, compiled: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients and buffers of a small model without dropout after a step backward."""
    model = small(case).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.set_gradient_checkpointing(checkpointing)
    function: Any = model
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    (logits_of(function(picture(2, 64, 64))) ** 2).mean().backward()
    gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return gradients, dict(model.named_buffers())


def _checkpointing_changes_nothing(case: str, *, compiled: bool = False) -> None:
    plain = _step(case, checkpointing=False, compiled=compiled)
    again = _step(case, checkpointing=True, compiled=compiled)
    for before, after in zip(plain, again, strict=True):
        assert before.keys() == after.keys()
        for key in before:
            assert torch.allclose(before[key], after[key], rtol=1e-3, atol=1e-5), key


@every_model
def test_checkpointing_changes_neither_gradients_nor_statistics(case: str) -> None:
    _checkpointing_changes_nothing(case)


@pytest.mark.parametrize("case", ["unet_padded", "unetpp", "setr_mla", "segformer_b0"])
def test_checkpointing_compiles_without_a_break(case: str) -> None:
    _checkpointing_changes_nothing(case, compiled=True)


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_answers(case: str, dtype: torch.dtype) -> None:
    # On a CPU, too: PyTorch computes both there.
    model = settled(small(case))
    image = picture(1, 64, 64)
    with torch.inference_mode():
        exact = model(image)
        half = model.to(dtype)(image.to(dtype))
    assert half.dtype == dtype
    assert half.isfinite().all()
    # The mean: rounding may move the place of a maximum, and SegNet follows each that moves.
    tolerance = 0.2 if dtype == torch.bfloat16 else 0.05
    assert (half.float() - exact).abs().mean() <= tolerance * exact.abs().mean()


@every_model
def test_autocast_takes_float32_pictures(case: str) -> None:
    model = settled(small(case))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model(picture(1, 64, 64)).isfinite().all()


@every_model
def test_an_empty_batch_gives_empty_logits_and_gradients_of_zero(case: str) -> None:
    model = small(case).train()
    nothing = picture(2, 64, 64)[:0]
    output = model(nothing)
    outputs = [logits_of(output), *getattr(output, "auxiliary", {}).values()]
    assert all(one.shape[0] == 0 for one in outputs)
    torch.stack([one.sum() for one in outputs]).sum().backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    with torch.inference_mode():
        assert model.eval()(nothing).shape == (0, NUM_CLASSES, 64, 64)


@every_model
def test_pictures_that_cannot_be(case: str) -> None:
    model = settled(small(case))
    for other in (picture(1, 64, 64).numpy(), "picture.png", None):
        with pytest.raises(DtypeError, match=r"image: expected a torch\.Tensor.*fastseg\.predict"):
            model(other)
    with pytest.raises(ShapeError, match="3 channels"):
        model(picture(1, 64, 64, channels=4))
    with pytest.raises(ShapeError, match="unsqueeze"):
        model(picture(1, 64, 64)[0])
    with pytest.raises(DtypeError, match="floating point"):
        model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(DtypeError, match=r"expected torch\.float32.*float16.*autocast"):
        model(picture(1, 64, 64).half())


@every_model
def test_the_smallest_size_is_the_smallest(case: str) -> None:
    model = settled(small(case))
    side = model.minimum_size
    with torch.inference_mode():
        assert model(picture(1, side, side)).shape[-2:] == (side, side)
    if side > 1:
        with pytest.raises(ShapeError, match=f"from {side} pixels on, got {side - 1}x{side}"):
            model(picture(1, side - 1, side))


@one_of_a_kind
def test_compiles_without_a_break(case: str) -> None:
    model = settled(small(case))
    image = picture(1, 64, 64)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.inference_mode():
        assert torch.allclose(compiled(image), model(image), atol=1e-5)


@pytest.mark.slow
def test_compiles_to_machine_code() -> None:
    model = settled(small("unet_padded"))
    image = picture(1, 32, 32)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    with torch.inference_mode():
        assert torch.allclose(compiled(image), model(image), atol=1e-4)


@pytest.mark.slow
@one_of_a_kind
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exports_for_every_size(case: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = settled(small(case))
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        model, (picture(2, 64, 64),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)
    )
    other = picture(1, 81, 70)
    with torch.inference_mode():
        expected = model(other)
        assert torch.allclose(exported.module()(other), expected, atol=1e-4)
    program = torch.onnx.export(exported, verbose=False)
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    assert torch.allclose(torch.from_numpy(answer), expected, atol=1e-4)


def test_a_named_model_is_the_registered_one() -> None:
    model = fastseg.create_model("unet_padded", num_classes=2, widths=[4, 8])
    assert model.config == {
        "name": "unet_padded",
        "num_classes": 2,
        "in_channels": 3,
        "widths": [4, 8],
        "up": "transposed",
    }
