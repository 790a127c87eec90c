"""Folders of Hugging Face, read and written, against the live transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastseg
from fastseg.errors import CheckpointError, ParameterError
from references import hugging_face_segformer

transformers = pytest.importorskip("transformers")
IMAGE = torch.randn(2, 3, 64, 91, generator=torch.Generator().manual_seed(1))


def same(model, theirs) -> None:
    with torch.inference_mode():
        expected = theirs(IMAGE).logits
        torch.testing.assert_close(model.native_logits(IMAGE), expected, rtol=0, atol=1e-5)


def test_a_folder_loads_and_computes_the_same(saved, theirs) -> None:
    model = fastseg.load(saved)
    assert not model.training
    assert model.config["num_classes"] == 5
    same(model, theirs)


def test_names_in_memory_load_too(theirs, tmp_path) -> None:
    # From transformers 5.9 on these differ from those in files.
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    heads = {"num_heads": [1, 2, 3, 4]}
    theirs.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "folder" / "pytorch_model.bin")
    same(fastseg.load(tmp_path / "folder"), theirs)
    with pytest.raises(CheckpointError, match="heads of 64 channels"):
        fastseg.load(tmp_path / "weights.pth", **heads)


def test_transformers_loads_what_we_save(saved, theirs, tmp_path) -> None:
    model = fastseg.load(saved)
    model.id2label = dict(enumerate("abcde"))
    model.preprocessor_config = {"do_resize": False}
    model.save_pretrained(tmp_path / "ours")
    cls = transformers.SegformerForSemanticSegmentation
    back, report = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert back.config.id2label == dict(enumerate("abcde"))
    same(model, back.eval())
    again = fastseg.load(tmp_path / "ours")
    assert again.config == model.config
    assert again.id2label == model.id2label
    assert again.preprocessor_config == model.preprocessor_config
    assert type(model).from_pretrained(tmp_path / "ours").config == model.config
    files = load_file(tmp_path / "ours" / "model.safetensors")
    assert set(files) == set(load_file(saved / "model.safetensors"))
    assert all("encoder.block" in name for name in files if "attention" in name)


def test_another_eps_is_kept_and_warned_of(tmp_path) -> None:
    model = fastseg.create_model("segformer_b0", num_classes=2, norm_eps=1e-6)
    with pytest.warns(UserWarning, match="transformers computes with 1e-5"):
        model.save_pretrained(tmp_path)
    assert fastseg.load(tmp_path).encoder.stages[0].norm.eps == 1e-6


def test_classifiers_load_and_save(tmp_path) -> None:
    theirs = hugging_face_segformer.classification()
    theirs.save_pretrained(tmp_path / "theirs")
    model = fastseg.load(tmp_path / "theirs")
    with torch.inference_mode():
        torch.testing.assert_close(model(IMAGE), theirs(IMAGE).logits, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "ours")
    cls = transformers.SegformerForImageClassification
    _, report = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert fastseg.load(tmp_path / "ours").config == model.config
    segmenter = fastseg.load(tmp_path / "theirs", num_classes=3, head="new")
    assert segmenter(IMAGE).shape == (2, 3, 64, 91)
    one, other = (m.encoder.state_dict() for m in (model, segmenter))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ParameterError, match="how many classes"):
        fastseg.load(tmp_path / "theirs", head="new")


def test_an_encoder_alone_needs_a_new_head(theirs, tmp_path) -> None:
    theirs.segformer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="head='new'"):
        fastseg.load(tmp_path)
    model = fastseg.load(tmp_path, num_classes=4, head="new")
    assert model(IMAGE).shape == (2, 4, 64, 91)
    mine, original = model.encoder.stages[1].norm.bias, theirs.segformer.stages[1].layer_norm.bias
    assert torch.equal(mine, original)


def test_another_number_of_classes_says_what_to_do(saved) -> None:
    with pytest.raises(CheckpointError, match=r"num_classes=7, head='new'"):
        fastseg.load(saved, num_classes=7)
    model = fastseg.load(saved, num_classes=7, head="new")
    kept = fastseg.load(saved)
    differing = {
        name
        for name, tensor in kept.state_dict().items()
        if not torch.equal(
            tensor, model.state_dict()[name][: len(tensor)] if tensor.ndim else tensor
        )
    }
    assert differing == {"decoder.classifier.weight", "decoder.classifier.bias"}
    # With as many classes, the head is fresh all the same.
    new = fastseg.load(saved, head="new")
    assert not torch.equal(new.decoder.classifier.weight, kept.decoder.classifier.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decode_head.linear_fuse.weight"), r"missing decoder\.fuse\.weight"),
        (
            lambda s: s.update({"decode_head.extra": torch.zeros(1)}),
            r"left over decode_head\.extra",
        ),
        (
            lambda s: s.update({"decode_head.batch_norm.bias": torch.zeros(3)}),
            r"decoder\.norm\.bias is \(3,\), expected \(24,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(saved, change, message) -> None:
    state = load_file(saved / "model.safetensors")
    change(state)
    save_file(state, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        fastseg.load(saved)


def test_a_folder_without_a_config(saved) -> None:
    (saved / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        fastseg.load(saved)


def test_a_damaged_config(saved) -> None:
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        fastseg.load(saved)
    (saved / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="JSON object"):
        fastseg.load(saved)


def test_another_activation_is_refused(saved) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(CheckpointError, match="'relu'"):
        fastseg.load(saved)


def test_weights_in_parts(saved, theirs) -> None:
    state = load_file(saved / "model.safetensors")
    names = sorted(state)
    (saved / "model.safetensors").unlink()
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: state[name] for name in held}, saved / part)
    weight_map = {name: part for part, held in parts.items() for name in held}
    index = saved / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    same(fastseg.load(saved), theirs)


def test_options_replace_the_checkpoints(saved) -> None:
    model = fastseg.load(saved, drop_path_rate=0.5)
    assert model.encoder.stages[3].blocks[0].drop_path.rate == 0.5
    with pytest.raises(ParameterError, match="no such option"):
        fastseg.load(saved, drop_path=0.5)
    with pytest.raises(ParameterError, match="head"):
        fastseg.load(saved, head="none")


def test_half_precision_files_stay_in_half_precision(theirs, tmp_path) -> None:
    import copy

    copy.deepcopy(theirs).bfloat16().save_pretrained(tmp_path)
    assert fastseg.load(tmp_path).decoder.fuse.weight.dtype == torch.bfloat16
