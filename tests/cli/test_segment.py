"""`fastseg segment`: a tiny checkpoint, pictures of all kinds, results and failures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastseg
from fastseg import inference

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A SegFormer as transformers saves it, with the settings of its processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_labels=6,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 20, 32],
        decoder_hidden_size=16,
        num_attention_heads=[1, 2, 5, 4],
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    settings = {"size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def photos(scene, tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.roll(scene.image, 5 * number, axis=1)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def segment(run, checkpoint, tmp_path):
    def call(*words):
        return run("segment", *words, "--model", checkpoint, "-o", tmp_path / "out")

    return call


class TestResults:
    def test_labels(self, segment, scene, checkpoint, tmp_path):
        outcome = segment(scene.save_image())
        assert outcome.code == 0, outcome.err
        assert "scene.png: 24×32" in outcome.out
        with Image.open(tmp_path / "out" / "scene.png") as written:
            assert written.mode == "P"
            labels = np.asarray(written)
        expected = fastseg.predict(fastseg.load(checkpoint), scene.image)
        assert np.array_equal(labels, expected)
        assert len(np.unique(labels)) > 1

    def test_folder_in_batches(self, segment, photos, tmp_path):
        assert segment(photos).code == 0
        one = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert sorted(one) == ["0.png", "1.png", "2.png"]
        outcome = segment(photos, "--batch-size", "2", "--json")
        assert json.loads(outcome.out)["done"] == 3
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == one

    def test_everything_else(self, segment, scene, tmp_path):
        words = ("--mode", "slide", "--window", "32", "64", "--overlap", "0.5", "--tta", "hflip")
        outcome = segment(
            *(scene.save_image(), *words, "0.5", "--crf", "deeplab-v2", "--overlay", "--json"),
            *("--palette", "voc", "--threads", "1", "--alpha", "0.4"),
        )
        assert outcome.code == 0, outcome.err
        report = json.loads(outcome.out)
        assert report["parameters"]["tta"] == ["hflip", 0.5]
        (entry,) = report["files"]
        assert entry["shape"] == [24, 32]
        with Image.open(entry["outputs"]["overlay"]) as overlay:
            assert overlay.size == (32, 24)
            assert overlay.mode == "RGB"

    def test_probabilities(self, segment, scene, tmp_path):
        outcome = segment(scene.save_image(), "--return", "probs", "--size", "32", "48")
        assert outcome.code == 0, outcome.err
        probs = np.load(tmp_path / "out" / "scene.npy")
        assert probs.shape == (6, 24, 32)
        np.testing.assert_allclose(probs.sum(0), 1, atol=1e-5)

    @pytest.mark.parametrize("suffix", ["npy", "npz", "png"])
    def test_formats(self, segment, scene, tmp_path, suffix):
        words = ("--output-format", suffix, "--palette", "none")
        assert segment(scene.save_image("photo.bmp"), *words).code == 0
        assert (tmp_path / "out" / f"photo.{suffix}").exists()

    def test_skip_existing(self, segment, photos):
        segment(photos / "0.png")
        outcome = segment(photos, "--skip-existing", "--json")
        report = json.loads(outcome.out)
        assert (report["skipped"], report["done"]) == (1, 2)

    def test_arrays_and_sixteen_bits(self, segment, scene, tmp_path):
        np.save(tmp_path / "first.npy", scene.image.transpose(2, 0, 1))
        deep = scene.image[..., 0].astype(np.uint16) * 257
        Image.fromarray(deep).save(tmp_path / "deep.png")
        outcome = segment(tmp_path / "first.npy", tmp_path / "deep.png", "--overlay")
        assert outcome.code == 0, outcome.err

    def test_progress(self, segment, photos):
        assert "3/3" in segment(photos, "--progress").err


class TestFailures:
    @pytest.mark.parametrize("batch", ["1", "2"])
    def test_others_are_done(self, segment, photos, tmp_path, batch):
        (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:200])
        np.save(photos / "values.npy", np.full((8, 8, 3), 1e6))
        outcome = segment(photos, "--batch-size", batch, "--json")
        assert outcome.code == 1
        status = [entry["status"] for entry in json.loads(outcome.out)["files"]]
        assert status == ["ok", "failed", "ok", "failed"]
        assert "1.png cannot be read" in outcome.err
        assert "values.npy: image: holds" in outcome.err
        assert "2 of 4 files failed" in outcome.err
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "2.png"]

    def test_transparent(self, segment, scene, tmp_path):
        picture = Image.fromarray(scene.image)
        picture.putalpha(100)
        picture.save(tmp_path / "hole.png")
        outcome = segment(tmp_path / "hole.png")
        assert outcome.code == 1
        assert "transparent" in outcome.err

    def test_interrupt(self, segment, photos, monkeypatch):
        original, calls = inference.predict, []

        def second_is_interrupted(*arguments, **keywords):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(*arguments, **keywords)

        monkeypatch.setattr(inference, "predict", second_is_interrupted)
        outcome = segment(photos)
        assert outcome.code == 130
        assert "1 of 3" in outcome.err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--palette", "rainbow"), "unknown palette"),
            (("--crf", "nope"), "unknown preset"),
            (("--return", "probs", "--output-format", "png"), "use npy"),
            (("--mode", "slide", "--size", "3", "3"), "--window"),
            (("--window", "1", "2", "3"), "one number or two"),
            (("--alpha", "2"), "--alpha"),
            (("--overlap", "1"), "--overlap"),
            (("--device", "toaster"), "--device toaster"),
            (("--tta", "turn"), "hflip"),
        ],
        ids=str,
    )
    def test_wrong_usage(self, segment, scene, words, message):
        outcome = segment(scene.save_image(), *words)
        assert outcome.code == 2
        assert message in outcome.err

    def test_no_model(self, run, scene, tmp_path):
        words = ("segment", scene.save_image(), "-o", tmp_path / "out", "--model")
        empty = tmp_path / "empty"
        empty.mkdir()
        for model in (tmp_path / "gone", empty):
            outcome = run(*words, model)
            assert outcome.code == 2
            assert "--model" in outcome.err

    def test_one_name_twice(self, segment, photos, scene, tmp_path):
        outcome = segment(photos / "0.png", scene.save_image("0.bmp"))
        assert outcome.code == 2
        assert "would both become" in outcome.err

    def test_inputs_are_never_replaced(self, run, photos, checkpoint):
        outcome = run("segment", photos, "--model", checkpoint, "-o", photos)
        assert outcome.code == 2
        assert "would replace an input" in outcome.err
