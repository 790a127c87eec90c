"""Models by name, what they are made with, and their files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastseg
from fastseg.errors import CheckpointError, DtypeError, ParameterError
from fastseg.models import SegmentationModel, UNetPlusPlus, register
from models.specs import SMALL

# What docs and papers call them.
NAMES = [
    *("fcn32s", "fcn16s", "fcn8s", "fcn_resnet50", "segnet", "unet", "unet_padded", "unetpp"),
    *("unet3p", "deeplab_v1", "deeplab_v2", "deeplab_v3", "deeplab_v3plus"),
    *("setr_naive", "setr_pup", "setr_mla", "segformer_b0", "segformer_b5"),
]


def test_names() -> None:
    assert set(NAMES) <= set(fastseg.list_models())
    assert fastseg.list_models("deeplab*") == [
        "deeplab_v1",
        "deeplab_v2",
        "deeplab_v3",
        "deeplab_v3plus",
    ]
    assert fastseg.list_models("no such*") == []


@pytest.mark.parametrize(
    ("name", "suggested"), [("unet++", "unet"), ("deeplabv3", "deeplab_v3"), ("SegNet", "segnet")]
)
def test_an_unknown_name_suggests_the_nearest(name: str, suggested: str) -> None:
    with pytest.raises(ParameterError, match=rf"no model is called.*did you mean .*'{suggested}'"):
        fastseg.create_model(name, num_classes=2)
    with pytest.raises(ParameterError, match=r"'zzz'; fastseg\.list_models"):
        fastseg.create_model("zzz", num_classes=2)


@pytest.mark.parametrize("name", [None, 3, ["unet"], ""])
def test_names_of_other_types(name: Any) -> None:
    with pytest.raises(ParameterError, match="name: no model is called"):
        fastseg.create_model(name, num_classes=2)


def test_patterns_of_other_types() -> None:
    with pytest.raises(DtypeError, match="pattern: expected a string, got None"):
        fastseg.list_models(None)  # type: ignore[arg-type]


def test_counts_of_numpy_and_torch_are_counts() -> None:
    for classes in (np.int64(3), torch.tensor(3)):
        model = fastseg.create_model("unet_padded", num_classes=classes, widths=[4, np.int32(8)])
        assert json.loads(json.dumps(model.config))["num_classes"] == 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_classes", [0, -1, 2.0, True, "3", None])
def test_class_counts_below_one(name: str, num_classes: Any) -> None:
    with pytest.raises(ParameterError, match="num_classes: expected a whole number from 1 on"):
        fastseg.create_model(name, num_classes=num_classes)


def test_channel_counts_below_one() -> None:
    with pytest.raises(ParameterError, match="in_channels: expected a whole number from 1 on"):
        fastseg.create_model("unet", num_classes=2, in_channels=0)


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(ParameterError, match="did you mean 'deep_supervision'"):
        fastseg.create_model("unetpp", num_classes=2, deep_supervison=True)
    with pytest.raises(ParameterError, match=r"encoder.*it takes at_once, dropout, width"):
        fastseg.create_model("fcn8s", num_classes=2, encoder="resnet50")


@pytest.mark.parametrize("name", ["unet_padded", "deeplab_v3", "fcn_resnet50", "setr_pup"])
def test_an_unknown_encoder_suggests_the_nearest(name: str) -> None:
    with pytest.raises(ParameterError, match=r"timm has no model called 'resnet5O'.*resnet50"):
        fastseg.create_model(name, num_classes=2, encoder="resnet5O")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("setr_naive", {"encoder": "resnet18"}, "cannot be SETR's|not a vision transformer"),
        ("setr_naive", {"encoder": "test_vit2"}, "not a vision transformer with a class token"),
        ("deeplab_v3", {"encoder": "test_vit"}, "cannot be a contracting path"),
        ("deeplab_v3", {"output_stride": 4}, "output_stride: expected one of 8, 16, 32"),
        ("deeplab_v3", {"rates": []}, "rates: expected a sequence"),
        ("deeplab_v2", {"scales": [0.0]}, r"scales\[0\] must be greater than 0"),
        ("unet_padded", {"up": "nearest"}, "up: expected one of 'transposed', 'bilinear'"),
        ("unet_padded", {"pretrained": True}, "no weights without an encoder"),
        ("unet_padded", {"encoder": "test_resnet", "widths": [8]}, "5 steps, got 1 widths"),
        ("unet", {"widths": [8, 0]}, "widths: expected a whole number from 1 on, got 0"),
        ("unetpp", {"depth": 5}, "depth: expected one of 1, 2, 3, 4, got 5"),
        ("unetpp", {"widths": [8]}, "at least two levels"),
        ("unet3p", {"widths": [8]}, "at least two levels"),
        ("unetpp", {"depth": True}, "depth: expected one of 1, 2, 3, 4, got True"),
        ("unetpp", {"depth": 2.0}, "depth: expected one of 1, 2, 3, 4, got 2.0"),
        ("fcn8s", {"width": 0}, "width must be greater than 0"),
        ("segnet", {"width": -1}, "width must be greater than 0"),
        ("deconvnet", {"width": float("nan")}, "width must be finite"),
        ("deeplab_v1", {"width": float("inf")}, "width must be finite"),
        ("fcn8s", {"dropout": 1.5}, "dropout must be at most 1"),
        ("unet", {"dropout": -0.5}, "dropout must be at least 0"),
        ("deeplab_v3", {"output_stride": 8.0}, "output_stride: expected one of 8, 16, 32"),
        ("deeplab_v3plus", {"output_stride": 0}, "output_stride: expected one of 8, 16, 32"),
        ("deeplab_v3plus", {"low_channels": 0}, "low_channels: expected a whole number"),
        ("deeplab_v2", {"scales": 1.0}, "scales: expected a sequence of factors above 0"),
        ("deeplab_v2", {"scales": [float("inf")]}, "must be finite"),
        ("deeplab_v2", {"scales": [1.0, 0.001]}, "scales: expected factors from 0.01 on"),
        ("setr_pup", {"encoder": "test_vit", "image_size": 8}, "at least a patch of test_vit, 16"),
        ("segformer_b0", {"widths": []}, "widths: expected a sequence"),
        ("segformer_b0", {"depths": 2}, "depths: expected a sequence"),
        ("segformer_b0", {"mlp_ratios": [4]}, "mlp_ratios: expected one for each of 4 stages"),
        ("segformer_b0", {"mlp_ratios": [4, 4, 0, 4]}, "at least one hidden channel"),
        ("segformer_b0", {"drop_path_rate": 1}, "drop_path_rate: expected less than 1"),
        ("segformer_b0", {"attention_dropout": -1}, "attention_dropout must be at least 0"),
        ("segformer_b0", {"classifier_dropout": 5}, "classifier_dropout must be at most 1"),
        ("segformer_b0", {"norm_eps": -1}, "norm_eps must be at least 0"),
        ("segformer_b0", {"decoder_width": 0}, "decoder_width: expected a whole number"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        fastseg.create_model(name, num_classes=2, **options)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("fcn8s", "at_once"),
        ("unet", "mirror"),
        ("unetpp", "norm"),
        ("unet3p", "classification"),
        ("deeplab_v3", "auxiliary"),
        ("setr_naive", "pretrained"),
        ("segformer_b0", "align_corners"),
    ],
)
@pytest.mark.parametrize("value", ["no", None, 1])
def test_switches_are_true_or_false(name: str, option: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=f"{option}: expected one of True, False, got"):
        fastseg.create_model(name, num_classes=2, **{option: value})


@pytest.mark.parametrize("width", ["wide", None, [1]])
def test_factors_of_other_types(width: Any) -> None:
    with pytest.raises(DtypeError, match="width must be a number"):
        fastseg.create_model("fcn8s", num_classes=2, width=width)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ParameterError, match="already registered"):
        register("unet")(UNetPlusPlus)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    name, options = SMALL["unetpp"]
    fastseg.create_model(name, num_classes=2, **options).save_pretrained(tmp_path)
    return tmp_path


def test_nothing_temporary_is_left(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_crash_leaves_the_old_files(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def crash(tensors: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr(safetensors.torch, "save_file", crash)
    with pytest.raises(OSError, match="disk full"):
        fastseg.create_model("unetpp", num_classes=3).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_class_loads_its_own_only(saved: Path) -> None:
    assert isinstance(UNetPlusPlus.from_pretrained(saved), UNetPlusPlus)
    with pytest.raises(ParameterError, match="holds a UNetPlusPlus"):
        fastseg.models.UNet3Plus.from_pretrained(saved)


def test_files_that_do_not_fit(saved: Path, tmp_path: Path) -> None:
    config = (saved / "config.json").read_text()
    (saved / "config.json").write_text(config.replace('"num_classes": 2', '"num_classes": 4'))
    with pytest.raises(CheckpointError, match=r"do not fit UNetPlusPlus \(4 problems\): heads\.L1"):
        SegmentationModel.from_pretrained(saved)
    (saved / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not written by fastseg"):
        SegmentationModel.from_pretrained(saved)
    (saved / "config.json").write_text("half a fi")
    with pytest.raises(CheckpointError, match="cannot be read"):
        SegmentationModel.from_pretrained(saved)
    (saved / "config.json").write_text(config)
    (saved / "model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        SegmentationModel.from_pretrained(saved)
    with pytest.raises(CheckpointError, match="no such folder"):
        SegmentationModel.from_pretrained(tmp_path / "elsewhere")


def test_names_and_preprocessing_are_saved(tmp_path: Path) -> None:
    model = fastseg.create_model("unet_padded", num_classes=2, widths=[4, 8])
    model.id2label = {0: "background", 1: "cell"}
    model.preprocessor_config = {"image_mean": [0.5, 0.5, 0.5]}
    model.save_pretrained(tmp_path)
    for load in (SegmentationModel.from_pretrained, fastseg.load):
        loaded = load(tmp_path)
        assert loaded.id2label == model.id2label
        assert loaded.preprocessor_config == model.preprocessor_config
    other = fastseg.load(tmp_path, num_classes=3, head="new")
    assert other.id2label is None


@pytest.mark.parametrize("load", [SegmentationModel.from_pretrained, fastseg.load])
def test_what_was_downloaded_loads_offline(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--cells"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    model = fastseg.create_model("unet_padded", num_classes=2, widths=[4, 8])
    model.save_pretrained(repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = load("someone/cells")
    assert torch.equal(loaded.state_dict()["classifier.weight"], model.classifier.weight)
    with pytest.raises(CheckpointError, match=r"someone/else: neither a folder"):
        load("someone/else")


def test_the_hub_gets_what_is_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    model = fastseg.create_model("unet_padded", num_classes=2, widths=[4, 8])
    uploads: list[tuple[str, list[str], str]] = []

    class Repository:
        repo_id = "someone/cells"

    class Api:
        def __init__(self, token: str | None = None) -> None:
            assert token == "secret"

        def create_repo(self, *, repo_id: str, private: bool | None, exist_ok: bool) -> Repository:
            assert (repo_id, private, exist_ok) == ("cells", True, True)
            return Repository()

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
            files = sorted(path.name for path in Path(folder_path).iterdir())
            uploads.append((repo_id, files, commit_message))
            return "https://commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert model.push_to_hub("cells", private=True, token="secret") == "https://commit"
    assert uploads == [
        ("someone/cells", ["config.json", "model.safetensors"], "Upload unet_padded")
    ]
    model.save_pretrained(tmp_path)

    def download(name: str, **options: object) -> str:
        assert (name, options["revision"]) == ("someone/cells", "v1")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = SegmentationModel.from_pretrained("someone/cells", revision="v1")
    assert torch.equal(loaded.state_dict()["classifier.weight"], model.classifier.weight)

    def fail(name: str, **options: object) -> str:
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="offline"):
        SegmentationModel.from_pretrained("someone/cells")
