"""The joint call: kinds, seeds, what is refused."""

import pickle
import threading

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
    deeplab_augmentation,
    segformer_augmentation,
    unet_augmentation,
)
from fastseg.errors import DataError, DtypeError, LabelError, ParameterError, ShapeError

RECIPES = {
    "unet": unet_augmentation(),
    "deeplab": deeplab_augmentation(24),
    "segformer": segformer_augmentation((24, 20)),
}


@pytest.fixture(params=RECIPES)
def augment(request):
    return RECIPES[request.param]


def picture(height=40, width=30, channels=3, dtype=np.uint8, seed=0):
    """An image whose first channel shows its labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (height // 5, width // 5)).repeat(5, 0).repeat(5, 1)
    image = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    image[..., 0] = labels * 40
    return (image if dtype == np.uint8 else (image / 255).astype(dtype)), labels.astype(np.uint8)


def test_the_same_seed_gives_the_same_result(augment):
    image, labels = picture()
    first, second = augment(image, labels, seed=3), augment(image, labels, seed=3)
    other = augment(image, labels, seed=4)
    for one, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, again)
    assert any((one != more).any() for one, more in zip(first, other, strict=True))


def test_a_generator_gives_one_sequence(augment):
    image, labels = picture()
    runs = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(1)
        runs.append([augment(image, labels, generator=generator)[0] for _ in range(2)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][0] != runs[0][1]).any()


def test_a_seed_leaves_the_global_generator_alone(augment):
    image, labels = picture()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    augment(image, labels, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_without_a_seed_the_global_generator_decides(augment):
    image, labels = picture()
    torch.manual_seed(5)
    first = augment(image, labels)
    second = augment(image, labels)
    torch.manual_seed(5)
    again = augment(image, labels)
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[0] != second[0]).any()


def test_seeded_threads_do_not_disturb_each_other(augment):
    image, labels = picture()
    expected = [augment(image, labels, seed=seed)[0] for seed in range(8)]
    results = [None] * 8

    def work(seed):
        results[seed] = augment(image, labels, seed=seed)[0]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(results, expected)


def test_numpy_and_torch_give_the_same(augment):
    image, labels = picture()
    arrays = augment(image, labels, seed=2)
    tensors = augment(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(labels), seed=2)
    assert all(isinstance(part, np.ndarray) for part in arrays)
    assert all(type(part) is torch.Tensor for part in tensors)
    np.testing.assert_array_equal(arrays[0], tensors[0].permute(1, 2, 0))
    np.testing.assert_array_equal(arrays[1], tensors[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize(
    "label_dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, ">i4"]
)
def test_dtypes_stay(augment, dtype, label_dtype):
    image, labels = picture(dtype=dtype)
    got, moved = augment(image, labels.astype(label_dtype), seed=1)
    assert got.dtype == np.dtype(dtype).newbyteorder("=")
    assert moved.dtype == np.dtype(label_dtype).newbyteorder("=")
    np.testing.assert_array_equal(moved, augment(image, labels, seed=1)[1])
    if got.dtype.kind == "f":
        assert got.min() >= 0
        assert got.max() <= 1


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int64, torch.int8])
def test_tensor_dtypes_stay(dtype):
    image, labels = picture()
    tensor = torch.from_numpy(labels.astype(np.int64)).to(dtype)
    recipe = unet_augmentation(ignore_index=100)
    got, moved = recipe(torch.from_numpy(image).permute(2, 0, 1), tensor, seed=1)
    assert got.dtype == torch.uint8
    assert moved.dtype == dtype
    np.testing.assert_array_equal(moved, recipe(image, labels, seed=1)[1])


def test_tv_tensors_stay_what_they_are(augment):
    image, labels = picture()
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    pair = tv_tensors.Image(tensor), tv_tensors.Mask(torch.from_numpy(labels))
    got, moved = augment(*pair, seed=2)
    assert type(got) is tv_tensors.Image
    assert type(moved) is tv_tensors.Mask
    plain = augment(tensor, torch.from_numpy(labels), seed=2)
    assert torch.equal(got.as_subclass(torch.Tensor), plain[0])
    assert torch.equal(moved.as_subclass(torch.Tensor), plain[1])
    torch.manual_seed(0)
    further, _ = v2.Compose([augment, v2.ToDtype(torch.float32, scale=True)])(*pair)
    assert further.dtype == torch.float32
    assert further.max() <= 1


def test_grey_images_keep_their_axes():
    image, labels = picture()
    grey = image[..., 0]
    for recipe in RECIPES.values():
        got, _ = recipe(grey, labels, seed=1)
        same, _ = recipe(grey[..., None], labels, seed=1)
        tensor, _ = recipe(torch.from_numpy(grey), torch.from_numpy(labels), seed=1)
        assert got.ndim == 2
        np.testing.assert_array_equal(got, same[..., 0])
        np.testing.assert_array_equal(got, tensor)


def test_views_read_only_and_inputs_left_alone(augment):
    image, labels = picture()
    expected = augment(image, labels, seed=6)
    image.flags.writeable = labels.flags.writeable = False
    odd = np.asfortranarray(image), labels[::-1][::-1]
    turned = image[:, ::-1].copy()[:, ::-1], labels
    for inputs in ((image, labels), odd, turned):
        before = inputs[0].copy(), inputs[1].copy()
        got = augment(*inputs, seed=6)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(inputs[0], before[0])
        np.testing.assert_array_equal(inputs[1], before[1])


@pytest.mark.parametrize("seed", range(12))
def test_labels_are_never_interpolated(augment, seed):
    image, labels = picture()
    _, moved = augment(image, labels * 50, seed=seed)
    assert set(np.unique(moved)) <= {0, 50, 100, 150, 200, 255}


@pytest.mark.parametrize("ignore_index", [255, 17, 0])
@pytest.mark.parametrize("recipe", ["unet", "segformer"])
def test_what_comes_from_outside_is_ignored(recipe, ignore_index):
    make = (
        unet_augmentation(ignore_index=ignore_index, shift=0.5, rotation=45, image_fill=0)
        if recipe == "unet"
        else segformer_augmentation(80, ignore_index=ignore_index, photometric=False)
    )
    image = np.full((40, 30, 3), 200, np.uint8)
    got, moved = make(image, np.ones((40, 30), np.uint8), seed=0)
    assert set(np.unique(moved)) == {1, ignore_index}
    inside = moved == 1
    # A pixel's width of the border is mixed with the fill.
    assert np.median(got[inside]) > 100
    assert np.median(got[~inside]) == 0


def test_other_transforms_go_in():
    image, labels = picture()
    joint = JointAugmentation(
        [v2.RandomVerticalFlip(1.0), v2.RandomRotation((90, 90), expand=True)]
    )
    got, moved = joint(image, labels, seed=0)
    assert got.shape == (30, 40, 3)
    np.testing.assert_array_equal(moved * 40, got[..., 0])


def test_a_recipe_can_be_sent_to_a_worker(augment):
    image, labels = picture()
    again = pickle.loads(pickle.dumps(augment))
    np.testing.assert_array_equal(
        again(image, labels, seed=1)[0], augment(image, labels, seed=1)[0]
    )
    assert "ignore_index=255" in repr(augment)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_awkward_sizes(augment, size):
    image, labels = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
    got, moved = augment(image, labels, seed=0)
    assert got.shape[:2] == moved.shape


class TestBadInput:
    def test_shapes(self, augment):
        image, labels = picture()
        with pytest.raises(ShapeError, match=r"\(40, 30\), got \(30, 40\)"):
            augment(image, labels.T)
        with pytest.raises(ShapeError, match="one image at a time"):
            augment(image[None], labels)
        with pytest.raises(ShapeError, match=r"labels: expected \(H, W\)"):
            augment(image, labels[None])
        with pytest.raises(ShapeError, match="none"):
            augment(image[:0], labels[:0])
        # Channels first is not what NumPy images are.
        with pytest.raises(ShapeError, match="height and width"):
            augment(image.transpose(2, 0, 1), labels)

    def test_types(self, augment):
        image, labels = picture()
        with pytest.raises(DtypeError, match="uint8 or floating point"):
            augment(image.astype(np.int64), labels)
        with pytest.raises(DtypeError, match="integers"):
            augment(image, labels.astype(float))
        with pytest.raises(DtypeError, match="to uint8"):
            augment(image, labels > 0)
        with pytest.raises(DtypeError, match=r"numpy\.asarray"):
            augment(image.tolist(), labels)
        with pytest.raises(DtypeError, match="numbers"):
            augment(image.astype(str), labels)
        with pytest.raises(DtypeError, match="v2 transforms"):
            JointAugmentation([lambda image, labels: (image, labels)])

    def test_labels_that_float32_would_change(self, augment):
        image, labels = picture()
        with pytest.raises(LabelError, match="16777216"):
            augment(image, labels.astype(np.int64) + 2**24)
        largest = np.full(labels.shape, 2**24, np.int64)
        assert set(np.unique(augment(image, largest, seed=0)[1])) <= {255, 2**24}

    def test_ignored_labels_that_do_not_fit(self):
        image, labels = picture()
        with pytest.raises(ParameterError, match="does not fit"):
            unet_augmentation(ignore_index=-1)(image, labels)
        with pytest.raises(ParameterError, match="does not fit"):
            unet_augmentation()(image, labels.astype(np.int8))

    def test_seeds(self, augment):
        image, labels = picture()
        with pytest.raises(ParameterError, match="one of them"):
            augment(image, labels, seed=1, generator=torch.Generator())
        with pytest.raises(DtypeError, match="seed"):
            augment(image, labels, seed=1.5)
        with pytest.raises(ParameterError, match="seed"):
            augment(image, labels, seed=-1)
        with pytest.raises(DtypeError, match=r"generator: expected a torch\.Generator"):
            augment(image, labels, generator=np.random.default_rng(0))

    @pytest.mark.parametrize("name", ["unet", "segformer"])
    def test_values_that_would_be_clipped(self, name):
        image, labels = picture(dtype=np.float32)
        for wrong in (image * 255, image - 0.5, image * np.nan):
            with pytest.raises(DataError, match="before you normalise"):
                RECIPES[name](wrong, labels)
        plain = unet_augmentation(grey_values=False), segformer_augmentation(9, photometric=False)
        for recipe in plain:
            assert recipe(image * 255, labels, seed=0)[0].max() > 1

    @pytest.mark.parametrize("name", ["unet", "segformer"])
    def test_channels_without_colours(self, name):
        image, labels = picture(channels=5)
        with pytest.raises(ShapeError, match="1 or 3 channels"):
            RECIPES[name](image, labels)
        assert RECIPES["deeplab"](image, labels)[0].shape == (24, 24, 5)

    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: unet_augmentation(sigma=-1), "sigma"),
            (lambda: unet_augmentation(points=1), "points"),
            (lambda: unet_augmentation(shift=2), "shift"),
            (lambda: unet_augmentation(rotation=-1), "rotation"),
            (lambda: deeplab_augmentation(0), "size"),
            (lambda: deeplab_augmentation(8, scale=(2, 1)), "scale"),
            (lambda: deeplab_augmentation(8, scale=(0, 1)), "scale"),
            (lambda: deeplab_augmentation(8, scale=1), "scale"),
            (lambda: deeplab_augmentation(8, flip=1.5), "flip"),
            (lambda: segformer_augmentation(8, max_ratio=1.5), "max_ratio"),
            (lambda: unet_augmentation(image_fill=float("nan")), "image_fill"),
            (lambda: PhotometricDistortion(p=2), "p must be at most 1"),
            (lambda: PhotometricDistortion(hue=(-0.1, 0.9)), "hue must be at most 0.5"),
        ],
    )
    def test_options(self, make, match):
        with pytest.raises(ParameterError, match=match):
            make()
        with pytest.raises(ShapeError, match="size"):
            segformer_augmentation((1, 2, 3))

    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: unet_augmentation(sigma="wide"), "sigma"),
            (lambda: unet_augmentation(grey_values="no"), "grey_values"),
            (lambda: unet_augmentation(image_fill="black"), "image_fill"),
            (lambda: segformer_augmentation(8, photometric=None), "photometric"),
            (lambda: RandomCategoryCrop(8, ignore_index="none"), "ignore_index"),
            (lambda: RandomDeformation(ignore_index=1.5), "ignore_index"),
        ],
    )
    def test_options_of_other_types(self, make, match):
        with pytest.raises(DtypeError, match=match):
            make()

    def test_fills_that_an_image_cannot_hold(self):
        image, labels = picture()
        for make in (unet_augmentation, lambda **fill: deeplab_augmentation(80, **fill)):
            with pytest.raises(ShapeError, match=r"image_fill: .* of 3 channels, got 2"):
                make(image_fill=[1, 2])(image, labels)
            for fill in (300, -1, [0, 0, 256]):
                with pytest.raises(ParameterError, match=r"image_fill: expected 0 … 255"):
                    make(image_fill=fill)(image, labels)
            make(image_fill=[1, 2, 3])(image, labels)
