"""`fastseg refine` on made-up files: every format, what it writes, and what it prints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastseg import crf
from fastseg.cli import before_after
from fastseg.cli import refine as command
from fastseg.cli.refine import NORMALIZATIONS, PRESET_NAMES

BILATERAL = ("--bilateral-sigma", "20", "--color-sigma", "13")


def expected(scene, probs=None, **keywords):
    keywords = {"bilateral_sigma": 20.0, "color_sigma": 13.0, **keywords}
    return crf.refine(scene.probs if probs is None else probs, scene.image, **keywords)


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


class TestProbabilities:
    def test_npy_gives_what_refine_gives(self, scene, run, tmp_path):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs()),
            *("-o", tmp_path / "out", *BILATERAL),
        )
        assert outcome.code == 0, outcome.err
        written = np.load(tmp_path / "out" / "scene.npy")
        assert written.dtype == np.float32
        np.testing.assert_array_equal(written, expected(scene))
        # The scene is such that refining helps, or the test would not tell a copy from a result.
        assert (written.argmax(0) == scene.truth).mean() > (
            scene.probs.argmax(0) == scene.truth
        ).mean()
        assert "scene.npy" in outcome.out
        assert "24×32, 3 classes" in outcome.out

    def test_channels_last_comes_back_channels_last(self, scene, run, tmp_path):
        probs = scene.save_probs(values=np.moveaxis(scene.probs, 0, -1))
        assert run("refine", scene.save_image(), "--probs", probs, "-o", tmp_path / "out").code == 0
        written = np.load(tmp_path / "out" / "scene.npy")
        assert written.shape == (24, 32, 3)
        np.testing.assert_array_equal(
            np.moveaxis(written, -1, 0), crf.refine(scene.probs, scene.image)
        )

    @pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
    def test_other_floats(self, scene, run, tmp_path, dtype):
        probs = scene.save_probs(values=scene.probs.astype(dtype))
        assert run("refine", scene.save_image(), "--probs", probs, "-o", tmp_path / "out").code == 0
        written = np.load(tmp_path / "out" / "scene.npy")
        assert written.dtype.itemsize == np.dtype(dtype).itemsize
        np.testing.assert_allclose(
            written.astype(np.float32), crf.refine(scene.probs, scene.image), atol=3e-3
        )

    def test_foreground_array(self, scene, run, tmp_path):
        probs = scene.save_probs(values=scene.foreground)
        assert run("refine", scene.save_image(), "--probs", probs, "-o", tmp_path / "out").code == 0
        written = np.load(tmp_path / "out" / "scene.npy")
        assert written.shape == (24, 32)
        np.testing.assert_allclose(written, crf.refine(scene.foreground, scene.image), atol=1e-6)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_grey_png_is_the_foreground(self, scene, run, tmp_path, bits):
        peak = 2**bits - 1
        stored = np.rint(scene.foreground * peak).astype(f"uint{bits}")
        Image.fromarray(stored).save(tmp_path / "scene_prob.png")
        probs = tmp_path / "scene_prob.png"
        assert run("refine", scene.save_image(), "--probs", probs, "-o", tmp_path / "out").code == 0
        written = np.asarray(Image.open(tmp_path / "out" / "scene.png"))
        # Older versions of Pillow open 16 bits of grey as 32.
        assert (written.dtype.itemsize == 1) == (bits == 8)
        reference = crf.refine((stored / peak).astype(np.float32), scene.image)
        np.testing.assert_allclose(written / peak, reference, atol=0.51 / peak)

    def test_npz(self, scene, run, tmp_path):
        np.savez(tmp_path / "scene.npz", probs=scene.probs, other=np.zeros(3))
        probs = tmp_path / "scene.npz"
        assert run("refine", scene.save_image(), "--probs", probs, "-o", tmp_path / "out").code == 0
        with np.load(tmp_path / "out" / "scene.npz") as written:
            np.testing.assert_array_equal(written["probs"], crf.refine(scene.probs, scene.image))

    def test_npz_key(self, scene, run, tmp_path):
        np.savez(tmp_path / "scene.npz", a=scene.probs, b=np.zeros(3))
        words = ("refine", scene.save_image(), "--probs", tmp_path / "scene.npz", "-o", tmp_path)
        ambiguous = run(*words, "--output-format", "npy")
        assert ambiguous.code == 1
        assert "a, b" in ambiguous.err
        assert "--key" in ambiguous.err
        assert run(*words, "--output-format", "npy", "--key", "a").code == 0
        missing = run(*words, "--output-format", "npy", "--key", "c")
        assert missing.code == 1
        assert "'c'" in missing.err

    def test_tif(self, scene, run, tmp_path):
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(tmp_path / "scene.tif", scene.probs, photometric="minisblack")
        tifffile.imwrite(tmp_path / "photo.tif", scene.image, photometric="rgb")
        outcome = run(
            *("refine", tmp_path / "photo.tif", "--probs", tmp_path / "scene.tif"),
            *("-o", tmp_path / "out"),
        )
        assert outcome.code == 0, outcome.err
        np.testing.assert_array_equal(
            np.load(tmp_path / "out" / "photo.npy"), crf.refine(scene.probs, scene.image)
        )

    def test_compressed_tif(self, scene, run, tmp_path):
        pytest.importorskip("tifffile")
        Image.fromarray(scene.image).save(tmp_path / "photo.tif", compression="tiff_lzw")
        outcome = run(
            *("refine", tmp_path / "photo.tif", "--probs", scene.save_probs()),
            *("-o", tmp_path / "out"),
        )
        assert outcome.code == 0, outcome.err
        np.testing.assert_array_equal(
            np.load(tmp_path / "out" / "photo.npy"), crf.refine(scene.probs, scene.image)
        )

    def test_logits(self, scene, run, tmp_path):
        logits = np.log(scene.probs) + 3
        path = scene.save_probs(values=logits)
        outcome = run("refine", scene.save_image(), "--logits", path, "-o", tmp_path / "out")
        assert outcome.code == 0, outcome.err
        np.testing.assert_allclose(
            np.load(tmp_path / "out" / "scene.npy"),
            crf.refine(logits=logits, image=scene.image),
            atol=1e-6,
        )

    def test_labels_returned(self, scene, run, tmp_path):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--return", "labels", "--output-format", "png"),
        )
        assert outcome.code == 0, outcome.err
        picture = Image.open(tmp_path / "out" / "scene.png")
        assert picture.mode == "L"
        np.testing.assert_array_equal(
            np.asarray(picture), crf.refine(scene.probs, scene.image).argmax(0)
        )

    def test_png_cannot_hold_several_classes(self, scene, run, tmp_path):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--output-format", "png"),
        )
        assert outcome.code == 1
        assert "--return labels" in outcome.err
        assert list((tmp_path / "out").iterdir()) == []


class TestVolumes:
    def volume(self, scene):
        image = np.stack([scene.image[..., 0] / 8.0 + 100 * scene.truth] * 5).astype(np.float32)
        probs = np.stack([scene.probs] * 5, axis=1)
        return image, probs

    def test_nifti(self, scene, run, tmp_path):
        nibabel = pytest.importorskip("nibabel")
        image, probs = self.volume(scene)
        affine = np.diag([1.0, 1.5, 3.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(image.T, affine), tmp_path / "scan.nii.gz")
        nibabel.save(nibabel.Nifti1Image(probs.T, affine), tmp_path / "scan_probs.nii.gz")
        outcome = run(
            *("refine", tmp_path / "scan.nii.gz", "--probs", tmp_path / "scan_probs.nii.gz"),
            *("-o", tmp_path / "out", "--bilateral-sigma", "10", "--overlay", "--json"),
        )
        assert outcome.code == 0, outcome.err
        entry = json.loads(outcome.out)["files"][0]
        assert entry["spacing"] == [3.0, 1.5, 1.0]
        assert entry["shape"] == [5, 24, 32]
        written = nibabel.load(tmp_path / "out" / "scan.nii.gz")
        np.testing.assert_allclose(written.affine, affine)
        reference = crf.refine(probs, image, spacing=(3.0, 1.5, 1.0), bilateral_sigma=10)
        np.testing.assert_allclose(np.asarray(written.dataobj).T, reference, atol=1e-6)
        assert size_of(tmp_path / "out" / "scan_overlay.png")[0] > 900

    def test_nifti_labels(self, scene, run, tmp_path):
        nibabel = pytest.importorskip("nibabel")
        image, _ = self.volume(scene)
        labels = np.stack([scene.truth] * 5)
        nibabel.save(nibabel.Nifti1Image(image.T, np.eye(4)), tmp_path / "scan.nii")
        nibabel.save(nibabel.Nifti1Image(labels.T, np.eye(4)), tmp_path / "scan_seg.nii")
        outcome = run(
            *("refine", tmp_path / "scan.nii", "--labels", tmp_path / "scan_seg.nii"),
            *("-o", tmp_path / "out"),
        )
        assert outcome.code == 0, outcome.err
        written = nibabel.load(tmp_path / "out" / "scan.nii.gz")
        assert written.shape == (32, 24, 5)
        assert (labels == np.asarray(written.dataobj).T).mean() > 0.9

    def test_affines_that_differ_are_refused(self, scene, run, tmp_path):
        nibabel = pytest.importorskip("nibabel")
        image, probs = self.volume(scene)
        nibabel.save(nibabel.Nifti1Image(image.T, np.eye(4)), tmp_path / "scan.nii.gz")
        moved = np.diag([1.0, 1.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(probs.T, moved), tmp_path / "scan_probs.nii.gz")
        outcome = run(
            *("refine", tmp_path / "scan.nii.gz", "--probs", tmp_path / "scan_probs.nii.gz"),
            *("-o", tmp_path / "out"),
        )
        assert outcome.code == 1
        assert "affines differ" in outcome.err

    def test_stack_with_spacing(self, scene, run, tmp_path):
        image, probs = self.volume(scene)
        np.save(tmp_path / "scan.npy", image)
        np.save(tmp_path / "p.npy", probs[1])
        outcome = run(
            *("refine", tmp_path / "scan.npy", "--probs", tmp_path / "p.npy"),
            *("-o", tmp_path / "out", "--spacing", "2", "1", "1"),
        )
        assert outcome.code == 0, outcome.err
        written = np.load(tmp_path / "out" / "scan.npy")
        reference = crf.refine(probs[1:2], image, spacing=(2.0, 1.0, 1.0))
        np.testing.assert_allclose(written, np.asarray(reference)[0], atol=1e-6)


class TestLabels:
    def refined(self, scene, labels, gt_prob=0.7, num_classes=3):
        probs = np.full((num_classes, *labels.shape), (1 - gt_prob) / (num_classes - 1), np.float32)
        np.put_along_axis(probs, labels[None].astype(np.int64), np.float32(gt_prob), axis=0)
        return crf.refine(probs, scene.image, return_="labels")

    def noisy(self, scene):
        return scene.probs.argmax(0).astype(np.uint8)

    def test_grey_png(self, scene, run, tmp_path):
        labels = self.noisy(scene)
        Image.fromarray(labels).save(tmp_path / "scene_labels.png")
        words = ("refine", scene.save_image(), "--labels", tmp_path / "scene_labels.png")
        assert run(*words, "-o", tmp_path / "out").code == 0
        written = np.asarray(Image.open(tmp_path / "out" / "scene.png"))
        np.testing.assert_array_equal(written, self.refined(scene, labels))
        assert run(*words, "-o", tmp_path / "sure", "--gt-prob", "0.99").code == 0
        sure = np.asarray(Image.open(tmp_path / "sure" / "scene.png"))
        np.testing.assert_array_equal(sure, self.refined(scene, labels, 0.99))
        assert (sure == labels).mean() >= (written == labels).mean()

    def test_values_with_gaps_come_back(self, scene, run, tmp_path):
        values = np.array([0, 15, 255], np.uint8)
        Image.fromarray(values[self.noisy(scene)]).save(tmp_path / "scene_labels.png")
        outcome = run(
            *("refine", scene.save_image(), "--labels", tmp_path / "scene_labels.png"),
            *("-o", tmp_path / "out", "--json"),
        )
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["files"][0]["labels"] == [0, 15, 255]
        written = np.asarray(Image.open(tmp_path / "out" / "scene.png"))
        np.testing.assert_array_equal(written, values[self.refined(scene, self.noisy(scene))])

    def test_palette_is_kept(self, scene, run, tmp_path):
        picture = Image.fromarray(self.noisy(scene))
        picture.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
        picture.save(tmp_path / "scene_labels.png")
        outcome = run(
            *("refine", scene.save_image(), "--labels", tmp_path / "scene_labels.png"),
            *("-o", tmp_path / "out"),
        )
        assert outcome.code == 0, outcome.err
        written = Image.open(tmp_path / "out" / "scene.png")
        assert written.mode == "P"
        assert written.getpalette()[:9] == [0, 0, 0, 200, 10, 10, 10, 200, 10]
        np.testing.assert_array_equal(np.asarray(written), self.refined(scene, self.noisy(scene)))

    def test_colours_come_back(self, scene, run, tmp_path):
        colors = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)
        Image.fromarray(colors[self.noisy(scene)]).save(tmp_path / "scene_labels.png")
        outcome = run(
            *("refine", scene.save_image(), "--labels", tmp_path / "scene_labels.png"),
            *("-o", tmp_path / "out", "--json", "--overlay"),
        )
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["files"][0]["colors"] == ["#000000", "#008000", "#800000"]
        written = np.asarray(Image.open(tmp_path / "out" / "scene.png").convert("RGB"))
        np.testing.assert_array_equal(written, colors[self.refined(scene, self.noisy(scene))])

    def test_sixteen_bit_labels(self, scene, run, tmp_path):
        values = np.array([0, 300, 40000], np.uint16)
        Image.fromarray(values[self.noisy(scene)]).save(tmp_path / "scene_labels.png")
        outcome = run(
            *("refine", scene.save_image(), "--labels", tmp_path / "scene_labels.png"),
            *("-o", tmp_path / "out"),
        )
        assert outcome.code == 0, outcome.err
        written = np.asarray(Image.open(tmp_path / "out" / "scene.png"))
        np.testing.assert_array_equal(written, values[self.refined(scene, self.noisy(scene))])

    def test_unknown_label(self, scene, run, tmp_path):
        labels = self.noisy(scene)
        labels[:, :3] = 255
        path = scene.save_probs("scene_labels.npy", labels)
        words = ("refine", scene.save_image(), "--labels", path, "-o", tmp_path / "out")
        beyond = run(*words, "--num-classes", "3")
        assert beyond.code == 1
        assert "[255]" in beyond.err
        assert "--unknown" in beyond.err
        outcome = run(*words, "--num-classes", "3", "--unknown", "255", "--json")
        assert outcome.code == 0, outcome.err
        entry = json.loads(outcome.out)["files"][0]
        assert entry["labelled_fraction"] == pytest.approx(29 / 32)
        assert set(np.unique(np.load(tmp_path / "out" / "scene.npy"))) <= {0, 1, 2}

    def test_probabilities_of_labels(self, scene, run, tmp_path):
        path = scene.save_probs("scene_labels.npy", self.noisy(scene))
        outcome = run(
            *("refine", scene.save_image(), "--labels", path, "-o", tmp_path / "out"),
            *("--return", "probs", "--num-classes", "5"),
        )
        assert outcome.code == 0, outcome.err
        written = np.load(tmp_path / "out" / "scene.npy")
        assert written.shape == (5, 24, 32)
        np.testing.assert_allclose(written.sum(0), 1, atol=1e-5)

    def test_empty_mask_is_no_failure(self, scene, run, tmp_path):
        Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "scene_mask.png")
        outcome = run(
            *("refine", scene.save_image(), "--labels", tmp_path / "scene_mask.png"),
            *("-o", tmp_path / "out", "--overlay"),
        )
        assert outcome.code == 0, outcome.err
        assert "one label only" in outcome.out
        assert not np.asarray(Image.open(tmp_path / "out" / "scene.png")).any()


class TestScribbles:
    def scribbles(self, scene):
        strokes = np.zeros((24, 32), np.uint8)
        strokes[1:3, 1:30] = 1
        strokes[10:14, 8:12] = 2
        strokes[14:18, 22:26] = 3
        return strokes

    def test_index_scribbles_fill_the_picture(self, scene, run, tmp_path):
        Image.fromarray(self.scribbles(scene)).save(tmp_path / "scene_scribbles.png")
        outcome = run(
            *("refine", scene.save_image(), "--scribbles", tmp_path / "scene_scribbles.png"),
            *("-o", tmp_path / "out", "--iterations", "10", "--json"),
        )
        assert outcome.code == 0, outcome.err
        entry = json.loads(outcome.out)["files"][0]
        assert entry["labels"] == [1, 2, 3]
        assert entry["labelled_fraction"] == pytest.approx((58 + 16 + 16) / 768)
        written = np.asarray(Image.open(tmp_path / "out" / "scene.png"))
        assert (written == scene.truth + 1).mean() > 0.95

    def test_colours_and_transparency_mean_the_same(self, scene, run, tmp_path):
        colors = np.array([(0, 0, 0), (0, 0, 255), (255, 0, 0), (0, 255, 0)], np.uint8)
        strokes = self.scribbles(scene)
        Image.fromarray(colors[strokes]).save(tmp_path / "opaque.png")
        see_through = np.dstack([colors[strokes], np.where(strokes > 0, 255, 0).astype(np.uint8)])
        see_through[strokes == 0, :3] = 77
        Image.fromarray(see_through).save(tmp_path / "alpha.png")
        results = []
        for name in ("opaque", "alpha"):
            outcome = run(
                *("refine", scene.save_image(), "--scribbles", tmp_path / f"{name}.png"),
                *("-o", tmp_path / name, "--overlay"),
            )
            assert outcome.code == 0, outcome.err
            picture = Image.open(tmp_path / name / "scene.png")
            results.append(np.asarray(picture.convert("RGB")))
        np.testing.assert_array_equal(results[0], results[1])
        assert {tuple(color) for color in results[0].reshape(-1, 3).tolist()} == {
            (0, 0, 255),
            (255, 0, 0),
            (0, 255, 0),
        }

    def test_same_as_pydensecrf_utils(self, scene, run, tmp_path):
        # The names of both numbers, 0 for unknown and 0.7, are pydensecrf's unary_from_labels.
        pytest.importorskip("pydensecrf")
        from pydensecrf.utils import unary_from_labels

        strokes = self.scribbles(scene)
        energies = unary_from_labels(strokes.astype(np.int32), 3, gt_prob=0.7, zero_unsure=True)
        probs = np.exp(-energies).reshape(3, 24, 32).astype(np.float32)
        Image.fromarray(strokes).save(tmp_path / "scene_scribbles.png")
        outcome = run(
            *("refine", scene.save_image(), "--scribbles", tmp_path / "scene_scribbles.png"),
            *("-o", tmp_path / "out", "--return", "probs", "--output-format", "npy"),
        )
        assert outcome.code == 0, outcome.err
        np.testing.assert_allclose(
            np.load(tmp_path / "out" / "scene.npy"),
            crf.refine(probs / probs.sum(0), scene.image),
            atol=1e-5,
        )

    def test_one_label_or_none_is_refused(self, scene, run, tmp_path):
        strokes = self.scribbles(scene)
        for values, word in ((np.minimum(strokes, 1), "one label only"), (0 * strokes, "no pixel")):
            Image.fromarray(values).save(tmp_path / "scene_scribbles.png")
            outcome = run(
                *("refine", scene.save_image(), "--scribbles", tmp_path / "scene_scribbles.png"),
                *("-o", tmp_path / "out"),
            )
            assert outcome.code == 1
            assert word in outcome.err


class TestImages:
    """The picture's own formats: each must give what its plain pixels give."""

    def check(self, scene, run, path, *words, image=None, atol=0.0):
        out = scene.folder / "out"
        outcome = run("refine", path, "--probs", scene.save_probs("p.npy"), "-o", out, *words)
        assert outcome.code == 0, outcome.err
        np.testing.assert_allclose(
            np.load(out / f"{path.name.split('.')[0]}.npy"),
            crf.refine(scene.probs, scene.image if image is None else image),
            atol=atol,
        )

    @pytest.mark.parametrize("suffix", ["bmp", "webp", "ppm"])
    def test_lossless_pictures(self, scene, run, tmp_path, suffix):
        path = tmp_path / f"photo.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(scene.image).save(path, **options)
        self.check(scene, run, path)

    def test_exif_rotation_is_applied(self, scene, run, tmp_path):
        path = tmp_path / "photo.png"
        exif = Image.Exif()
        exif[0x0112] = 6
        # Stored a quarter turn to the left of how it is meant to be seen.
        Image.fromarray(np.ascontiguousarray(np.rot90(scene.image))).save(path, exif=exif)
        self.check(scene, run, path)

    def test_exif_rotation_that_the_probabilities_lack(self, scene, run, tmp_path):
        path = tmp_path / "photo.png"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(scene.image).save(path, exif=exif)
        words = ("refine", path, "--probs", scene.save_probs(), "-o", tmp_path / "out")
        outcome = run(*words)
        assert outcome.code == 1
        assert "--ignore-exif" in outcome.err
        assert run(*words, "--ignore-exif").code == 0

    def test_opaque_alpha_is_dropped(self, scene, run, tmp_path):
        path = tmp_path / "photo.png"
        alpha = np.full((24, 32, 1), 255, np.uint8)
        Image.fromarray(np.concatenate([scene.image, alpha], axis=2)).save(path)
        self.check(scene, run, path)

    def test_transparency_is_refused(self, scene, run, tmp_path):
        path = tmp_path / "photo.png"
        alpha = np.full((24, 32, 1), 255, np.uint8)
        alpha[:12] = 100
        Image.fromarray(np.concatenate([scene.image, alpha], axis=2)).save(path)
        outcome = run("refine", path, "--probs", scene.save_probs(), "-o", tmp_path / "out")
        assert outcome.code == 1
        assert "transparent in 50.0 %" in outcome.err

    def test_palette_photograph(self, scene, run, tmp_path):
        path = tmp_path / "photo.png"
        picture = Image.fromarray(scene.image).quantize(16)
        picture.save(path)
        self.check(scene, run, path, image=np.asarray(picture.convert("RGB")))

    def test_cmyk_jpeg(self, scene, run, tmp_path):
        path = tmp_path / "photo.jpg"
        Image.fromarray(scene.image).convert("CMYK").save(path, quality=95)
        self.check(scene, run, path, image=np.asarray(Image.open(path).convert("RGB")))

    def test_sixteen_bit_grey(self, scene, run, tmp_path):
        path = tmp_path / "photo.png"
        grey = scene.image[..., 0]
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
        self.check(scene, run, path, image=grey, atol=1e-5)

    def test_grey_and_bilevel(self, scene, run, tmp_path):
        path = tmp_path / "grey.png"
        Image.fromarray(scene.image[..., 0]).save(path)
        self.check(scene, run, path, image=scene.image[..., 0])
        path = tmp_path / "bilevel.png"
        bilevel = np.where(scene.truth > 0, 255, 0).astype(np.uint8)
        Image.fromarray(bilevel).convert("1").save(path)
        self.check(scene, run, path, image=bilevel)

    @pytest.mark.parametrize("first", [False, True])
    def test_arrays(self, scene, run, tmp_path, first):
        path = tmp_path / "photo.npy"
        np.save(path, np.moveaxis(scene.image, -1, 0) if first else scene.image)
        self.check(scene, run, path)

    def test_unit_floats_are_brought_to_255(self, scene, run, tmp_path):
        path = tmp_path / "photo.npy"
        np.save(path, scene.image.astype(np.float32) / 255)
        self.check(scene, run, path, atol=1e-5)
        raw = scene.image.astype(np.float32) / 255
        self.check(scene, run, path, "--intensity", "raw", image=raw)

    def test_stretch_and_its_hint(self, scene, run, tmp_path):
        path = tmp_path / "photo.npy"
        np.save(path, scene.image[..., 0].astype(np.float32) * 40)
        words = ("refine", path, "--probs", scene.save_probs(), "-o", tmp_path / "out")
        assert "--intensity stretch" in run(*words).out
        outcome = run(*words, "--intensity", "stretch", "--json")
        low, high = json.loads(outcome.out)["files"][0]["image_range"]
        assert (low, high) == (0, 255)

    def test_many_channels(self, scene, run, tmp_path):
        path = tmp_path / "photo.npy"
        spectral = np.concatenate([scene.image] * 3, axis=2)
        np.save(path, spectral)
        self.check(scene, run, path, image=spectral)
        np.save(path, np.moveaxis(spectral, -1, 1))
        self.check(scene, run, path, "--channel-axis", "1", image=spectral)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_no_numbers(self, scene, run, tmp_path, value):
        image = scene.image.astype(np.float32)
        image[3, 4, 0] = value
        np.save(tmp_path / "photo.npy", image)
        outcome = run(
            *("refine", tmp_path / "photo.npy", "--probs", scene.save_probs()),
            *("-o", tmp_path / "out"),
        )
        assert outcome.code == 1
        assert "NaN or infinite" in outcome.err


class TestParameters:
    def test_flags_reach_refine(self, scene, run, tmp_path, monkeypatch):
        seen = {}

        def spy(**keywords):
            seen.update(keywords)
            return scene.probs

        monkeypatch.setattr(crf, "refine", spy)
        np.savetxt(tmp_path / "compat.csv", 1 - np.eye(3), delimiter=",")
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--preset", "deeplab-v2", "--iterations", "7"),
            *("--spatial-weight", "1.5", "--spatial-sigma", "2", "--bilateral-weight", "4"),
            *("--bilateral-sigma", "60", "--color-sigma", "8", "--normalization", "after"),
            *("--compat", tmp_path / "compat.csv", "--clip", "1e-4", "--tolerance", "1e-3"),
            *("--spacing", "2", "1"),
        )
        assert outcome.code == 0, outcome.err
        np.testing.assert_array_equal(seen.pop("compat"), 1 - np.eye(3))
        np.testing.assert_array_equal(seen.pop("image"), scene.image)
        np.testing.assert_array_equal(seen.pop("probs"), scene.probs)
        assert callable(seen.pop("progress"))
        assert seen == {
            "preset": "deeplab-v2",
            "iterations": 7,
            "spatial_weight": 1.5,
            "spatial_sigma": 2.0,
            "bilateral_weight": 4.0,
            "bilateral_sigma": 60.0,
            "color_sigma": 8.0,
            "normalization": "after",
            "clip": 1e-4,
            "tolerance": 1e-3,
            "spacing": (2.0, 1.0),
            "channel_axis": -1,
            "return_": "probs",
        }

    def test_every_parameter_of_refine_has_a_flag(self):
        import inspect

        from fastseg.cli.main import build_parser

        words = ["refine", "x", "--probs", "y", "-o", "z"]
        known = set(vars(build_parser().parse_args(words)))
        elsewhere = {"image", "progress", "workspace"}
        assert set(inspect.signature(crf.refine).parameters) <= known | elsewhere

    def test_names_in_the_help_are_those_of_the_engine(self):
        assert tuple(PRESET_NAMES) == tuple(crf.PRESETS)

    @pytest.mark.parametrize("name", PRESET_NAMES)
    def test_presets(self, scene, run, tmp_path, name):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--preset", name),
        )
        assert outcome.code == 0, outcome.err
        np.testing.assert_array_equal(
            np.load(tmp_path / "out" / "scene.npy"),
            crf.refine(scene.probs, scene.image, preset=name),
        )

    @pytest.mark.parametrize("name", NORMALIZATIONS)
    def test_normalizations(self, scene, run, tmp_path, name):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--normalization", name, "--bilateral-weight", "0.1", "--spatial-weight", "0.1"),
        )
        assert outcome.code == 0, outcome.err

    def test_threads(self, scene, run, tmp_path):
        import fastseg

        before = fastseg.get_num_threads()
        try:
            outcome = run(
                *("refine", scene.save_image(), "--probs", scene.save_probs()),
                *("-o", tmp_path / "out", "--threads", "1"),
            )
            assert outcome.code == 0, outcome.err
            assert fastseg.get_num_threads() == 1
        finally:
            fastseg.set_num_threads(before)

    @pytest.mark.parametrize(
        "words",
        [
            ("--spatial-sigma", "0"),
            ("--color-sigma", "-3"),
            ("--bilateral-weight", "nan"),
            ("--iterations", "2.5"),
            ("--gt-prob", "1"),
            ("--clip", "2"),
            ("--threads", "0"),
            ("--num-classes", "1"),
            ("--unknown", "#12345z"),
            ("--normalization", "both"),
            ("--output-format", "jpg"),
            ("--overlay-size", "3"),
            ("--labels", "x"),
        ],
    )
    def test_values_out_of_range(self, scene, run, tmp_path, words):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *words,
        )
        assert outcome.code == 2
        assert words[0] in outcome.err
        assert not (tmp_path / "out").exists()

    def test_unknown_preset(self, scene, run, tmp_path):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--preset", "deeplab-v9"),
        )
        assert outcome.code == 2
        assert "deeplab-v9" in outcome.err
        assert "deeplab-v2" in outcome.err

    @pytest.mark.parametrize("content", ["1 2 x", "", None])
    def test_compat_that_cannot_be_read(self, scene, run, tmp_path, content):
        path = tmp_path / "compat.txt"
        if content is not None:
            path.write_text(content)
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--compat", path),
        )
        assert outcome.code == 2
        assert "compat.txt" in outcome.err

    def test_num_classes_must_agree(self, scene, run, tmp_path):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--num-classes", "21"),
        )
        assert outcome.code == 1
        assert "3 classes" in outcome.err


class TestOverlay:
    def test_before_after_picture(self, scene, run, tmp_path):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            "--overlay",
        )
        assert outcome.code == 0, outcome.err
        page = np.asarray(Image.open(tmp_path / "out" / "scene_overlay.png"))
        height, width = page.shape[:2]
        assert width > 3 * 300
        assert height > 24 * 9
        # Three panels that differ from each other, and captions above them.
        factor = (width - 40) // 3 // 32
        panel = 32 * factor
        rows = slice(-24 * factor - 60, -60)
        first, second, third = (
            page[rows, 10 + i * (panel + 10) : 10 + i * (panel + 10) + panel] for i in range(3)
        )
        assert (first != second).any(axis=2).mean() > 0.1
        assert (second != third).any(axis=2).mean() > 0.01
        assert (page[:20] < 100).any()

    def test_names_in_any_script_without_a_scalable_font(self, scene, run, tmp_path, monkeypatch):
        # Pillow before 10.1 has no other default font, and no name for this one.
        fonts = before_after.ImageFont
        bitmap = getattr(fonts, "load_default_imagefont", fonts.load_default)()
        monkeypatch.setattr(before_after, "font", lambda size: bitmap)
        name = "狐猴 " + "x" * 120
        outcome = run(
            *("refine", scene.save_image(f"{name}.png"), "--probs", scene.save_probs()),
            *("-o", tmp_path / "out", "--overlay"),
        )
        assert outcome.code == 0, outcome.err
        assert size_of(tmp_path / "out" / f"{name}_overlay.png")[0] > 900

    def test_large_pictures_are_shrunk_and_wide_ones_stacked(self, scene, run, tmp_path):
        wide = np.tile(scene.image, (4, 16, 1))
        Image.fromarray(wide).save(tmp_path / "wide.png")
        probs = scene.save_probs("wide.npy", np.tile(scene.probs, (1, 4, 16)))
        outcome = run(
            *("refine", tmp_path / "wide.png", "--probs", probs, "-o", tmp_path / "out"),
            *("--overlay", "--overlay-size", "400"),
        )
        assert outcome.code == 0, outcome.err
        width, height = size_of(tmp_path / "out" / "wide_overlay.png")
        assert width == 420
        assert height > 3 * 75


class TestFolders:
    def folders(self, scene, names=("a", "b", "c")):
        images, probs = scene.folder / "images", scene.folder / "probs"
        images.mkdir()
        probs.mkdir()
        for name in names:
            Image.fromarray(scene.image).save(images / f"{name}.png")
            np.save(probs / f"{name}.npy", scene.probs)
        (images / ".hidden.png").write_text("not a picture")
        (images / "notes.txt").write_text("neither")
        return images, probs

    def test_whole_folder(self, scene, run, tmp_path):
        images, probs = self.folders(scene)
        outcome = run("refine", images, "--probs", probs, "-o", tmp_path / "out")
        assert outcome.code == 0, outcome.err
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "a.npy",
            "b.npy",
            "c.npy",
        ]
        assert len(outcome.out.splitlines()) == 3

    def test_role_endings_pair(self, scene, run, tmp_path):
        folder = tmp_path / "mixed"
        folder.mkdir()
        for name in ("a", "b"):
            Image.fromarray(scene.image).save(folder / f"{name}_img.png")
            np.save(tmp_path / f"{name}_probs.npy", scene.probs)
        outcome = run(
            *("refine", folder, "--probs", tmp_path / "a_probs.npy", tmp_path / "b_probs.npy"),
            *("-o", tmp_path / "out"),
        )
        assert outcome.code == 0, outcome.err
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"a_img.npy", "b_img.npy"}

    def test_unpaired_files_are_listed_and_nothing_is_done(self, scene, run, tmp_path):
        images, probs = self.folders(scene)
        (probs / "b.npy").rename(probs / "bee.npy")
        words = ("refine", images, "--probs", probs, "-o", tmp_path / "out")
        outcome = run(*words)
        assert outcome.code == 2
        assert str(images / "b.png") in outcome.err
        assert str(probs / "bee.npy") in outcome.err
        assert "a.png" not in outcome.err
        assert not (tmp_path / "out").exists()
        assert run(*words, "--ignore-unpaired").code == 0
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.npy", "c.npy"}

    def test_nothing_pairs(self, scene, run, tmp_path):
        images, probs = self.folders(scene, names=("a", "b"))
        for name in ("a", "b"):
            (probs / f"{name}.npy").rename(probs / f"x{name}.npy")
        outcome = run(
            "refine", images, "--probs", probs, "-o", tmp_path / "out", "--ignore-unpaired"
        )
        assert outcome.code == 2
        assert "no image" in outcome.err

    def test_same_stem_twice(self, scene, run, tmp_path):
        images, probs = self.folders(scene)
        Image.fromarray(scene.image).save(images / "a.bmp")
        outcome = run("refine", images, "--probs", probs, "-o", tmp_path / "out")
        assert outcome.code == 2
        assert "a.bmp" in outcome.err
        assert "a.png" in outcome.err

    def test_empty_folder(self, scene, run, tmp_path):
        (tmp_path / "nothing").mkdir()
        outcome = run(
            "refine", tmp_path / "nothing", "--probs", scene.save_probs(), "-o", tmp_path / "out"
        )
        assert outcome.code == 2
        assert "holds no pictures" in outcome.err

    def test_one_broken_file_does_not_stop_the_others(self, scene, run, tmp_path):
        images, probs = self.folders(scene)
        whole = (images / "b.png").read_bytes()
        (images / "b.png").write_bytes(whole[: len(whole) // 2])
        outcome = run("refine", images, "--probs", probs, "-o", tmp_path / "out", "--json")
        assert outcome.code == 1
        assert "b.png" in outcome.err
        assert "1 of 3 files failed" in outcome.err
        assert "unexpected" not in outcome.err
        report = json.loads(outcome.out)
        assert [entry["status"] for entry in report["files"]] == ["ok", "failed", "ok"]
        assert (report["ok"], report["done"], report["failed"]) == (False, 2, 1)
        assert report["exit_code"] == 1
        assert report["files"][1]["error"]["type"] == "ReadError"
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.npy", "c.npy"}

    def test_skip_existing(self, scene, run, tmp_path):
        images, probs = self.folders(scene)
        words = ("refine", images, "--probs", probs, "-o", tmp_path / "out", "--skip-existing")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "b.npy").write_text("done before")
        report = json.loads(run(*words, "--json").out)
        assert (report["skipped"], report["done"]) == (1, 2)
        assert (tmp_path / "out" / "b.npy").read_text() == "done before"

    def test_progress_bar(self, scene, run, tmp_path):
        images, probs = self.folders(scene)
        words = ("refine", images, "--probs", probs, "-o", tmp_path / "out")
        assert "image" not in run(*words).err
        shown = run(*words, "--progress")
        assert "3" in shown.err
        assert "image/s" in shown.err
        assert "image/s" not in shown.out
        single = run(
            *("refine", images / "a.png", "--probs", probs / "a.npy", "-o", tmp_path / "out"),
            *("--progress", "--iterations", "4"),
        )
        assert "4/4" in single.err


class TestFailures:
    def fail(self, run, image, probs, out, *words, option="--probs"):
        outcome = run("refine", image, option, probs, "-o", out, *words)
        assert outcome.code == 1, outcome
        assert "unexpected" not in outcome.err
        assert "Traceback" not in outcome.err
        assert [path.name for path in Path(out).iterdir()] == []
        return outcome.err

    def test_missing_files(self, scene, run, tmp_path):
        image, probs, out = scene.save_image(), scene.save_probs(), tmp_path / "out"
        assert "gone.png does not exist" in self.fail(run, tmp_path / "gone.png", probs, out)
        assert "gone.npy does not exist" in self.fail(run, image, tmp_path / "gone.npy", out)
        assert "gone.jpg does not exist" in self.fail(run, tmp_path / "gone.jpg", probs, out)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "npy", "npz", "tif", "nii.gz"])
    @pytest.mark.parametrize("content", [b"", b"rubbish" * 40])
    def test_rubbish_instead_of_a_picture(self, scene, run, tmp_path, suffix, content):
        path = tmp_path / f"broken.{suffix}"
        path.write_bytes(content)
        message = self.fail(run, path, scene.save_probs(), tmp_path / "out")
        assert f"broken.{suffix}" in message

    @pytest.mark.parametrize("suffix", ["png", "npy", "npz", "tif", "nii.gz"])
    @pytest.mark.parametrize("option", ["--probs", "--labels", "--scribbles"])
    def test_rubbish_instead_of_scores(self, scene, run, tmp_path, suffix, option):
        path = tmp_path / f"broken.{suffix}"
        path.write_bytes(b"\x93NUMPY\x01\x00garbage" * 20)
        message = self.fail(run, scene.save_image(), path, tmp_path / "out", option=option)
        assert f"broken.{suffix}" in message

    @pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
    def test_truncated_files(self, scene, run, tmp_path, cut):
        for path in (scene.save_image("cut.png"), scene.save_probs("cut.npy")):
            whole = path.read_bytes()
            path.write_bytes(whole[: int(cut * len(whole))])
        self.fail(run, tmp_path / "cut.png", scene.save_probs(), tmp_path / "out")
        self.fail(run, scene.save_image(), tmp_path / "cut.npy", tmp_path / "out")

    def test_sizes_that_disagree(self, scene, run, tmp_path):
        probs = scene.save_probs(values=scene.probs[:, :-1])
        message = self.fail(run, scene.save_image(), probs, tmp_path / "out")
        assert "(3, 23, 32)" in message
        assert "24×32" in message

    def test_transposed(self, scene, run, tmp_path):
        probs = scene.save_probs(values=scene.probs.transpose(0, 2, 1))
        assert "transposed" in self.fail(run, scene.save_image(), probs, tmp_path / "out")

    def test_pickles_are_not_loaded(self, scene, run, tmp_path):
        np.save(tmp_path / "p.npy", np.array([{"a": 1}, None]), allow_pickle=True)
        message = self.fail(run, scene.save_image(), tmp_path / "p.npy", tmp_path / "out")
        assert "unpickling" in message

    def test_integers_are_no_probabilities(self, scene, run, tmp_path):
        probs = scene.save_probs(values=scene.truth)
        message = self.fail(run, scene.save_image(), probs, tmp_path / "out")
        assert "--labels" in message

    def test_probabilities_are_no_labels(self, scene, run, tmp_path):
        message = self.fail(
            run, scene.save_image(), scene.save_probs(), tmp_path / "out", option="--labels"
        )
        assert "--probs" in message

    @pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
    def test_bad_probabilities(self, scene, run, tmp_path, value):
        values = scene.probs.copy()
        values[1, 2, 3] = value
        self.fail(run, scene.save_image(), scene.save_probs(values=values), tmp_path / "out")

    def test_logits_as_probabilities(self, scene, run, tmp_path):
        probs = scene.save_probs(values=np.log(scene.probs) * 3)
        self.fail(run, scene.save_image(), probs, tmp_path / "out")

    def test_colour_and_palette_pictures_are_no_probabilities(self, scene, run, tmp_path):
        message = self.fail(run, scene.save_image(), scene.save_image("p.png"), tmp_path / "out")
        assert "--labels" in message
        picture = Image.fromarray(scene.truth)
        picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        picture.save(tmp_path / "palette.png")
        message = self.fail(run, scene.save_image(), tmp_path / "palette.png", tmp_path / "out")
        assert "--labels" in message

    def test_lossy_labels(self, scene, run, tmp_path):
        Image.fromarray(scene.truth * 100).save(tmp_path / "l.jpg")
        out = tmp_path / "out"
        message = self.fail(run, scene.save_image(), tmp_path / "l.jpg", out, option="--labels")
        assert "JPG" in message
        message = self.fail(run, scene.save_image(), tmp_path / "l.jpg", out)
        assert "JPEG" in message

    def test_too_many_colours(self, scene, run, tmp_path):
        path, out = scene.save_image("l.png"), tmp_path / "out"
        message = self.fail(run, scene.save_image(), path, out, option="--labels")
        assert "colours" in message

    def test_instance_maps(self, scene, run, tmp_path):
        Image.fromarray(np.kron(scene.image, np.ones((2, 2, 1), np.uint8))).save(tmp_path / "2.png")
        path = scene.save_probs("instances.npy", np.arange(48 * 64).reshape(48, 64))
        out = tmp_path / "out"
        message = self.fail(run, tmp_path / "2.png", path, out, option="--labels")
        assert "instances" in message

    def test_animated_picture(self, scene, run, tmp_path):
        frames = [Image.fromarray(scene.image), Image.fromarray(scene.image[::-1].copy())]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        message = self.fail(run, tmp_path / "a.gif", scene.save_probs(), tmp_path / "out")
        assert "animated" in message

    @pytest.mark.parametrize(
        ("module", "name"), [("tifffile", "photo.tif"), ("nibabel", "photo.nii.gz")]
    )
    def test_missing_reader(self, scene, run, tmp_path, monkeypatch, module, name):
        (tmp_path / name).write_bytes(b"x")
        monkeypatch.setattr("fastseg.cli.reading.find_spec", lambda wanted: None)
        message = self.fail(run, tmp_path / name, scene.save_probs(), tmp_path / "out")
        assert module in message
        assert "pip install 'fastseg-rs[io]'" in message

    def test_debug_shows_the_traceback(self, scene, run, tmp_path):
        words = ("refine", tmp_path / "gone.png", "--probs", scene.save_probs())
        outcome = run(*words, "-o", tmp_path / "out", "--debug")
        assert outcome.code == 1
        assert "Traceback" in outcome.err

    def test_unforeseen_error_is_reported_too(self, scene, run, tmp_path, monkeypatch):
        def broken(**_):
            raise RuntimeError("surprise")

        monkeypatch.setattr(crf, "refine", broken)
        outcome = run(
            "refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"
        )
        assert outcome.code == 1
        assert "unexpected RuntimeError: surprise" in outcome.err


class TestOutput:
    def test_output_under_a_file(self, scene, run, tmp_path):
        (tmp_path / "file").write_text("x")
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs()),
            *("-o", tmp_path / "file" / "out"),
        )
        assert outcome.code == 2
        assert "cannot be written to" in outcome.err

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
    )
    def test_output_without_permission(self, scene, run, tmp_path):
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        outcome = run("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", locked)
        assert outcome.code == 2
        assert "cannot be written to" in outcome.err

    def test_permission_denied(self, scene, run, tmp_path, monkeypatch):
        def refuse(self, *_, **__):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "touch", refuse)
        outcome = run(
            "refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"
        )
        assert outcome.code == 2
        assert "Permission denied" in outcome.err

    def test_inputs_are_never_replaced(self, scene, run, tmp_path):
        probs = scene.save_probs()
        before = probs.read_bytes()
        outcome = run("refine", scene.save_image(), "--probs", probs, "-o", tmp_path)
        assert outcome.code == 2
        assert "would replace an input" in outcome.err
        assert probs.read_bytes() == before

    def test_results_appear_whole_or_not_at_all(self, scene, run, tmp_path, monkeypatch):
        out = tmp_path / "out"
        words = ("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", out)
        assert run(*words).code == 0
        before = (out / "scene.npy").read_bytes()

        def half(file, *_, **__):
            file.write(b"half a file")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", half)
        outcome = run(*words, "--iterations", "1")
        assert outcome.code == 1
        assert "No space left on device" in outcome.err
        assert (out / "scene.npy").read_bytes() == before
        assert [path.name for path in out.iterdir()] == ["scene.npy"]

    def test_interrupt(self, scene, run, tmp_path, monkeypatch):
        images = tmp_path / "images"
        images.mkdir()
        probs = tmp_path / "probs"
        probs.mkdir()
        for name in "abc":
            Image.fromarray(scene.image).save(images / f"{name}.png")
            np.save(probs / f"{name}.npy", scene.probs)
        original, calls = crf.refine, []

        def second_is_interrupted(**keywords):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(**keywords)

        monkeypatch.setattr(crf, "refine", second_is_interrupted)
        outcome = run("refine", images, "--probs", probs, "-o", tmp_path / "out", "--json")
        assert outcome.code == 130
        assert "1 of 3" in outcome.err
        report = json.loads(outcome.out)
        assert [entry["status"] for entry in report["files"]] == ["ok", "interrupted"]
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npy"]


class TestJson:
    def test_document(self, scene, run, tmp_path):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--json", "--overlay", "--iterations", "3"),
        )
        assert outcome.code == 0, outcome.err
        report = json.loads(outcome.out)
        assert set(report) == {
            *("command", "ok", "exit_code", "files", "parameters", "seconds", "done", "failed"),
        }
        assert report["parameters"] == {"iterations": 3}
        (entry,) = report["files"]
        assert entry["status"] == "ok"
        assert entry["shape"] == [24, 32]
        assert entry["num_classes"] == 3
        assert entry["labels"] == [0, 1, 2]
        assert 0 < entry["seconds"] < report["seconds"]
        refined = np.load(entry["outputs"]["probs"])
        changed = (refined.argmax(0) != scene.probs.argmax(0)).mean()
        assert entry["changed_fraction"] == pytest.approx(changed)
        assert changed > 0
        assert entry["notes"] == []
        assert entry["vanished_labels"] == []
        assert Path(entry["outputs"]["overlay"]).exists()
        assert outcome.err == ""

    def test_usage_errors_are_told_in_json_too(self, scene, run, tmp_path):
        outcome = run(
            *("refine", scene.save_image(), "--probs", scene.save_probs(), "-o", tmp_path / "out"),
            *("--json", "--preset", "nope"),
        )
        assert outcome.code == 2
        report = json.loads(outcome.out)
        assert report["ok"] is False
        assert "nope" in report["error"]["message"]


def test_vanished_labels_are_told(scene, run, tmp_path):
    scene.image[:] = 100
    labels = np.zeros((24, 32), np.uint8)
    labels[10, 10] = 7
    Image.fromarray(labels).save(tmp_path / "scene_labels.png")
    words = ("refine", scene.save_image(), "--labels", tmp_path / "scene_labels.png")
    outcome = run(*words, "-o", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["files"][0]["vanished_labels"] == [7]
    assert "no pixel is left of label 7" in run(*words, "-o", tmp_path / "out").out


class TestProcess:
    """The real thing, in a process of its own."""

    def words(self, scene, *more):
        return [
            *(sys.executable, "-m", "fastseg", "refine", str(scene.save_image())),
            *("--probs", str(scene.save_probs()), "-o", str(scene.folder / "out"), *more),
        ]

    def test_exit_code_and_streams(self, scene):
        done = subprocess.run(self.words(scene, "--json"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ok"] is True
        assert done.stderr == ""

    def test_usage(self, scene):
        done = subprocess.run(
            [sys.executable, "-m", "fastseg", "refine", "x.png"], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "--probs" in done.stderr

    def test_torch_is_not_loaded(self, scene):
        code = (
            "import sys; from fastseg.cli import main; code = main(sys.argv[1:]); "
            "print(code, 'torch' in sys.modules, 'scipy' in sys.modules, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *self.words(scene)[3:]], capture_output=True, text=True
        )
        assert done.stderr.split() == ["0", "False", "False"]

    @pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for other processes")
    def test_ctrl_c(self, scene):
        Image.fromarray(np.tile(scene.image, (30, 30, 1))).save(scene.folder / "large.png")
        np.save(scene.folder / "p.npy", np.tile(scene.probs, (1, 30, 30)))
        command = [
            *(sys.executable, "-m", "fastseg", "refine", str(scene.folder / "large.png")),
            *("--probs", str(scene.folder / "p.npy"), "-o", str(scene.folder / "out")),
            *("--iterations", "100000", "--progress"),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0) as process:
            assert process.stderr is not None
            seen = b""
            # The bar moves once iterations are done: the engine is at work then.
            while b"/100000" not in seen:
                piece = process.stderr.read(64)
                assert piece, seen
                seen += piece
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(timeout=30) == 130
        assert time.monotonic() - began < 5
        assert b"interrupted" in rest
        assert b"Traceback" not in rest
        assert list((scene.folder / "out").iterdir()) == []


def test_help_names_exit_codes_and_units(run):
    outcome = run("refine", "--help")
    assert outcome.code == 0
    for word in ("exit codes", "130", "pixels", "0 … 255", "nii.gz"):
        assert word in outcome.out
    assert run("--help").code == 0
    assert run("--version").out.startswith("fastseg ")


def test_soft_labels_sum_to_one():
    labels = np.array([[0, 1, -1]], np.int32)
    probs = command._soft(labels, 4, 0.7)
    np.testing.assert_allclose(probs.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(probs[:, 0, 0], [0.7, 0.1, 0.1, 0.1], atol=1e-6)
    np.testing.assert_allclose(probs[:, 0, 2], 0.25)
