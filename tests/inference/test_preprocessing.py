"""Preprocessing equals the image processors of transformers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastseg.errors import CheckpointError, DtypeError, ParameterError, ShapeError
from fastseg.inference import Preprocessing
from inference.conftest import smooth_picture

transformers = pytest.importorskip("transformers")
pytest.importorskip("torchvision")

SETTINGS = [
    {},
    {"size": {"height": 40, "width": 24}},
    {"size": {"shortest_edge": 32}},
    {"size": {"shortest_edge": 64, "longest_edge": 70}},
    {"do_resize": False},
    {"resample": 3, "size": {"height": 30, "width": 50}},
    {"resample": 0, "size": {"height": 30, "width": 50}},
    {"do_normalize": False, "size": {"height": 32, "width": 32}},
    {"do_rescale": False, "size": {"height": 32, "width": 32}},
    {"do_rescale": False, "do_normalize": False, "size": {"height": 32, "width": 32}},
    {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3], "rescale_factor": 1 / 128},
]


def processor(backend: str, **settings):
    names = {"torch": "SegformerImageProcessor", "pillow": "SegformerImageProcessorPil"}
    kind = getattr(transformers, names[backend], None)
    if kind is None:
        pytest.skip(f"transformers {transformers.__version__} has no {names[backend]}")
    return kind(**settings)


def config_of(its) -> dict:
    return json.loads(its.to_json_string())


class TestAgainstTransformers:
    @pytest.mark.parametrize("shape", [(60, 92), (133, 47), (64, 64)])
    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_same_bits_as_the_torchvision_backend(self, settings, shape):
        its = processor("torch", **settings)
        picture = smooth_picture(*shape)
        expected = its(picture, return_tensors="pt")["pixel_values"].to(torch.float32)
        found = Preprocessing.from_config(config_of(its))(picture)
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("settings", SETTINGS, ids=str)
    def test_the_pillow_backend(self, settings):
        its = processor("pillow", **settings)
        picture = smooth_picture(60, 92)
        expected = its(picture, return_tensors="pt")["pixel_values"].to(torch.float32)
        prepare = Preprocessing.from_config(config_of(its)).replace(engine="pillow")
        torch.testing.assert_close(prepare(picture), expected, atol=3e-7, rtol=3e-7)

    def test_the_backends_are_a_grey_level_apart(self):
        prepare = Preprocessing(size=(31, 53), scale=None, mean=None, std=None)
        picture = smooth_picture(60, 92)
        apart = prepare(picture) - prepare.replace(engine="pillow")(picture)
        assert float(apart.abs().max()) <= 1

    @pytest.mark.parametrize("reduce", [False, True])
    def test_label_maps(self, reduce):
        its = processor("torch", size={"height": 33, "width": 47}, do_reduce_labels=reduce)
        ids = np.random.default_rng(0).integers(0, 151, (60, 92)).astype(np.uint8)
        ids[:3] = 255
        given = {"segmentation_maps": ids.copy(), "return_tensors": "pt"}
        expected = its(smooth_picture(60, 92), **given)["labels"][0]
        found = Preprocessing.from_config(config_of(its)).labels(ids)
        assert torch.equal(found, expected)


class TestConfig:
    def test_old_names_and_sizes(self):
        prepare = Preprocessing.from_config({"size": 512, "reduce_labels": True, "resample": 2})
        assert prepare.size == (512, 512)
        assert prepare.reduce_labels
        assert Preprocessing.from_config({"size": [20, 30]}).size == (20, 30)

    def test_pillow_backed_checkpoints(self):
        kind = {"image_processor_type": "SegformerImageProcessorPil"}
        assert Preprocessing.from_config(kind).engine == "pillow"

    def test_folder(self, tmp_path):
        (tmp_path / "preprocessor_config.json").write_text('{"size": 64}')
        assert Preprocessing.from_pretrained(tmp_path).size == (64, 64)
        assert Preprocessing.from_pretrained(tmp_path / "preprocessor_config.json").size == (64, 64)

    @pytest.mark.parametrize("content", ["{", "[]", '{"size": "large"}', '{"resample": 9}'])
    def test_damaged(self, tmp_path, content):
        (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
            Preprocessing.from_pretrained(tmp_path)

    def test_missing(self):
        with pytest.raises(CheckpointError, match=r"there is no preprocessor_config\.json"):
            Preprocessing.from_pretrained("no-such-folder")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"size": (0, 4)}, "at least 1"),
            ({"size": (4, 4), "shortest_edge": 3}, "one of size and shortest_edge"),
            ({"longest_edge": 3}, "goes with shortest_edge"),
            ({"resample": "sharp"}, "bilinear"),
            ({"engine": "opencv"}, "pillow"),
            ({"mean": None}, "give both"),
            ({"std": (1.0, 0.0, 1.0)}, "other than 0"),
        ],
    )
    def test_settings_that_cannot_be(self, settings, message):
        with pytest.raises(ParameterError, match=message):
            Preprocessing(**settings)


class TestOneCall:
    def test_batches(self):
        pictures = [smooth_picture(40, 50, seed) for seed in range(3)]
        prepare = Preprocessing(size=(16, 24))
        batch = prepare(pictures)
        assert batch.shape == (3, 3, 16, 24)
        assert torch.equal(batch[1], prepare(pictures[1])[0])

    def test_sizes_that_differ(self):
        pictures = [smooth_picture(40, 50), smooth_picture(41, 50)]
        with pytest.raises(ShapeError, match="one prepared size"):
            Preprocessing()(pictures)

    def test_the_picture_is_not_written_to(self):
        picture = torch.rand(3, 8, 8) * 255
        before = picture.clone()
        Preprocessing(scale=None, mean=None, std=None)(picture).zero_()
        assert torch.equal(picture, before)

    def test_mean_of_another_number_of_channels(self):
        with pytest.raises(ShapeError, match="2 channels"):
            Preprocessing(mean=(0.5, 0.5), std=(1.0, 1.0))(smooth_picture(8, 8))

    def test_labels_that_are_none(self):
        with pytest.raises(DtypeError, match="integer labels"):
            Preprocessing().labels(np.zeros((3, 3)))
        with pytest.raises(ShapeError, match=r"\(H, W\)"):
            Preprocessing().labels(np.zeros((3, 3, 3), np.uint8))

    @pytest.mark.parametrize("resample", ["lanczos", "box", "hamming"])
    def test_filters_that_only_pillow_has(self, resample):
        picture = smooth_picture(40, 50)
        prepare = Preprocessing(size=(17, 23), resample=resample, scale=None, mean=None, std=None)
        how = Image.Resampling[resample.upper()]
        expected = np.asarray(Image.fromarray(picture).resize((23, 17), how))
        assert np.array_equal(prepare(picture)[0].permute(1, 2, 0).numpy(), expected)
