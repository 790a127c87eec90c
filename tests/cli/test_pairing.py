"""Which files belong together."""

from pathlib import Path

import pytest

from fastseg.cli.exit_codes import UsageError
from fastseg.cli.pairing import describe_unpaired, expand, pair_up, stem_of, suffix_of


def paths(*names):
    return [Path(name) for name in names]


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("a/b.png", "b", ".png"),
        ("scan.nii.gz", "scan", ".nii.gz"),
        ("SCAN.NII.GZ", "SCAN", ".nii.gz"),
        ("x.y.npy", "x.y", ".npy"),
        ("none", "none", ""),
    ],
)
def test_stem_and_suffix(name, stem, suffix):
    assert (stem_of(Path(name)), suffix_of(Path(name))) == (stem, suffix)


def test_one_and_one_always_pair():
    pairing = pair_up(paths("photo.jpg"), paths("whatever.npy"))
    assert [(pair.image.name, pair.source.name, pair.stem) for pair in pairing.pairs] == [
        ("photo.jpg", "whatever.npy", "photo")
    ]


def test_equal_stems_win_over_endings():
    pairing = pair_up(paths("a.png", "a_img.png"), paths("a.npy", "a_probs.npy"))
    assert [(pair.image.name, pair.source.name) for pair in pairing.pairs] == [
        ("a.png", "a.npy"),
        ("a_img.png", "a_probs.npy"),
    ]


def test_endings_that_could_mean_two_files_do_not_pair():
    pairing = pair_up(paths("a.png", "b.png"), paths("a_probs.npy", "a_softmax.npy", "b.npy"))
    assert [pair.image.name for pair in pairing.pairs] == ["b.png"]
    assert {path.name for path in pairing.sources_left} == {"a_probs.npy", "a_softmax.npy"}


def test_cityscapes_names():
    stem = "aachen_000000_000019"
    pairing = pair_up(
        paths(f"{stem}_leftImg8bit.png", "x.png"), paths(f"{stem}_gtFine_labelIds.png", "x.npy")
    )
    assert len(pairing.pairs) == 2


def test_long_lists_are_cut():
    pairing = pair_up(paths(*(f"{i}.png" for i in range(20))), paths("a.npy", "b.npy"))
    text = describe_unpaired(pairing, "--probs")
    assert "20 images" in text
    assert "… and 12 more" in text
    assert "a.npy" in text


def test_folder_in_order_without_hidden_files(tmp_path):
    for name in ("b.PNG", "a.png", ".c.png", "d.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in expand([tmp_path], (".png",), "pictures")] == ["a.png", "b.PNG"]
    with pytest.raises(UsageError, match="holds no"):
        expand([tmp_path], (".tif",), "pictures")
