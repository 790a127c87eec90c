"""Each transform alone: what it does to places and values, against slow versions of it."""

import math

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from fastseg.augment import (
    JointAugmentation,
    PhotometricDistortion,
    RandomCategoryCrop,
    RandomDeformation,
    RandomGreyValues,
    RandomScale,
)


def pair(height=40, width=60):
    """An image that holds its own coordinates, and labels that count the pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return tv_tensors.Image(torch.stack([x, y]).float()), tv_tensors.Mask(y * width + x)


class TestDeformation:
    def test_image_and_labels_move_alike(self):
        torch.manual_seed(0)
        image, labels = pair()
        deform = RandomDeformation(
            sigma=3, shift=0.1, rotation=20, ignore_index=-1, image_fill=-1000
        )
        moved, ids = deform(image, labels)
        inside = (ids >= 0) & (moved.amin(0) >= 0)
        assert inside.float().mean() > 0.4
        # The image says where each pixel came from, the labels which pixel is nearest to that.
        x, y = moved.round()
        agree = (ids == y * 60 + x)[inside]
        assert agree.float().mean() > 0.99  # halves may round either way

    def test_a_whole_shift_is_exact(self):
        image, labels = pair()
        deform = RandomDeformation(sigma=0, shift=0.5, ignore_index=-1, image_fill=-1)
        displacement = torch.zeros(1, 40, 60, 2)
        displacement[..., 0] = 2 / 60 * 7
        params = {"displacement": displacement}
        moved, ids = deform.transform(image, params), deform.transform(labels, params)
        torch.testing.assert_close(
            moved[:, :, :53].as_subclass(torch.Tensor), image[:, :, 7:].as_subclass(torch.Tensor)
        )
        assert torch.equal(ids[:, :53], labels[:, 7:])
        assert (ids[:, 53:] == -1).all()

    @pytest.mark.parametrize("angle", [90.0, -37.0])
    def test_rotation_goes_around_the_centre(self, angle, monkeypatch):
        monkeypatch.setattr("fastseg.augment.deformation.uniform", lambda low, high: high)
        image, _ = pair(41, 41)
        moved = RandomDeformation(sigma=0, rotation=abs(angle), image_fill=-1)(image)
        radians = math.radians(abs(angle))
        for y, x in [(20, 20), (20, 25), (12, 23)]:
            dx, dy = x - 20, y - 20
            source_x = math.cos(radians) * dx - math.sin(radians) * dy + 20
            source_y = math.sin(radians) * dx + math.cos(radians) * dy + 20
            assert moved[0, y, x].item() == pytest.approx(source_x, abs=1e-3)
            assert moved[1, y, x].item() == pytest.approx(source_y, abs=1e-3)

    def test_the_displacements_are_the_papers(self):
        """Standard deviation of 10 pixels at the points of the grid, smooth in between."""
        image, _ = pair(65, 65)
        deform = RandomDeformation()
        torch.manual_seed(0)
        fields = torch.cat([deform.make_params([image])["displacement"] for _ in range(400)])
        pixels = fields * 65 / 2
        at_points = pixels[:, ::32, ::32]
        assert at_points.std().item() == pytest.approx(10, rel=0.05)
        assert at_points.mean().abs().item() < 0.5
        steps = pixels.diff(dim=1).abs().amax()
        assert steps < 10 * 6 / 16  # six sigmas over half the distance of two points
        correlation = torch.corrcoef(at_points.reshape(400, -1).T)
        assert (correlation - torch.eye(18)).abs().max() < 0.25

    def test_bicubic_between_the_points(self):
        """Keys' kernel with a = -0.75, as PyTorch has it, borders repeated."""

        def kernel(t):
            t, a = abs(t), -0.75
            if t <= 1:
                return (a + 2) * t**3 - (a + 3) * t**2 + 1
            return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

        image, _ = pair(9, 17)
        torch.manual_seed(1)
        got = RandomDeformation(sigma=2).make_params([image])["displacement"][0, ..., 0] * 17 / 2
        torch.manual_seed(1)
        coarse = 2 * torch.randn(1, 2, 3, 3)[0, 0]
        for y, x in [(0, 0), (4, 8), (2, 3), (7, 13)]:
            v, u = y / 4, x / 8
            expected = sum(
                kernel(v - i) * kernel(u - j) * coarse[min(max(i, 0), 2), min(max(j, 0), 2)].item()
                for i in range(math.floor(v) - 1, math.floor(v) + 3)
                for j in range(math.floor(u) - 1, math.floor(u) + 3)
            )
            assert got[y, x].item() == pytest.approx(expected, abs=1e-4)

    def test_nothing_to_do(self):
        image, labels = pair()
        moved, ids = RandomDeformation(sigma=0)(image, labels)
        torch.testing.assert_close(moved.as_subclass(torch.Tensor), image.as_subclass(torch.Tensor))
        assert torch.equal(ids, labels)


class TestScale:
    @pytest.mark.parametrize("factor", [0.5, 0.77, 1.0, 1.3, 2.0])
    def test_image_and_labels_stay_aligned(self, factor):
        image, labels = pair()
        small, ids = RandomScale((factor, factor))(image, labels)
        assert small.shape[-2:] == ids.shape == (round(40 * factor), round(60 * factor))
        x, y = ids % 60, torch.div(ids, 60, rounding_mode="floor")
        inner = slice(2, -2)
        # The nearest label is at most half a pixel of the image away.
        assert (small[0] - x)[inner, inner].abs().max() <= 0.5 + 1e-3
        assert (small[1] - y)[inner, inner].abs().max() <= 0.5 + 1e-3

    def test_factors_are_spread_over_the_interval(self):
        image, _ = pair(100, 10)
        torch.manual_seed(0)
        heights = [RandomScale().make_params([image])["size"][0] for _ in range(300)]
        assert 50 <= min(heights) < 55
        assert 195 < max(heights) <= 200
        assert np.mean(heights) == pytest.approx(125, abs=8)

    def test_never_below_a_pixel(self):
        image, labels = pair(1, 1)
        assert RandomScale((0.1, 0.1))(image, labels)[1].shape == (1, 1)


class TestCategoryCrop:
    def test_windows_come_from_everywhere(self):
        image, labels = pair()
        torch.manual_seed(0)
        crop = RandomCategoryCrop((30, 50), max_ratio=1)
        corners = set()
        for _ in range(400):
            part, ids = crop(image, labels)
            assert torch.equal(part[1] * 60 + part[0], ids.as_subclass(torch.Tensor))
            corners.add((ids[0, 0].item() // 60, ids[0, 0].item() % 60))
        assert {y for y, _ in corners} == set(range(11))
        assert {x for _, x in corners} == set(range(11))

    def test_one_class_is_avoided(self):
        labels = torch.zeros(100, 100, dtype=torch.int64)
        labels[60:, 60:] = 1
        inputs = tv_tensors.Image(torch.zeros(1, 100, 100)), tv_tensors.Mask(labels)
        torch.manual_seed(0)

        def varied(crop):
            ratios = []
            for _ in range(100):
                _, ids = crop(*inputs)
                ratios.append(ids.float().mean().item())
            return np.mean([0.25 < ratio < 0.75 for ratio in ratios])

        assert varied(RandomCategoryCrop(30, max_ratio=1)) < 0.3
        assert varied(RandomCategoryCrop(30, max_ratio=0.75)) > 0.6
        assert varied(RandomCategoryCrop(30, max_ratio=0.75, attempts=1)) < 0.3

    def test_ignored_pixels_are_no_class(self):
        crop = RandomCategoryCrop(4, ignore_index=255)
        window = torch.full((10, 10), 255)
        assert not crop._is_varied(window)
        window[0, :5] = 1
        assert not crop._is_varied(window)
        window[1, :2] = 2
        assert crop._is_varied(window)
        window[1, 1] = 1
        assert not crop._is_varied(window)

    def test_small_images_are_padded(self):
        image, labels = pair(10, 70)
        part, ids = RandomCategoryCrop((20, 50), ignore_index=-1, image_fill=[7.0, 9.0])(
            image, labels
        )
        assert part.shape == (2, 20, 50)
        assert (ids[10:] == -1).all()
        assert (ids[:10] >= 0).all()
        assert (part[0, 10:] == 7).all()
        assert (part[1, 10:] == 9).all()

    def test_without_labels(self):
        image, _ = pair()
        assert RandomCategoryCrop(8)(image).shape == (2, 8, 8)


class TestColours:
    @pytest.mark.parametrize("transform", [PhotometricDistortion(p=1.0), RandomGreyValues()])
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_values_change_and_labels_do_not(self, transform, dtype, channels):
        torch.manual_seed(0)
        image = torch.rand(channels, 9, 9)
        image = (image * 255).to(dtype) if dtype == torch.uint8 else image
        labels = tv_tensors.Mask(torch.arange(81).reshape(9, 9))
        changed, ids = transform(tv_tensors.Image(image), labels)
        assert changed.dtype == dtype
        assert (changed != image).any()
        assert torch.equal(ids, labels)

    def test_channels_keep_their_places(self):
        """torchvision's own distortion permutes them."""
        image = torch.zeros(3, 4, 4)
        image[0] = 0.8
        transform = PhotometricDistortion(p=1.0, hue=(0, 0), saturation=(1, 1))
        for seed in range(20):
            torch.manual_seed(seed)
            assert transform(tv_tensors.Image(image)).mean((1, 2)).argmax() == 0

    def test_distortion_is_torchvisions(self):
        image = tv_tensors.Image(torch.rand(3, 6, 6))
        ours, theirs = PhotometricDistortion(), v2.RandomPhotometricDistort(hue=(-0.1, 0.1))
        for seed in range(10):
            torch.manual_seed(seed)
            got = ours(image)
            torch.manual_seed(seed)
            params = {**theirs.make_params([image]), "channel_permutation": None}
            torch.testing.assert_close(got, theirs.transform(image, params))

    def test_half_of_the_images_keep_their_hue(self):
        image = torch.rand(3, 4, 4)
        torch.manual_seed(0)
        transform = PhotometricDistortion()
        params = [transform.make_params([tv_tensors.Image(image)]) for _ in range(400)]
        kept = np.mean([one["hue_factor"] is None for one in params])
        assert kept == pytest.approx(0.5, abs=0.08)

    def test_grey_values_formula(self, monkeypatch):
        monkeypatch.setattr("fastseg.augment.colors.uniform", lambda low, high: high)
        image = torch.rand(1, 5, 5, dtype=torch.float64) * 0.5
        transform = RandomGreyValues(brightness=(1, 1.2), contrast=(1, 0.9 + 0.2), gamma=(1, 1.25))
        bright = image * 1.2
        contrast = bright * 1.1 + bright.mean() * (1 - 1.1)
        expected = contrast.clamp(0, 1) ** 1.25
        got = transform(tv_tensors.Image(image)).as_subclass(torch.Tensor)
        torch.testing.assert_close(got, expected)


def test_transforms_compose_with_torchvisions_own():
    image, labels = pair()
    both = v2.Compose([RandomScale((0.5, 0.5)), v2.RandomHorizontalFlip(1.0)])
    small, ids = both(image, labels)
    joint, moved = JointAugmentation(both.transforms, ignore_index=0)(
        image.as_subclass(torch.Tensor), labels.as_subclass(torch.Tensor)
    )
    torch.testing.assert_close(joint, small.as_subclass(torch.Tensor))
    assert torch.equal(moved, ids.as_subclass(torch.Tensor))
