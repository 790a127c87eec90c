"""`mean_iou` and `MeanIoU`: three means, worst shares, what is absent."""

import itertools
import math

import numpy as np
import pytest

from fastseg import metrics
from fastseg.errors import DtypeError, LabelError, ParameterError, ShapeError
from references import plain_confusion

CLASSES, VOID = 5, 9


@pytest.fixture
def scenes():
    """Twenty images of different sizes, with void pixels; not every class is in each."""
    rng = np.random.default_rng(0)
    preds, targets = [], []
    for i in range(20):
        shape = tuple(rng.integers(3, 12, 2))
        target = rng.integers(0, 1 + i % CLASSES, shape).astype(np.uint8)
        pred = np.where(rng.random(shape) < 0.6, target, rng.integers(0, CLASSES, shape))
        target[rng.random(shape) < 0.1] = VOID
        preds.append(pred.astype(np.uint8) % CLASSES)
        targets.append(target)
    return preds, targets


def worst(scores, share):
    scores = sorted(scores)
    return np.mean(scores[: math.ceil(len(scores) * share)])


def expected(preds, targets, over, share=1.0):
    if over == "dataset":
        flat = [np.concatenate([np.ravel(x) for x in given]) for given in (preds, targets)]
        return np.nanmean([plain_confusion.iou(*flat, k, VOID) for k in range(CLASSES)])
    ious = plain_confusion.image_ious(preds, targets, CLASSES, VOID)
    if over == "image":
        return worst([np.nanmean(row) for row in ious], share)
    return np.mean([worst(column[~np.isnan(column)], share) for column in ious.T])


@pytest.mark.parametrize("over", ["dataset", "image", "class"])
def test_against_the_definitions(scenes, over):
    found = metrics.mean_iou(*scenes, num_classes=CLASSES, ignore_index=VOID, over=over)
    assert isinstance(found, float)
    assert found == pytest.approx(expected(*scenes, over), rel=1e-14)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.3, 1.0])
@pytest.mark.parametrize("over", ["image", "class"])
def test_the_worst_images(scenes, over, share):
    given = {"num_classes": CLASSES, "ignore_index": VOID, "over": over}
    found = metrics.mean_iou(*scenes, **given, worst=share)
    assert found == pytest.approx(expected(*scenes, over, share), rel=1e-14)
    if share == 1:
        assert found == pytest.approx(metrics.mean_iou(*scenes, **given), rel=1e-14)


def test_a_share_is_not_rounded_up_by_its_last_bit():
    # 0.07 · 100 is a little more than 7 in float64.
    targets = [np.ones((1, 10), int)] * 100
    preds = [
        np.r_[np.ones(1 + i // 10), np.zeros(9 - i // 10)].astype(int)[None] for i in range(100)
    ]
    found = metrics.mean_iou(preds, targets, num_classes=2, over="image", worst=0.07)
    assert found == pytest.approx(0.1)
    found = metrics.mean_iou(preds, targets, num_classes=2, over="image", worst=0.11)
    assert found == pytest.approx((10 * 0.1 + 0.2) / 11)


@pytest.mark.parametrize("share", [None, 0.3])
def test_several_from_one_pass(scenes, share):
    given = {"num_classes": CLASSES, "ignore_index": VOID, "worst": share}
    overs = ("dataset", "image", "class")
    found = metrics.mean_iou(*scenes, **given, over=overs)
    assert list(found) == list(overs)
    for over in overs[1:]:
        assert found[over] == metrics.mean_iou(*scenes, **given, over=over)
    assert found["dataset"] == metrics.mean_iou(*scenes, num_classes=CLASSES, ignore_index=VOID)


@pytest.mark.parametrize("share", [None, 0.3])
def test_accumulated(scenes, share):
    overs = ("dataset", "image", "class")
    given = {"num_classes": CLASSES, "ignore_index": VOID, "worst": share, "over": overs}
    m = metrics.MeanIoU(**given)
    for i in range(0, 20, 7):
        m.update(scenes[0][i : i + 7], scenes[1][i : i + 7])
    found = m.compute()
    for over, score in metrics.mean_iou(*scenes, **given).items():
        assert float(found[over]) == pytest.approx(score, rel=1e-14)


@pytest.mark.parametrize("over", ["dataset", "image", "class"])
def test_a_batch_is_its_images(over):
    rng = np.random.default_rng(0)
    pred, target = rng.integers(0, 4, (2, 6, 10, 12))
    listed = metrics.mean_iou(list(pred), list(target), num_classes=4, over=over)
    assert metrics.mean_iou(pred, target, num_classes=4, over=over) == listed
    volume = metrics.mean_iou([pred], [target], num_classes=4, over=over)
    assert volume == metrics.mean_iou(pred.reshape(60, 12), target.reshape(60, 12), num_classes=4)


class TestIgnored:
    def test_a_prediction_of_it_is_a_false_negative(self):
        pred, target = np.array([[0, 9, 0, 9]]), np.array([[0, 0, 9, 9]])
        for over in ("dataset", "image", "class"):
            found = metrics.mean_iou(pred, target, num_classes=1, ignore_index=9, over=over)
            assert found == 0.5

    def test_a_class_that_is_ignored_has_no_score(self):
        pred, target = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]])
        for over in ("dataset", "image", "class"):
            found = metrics.mean_iou(pred, target, num_classes=2, ignore_index=0, over=over)
            assert found == pytest.approx(2 / 3)

    @pytest.mark.parametrize("over", ["dataset", "image", "class"])
    def test_images_that_are_all_void_do_not_count(self, over):
        pred, target = np.array([[0, 1]]), np.array([[0, 0]])
        void = np.array([[9, 9]])
        given = {"num_classes": 2, "ignore_index": 9, "over": over}
        with_void = metrics.mean_iou([pred, pred], [target, void], **given)
        assert with_void == metrics.mean_iou([pred], [target], **given)
        assert math.isnan(metrics.mean_iou([pred], [void], **given))
        assert metrics.mean_iou([pred], [void], **given, absent=0) == 0


@pytest.mark.parametrize(("absent", "score"), [("nan", 1 / 3), (0, 2 / 9), (1, 5 / 9)])
def test_a_class_in_neither(absent, score):
    pred, target = np.array([[0, 1, 0, 1]]), np.array([[0, 0, 1, 1]])
    found = metrics.mean_iou(pred, target, num_classes=3, absent=absent)
    assert found == pytest.approx(score)


class TestRivals:
    def test_torchmetrics_averages_pairs_of_image_and_class(self):
        """Its mean is over all pairs in which the class occurs, also where only predicted."""
        torch = pytest.importorskip("torch")
        segmentation = pytest.importorskip("torchmetrics.segmentation")
        rng = np.random.default_rng(0)
        preds = rng.integers(0, 3, (4, 6, 7))
        targets = rng.integers(0, 4, (4, 6, 7))
        targets[0] = 0
        theirs = segmentation.MeanIoU(num_classes=4, input_format="index")
        theirs.update(torch.from_numpy(preds), torch.from_numpy(targets))
        ious = [
            metrics.iou(metrics.confusion_matrix(p, t, num_classes=4))
            for p, t in zip(preds, targets, strict=True)
        ]
        assert float(theirs.compute()) == pytest.approx(np.nanmean(ious), abs=1e-6)
        ours = metrics.mean_iou(preds, targets, num_classes=4, over="image")
        assert ours != pytest.approx(np.nanmean(ious), abs=1e-3)

    def test_torchmetrics_jaccard_is_the_dataset_mean(self):
        torch = pytest.importorskip("torch")
        functional = pytest.importorskip("torchmetrics.functional.classification")
        rng = np.random.default_rng(0)
        preds, targets = rng.integers(0, 4, (2, 3, 20, 20))
        targets[:, :2] = 9
        expected = functional.multiclass_jaccard_index(
            torch.from_numpy(preds), torch.from_numpy(targets), num_classes=6, ignore_index=9
        )
        found = metrics.mean_iou(preds, targets, num_classes=6, ignore_index=9)
        assert found == pytest.approx(float(expected), abs=1e-6)


class TestBadInput:
    @pytest.mark.parametrize(
        ("given", "error", "text"),
        [
            ({"over": "images"}, ParameterError, "did you mean 'image'"),
            ({"over": ()}, ParameterError, "at least one"),
            ({"over": ("image", "pixel")}, ParameterError, "over must be one of"),
            ({"worst": 0.5}, ParameterError, "images to choose from"),
            ({"worst": 0, "over": "image"}, ParameterError, r"worst must be in \(0, 1\]"),
            ({"worst": 5, "over": "image"}, ParameterError, r"worst must be in \(0, 1\]"),
            ({"worst": "5%", "over": "image"}, DtypeError, "worst must be a number"),
            ({"num_classes": 0}, ParameterError, "num_classes must be at least 1"),
            ({"absent": "none"}, ParameterError, "absent"),
        ],
    )
    def test_parameters(self, given, error, text):
        given = {"num_classes": 2, **given}
        with pytest.raises(error, match=text):
            metrics.mean_iou(np.zeros((2, 2), int), np.zeros((2, 2), int), **given)
        with pytest.raises(error, match=text):
            metrics.MeanIoU(**given)

    def test_nothing_is_added_after_an_error(self):
        good, bad = np.zeros((2, 2), int), np.full((2, 2), 7)
        m = metrics.MeanIoU(num_classes=2, over=("dataset", "image"))
        m.update(good, good)
        before = {name: np.asarray(value).copy() for name, value in m.state_dict().items()}
        with pytest.raises(LabelError, match="target of image 1"):
            m.update([good, good], [good, bad])
        with pytest.raises(ShapeError):
            m.update([good, good], [good, bad[:1]])
        for name, value in m.state_dict().items():
            np.testing.assert_array_equal(np.asarray(value), before[name])

    def test_labels_out_of_range_may_be_void(self):
        pred, target = np.array([[0, 7, 1]]), np.array([[0, 0, -1]])
        given = {"num_classes": 1, "out_of_range": "void"}
        assert metrics.mean_iou(pred, target, **given) == 0.5


def test_camvid(data_dir):
    from PIL import Image

    paths = sorted((data_dir / "camvid" / "testannot").glob("*.png"))[:5]
    labels = [np.asarray(Image.open(path)) for path in paths]
    pairs = [(np.where(p == 11, 0, p), t) for p, t in itertools.pairwise(labels)]
    preds, targets = map(list, zip(*pairs, strict=True))
    ious = plain_confusion.image_ious(preds, targets, 11, 11)
    overs = ("image", "class")
    found = metrics.mean_iou(preds, targets, num_classes=11, ignore_index=11, over=overs)
    assert found["image"] == pytest.approx(np.nanmean(ious, axis=1).mean(), rel=1e-14)
    ious = ious[:, ~np.isnan(ious).all(axis=0)]  # some class is in none of these pictures
    assert found["class"] == pytest.approx(np.nanmean(ious, axis=0).mean(), rel=1e-14)
