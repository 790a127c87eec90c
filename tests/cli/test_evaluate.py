"""`fastseg evaluate` on made-up folders: what it counts, writes, prints and survives."""

import csv
import io
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fastseg import metrics
from fastseg.cli import evaluate as command

CLASSES = 4


def save(folder, name, labels):
    folder.mkdir(exist_ok=True)
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, labels)
    else:
        Image.fromarray(labels).save(path)
    return path


def read(path):
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.fixture
def folders(tmp_path):
    """Six images, each with more mistakes than the one before, and some pixels left out."""
    rng = np.random.default_rng(0)
    for index in range(6):
        target = np.zeros((20, 30), np.uint8)
        target[:, 8:] = 1
        target[9:, 15:] = 2
        pred = target.copy()
        wrong = rng.random(target.shape) < 0.05 * index
        pred[wrong] = (target[wrong] + 1) % 3
        target[:2] = 255
        save(tmp_path / "gt", f"scene{index}.png", target)
        save(tmp_path / "pred", f"scene{index}.png", pred)
    return tmp_path


def call(run, folders, *words):
    return run(
        *("evaluate", folders / "pred", folders / "gt", "--num-classes", CLASSES),
        *("--ignore-index", 255, *words),
    )


def counted(folders, indices=range(6)):
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for index in indices:
        with (
            Image.open(folders / "pred" / f"scene{index}.png") as pred,
            Image.open(folders / "gt" / f"scene{index}.png") as target,
        ):
            pairs = zip(np.ravel(target).tolist(), np.ravel(pred).tolist(), strict=True)
        for t, p in pairs:
            if t != 255:
                counts[t, p] += 1
    return counts


class TestScores:
    def test_json(self, folders, run):
        outcome = call(run, folders, "--json", "--worst", 3)
        assert outcome.code == 0, outcome.err
        report = json.loads(outcome.out)
        assert report["ok"]
        assert (report["images"], report["done"], report["failed"]) == (6, 6, 0)
        expected = counted(folders)
        assert report["confusion"] == expected.tolist()
        hits = expected.diagonal()
        union = expected.sum(axis=0) + expected.sum(axis=1) - hits
        iou = hits[:3] / union[:3]
        found = [row["iou"] for row in report["classes"]]
        assert found[:3] == pytest.approx(iou.tolist())
        assert found[3] is None
        assert report["scores"]["mean_iou"] == pytest.approx(iou.mean())
        assert report["scores"]["pixel_accuracy"] == pytest.approx(hits.sum() / expected.sum())
        # The last class occurs nowhere and is left out of every mean.
        assert report["classes"][3]["images"] == 0
        assert report["classes"][0]["images"] == 6
        one_by_one = [
            np.nanmean(metrics.iou(counted(folders, [index])).tolist()) for index in range(6)
        ]
        assert report["scores"]["image_mean_iou"] == pytest.approx(np.mean(one_by_one))
        worst = [entry["image"][-10:] for entry in report["worst"]]
        assert worst == ["scene5.png", "scene4.png", "scene3.png"]
        assert report["worst"][0]["mean_iou"] == pytest.approx(one_by_one[5])

    @pytest.mark.parametrize("ignored", [255, 1], ids=["no class", "a class"])
    def test_scores_are_those_of_metrics(self, folders, run, ignored):
        words = ("--ignore-index", ignored, "--json")
        if ignored != 255:
            for path in (folders / "gt").iterdir():
                target = read(path)
                save(path.parent, path.name, np.where(target == 255, 0, target).astype(np.uint8))
        report = json.loads(call(run, folders, *words).out)
        maps = {
            kind: [read(folders / kind / f"scene{i}.png") for i in range(6)]
            for kind in ("pred", "gt")
        }
        for over, name in (
            ("dataset", "mean_iou"),
            ("image", "image_mean_iou"),
            ("class", "class_mean_iou"),
        ):
            expected = metrics.mean_iou(
                maps["pred"], maps["gt"], num_classes=CLASSES, ignore_index=ignored, over=over
            )
            assert report["scores"][name] == pytest.approx(expected), name

    def test_table(self, folders, run):
        outcome = call(run, folders, "--class-names", "sky,road,tree,car")
        assert outcome.code == 0
        lines = outcome.out.splitlines()
        assert lines[0].split() == [
            "class",
            "iou",
            "dice",
            "precision",
            "recall",
            "pixels",
            "images",
        ]
        assert [line.split()[0] for line in lines[1:5]] == ["sky", "road", "tree", "car"]
        assert lines[4].split()[1:5] == ["–"] * 4
        assert "mIoU" in outcome.out
        assert "scene5.png" in outcome.out

    def test_csv(self, folders, run):
        rows = list(csv.DictReader(io.StringIO(call(run, folders, "--csv").out)))
        assert [row["name"] for row in rows] == ["0", "1", "2", "3"]
        report = json.loads(call(run, folders, "--json").out)
        for row, expected in zip(rows[:3], report["classes"], strict=False):
            assert float(row["iou"]) == pytest.approx(expected["iou"])
        assert rows[3]["iou"] == ""

    def test_two_files(self, folders, run):
        pred, gt = folders / "pred" / "scene2.png", folders / "gt" / "scene3.png"
        outcome = run("evaluate", pred, gt, "--num-classes", 4, "--ignore-index", 255, "--json")
        assert outcome.code == 0
        assert json.loads(outcome.out)["images"] == 1

    def test_names_with_endings_pair(self, tmp_path, run):
        labels = np.zeros((4, 4), np.uint8)
        for name in ("a", "b"):
            save(tmp_path / "p", f"{name}_pred.png", labels)
            save(tmp_path / "g", f"{name}_gtFine_labelTrainIds.png", labels)
        outcome = run("evaluate", tmp_path / "p", tmp_path / "g", "--num-classes", 2, "--json")
        assert outcome.code == 0
        assert json.loads(outcome.out)["images"] == 2

    def test_volumes_and_arrays(self, tmp_path, run):
        rng = np.random.default_rng(1)
        target = rng.integers(0, 3, (4, 6, 5))
        save(tmp_path / "p", "v.npy", target.astype(np.int64))
        save(tmp_path / "g", "v.npy", target.astype(np.uint16))
        outcome = run(
            *("evaluate", tmp_path / "p", tmp_path / "g", "--num-classes", 3, "--json"),
            *("-o", tmp_path / "out"),
        )
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["scores"]["mean_iou"] == 1

    def test_void_predictions_count_as_wrong(self, folders, run):
        pred = np.asarray(Image.open(folders / "pred" / "scene0.png")).copy()
        pred[5, :] = 9
        save(folders / "pred", "scene0.png", pred)
        assert call(run, folders).code == 1
        outcome = call(run, folders, "--out-of-range", "void", "--json", "-o", folders / "out")
        assert outcome.code == 0
        report = json.loads(outcome.out)
        assert np.array(report["confusion"]).shape == (4, 5)
        assert np.array(report["confusion"])[:, 4].sum() == 30
        assert "no class" in (folders / "out" / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Checks that every element is closed, and remembers what the page refers to."""

    EMPTY = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


class TestReport:
    @pytest.fixture
    def out(self, folders, run):
        rng = np.random.default_rng(2)
        for index in range(6):
            save(
                folders / "photos", f"scene{index}.jpg", rng.integers(0, 255, (20, 30, 3), np.uint8)
            )
        outcome = call(
            *(run, folders, "-o", folders / "out", "--worst", 2, "--images", folders / "photos"),
            *("--class-names", "sky,<road> & more,tree,car", "--palette", "cityscapes"),
        )
        assert outcome.code == 0, outcome.err
        assert "report.html" in outcome.out
        return folders / "out"

    def test_the_page_stands_alone(self, out):
        page = (out / "report.html").read_text(encoding="utf-8")
        reader = Reader()
        reader.feed(page)
        assert reader.open == []
        assert reader.links
        assert all(link.startswith("data:image/jpeg;base64,") for link in reader.links)
        assert not re.search(r"https?://|<script|@import|url\(", page)
        text = "".join(reader.text)
        assert "<road> & more" in text
        assert "scene5.png" in text
        assert "scene1.png" not in text

    def test_the_confusion_matrix_is_drawn(self, out, folders):
        page = (out / "report.html").read_text(encoding="utf-8")
        drawing = ET.fromstring(re.search(r"<svg.*?</svg>", page, re.DOTALL)[0])
        counts = counted(folders)
        titles = {title.text for title in drawing.iter("title")}
        share = 100 * counts[0, 1] / counts[0].sum()
        assert f"sky → <road> & more: {share:.2f} % of sky, {counts[0, 1]:,} pixels" in titles
        hits = [rect for rect in drawing.iter("rect") if rect.get("class") == "hit"]
        assert len(hits) == 3
        first = float(hits[0].get("fill-opacity"))
        assert first == pytest.approx(math.sqrt(counts[0, 0] / counts[0].sum()), abs=1e-3)

    def test_tables_and_pictures(self, out, folders):
        def table(name):
            return list(csv.reader(io.StringIO((out / name).read_text(encoding="utf-8"))))

        lines = table("images.csv")
        assert len(lines) == 7
        assert [line[0][-10:] for line in lines[1:]] == [f"scene{i}.png" for i in range(6)]
        matrix = table("confusion.csv")
        assert [[int(x) for x in row[1:]] for row in matrix[1:]] == counted(folders).tolist()
        assert len(table("classes.csv")) == 5
        pictures = sorted(path.name for path in (out / "worst").iterdir())
        assert pictures == ["01_scene5.png", "02_scene4.png"]
        with Image.open(out / "worst" / "01_scene5.png") as picture:
            assert picture.size == (3 * 30 + 16, 20)
            pixels = np.asarray(picture)
        wrong = np.asarray(Image.open(folders / "pred" / "scene5.png")) != np.asarray(
            Image.open(folders / "gt" / "scene5.png")
        )
        panel = pixels[:, -30:].astype(int)
        red = (panel[..., 0] - panel[..., 1]) > 100
        np.testing.assert_array_equal(red[2:], wrong[2:])
        assert (panel[:2] < 80).all()
        assert not list(out.glob(".*"))

    def test_many_classes_and_large_images(self, tmp_path, run):
        rng = np.random.default_rng(3)
        target = rng.integers(0, 150, (70, 90)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
        save(tmp_path / "p", "x.png", np.roll(target, 3, axis=1))
        save(tmp_path / "g", "x.png", target)
        outcome = run(
            *("evaluate", tmp_path / "p", tmp_path / "g", "--num-classes", 150, "--json"),
            *("-o", tmp_path / "out", "--palette", "ade20k"),
        )
        assert outcome.code == 0, outcome.err
        assert (tmp_path / "out" / "report.html").stat().st_size < 4e6
        with Image.open(tmp_path / "out" / "worst" / "01_x.png") as picture:
            assert picture.size == (3 * 560 + 16, 436)


class TestBadInput:
    def test_each_bad_file_is_named_and_the_rest_done(self, folders, run):
        (folders / "pred" / "scene0.png").write_bytes(b"not a picture")
        whole = (folders / "pred" / "scene1.png").read_bytes()
        (folders / "pred" / "scene1.png").write_bytes(whole[: len(whole) // 2])
        save(folders / "pred", "scene2.png", np.zeros((7, 9), np.uint8))
        (folders / "pred" / "scene3.png").unlink()
        save(folders / "pred", "scene9.png", np.zeros((20, 30), np.uint8))
        outcome = call(run, folders, "--json", "-o", folders / "out")
        assert outcome.code == 1
        report = json.loads(outcome.out)
        assert (report["ok"], report["done"], report["failed"]) == (False, 2, 5)
        assert report["confusion"] == counted(folders, [4, 5]).tolist()
        messages = {entry["image"][-10:]: entry["error"]["message"] for entry in report["files"]}
        assert "not a picture" in messages["scene0.png"]
        assert "cannot be read" in messages["scene1.png"]
        assert "7×9 pixels" in messages["scene2.png"]
        assert "20×30" in messages["scene2.png"]
        assert "no prediction" in messages["scene3.png"]
        assert "no ground truth" in messages["scene9.png"]
        for name in messages:
            assert f"fastseg evaluate: {name}" in outcome.err
        page = (folders / "out" / "report.html").read_text(encoding="utf-8")
        assert "5 files are not in these scores" in page
        table = call(run, folders)
        assert "5 files are not in these scores" in table.out

    def test_unpaired_files_can_be_left_out(self, folders, run):
        (folders / "pred" / "scene3.png").unlink()
        assert call(run, folders).code == 1
        outcome = call(run, folders, "--ignore-unpaired", "--json")
        assert outcome.code == 0
        assert json.loads(outcome.out)["images"] == 5

    def test_labels_that_are_no_class(self, folders, run):
        outcome = run("evaluate", folders / "pred", folders / "gt", "--num-classes", 4)
        assert outcome.code == 1
        assert outcome.err.count("255") >= 6
        labels = np.full((20, 30), -3, np.int16)
        save(folders / "pred", "scene7.npy", labels)
        save(folders / "gt", "scene7.npy", np.zeros((20, 30), np.int16))
        outcome = call(run, folders)
        assert outcome.code == 1
        assert "scene7.npy" in outcome.err
        assert "-3" in outcome.err

    def test_masks_that_are_no_labels(self, folders, run):
        save(folders / "pred", "scene7.npy", np.full((20, 30), 0.5))
        save(folders / "gt", "scene7.npy", np.zeros((20, 30), np.int16))
        colored = np.zeros((20, 30, 3), np.uint8)
        colored[..., 0] = 200
        save(folders / "pred", "scene1.png", colored)
        outcome = call(run, folders)
        assert outcome.code == 1
        assert "not whole numbers" in outcome.err
        assert "coloured picture" in outcome.err

    def test_everything_ignored(self, tmp_path, run):
        save(tmp_path / "p", "a.png", np.zeros((4, 4), np.uint8))
        save(tmp_path / "g", "a.png", np.full((4, 4), 255, np.uint8))
        words = ("--num-classes", 2, "--ignore-index", 255, "-o", tmp_path / "out", "--json")
        outcome = run("evaluate", tmp_path / "p", tmp_path / "g", *words)
        assert outcome.code == 0
        report = json.loads(outcome.out)
        assert report["scores"]["mean_iou"] is None
        assert report["worst"] == []

    def test_wrong_usage(self, folders, run):
        empty = folders / "empty"
        empty.mkdir()
        for words, message in (
            ((empty, folders / "gt", "--num-classes", 3), "holds no label maps"),
            ((folders / "none", folders / "gt", "--num-classes", 3), "does not exist"),
            (
                (folders / "pred" / "scene0.png", folders / "gt", "--num-classes", 3),
                "both be folders",
            ),
            ((folders / "pred", folders / "gt"), "--num-classes"),
            ((folders / "pred", folders / "gt", "--num-classes", 0), "at least 1"),
            (
                (folders / "pred", folders / "gt", "--num-classes", 3, "--class-names", "a,b"),
                "2 names for 3 classes",
            ),
            (
                (folders / "pred", folders / "gt", "--num-classes", 30, "--palette", "cityscapes"),
                "19 colours",
            ),
        ):
            outcome = run("evaluate", *words)
            assert outcome.code == 2, outcome.err
            assert message in outcome.err
        (folders / "other").mkdir()
        save(folders / "other", "thing.png", np.zeros((2, 2), np.uint8))
        outcome = run("evaluate", folders / "other", folders / "gt", "--num-classes", 3, "--json")
        assert outcome.code == 2
        assert "has the name of one" in json.loads(outcome.out)["error"]["message"]

    def test_one_file_a_folder_still_pairs_by_name(self, tmp_path, run):
        save(tmp_path / "p", "a.png", np.zeros((4, 4), np.uint8))
        save(tmp_path / "g", "b.png", np.zeros((4, 4), np.uint8))
        assert run("evaluate", tmp_path / "p", tmp_path / "g", "--num-classes", 2).code == 2

    def test_photographs_that_do_not_fit_are_left_out(self, folders, run):
        save(folders / "photos", "scene5.png", np.zeros((7, 7, 3), np.uint8))
        (folders / "photos" / "scene4.png").write_bytes(b"no")
        outcome = call(run, folders, "-o", folders / "out", "--images", folders / "photos")
        assert outcome.code == 0
        assert outcome.err.count("without the photograph") == 2


def test_memory_does_not_grow_with_the_images(tmp_path):
    """Eighty images of 0.8 megapixels, predictions and truth: all of them would take 128 MB."""
    target = np.zeros((800, 1000), np.uint8)
    target[:, 500:] = 1
    for kind in ("p", "g"):
        first = save(tmp_path / kind, "000.png", target)
        for index in range(1, 80):
            (tmp_path / kind / f"{index:03d}.png").symlink_to(first)
    script = (
        "import resource, sys; from fastseg.cli import main;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "p, g, one, out = sys.argv[1:];"
        "assert main(['evaluate', one, one, '--num-classes', '2', '--csv']) == 0;"
        "before = peak();"
        "assert main(['evaluate', p, g, '--num-classes', '2', '--csv', '-o', out]) == 0;"
        "print(peak() - before)"
    )
    words = [tmp_path / "p", tmp_path / "g", tmp_path / "p" / "000.png", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout.split()[-1]) * unit < 60e6
    assert len((tmp_path / "out" / "images.csv").read_text().splitlines()) == 81


@pytest.mark.data
def test_real_scene(data_dir, tmp_path, run):
    folder = data_dir / "camvid" / "test_unary_espnet"
    for path in sorted(folder.glob("*.npz"))[:3]:
        with np.load(path) as stored:
            save(tmp_path / "p", f"{path.stem}.png", stored["q"].argmin(axis=0).astype(np.uint8))
    outcome = run(
        *("evaluate", tmp_path / "p", data_dir / "camvid" / "testannot", "--num-classes", 11),
        *("--ignore-index", 11, "--ignore-unpaired", "--out-of-range", "void", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert 0.4 < json.loads(outcome.out)["scores"]["mean_iou"] < 0.8


def test_the_parser_explains_itself(run):
    outcome = run("evaluate", "--help")
    assert outcome.code == 0
    assert "--ignore-index" in outcome.out
    assert command.DESCRIPTION.splitlines()[0] in outcome.out
