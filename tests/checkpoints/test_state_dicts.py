"""State dicts of other libraries, in files of their own."""

import pickle

import pytest
import torch

import fastseg
from fastseg.errors import CheckpointError
from references import plain_segformer
from references.hugging_face_segformer import randomised

IMAGE = torch.randn(1, 3, 64, 75, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def smp_model():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Segformer(
        "mit_b0", encoder_weights=None, classes=4, decoder_segmentation_channels=48
    )
    return randomised(model).eval()


def nvlabs_names(state):
    """segmentation_models.pytorch took NVlabs' names for the encoder; the decoder's differ."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("encoder.", "backbone.")
        for r in range(4):
            name = name.replace(
                f"decoder.mlp_stage.{r}.linear", f"decode_head.linear_c{4 - r}.proj"
            )
        name = name.replace("decoder.fuse_stage.0", "decode_head.linear_fuse.conv")
        name = name.replace("decoder.fuse_stage.1", "decode_head.linear_fuse.bn")
        name = name.replace("segmentation_head.0", "decode_head.linear_pred")
        renamed[name] = tensor
    return renamed


def saved(state, tmp_path, name="weights.pth"):
    torch.save(state, tmp_path / name)
    return tmp_path / name


def test_smp(smp_model, tmp_path) -> None:
    model = fastseg.load(saved(smp_model.state_dict(), tmp_path))
    assert model.config["name"] == "segformer_b0"
    with torch.inference_mode():
        image = IMAGE[..., :64]
        torch.testing.assert_close(model(image), smp_model(image), rtol=0, atol=2e-5)


def test_nvlabs(smp_model, tmp_path) -> None:
    smp = fastseg.load(saved(smp_model.state_dict(), tmp_path))
    state = nvlabs_names(smp_model.state_dict())
    state["decode_head.conv_seg.weight"] = torch.zeros(4, 48, 1, 1)
    state["decode_head.conv_seg.bias"] = torch.zeros(4)
    model = fastseg.load(saved({"state_dict": state, "meta": {"epoch": 3}}, tmp_path))
    assert model.encoder.stages[0].norm.eps == 1e-6
    assert model.encoder.stages[0].patch_embed.norm.eps == 1e-5
    with torch.inference_mode():
        assert torch.equal(model.native_logits(IMAGE), smp.native_logits(IMAGE))


def test_an_nvlabs_encoder_alone(smp_model, tmp_path) -> None:
    state = nvlabs_names(smp_model.state_dict())
    state = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone")}
    with pytest.raises(CheckpointError, match="encoder alone"):
        fastseg.load(saved(state, tmp_path))
    model = fastseg.load(saved(state, tmp_path), num_classes=3, head="new")
    assert model(IMAGE).shape == (1, 3, 64, 75)
    # ImageNet's files bring a classifier.
    state |= {"head.weight": torch.ones(10, 256), "head.bias": torch.zeros(10)}
    assert fastseg.load(saved(state, tmp_path))(IMAGE).shape == (1, 10)
    assert fastseg.load(saved(state, tmp_path), num_classes=3, head="new").num_classes == 3


def mmseg_state(model):
    """Our weights as mmsegmentation names them, packed as it packs them."""
    ours = model.state_dict()
    state = {}
    for name, tensor in ours.items():
        part, _, rest = name.partition(".")
        if part == "encoder":
            rest = rest.removeprefix("stages.")
            i, _, rest = rest.partition(".")
            rest = rest.replace("patch_embed.proj", "0.projection").replace(
                "patch_embed.norm", "0.norm"
            )
            rest = rest.replace("blocks.", "1.")
            if rest.startswith("norm."):
                rest = "2." + rest.removeprefix("norm.")
            rest = rest.replace("attention.reduce_norm", "attn.norm")
            rest = rest.replace("attention.reduce", "attn.sr")
            rest = rest.replace("attention.proj", "attn.attn.out_proj")
            if ".fc" in rest and rest.endswith("weight"):
                tensor = tensor[:, :, None, None]
            rest = rest.replace("ffn.fc1", "ffn.layers.0").replace("ffn.fc2", "ffn.layers.4")
            rest = rest.replace("ffn.dwconv", "ffn.layers.1")
            if "attention.query" in rest:
                packed = [ours[name.replace("query", x)] for x in ("query", "key", "value")]
                tensor = torch.cat(packed)
                rest = rest.replace("attention.query.", "attn.attn.in_proj_")
            elif "attention.key" in rest or "attention.value" in rest:
                continue
            state[f"backbone.layers.{i}.{rest}"] = tensor
        else:
            rest = rest.replace("projections.", "convs.").replace("projection_norms.", "convs.")
            if rest.startswith("convs."):
                kind = "bn" if "projection_norms" in name else "conv"
                i, leaf = rest.removeprefix("convs.").split(".")
                rest = f"convs.{i}.{kind}.{leaf}"
            rest = rest.replace("fuse.", "fusion_conv.conv.").replace("classifier.", "conv_seg.")
            if rest.startswith("norm."):
                rest = "fusion_conv.bn." + rest.removeprefix("norm.")
            state[f"decode_head.{rest}"] = tensor
    return state


def test_mmsegmentation(tmp_path) -> None:
    model = fastseg.create_model(
        "segformer_b0",
        num_classes=4,
        decoder="mmseg",
        decoder_width=24,
        norm_eps=1e-6,
        embed_norm_eps=1e-6,
    )
    randomised(model).eval()
    state = mmseg_state(model)
    loaded = fastseg.load(saved({"state_dict": state}, tmp_path))
    assert {**loaded.config, "drop_path_rate": 0.1} == model.config
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGE), model(IMAGE))
        features = model.encoder(IMAGE)
        expected = plain_segformer.mmseg_decoder(model.decoder, features)
        torch.testing.assert_close(loaded.native_logits(IMAGE), expected, rtol=0, atol=1e-5)
    # It has no place in Hugging Face's format, and keeps its own.
    loaded.save_pretrained(tmp_path / "folder")
    with torch.inference_mode():
        assert torch.equal(fastseg.load(tmp_path / "folder")(IMAGE), model(IMAGE))


@pytest.mark.parametrize(
    "name", ["fcn_resnet50", pytest.param("deeplab_v3", marks=pytest.mark.slow)]
)
def test_torchvision(name, tmp_path) -> None:
    torchvision = pytest.importorskip("torchvision")
    builder = {"fcn_resnet50": "fcn_resnet50", "deeplab_v3": "deeplabv3_resnet50"}[name]
    theirs = torchvision.models.get_model(
        builder, weights=None, weights_backbone=None, num_classes=3, aux_loss=True
    ).eval()
    model = fastseg.load(saved(theirs.state_dict(), tmp_path))
    assert model.config["name"] == name
    with torch.inference_mode():
        torch.testing.assert_close(model(IMAGE), theirs(IMAGE)["out"], rtol=0, atol=1e-4)
    other = fastseg.load(saved(theirs.state_dict(), tmp_path), num_classes=2, head="new")
    assert other(IMAGE).shape == (1, 2, 64, 75)
    with pytest.raises(CheckpointError, match="has 3 classes"):
        fastseg.load(saved(theirs.state_dict(), tmp_path), num_classes=2)


def test_our_own_format_of_other_models(tmp_path) -> None:
    model = fastseg.create_model("unet_padded", num_classes=3, widths=[4, 8]).eval()
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(fastseg.load(tmp_path)(IMAGE), model(IMAGE))
    assert fastseg.load(tmp_path, num_classes=2, head="new")(IMAGE).shape[1] == 2
    with pytest.raises(CheckpointError, match="has 3 classes"):
        fastseg.load(tmp_path, num_classes=2)


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def test_no_code_runs_from_a_pickle(tmp_path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(protocol=2, obj={"state_dict": Hostile()}))
    with pytest.raises(CheckpointError, match=r"could run code"):
        fastseg.load(path)
    torch.save({"state_dict": Hostile()}, path)
    with pytest.raises(CheckpointError, match=r"could run code"):
        fastseg.load(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": torch.zeros(1)}, "not a checkpoint that fastseg knows"),
        ({"epoch": 3}, "expected a state dict"),
        ([1, 2], "got list"),
    ],
)
def test_other_files_are_refused(value, message, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=message):
        fastseg.load(saved(value, tmp_path))


def test_what_is_not_there_or_damaged(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no such folder or file"):
        fastseg.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        fastseg.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    with pytest.raises(CheckpointError, match="there are no weights"):
        fastseg.load(tmp_path)
    for name in ("model.safetensors", "cut.pth"):
        (tmp_path / name).write_bytes(b"PK\3\4 cut short")
        with pytest.raises(CheckpointError, match=r"cannot be read|is damaged"):
            fastseg.load(tmp_path / name)


def test_wrappers_prefixes_are_taken_off(tmp_path) -> None:
    model = fastseg.create_model("unet_padded", num_classes=3, widths=[4, 8])
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    saved({"model": state}, tmp_path, "pytorch_model.bin")
    assert fastseg.load(tmp_path).config == model.config
