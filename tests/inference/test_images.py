"""Pictures of every kind, and what is wrong with some."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fastseg import predict
from fastseg._pictures import ReadError
from fastseg.errors import DataError, DtypeError, ShapeError
from fastseg.inference import Preprocessing
from inference.conftest import Quarter, smooth_picture

# The values themselves: what the model sees is what was read.
AS_THEY_ARE = Preprocessing(scale=None, mean=None, std=None)
ORIENTATION = 0x0112


def seen(image, channels=3):
    """(C, H, W): what a model of so many channels gets to see."""
    caught = []

    class Model(torch.nn.Module):
        in_channels = channels

        def forward(self, batch):
            caught.append(batch)
            return batch

    predict(Model(), image, preprocessing=AS_THEY_ARE)
    return caught[0][0]


class TestKinds:
    def test_all_kinds_are_one(self, tmp_path):
        picture = smooth_picture(13, 18)
        Image.fromarray(picture).save(tmp_path / "a.png")
        expected = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32))
        for given in (
            tmp_path / "a.png",
            str(tmp_path / "a.png"),
            Image.fromarray(picture),
            picture,
            picture.transpose(2, 0, 1),
            picture[::-1][::-1],
            np.asfortranarray(picture),
            torch.from_numpy(picture.transpose(2, 0, 1).copy()),
            torch.from_numpy(picture.copy()),
        ):
            assert torch.equal(seen(given), expected)

    def test_floating_point(self):
        picture = smooth_picture(13, 18)
        expected = seen(picture)
        assert torch.equal(seen(picture.astype(np.float64)), expected)
        torch.testing.assert_close(seen(picture / 255), expected)
        torch.testing.assert_close(seen((picture / 255).astype(">f4")), expected)
        torch.testing.assert_close(seen(torch.from_numpy(picture / 255)), expected)

    def test_sixteen_bits(self, tmp_path):
        deep = (np.arange(12 * 9, dtype=np.uint16) * 600).reshape(9, 12)
        expected = torch.from_numpy(deep.astype(np.float32) / 257).expand(3, -1, -1)
        torch.testing.assert_close(seen(deep), expected)
        torch.testing.assert_close(seen(deep.astype(">u2")), expected)
        torch.testing.assert_close(seen(torch.from_numpy(deep)), expected)
        Image.fromarray(deep).save(tmp_path / "deep.png")
        torch.testing.assert_close(seen(tmp_path / "deep.png"), expected)
        torch.testing.assert_close(seen(Image.open(tmp_path / "deep.png").convert("I")), expected)

    def test_grey(self, tmp_path):
        grey = np.ascontiguousarray(smooth_picture(13, 18)[..., 0])
        expected = torch.from_numpy(grey.astype(np.float32)).expand(3, -1, -1)
        Image.fromarray(grey).save(tmp_path / "grey.png")
        for given in (grey, grey[..., None], grey[None], tmp_path / "grey.png"):
            assert torch.equal(seen(given), expected)
        assert seen(grey, channels=1).shape == (1, 13, 18)

    def test_alpha_that_hides_nothing(self, tmp_path):
        picture = smooth_picture(13, 18)
        alpha = np.concatenate([picture, np.full((13, 18, 1), 255, np.uint8)], axis=2)
        Image.fromarray(alpha).save(tmp_path / "alpha.png")
        for given in (alpha, Image.fromarray(alpha), tmp_path / "alpha.png", alpha / 255):
            torch.testing.assert_close(seen(given), seen(picture))

    def test_palettes_and_masks(self):
        picture = Image.fromarray(smooth_picture(13, 18)).convert("P")
        assert torch.equal(seen(picture), seen(picture.convert("RGB")))
        mask = smooth_picture(13, 18)[..., 0] > 128
        assert torch.equal(seen(mask), seen(mask.astype(np.uint8) * np.uint8(255)))
        assert torch.equal(seen(Image.fromarray(mask)), seen(mask))

    def test_cmyk(self, tmp_path):
        cmyk = Image.fromarray(smooth_picture(16, 16)).convert("CMYK")
        cmyk.save(tmp_path / "print.jpg", quality=95)
        expected = seen(Image.open(tmp_path / "print.jpg").convert("RGB"))
        assert torch.equal(seen(tmp_path / "print.jpg"), expected)
        assert torch.equal(seen(cmyk), seen(cmyk.convert("RGB")))

    def test_many_channels(self):
        cube = np.random.default_rng(0).integers(0, 255, (13, 18, 7), dtype=np.uint8)
        assert seen(cube, channels=7).shape == (7, 13, 18)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_rotation(self, tmp_path, orientation):
        picture = Image.fromarray(smooth_picture(12, 20))
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        picture.save(tmp_path / "turned.png", exif=exif)
        labels = predict(Quarter(), tmp_path / "turned.png", preprocessing=AS_THEY_ARE)
        assert labels.shape == ((20, 12) if orientation >= 5 else (12, 20))
        # What was opened by hand is taken as it is.
        assert seen(Image.open(tmp_path / "turned.png")).shape == (3, 12, 20)


class TestBadPictures:
    def test_transparent(self, tmp_path):
        alpha = np.zeros((13, 18, 4), np.uint8)
        alpha[:6, :, 3] = 255
        Image.fromarray(alpha).save(tmp_path / "hole.png")
        for given in (alpha, torch.from_numpy(alpha).permute(2, 0, 1), alpha / 255):
            with pytest.raises(DataError, match=r"transparent in 53\.8 %"):
                seen(given)
        for given in (tmp_path / "hole.png", Image.fromarray(alpha)):
            with pytest.raises(ReadError, match=r"transparent in 53\.8 %"):
                seen(given)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
    @pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
    def test_truncated(self, tmp_path, suffix, cut):
        file = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        kind = "JPEG" if suffix == "jpg" else suffix.upper()
        Image.fromarray(noise).save(file, format=kind)
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(file.getvalue()[: int(cut * len(file.getvalue()))])
        with pytest.raises(ReadError, match=r"cut\."):
            seen(path)

    def test_missing_folder_rubbish(self, tmp_path):
        (tmp_path / "x.png").write_bytes(b"rubbish")
        with pytest.raises(ReadError, match="not a picture"):
            seen(tmp_path / "x.png")
        with pytest.raises(ReadError, match="is a folder"):
            seen(tmp_path)
        with pytest.raises(ReadError, match="does not exist"):
            seen(tmp_path / "gone.png")

    def test_animated(self, tmp_path):
        frames = [Image.fromarray(smooth_picture(8, 8, seed)) for seed in range(2)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        with pytest.raises(ReadError, match="animated"):
            seen(tmp_path / "a.gif")

    @pytest.mark.parametrize(
        "shape", [(), (5,), (2, 3, 8, 8), (8, 8, 2), (8, 8, 5), (0, 8, 3), (8, 0)]
    )
    def test_shapes(self, shape):
        with pytest.raises(ShapeError, match="image"):
            seen(np.zeros(shape, np.uint8))

    def test_channels_that_disagree(self):
        with pytest.raises(ShapeError, match="expected 1 channels, last or first"):
            seen(smooth_picture(8, 8), channels=1)
        with pytest.raises(ShapeError, match="expected 5 channels, got a grey picture"):
            seen(smooth_picture(8, 8)[..., 0], channels=5)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 256.0, 70000.0])
    def test_values_out_of_range(self, value):
        picture = smooth_picture(8, 8).astype(np.float32)
        picture[2, 3, 1] = value
        with pytest.raises(DataError, match="image: holds"):
            seen(picture)

    def test_integers_out_of_range(self):
        with pytest.raises(DataError, match="0 … 300"):
            seen(np.arange(301, dtype=np.int64).reshape(7, 43))

    @pytest.mark.parametrize(
        "given", [None, 5, {"a": 1}, np.array([["a"]]), np.zeros((3, 3), complex)], ids=str
    )
    def test_no_pictures(self, given):
        with pytest.raises(DtypeError, match="image"):
            seen(given)
