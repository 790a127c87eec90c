"""`confusion_matrix`: every dtype and layout, against counting pixel by pixel."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastseg
from fastseg import metrics
from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError
from references import plain_confusion

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]


def blobs(rng, shape, classes, run):
    """Labels in runs of about `run` along the last axis."""
    few = rng.integers(0, classes, (*shape[:-1], shape[-1] // run + 1))
    return np.repeat(few, run, axis=-1)[..., : shape[-1]]


@pytest.mark.parametrize(("p", "t"), list(itertools.product(DTYPES, DTYPES)))
def test_every_pair_of_dtypes(p, t):
    rng = np.random.default_rng(0)
    pred = blobs(rng, (7, 150), 5, 9).astype(p)
    target = blobs(rng, (7, 150), 6, 11).astype(t)
    found = metrics.confusion_matrix(pred, target, num_classes=5, ignore_index=5)
    expected = plain_confusion.confusion(pred, target, 5, 5)
    np.testing.assert_array_equal(found, expected[:, :5])
    assert found.dtype == np.int64


@pytest.mark.parametrize("run", [1, 2, 3, 5, 17, 64, 400])
@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 127, 128, 129, 1000])
@pytest.mark.parametrize("dtype", ["u1", "i8"])
def test_runs_of_every_length(size, run, dtype):
    rng = np.random.default_rng(size * run)
    pred = blobs(rng, (size,), 4, run).astype(dtype)
    target = np.roll(blobs(rng, (size,), 4, run + 1), 1).astype(dtype)
    found = metrics.confusion_matrix(pred, target, num_classes=4)
    np.testing.assert_array_equal(found, plain_confusion.confusion(pred, target, 4)[:, :4])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_labels(data):
    classes = data.draw(st.integers(1, 300))
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=40))
    labels = hnp.arrays(
        data.draw(st.sampled_from([np.uint16, np.int32])),
        shape,
        elements=st.integers(0, classes - 1),
    )
    pred, target = data.draw(labels), data.draw(labels)
    found = metrics.confusion_matrix(pred, target, num_classes=classes)
    expected = plain_confusion.confusion(pred, target, classes)[:, :classes]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("classes", [1, 2, 19, 150, 254, 255, 256, 1000])
def test_numbers_of_classes(classes):
    rng = np.random.default_rng(classes)
    dtype = np.uint8 if classes <= 256 else np.int32
    pred, target = rng.integers(0, classes, (2, 300, 300)).astype(dtype)
    found = metrics.confusion_matrix(pred, target, num_classes=classes)
    pairs = classes * target.ravel().astype(np.int64) + pred.ravel()
    expected = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    np.testing.assert_array_equal(found, expected)


def test_more_tables_than_memory_for_them_is_taken():
    classes = 2500
    rng = np.random.default_rng(0)
    pred, target = rng.integers(0, classes, (2, 200_000))
    found = metrics.confusion_matrix(pred, target, num_classes=classes)
    assert found.sum() == pred.size
    assert found.diagonal().sum() == (pred == target).sum()


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads(threads):
    rng = np.random.default_rng(0)
    pred = blobs(rng, (300, 1000), 7, 13).astype(np.uint8)
    target = blobs(rng, (300, 1000), 7, 29).astype(np.uint8)
    before = fastseg.get_num_threads()
    try:
        fastseg.set_num_threads(threads)
        found = metrics.confusion_matrix(pred, target, num_classes=7)
    finally:
        fastseg.set_num_threads(before)
    pairs = np.bincount(7 * target.ravel().astype(np.int64) + pred.ravel(), minlength=49)
    np.testing.assert_array_equal(found, pairs.reshape(7, 7))


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.T,
        lambda x: x[::-1],
        lambda x: x[:, ::2],
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(x.dtype.newbyteorder(">")),
        lambda x: np.frombuffer(b"." + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: x.reshape(5, 4, 40),
        lambda x: x.view(np.recarray),
    ],
    ids=[
        "turned",
        "reversed",
        "strided",
        "fortran",
        "big-endian",
        "odd",
        "broadcast",
        "3-D",
        "sub",
    ],
)
def test_any_layout(layout):
    rng = np.random.default_rng(0)
    pred, target = (blobs(rng, (20, 40), 4, 5).astype(np.int32) for _ in range(2))
    for p, t in ((layout(pred), layout(target)), (layout(pred), layout(target).copy())):
        found = metrics.confusion_matrix(p, t, num_classes=4)
        np.testing.assert_array_equal(found, plain_confusion.confusion(p, t, 4)[:, :4])


def test_a_list_of_images_of_different_sizes():
    rng = np.random.default_rng(0)
    sizes = [(3, 5), (7,), (2, 4, 6)]
    preds = [rng.integers(0, 3, size) for size in sizes]
    targets = [rng.integers(0, 3, size) for size in sizes]
    found = metrics.confusion_matrix(preds, targets, num_classes=3)
    expected = sum(plain_confusion.confusion(p, t, 3) for p, t in zip(preds, targets, strict=True))
    np.testing.assert_array_equal(found, expected[:, :3])
    np.testing.assert_array_equal(
        metrics.confusion_matrix(tuple(preds), tuple(targets), num_classes=3), found
    )


def test_lists_of_numbers_are_an_image():
    found = metrics.confusion_matrix([[0, 1], [1, 1]], [[0, 0], [1, 1]], num_classes=2)
    np.testing.assert_array_equal(found, [[1, 1], [0, 2]])


def test_masks_of_bool():
    pred, target = np.array([True, True, False]), np.array([True, False, False])
    found = metrics.confusion_matrix(pred, target, num_classes=2)
    np.testing.assert_array_equal(found, [[1, 1], [0, 1]])


def test_torch_in_torch_out():
    torch = pytest.importorskip("torch")
    pred, target = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 1]])
    expected = torch.tensor([[1, 1], [0, 2]])
    found = metrics.confusion_matrix(pred, target, num_classes=2)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)
    for p, t in ((pred, target.numpy()), (pred.T, target.T), ([pred], [target])):
        assert torch.equal(metrics.confusion_matrix(p, t, num_classes=2), expected)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.bool):
        found = metrics.confusion_matrix(pred.to(dtype), target, num_classes=2)
        assert torch.equal(found, expected)


class TestIgnoring:
    def test_masks_by_the_target_only(self):
        pred, target = np.array([0, 1, 9, 1], np.uint8), np.array([9, 9, 9, 1], np.uint8)
        found = metrics.confusion_matrix(pred, target, num_classes=2, ignore_index=9)
        np.testing.assert_array_equal(found, [[0, 0], [0, 1]])

    def test_predicting_it_is_wrong_and_has_a_column(self):
        pred, target = np.array([9, 1, 9], np.uint8), np.array([1, 1, 9], np.uint8)
        found = metrics.confusion_matrix(
            pred, target, num_classes=2, ignore_index=9, out_of_range="void"
        )
        np.testing.assert_array_equal(found, [[0, 0, 0], [0, 1, 1]])
        assert metrics.iou(found)[1] == 0.5
        assert metrics.mean_iou(pred, target, num_classes=2, ignore_index=9) == 0.5

    def test_predicting_it_raises_where_there_is_no_column(self):
        pred, target = np.array([[0, 9], [9, 1]], np.uint8), np.array([[0, 9], [1, 1]], np.uint8)
        with pytest.raises(LabelError, match=r"pred has the label 9 at \[1, 0\].*void"):
            metrics.confusion_matrix(pred, target, num_classes=2, ignore_index=9)

    @pytest.mark.parametrize("ignore", [-1, 255, 300, -(2**40), 2**40])
    @pytest.mark.parametrize("dtype", ["u1", "i1", "i8"])
    def test_any_label_may_be_ignored(self, ignore, dtype):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        target = np.array([0, 1, ignore if low <= ignore <= high else 1], dtype)
        found = metrics.confusion_matrix([0, 1, 1], target, num_classes=2, ignore_index=ignore)
        assert found.sum() == (target != ignore).sum()

    def test_a_class_may_be_ignored(self):
        pred, target = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
        found = metrics.confusion_matrix(pred, target, num_classes=3, ignore_index=0)
        np.testing.assert_array_equal(found, [[0, 0, 0], [1, 1, 0], [0, 0, 1]])

    def test_everything_may_be_ignored(self):
        target = np.full((4, 5), 255, np.uint8)
        found = metrics.confusion_matrix(target, target, num_classes=3, ignore_index=255)
        assert found.shape == (3, 3)
        assert not found.any()


class TestBadInput:
    @pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "u8"])
    @pytest.mark.parametrize("place", [(0, 0), (3, 100), (6, 149)])
    def test_labels_out_of_range(self, dtype, place):
        good = np.zeros((7, 150), dtype)
        bad = good.copy()
        bad[place] = 5
        at = f"{place[0]}, {place[1]}"
        with pytest.raises(
            LabelError, match=rf"target has the label 5 at \[{at}\].*ignore_index=5"
        ):
            metrics.confusion_matrix(good, bad, num_classes=5)
        with pytest.raises(LabelError, match=rf"pred has the label 5 at \[{at}\].*0\.\.4"):
            metrics.confusion_matrix(bad, good, num_classes=5)

    @pytest.mark.parametrize("layout", [np.transpose, np.asfortranarray, lambda x: x[:, ::2]])
    def test_the_place_in_other_layouts(self, layout):
        bad = np.zeros((40, 60), np.int16)
        bad[12, 34] = 7
        bad = layout(bad)
        row, column = np.argwhere(bad == 7)[0]
        with pytest.raises(LabelError, match=rf"label 7 at \[{row}, {column}\]"):
            metrics.confusion_matrix(bad, np.zeros_like(bad), num_classes=5)

    @pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8"])
    def test_negative_labels(self, dtype):
        bad = np.array([[0, 1], [-1, 0]], dtype)
        with pytest.raises(LabelError, match=r"target has the label -1 at \[1, 0\]"):
            metrics.confusion_matrix(np.zeros((2, 2), dtype), bad, num_classes=200)
        with pytest.raises(LabelError, match=r"pred has the label -1 at \[1, 0\]"):
            metrics.confusion_matrix(bad, np.zeros((2, 2), dtype), num_classes=200)

    def test_the_image_of_a_list_is_named(self):
        good, bad = np.zeros((2, 2), np.uint8), np.full((2, 2), 7, np.uint8)
        with pytest.raises(LabelError, match="target of image 1 has the label 7"):
            metrics.confusion_matrix([good, good], [good, bad], num_classes=5)

    def test_labels_out_of_range_may_be_void(self):
        pred, target = np.array([0, 7, 1, -2]), np.array([0, 0, -3, 1])
        found = metrics.confusion_matrix(pred, target, num_classes=2, out_of_range="void")
        np.testing.assert_array_equal(found, [[1, 0, 1], [0, 0, 1]])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, object, "U1"])
    def test_what_is_no_integer(self, dtype):
        labels = np.zeros((2, 2), np.uint8)
        with pytest.raises(DtypeError, match="pred must be labels of an integer type"):
            metrics.confusion_matrix(labels.astype(dtype), labels, num_classes=2)
        with pytest.raises(DtypeError, match="target must be labels of an integer type"):
            metrics.confusion_matrix(labels, labels.astype(dtype), num_classes=2)

    def test_scores_in_place_of_labels(self):
        with pytest.raises(DtypeError, match="argmax"):
            metrics.confusion_matrix(
                np.zeros((1, 3, 4, 5), np.float32), np.zeros((1, 4, 5), np.uint8), num_classes=3
            )

    def test_shapes_that_disagree(self):
        with pytest.raises(ShapeError, match=r"same shape, got \(2, 3\) and \(3, 2\)"):
            metrics.confusion_matrix(np.zeros((2, 3), int), np.zeros((3, 2), int), num_classes=2)
        with pytest.raises(ShapeError, match="image 1"):
            metrics.confusion_matrix(
                [np.zeros(3, int), np.zeros(4, int)],
                [np.zeros(3, int), np.zeros(5, int)],
                num_classes=2,
            )
        with pytest.raises(ShapeError, match="same number of images"):
            metrics.confusion_matrix([np.zeros(3, int)], [np.zeros(3, int)] * 2, num_classes=2)
        with pytest.raises(ShapeError, match="both be lists"):
            metrics.confusion_matrix([np.zeros(3, int)], np.zeros((1, 3), int), num_classes=2)

    @pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0), ()])
    def test_empty_arrays(self, shape):
        with pytest.raises(ShapeError, match="must have pixels"):
            metrics.confusion_matrix(np.zeros(shape, int), np.zeros(shape, int), num_classes=2)

    def test_an_empty_list(self):
        with pytest.raises(ShapeError, match="at least one"):
            metrics.confusion_matrix([], [], num_classes=2)

    @pytest.mark.parametrize("classes", [0, -1, 10**9])
    def test_zero_classes_and_too_many(self, classes):
        with pytest.raises(ParameterError, match="num_classes"):
            metrics.confusion_matrix([0], [0], num_classes=classes)

    @pytest.mark.parametrize("classes", [2.0, "2", None, True])
    def test_numbers_of_classes_that_are_none(self, classes):
        with pytest.raises(DtypeError, match="num_classes must be an integer"):
            metrics.confusion_matrix([0], [0], num_classes=classes)

    def test_an_ignore_index_that_is_no_integer(self):
        with pytest.raises(DtypeError, match="ignore_index must be an integer"):
            metrics.confusion_matrix([0], [0], num_classes=2, ignore_index=255.0)

    def test_an_unknown_way_out(self):
        with pytest.raises(ParameterError, match="out_of_range must be one of 'raise', 'void'"):
            metrics.confusion_matrix([0], [0], num_classes=2, out_of_range="ignore")


class TestRivals:
    def test_scikit_learn(self):
        sklearn = pytest.importorskip("sklearn.metrics")
        rng = np.random.default_rng(0)
        pred, target = rng.integers(0, 5, (2, 30, 40))
        expected = sklearn.confusion_matrix(target.ravel(), pred.ravel(), labels=range(5))
        found = metrics.confusion_matrix(pred, target, num_classes=5)
        np.testing.assert_array_equal(found, expected)

    def test_torchmetrics(self):
        torch = pytest.importorskip("torch")
        functional = pytest.importorskip("torchmetrics.functional.classification")
        rng = np.random.default_rng(0)
        pred = torch.from_numpy(rng.integers(0, 5, (2, 30, 40)))
        target = torch.from_numpy(rng.integers(0, 6, (2, 30, 40)))
        expected = functional.multiclass_confusion_matrix(pred, target, 5, ignore_index=5)
        found = metrics.confusion_matrix(pred, target, num_classes=5, ignore_index=5)
        assert torch.equal(found, expected)


def test_camvid(data_dir):
    from PIL import Image

    folder = data_dir / "camvid" / "testannot"
    labels = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))[:3]]
    for pred, target in itertools.pairwise(labels):
        pred = np.where(pred == 11, 0, pred).astype(np.uint8)
        found = metrics.confusion_matrix(pred, target, num_classes=11, ignore_index=11)
        valid = target != 11
        pairs = 11 * target[valid].astype(int) + pred[valid]
        np.testing.assert_array_equal(found.ravel(), np.bincount(pairs, minlength=121))
