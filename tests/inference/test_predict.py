"""`predict` against what it stands for, written out: whole pictures, windows, several passes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastseg
from fastseg import predict
from fastseg.errors import CheckpointError, DtypeError, ParameterError, ShapeError
from fastseg.inference import Preprocessing
from inference.conftest import Quarter, smooth_picture

transformers = pytest.importorskip("transformers")

PLAIN = Preprocessing()


def logits_of(model, picture, size=None):
    """(K, H, W): the definition of the mode "whole"."""
    batch = PLAIN.replace(size=size)(picture)
    with torch.no_grad():
        logits = model(batch)
    return F.interpolate(logits, picture.shape[:2], mode="bilinear", align_corners=False)[0]


def segformer(**changes):
    settings = {
        "num_labels": 7,
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 20, 32],
        "decoder_hidden_size": 16,
        "num_attention_heads": [1, 2, 5, 4],
    }
    torch.manual_seed(0)
    config = transformers.SegformerConfig(**{**settings, **changes})
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


class TestWhole:
    @pytest.mark.parametrize("size", [None, (32, 48), (100, 64)])
    def test_definition(self, model, picture, size):
        prepare = PLAIN.replace(size=size)
        expected = logits_of(model, picture, size)
        labels = predict(model, picture, preprocessing=prepare)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, expected.argmax(0).numpy())
        assert len(np.unique(labels)) > 2
        probs = predict(model, picture, preprocessing=prepare, return_="probs")
        np.testing.assert_allclose(probs, expected.softmax(0).numpy(), atol=1e-6)

    def test_same_as_transformers(self, picture):
        pytest.importorskip("torchvision")
        model = segformer()
        processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 96})
        with torch.no_grad():
            outputs = model(**processor(picture, return_tensors="pt"))
        (expected,) = processor.post_process_semantic_segmentation(outputs, [picture.shape[:2]])
        prepare = Preprocessing.from_config({"size": {"height": 64, "width": 96}})
        found = predict(model, picture, preprocessing=prepare)
        # Rounding may decide where two classes are level.
        assert float((found == expected.numpy()).mean()) > 0.999
        assert len(np.unique(found)) > 2

    def test_settings_of_a_checkpoint_are_found(self, picture, tmp_path):
        model = segformer()
        settings = {"size": {"height": 32, "width": 64}, "image_mean": [0.1, 0.2, 0.3]}
        prepare = Preprocessing.from_config(settings)
        expected = predict(model, picture, preprocessing=prepare)
        transformers.SegformerImageProcessor(**settings).save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path).eval()
        assert np.array_equal(predict(loaded, picture), expected)
        assert np.array_equal(predict(model, picture, preprocessing=tmp_path), expected)
        assert np.array_equal(predict(model, picture, preprocessing=settings), expected)
        ours = fastseg.load(tmp_path)
        assert float((predict(ours, picture) == expected).mean()) > 0.999

    def test_transformers_default_size(self, picture):
        sizes = []
        model = segformer()
        model.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape)))
        predict(model, picture)
        assert sizes == [(1, 3, 512, 512)]

    @pytest.mark.parametrize("name", ["segformer_b0", "unet_padded"])
    def test_own_models(self, name):
        picture = smooth_picture(64, 96)
        model = fastseg.create_model(name, num_classes=4).eval()
        with torch.no_grad():
            expected = model(PLAIN(picture))[0].argmax(0).numpy()
        found = predict(model, picture)
        assert float((found == expected).mean()) > 0.999

    def test_one_class(self, picture):
        model = Quarter(num_classes=1)
        expected = logits_of(model, picture)[0] > 0
        labels = predict(model, picture)
        assert np.array_equal(labels, expected.numpy())
        assert 0 < labels.mean() < 1
        probs = predict(model, picture, return_="probs")
        assert probs.shape == (1, 60, 92)

    def test_many_classes(self, picture):
        labels = predict(Quarter(num_classes=300), picture)
        assert labels.dtype == np.uint16
        tensor = torch.from_numpy(picture)
        assert predict(Quarter(num_classes=300), tensor).dtype == torch.int32

    def test_tensors_in_tensors_out(self, model, picture):
        tensor = torch.from_numpy(picture).permute(2, 0, 1)
        found = predict(model, tensor)
        assert isinstance(found, torch.Tensor)
        assert np.array_equal(found.numpy(), predict(model, picture))
        probs = predict(model, tensor, return_="probs")
        # Fit for further training.
        nn.Parameter(torch.ones(())).mul(probs.sum()).backward()

    @pytest.mark.parametrize("batch_size", [1, 2, 5])
    def test_lists(self, model, batch_size):
        pictures = [smooth_picture(20, 24, seed) for seed in range(3)] + [smooth_picture(36, 20)]
        single = [predict(model, picture) for picture in pictures]
        model.sizes.clear()
        calls = []
        found = predict(
            model, pictures, batch_size=batch_size, progress=lambda *done: calls.append(done)
        )
        assert all(np.array_equal(a, b) for a, b in zip(found, single, strict=True))
        assert max(size[0] for size in model.sizes) == min(batch_size, 3)
        assert calls[-1] == (4, 4)
        assert predict(model, []) == []

    def test_model_comes_back_as_it_was(self, picture):
        model = nn.Sequential(Quarter(), nn.Dropout(0.9)).train()
        model[1].eval()
        first = predict(model, picture)
        assert model.training
        assert not model[1].training
        model.eval()
        assert np.array_equal(predict(model, picture), first)
        assert all(not module.training for module in model.modules())

    @pytest.mark.parametrize(
        "wrap", [lambda x: {"out": x}, lambda x: {"logits": x}, lambda x: (x, None), lambda x: [x]]
    )
    def test_other_libraries_outputs(self, model, picture, wrap):
        expected = predict(model, picture)
        assert np.array_equal(predict(lambda batch: wrap(model(batch)), picture), expected)


class TestSlide:
    @pytest.mark.parametrize("window", [(32, 48), 32, (28, 20), (64, 96), (500, 500)])
    @pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
    def test_a_local_model_has_no_seams(self, model, picture, window, overlap):
        # Its cells see their own pixels only, so every window says the same.
        expected = logits_of(model, picture).argmax(0).numpy()
        found = predict(model, picture, mode="slide", window=window, overlap=overlap)
        assert np.array_equal(found, expected)

    @pytest.mark.parametrize("shape", [(61, 93), (7, 50), (130, 9), (1, 1)])
    def test_odd_sizes(self, model, shape):
        picture = smooth_picture(*shape)
        found = predict(model, picture, mode="slide", window=32)
        padded = F.pad(PLAIN(picture), (0, -shape[1] % 4, 0, -shape[0] % 4))
        logits = model(padded)
        full = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        expected = full[0, :, : shape[0], : shape[1]].argmax(0).numpy()
        assert found.shape == shape
        assert np.array_equal(found, expected)

    def test_overlaps_are_averaged(self):
        class Corner(nn.Module):
            """Says at each pixel how far the window's left edge is."""

            def forward(self, batch):
                ramp = torch.arange(float(batch.shape[3])).expand(1, 1, *batch.shape[2:])
                return torch.cat([ramp, torch.full_like(ramp, 5.5)], dim=1).expand(
                    len(batch), -1, -1, -1
                )

        picture = smooth_picture(8, 24)
        probs = predict(
            Corner(), picture, mode="slide", window=(8, 16), overlap=0.5, return_="probs"
        )
        mean = np.array([*range(8), *(4.0 + np.arange(8)), *range(8, 16)])
        expected = torch.tensor(mean - 5.5).sigmoid().numpy()
        np.testing.assert_allclose(probs[0, 3], expected, atol=1e-5)

    def test_scores_that_do_not_divide_the_window(self, picture):
        class Aligned(Quarter):
            align_corners = True

            def native_logits(self, image):
                size = [(side - 1) // 4 + 1 for side in image.shape[2:]]
                small = F.interpolate(image, size, mode="bilinear", align_corners=True)
                return F.conv2d(small, self.weight)

        found = predict(Aligned(), picture, mode="slide", window=33, overlap=0.5)
        assert found.shape == (60, 92)
        agrees = found == predict(Aligned(), picture)
        assert float(agrees.mean()) > 0.9

    def test_batches_of_windows(self, model, picture):
        expected = predict(model, picture, mode="slide", window=32)
        model.sizes.clear()
        calls = []
        found = predict(
            *(model, picture),
            mode="slide",
            window=32,
            batch_size=3,
            progress=lambda *done: calls.append(done),
        )
        assert np.array_equal(found, expected)
        assert max(size[0] for size in model.sizes) == 3
        assert calls[-1][0] == calls[-1][1]
        # The window is as large as asked for, never the picture.
        assert {size[2:] for size in model.sizes} == {(32, 32)}

    def test_window_of_the_checkpoint(self, model, picture):
        predict(model, picture, mode="slide", preprocessing=PLAIN.replace(size=(32, 64)))
        assert model.sizes[-1][2:] == (32, 64)

    @pytest.mark.slow
    def test_memory_is_bounded(self):
        code = """
import resource, sys
import numpy as np, torch
from torch.nn import functional as F
from fastseg import predict
weight = torch.randn(150, 3, 1, 1)
model = lambda batch: F.conv2d(F.avg_pool2d(batch, 4), weight)
picture = np.zeros((1600, 2048, 3), np.uint8)
picture[::2] = 200
predict(model, picture[:64, :64], mode="slide")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
labels = predict(model, picture, mode="slide", window=256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, labels.shape)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        kibibytes = int(done.stdout.split()[0])
        # All scores would be 1.9 GiB at the picture's size, and 120 MiB at the model's.
        assert kibibytes < 100 * 1024


class TestPasses:
    def mean(self, model, picture, factors, flips):
        """(K, H, W): what several passes mean, at the model's resolution."""
        found = []
        for factor in factors:
            size = [max(1, round(side * factor)) for side in picture.shape[:2]]
            batch = PLAIN.replace(size=tuple(size))(picture)
            for axes in flips:
                logits = model(batch.flip(axes)).flip(axes)
                if found:
                    logits = F.interpolate(logits, found[0].shape[2:], mode="bilinear")
                found.append(logits.softmax(1))
        mean = torch.stack(found).mean(0)
        return F.interpolate(mean, picture.shape[:2], mode="bilinear")[0]

    @pytest.mark.parametrize(
        ("tta", "factors", "flips"),
        [
            (("hflip",), [1], [[], [3]]),
            ("vflip", [1], [[], [2]]),
            (("hflip", "vflip"), [1], [[], [3], [2], [3, 2]]),
            ((0.5, 1.5), [1, 0.5, 1.5], [[]]),
            (("hflip", 0.75, 1), [1, 0.75], [[], [3]]),
        ],
        ids=str,
    )
    def test_average(self, model, picture, tta, factors, flips):
        expected = self.mean(model, picture, factors, flips).numpy()
        probs = predict(model, picture, tta=tta, return_="probs")
        np.testing.assert_allclose(probs, expected, atol=1e-5)
        labels = predict(model, picture, tta=tta)
        assert float((labels == expected.argmax(0)).mean()) > 0.999

    def test_with_windows(self, model, picture):
        # 60 and 92 are whole cells, so that windows change nothing.
        expected = predict(model, picture, tta=("hflip", 2.0), return_="probs")
        found = predict(
            model, picture, tta=("hflip", 2.0), return_="probs", mode="slide", window=32
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_one_class(self, picture):
        model = Quarter(num_classes=1)
        probs = predict(model, picture, tta="hflip", return_="probs")
        labels = predict(model, picture, tta="hflip")
        assert np.array_equal(labels, probs[0] > 0.5)


class TestRefinement:
    @pytest.mark.parametrize("mode", ["whole", "slide"])
    def test_same_as_refine(self, model, mode):
        picture = smooth_picture(24, 32)
        probs = predict(model, picture, return_="probs")
        expected = fastseg.crf.refine(probs, picture, preset="deeplab-v2", return_="labels")
        found = predict(model, picture, crf="deeplab-v2", mode=mode)
        assert float((found == expected).mean()) > 0.995

    def test_arguments(self, model):
        picture = smooth_picture(24, 32)
        probs = predict(model, picture, return_="probs")
        expected = fastseg.crf.refine(probs, picture, iterations=2, color_sigma=5)
        found = predict(model, picture, crf={"iterations": 2, "color_sigma": 5}, return_="probs")
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_foreground(self):
        picture = smooth_picture(24, 32)
        labels = predict(Quarter(num_classes=1), picture, crf="deeplab-v1")
        assert set(np.unique(labels)) <= {0, 1}


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_weights_of_other_dtypes(self, picture, dtype):
        expected = predict(Quarter(), picture)
        found = predict(Quarter().to(dtype), picture)
        assert found.dtype == np.uint8
        assert float((found == expected).mean()) > 0.97

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_segformers_in_half_precision(self, picture, dtype):
        model = fastseg.create_model("segformer_b0", num_classes=4).eval().to(dtype)
        assert predict(model, picture, return_="probs").dtype == np.float32


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"mode": "tiles"}, "mode must be one of"),
            ({"return_": "logits"}, "return_ must be one of"),
            ({"overlap": 1.0}, "overlap"),
            ({"overlap": -0.1}, "overlap"),
            ({"batch_size": 0}, "batch_size"),
            ({"window": 0}, "window"),
            ({"window": (1, 2, 3)}, "window"),
            ({"tta": ("turn",)}, "tta"),
            ({"tta": (0.0,)}, "tta"),
            ({"crf": "nope"}, "crf must be one of"),
            ({"crf": 3}, "crf: expected"),
            ({"crf": {"image": 3}}, "predict sets image itself"),
            ({"preprocessing": 3}, "preprocessing: expected"),
        ],
        ids=str,
    )
    def test_parameters(self, model, picture, arguments, message):
        with pytest.raises(ParameterError, match=message):
            predict(model, picture, **arguments)

    def test_no_model(self, picture):
        with pytest.raises(DtypeError, match=r"fastseg\.load"):
            predict("segformer_b0", picture)

    @pytest.mark.parametrize("answer", [torch.zeros(1, 5), torch.zeros(2, 5, 4, 4), None, "text"])
    def test_models_that_do_not_segment(self, picture, answer):
        with pytest.raises(ShapeError, match="only models that segment"):
            predict(lambda batch: answer, picture)

    def test_classifiers_of_transformers(self, picture):
        model = transformers.SegformerForImageClassification(segformer().config)
        with pytest.raises(ShapeError, match="only models that segment"):
            predict(model, picture)

    def test_pictures_below_the_models_smallest(self):
        model = fastseg.create_model("segformer_b0", num_classes=3).eval()
        with pytest.raises(ShapeError, match="16x20"):
            predict(model, smooth_picture(16, 20))
        # A size helps, and windows pad.
        prepare = Preprocessing(size=(64, 64))
        assert predict(model, smooth_picture(16, 20), preprocessing=prepare).shape == (16, 20)
        assert predict(model, smooth_picture(16, 20), mode="slide").shape == (16, 20)

    def test_damaged_settings_beside_the_weights(self, picture, tmp_path):
        model = segformer()
        model.save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text("{")
        loaded = type(model).from_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
            predict(loaded, picture)


@pytest.mark.data
@pytest.mark.slow
class TestRealPictures:
    def test_camvid(self, data_dir):
        pictures = sorted((data_dir / "camvid" / "test").glob("*.png"))[:2]
        model = fastseg.create_model("segformer_b0", num_classes=11).eval()
        for labels in predict(model, pictures, batch_size=2):
            assert labels.shape == (360, 480)
        assert predict(model, pictures[0], mode="slide", window=256).shape == (360, 480)

    def test_vistas_in_bounded_memory(self, data_dir):
        (path,) = (data_dir / "vistas").glob("*.jpg")
        code = f"""
import resource
import torch
import fastseg
torch.set_num_threads(1)
model = fastseg.create_model("segformer_b0", num_classes=20).eval()
fastseg.predict(model, {str(path)!r}, preprocessing={{"size": 512}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
labels = fastseg.predict(model, {str(path)!r}, mode="slide", window=1024, overlap=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, *labels.shape)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        kibibytes, *size = (int(part) for part in done.stdout.split())
        assert size == [2988, 3984]
        # One window of 1024×1024 in the model, and a band of scores; all scores would be 950 MB.
        assert kibibytes < 700 * 1024
