"""`accelerate`, `restore` and `acceleration_report` on the installed transformers.

`make test-transformers-old` runs this file with a transformers before its version 5.9, too.
"""

import copy
import io
import pickle
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

import fastseg
from acceleration.conftest import build, transformers
from fastseg.errors import DtypeError

SEMANTIC = "SegformerForSemanticSegmentation"
KINDS = [SEMANTIC, "SegformerModel", "SegformerForImageClassification"]
TOLERANCE = 2e-5
NEW = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (5, 9)


def layers_of(model: nn.Module, word: str) -> list[nn.Module]:
    return [module for module in model.modules() if word in type(module).__name__]


def first_output(model: Any, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(image)[0]


def accelerated(model: nn.Module) -> int:
    layers = fastseg.acceleration_report(model).layers
    return sum(layer.status == "accelerated" for layer in layers)


class TestOutputs:
    @pytest.mark.parametrize("size", [(64, 64), (65, 97), (32, 32), (96, 64)])
    @pytest.mark.parametrize("kind", KINDS)
    def test_same_as_before(self, kind, size):
        model = build(kind)
        image = torch.randn(2, 3, *size)
        expected = first_output(model, image)
        assert fastseg.accelerate(model) is model
        found = first_output(model, image)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
        # Something else ran: rounding alone tells.
        assert accelerated(model) == len(fastseg.acceleration_report(model).layers) > 0

    @pytest.mark.slow
    def test_b0_at_its_own_size(self):
        model = build(
            num_labels=150,
            depths=[2, 2, 2, 2],
            hidden_sizes=[32, 64, 160, 256],
            decoder_hidden_size=256,
            num_attention_heads=[1, 2, 5, 8],
        )
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        image = torch.randn(1, 3, 333, 517)
        expected = first_output(model, image)
        found = first_output(fastseg.accelerate(model), image)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    def test_double_precision_is_exact(self):
        model = build().double()
        image = torch.randn(1, 3, 70, 50, dtype=torch.float64)
        expected = first_output(model, image)
        found = first_output(fastseg.accelerate(model), image)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)

    @pytest.mark.parametrize("labels", [1, 5])
    def test_loss(self, labels):
        model = build(num_labels=labels)
        image, target = torch.randn(2, 3, 64, 64), torch.randint(0, labels, (2, 64, 64))
        target[0, :5] = 255
        expected = model(image, labels=target).loss
        found = fastseg.accelerate(model)(image, labels=target).loss
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    def test_hidden_states(self):
        model = build()
        image = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            expected = model(image, output_hidden_states=True).hidden_states
            found = fastseg.accelerate(model)(image, output_hidden_states=True).hidden_states
        assert len(found) == len(expected) == 4
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=TOLERANCE)

    def test_attentions(self):
        model = build(attn_implementation="eager")
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = model(image, output_attentions=True)
            found = fastseg.accelerate(model)(image, output_attentions=True)
        assert len(found.attentions) == len(expected.attentions) == 5
        for one, other in zip(found.attentions, expected.attentions, strict=True):
            torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(found.logits, expected.logits, atol=TOLERANCE, rtol=TOLERANCE)

    def test_tuples(self):
        model = fastseg.accelerate(build())
        assert isinstance(model(torch.randn(1, 3, 32, 32), return_dict=False), tuple)

    def test_last_stage_in_one_row(self):
        model = build("SegformerModel", reshape_last_stage=False)
        image = torch.randn(1, 3, 64, 64)
        expected = first_output(model, image)
        assert expected.ndim == 3
        found = first_output(fastseg.accelerate(model), image)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)

    def test_other_activations_take_their_own_way(self):
        model = build(hidden_act="relu")
        image = torch.randn(1, 3, 64, 64)
        expected = first_output(model, image)
        found = first_output(fastseg.accelerate(model), image)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
        assert "not the usual one" in str(fastseg.acceleration_report(model))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype):
        model = build().to(dtype)
        image = torch.randn(1, 3, 64, 64).to(dtype)
        expected = first_output(model, image)
        found = first_output(fastseg.accelerate(model), image)
        assert found.dtype == dtype
        scale = float(expected.float().abs().max())
        assert float((found - expected).abs().max()) < 0.05 * scale

    def test_autocast(self):
        model = build()
        image = torch.randn(1, 3, 64, 64)
        exact = first_output(model, image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = first_output(model, image)
            found = first_output(fastseg.accelerate(model), image)
        assert found.dtype == expected.dtype
        scale = float(exact.abs().max())
        # As close to full precision as transformers is, about.
        assert float((found.float() - exact).abs().max()) < 0.05 * scale


class TestTraining:
    def gradients(self, model, image, target):
        model.zero_grad()
        model(image, labels=target).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_gradients(self, checkpointing):
        quiet = {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
        model = build(**quiet).train()
        image, target = torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
        expected = self.gradients(model, image, target)
        if checkpointing:
            if not NEW:
                pytest.skip("SegFormer has no gradient checkpointing before transformers 5.9")
            # Renamed in 5.20 or so; the old name warns there.
            name = "activation_checkpointing_enable"
            getattr(model, name, model.gradient_checkpointing_enable)()
        found = self.gradients(fastseg.accelerate(model), image, target)
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            scale = float(gradient.abs().max()) + 1e-6
            assert float((found[name] - gradient).abs().max()) < 1e-4 * scale + 1e-6, name

    def test_statistics_move_alike(self):
        quiet = {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
        one = build(**quiet).train()
        other = fastseg.accelerate(copy.deepcopy(one))
        image = torch.randn(2, 3, 64, 64)
        one(image)
        other(image)
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, atol=1e-5, rtol=1e-5)

    def test_attention_dropout(self):
        model = fastseg.accelerate(build(attention_probs_dropout_prob=0.5)).train()
        image = torch.randn(1, 3, 64, 64)
        before = accelerated(model)
        torch.manual_seed(1)
        one = model.segformer(image)[0]
        torch.manual_seed(2)
        other = model.segformer(image)[0]
        assert not torch.equal(one, other)
        assert accelerated(model) == before

    def test_trainer(self, tmp_path):
        pytest.importorskip("accelerate")
        model = fastseg.accelerate(build())
        data = [
            {"pixel_values": torch.randn(3, 32, 32), "labels": torch.randint(0, 5, (32, 32))}
            for _ in range(4)
        ]
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=2,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        before = model.decode_head.classifier.weight.detach().clone()
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
        result = trainer.train()
        assert result.global_step == 2
        assert not torch.equal(model.decode_head.classifier.weight, before)
        assert accelerated(model) > 0


class TestReversible:
    def test_restore(self):
        model = build()
        before = {name: dict(module.__dict__) for name, module in model.named_modules()}
        assert fastseg.restore(fastseg.accelerate(model)) is model
        assert accelerated(model) == 0
        assert {name: dict(module.__dict__) for name, module in model.named_modules()} == before

    def test_restored_outputs_have_the_same_bits(self):
        model = build()
        image = torch.randn(1, 3, 64, 64)
        expected = first_output(model, image)
        fastseg.restore(fastseg.accelerate(model))
        assert torch.equal(first_output(model, image), expected)

    def test_twice_is_once(self):
        model = fastseg.accelerate(fastseg.accelerate(build()))
        fastseg.restore(model)
        assert accelerated(model) == 0
        fastseg.restore(model)

    def test_classes_and_state_stay(self):
        model = build()
        classes = [type(module) for module in model.modules()]
        state = {name: value.clone() for name, value in model.state_dict().items()}
        fastseg.accelerate(model)
        assert [type(module) for module in model.modules()] == classes
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
        model.load_state_dict(state, strict=True)

    def test_save_pretrained(self, tmp_path):
        model = fastseg.accelerate(build())
        image = torch.randn(1, 3, 64, 64)
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path).eval()
        assert accelerated(loaded) == 0
        assert list(loaded.state_dict()) == list(model.state_dict())
        found = first_output(fastseg.accelerate(loaded), image)
        expected = first_output(model, image)
        # Not the same bits: weights read from a file lie at other addresses.
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)

    def test_copies_are_accelerated_and_apart(self):
        model = fastseg.accelerate(build())
        twin = copy.deepcopy(model)
        assert accelerated(twin) == accelerated(model)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert float(first_output(twin, torch.randn(1, 3, 32, 32)).abs().max()) == 0
        assert float(first_output(model, torch.randn(1, 3, 32, 32)).abs().max()) > 0

    def test_pickles_are_plain(self):
        model = fastseg.accelerate(build())
        loaded = pickle.loads(pickle.dumps(model))
        assert accelerated(loaded) == 0
        assert accelerated(fastseg.accelerate(loaded)) == accelerated(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        image = torch.randn(1, 3, 32, 32)
        again = torch.load(file, weights_only=False)
        torch.testing.assert_close(
            first_output(again, image), first_output(model, image), atol=TOLERANCE, rtol=TOLERANCE
        )

    def test_weights_that_change_count(self):
        model = fastseg.accelerate(build())
        image = torch.randn(1, 3, 32, 32)
        first_output(model, image)
        with torch.no_grad():
            model.decode_head.linear_fuse.weight.mul_(2)
        found = first_output(model, image)
        expected = first_output(fastseg.restore(model), image)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


class TestWhatIsLeft:
    def test_report_of_a_plain_model(self):
        report = fastseg.acceleration_report(build())
        assert {layer.status for layer in report.layers} == {"original"}
        assert report.summary().startswith("0 of ")

    def test_report_reads_as_text(self):
        text = str(fastseg.acceleration_report(fastseg.accelerate(build())))
        assert "SegformerDecodeHead (decode_head): Folded" in text

    def test_report_of_another_model(self):
        assert fastseg.acceleration_report(nn.Linear(2, 2)).layers == ()

    def test_no_segformer_inside(self):
        with pytest.raises(DtypeError, match=r"expected a SegFormer of transformers .* got Linear"):
            fastseg.accelerate(nn.Linear(2, 2))

    def test_inside_another_module(self):
        model = nn.Sequential(build("SegformerModel"))
        fastseg.accelerate(model)
        assert accelerated(model) > 0

    def test_forward_of_another_hand(self):
        model = build()
        head = model.decode_head
        head.forward = MethodType(lambda self, states, **_: states[0], head)
        fastseg.accelerate(model)
        layer = fastseg.acceleration_report(model).layers[-1]
        assert (layer.name, layer.status) == ("decode_head", "left")
        assert "replaced by other code" in layer.detail
        fastseg.restore(model)
        assert "forward" in head.__dict__

    def test_subclass_with_its_own_forward(self):
        model = build()

        class Louder(type(model.decode_head)):
            def forward(self, *arguments, **keywords):
                return 2 * super().forward(*arguments, **keywords)

        model.decode_head.__class__ = Louder
        image = torch.randn(1, 3, 32, 32)
        expected = first_output(model, image)
        found = first_output(fastseg.accelerate(model), image)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
        assert "Louder has a forward of its own" in str(fastseg.acceleration_report(model))

    def test_exchanged_linear_layers_are_called(self):
        class Adapter(nn.Linear):
            def forward(self, x):
                return super().forward(x) + 1

        model = build()
        for module in model.modules():
            for child in module.children():
                if type(child) is nn.Linear:
                    child.__class__ = Adapter
        image = torch.randn(1, 3, 64, 64)
        expected = first_output(model, image)
        found = first_output(fastseg.accelerate(model), image)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
        assert "exchanged or has hooks" in str(fastseg.acceleration_report(model))

    @pytest.mark.parametrize("word", ["Linear", "Conv2d", "ReLU", "BatchNorm2d", "GELU"])
    def test_hooks_are_called(self, word):
        model = fastseg.accelerate(build())
        image = torch.randn(1, 3, 64, 64)
        hooked = layers_of(model, word)
        assert hooked
        called = set()
        for layer in hooked:
            layer.register_forward_hook(lambda module, *_: called.add(module))
        first_output(model, image)
        assert called == set(hooked)


class TestCompile:
    def test_whole_graph(self):
        model = fastseg.accelerate(build())
        image = torch.randn(1, 3, 64, 64)
        expected = first_output(model, image)
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=NEW, backend="eager")
        found = first_output(compiled, image)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)

    def test_few_recompilations(self):
        model = fastseg.accelerate(build())
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounter()
        compiled = torch.compile(model, backend=counter, dynamic=True)
        for side in (64, 96, 128, 65, 100):
            first_output(compiled, torch.randn(1, 3, side, side + 32))
        assert counter.frame_count <= 3 if NEW else 12

    def test_restored_models_run_their_own_code_again(self):
        model = fastseg.accelerate(build())
        image = torch.randn(1, 3, 64, 64)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager")
        first_output(compiled, image)
        fastseg.restore(model)
        assert torch.equal(first_output(compiled, image), first_output(model, image))
