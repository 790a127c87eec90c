"""Turn files and folders on the command line into pairs of a picture and what belongs to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastseg.cli.exit_codes import UsageError

ARRAY_SUFFIXES = (".npy", ".npz", ".tif", ".tiff", ".nii", ".nii.gz")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", *ARRAY_SUFFIXES)
MAP_SUFFIXES = (".png", ".bmp", ".gif", ".pgm", *ARRAY_SUFFIXES)

# Endings that tell apart the files of one scene in common data sets. They are ignored only for
# files whose full stems find no partner.
ROLE_ENDINGS = (
    *("_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"),
    *("_image", "_img", "_rgb", "_photo"),
    *("_probs", "_prob", "_probabilities", "_softmax", "_scores", "_logits", "_alpha"),
    *("_labels", "_label", "_labelmap", "_mask", "_seg", "_gt", "_pred", "_prediction"),
    *("_scribbles", "_scribble", "_annotation", "_anno", "_annot"),
)
_LISTED = 8


class Pair(NamedTuple):
    """A picture, what is to be refined on it, and the name that their results get."""

    image: Path
    source: Path
    stem: str


class Pairing(NamedTuple):
    """The pairs in the order of the pictures, and what was left without a partner."""

    pairs: list[Pair]
    images_left: list[Path]
    sources_left: list[Path]


def suffix_of(path: Path) -> str:
    """Return the lower-case suffix, with `.nii.gz` as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """Return the file's name without its suffix (without both for `.nii.gz`)."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.name


def expand(paths: Sequence[Path], suffixes: Sequence[str], what: str) -> list[Path]:
    """Replace every folder by the files in it that can be read, in the order of their names.

    A file that was named itself stays, whatever its suffix and whether or not it exists: it is
    reported by name when its turn comes.

    Raises:
        UsageError: A folder holds no file with one of the suffixes.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(
            entry
            for entry in path.iterdir()
            if not entry.name.startswith(".") and suffix_of(entry) in suffixes and entry.is_file()
        )
        if not inside:
            raise UsageError(
                f"the folder {path} holds no {what}; looked for names ending in "
                f"{', '.join(suffixes)}"
            )
        found.extend(inside)
    return found


def pair_up(images: Sequence[Path], sources: Sequence[Path], *, by_name: bool = False) -> Pairing:
    """Pair pictures and sources whose names agree.

    One picture and one source always belong together, unless `by_name`. Otherwise the stems have
    to be equal, or equal once an ending that only names the role (`_image`, `_probs`, `_labels` …)
    is removed.

    Raises:
        UsageError: Two files of one kind have the same stem.
    """
    if len(images) == 1 and len(sources) == 1 and not by_name:
        return Pairing([Pair(images[0], sources[0], stem_of(images[0]))], [], [])
    by_stem = _index(images, "images")
    sources_by_stem = _index(sources, "inputs")
    partner = {
        image: sources_by_stem[stem] for stem, image in by_stem.items() if stem in sources_by_stem
    }
    taken = set(partner.values())
    short_images = _index_unique(image for image in images if image not in partner)
    short_sources = _index_unique(source for source in sources if source not in taken)
    for short, image in short_images.items():
        if short in short_sources:
            partner[image] = short_sources[short]
            taken.add(short_sources[short])
    return Pairing(
        [Pair(image, partner[image], stem_of(image)) for image in images if image in partner],
        [image for image in images if image not in partner],
        [source for source in sources if source not in taken],
    )


def describe_unpaired(pairing: Pairing, option: str) -> str:
    """Say which files found no partner, one per line."""
    lines = []
    for paths, what, missing in (
        (pairing.images_left, "image", f"without a file in {option}"),
        (pairing.sources_left, "file", f"in {option} without an image"),
    ):
        if paths:
            lines.append(f"{len(paths)} {what}{'s' if len(paths) > 1 else ''} {missing}:")
            lines.extend(f"  {path}" for path in paths[:_LISTED])
            if len(paths) > _LISTED:
                lines.append(f"  … and {len(paths) - _LISTED} more")
    return "\n".join(lines)


def _index(paths: Sequence[Path], kind: str) -> dict[str, Path]:
    index: dict[str, Path] = {}
    for path in paths:
        other = index.setdefault(stem_of(path), path)
        if other is not path:
            raise UsageError(
                f"two {kind} have the stem {stem_of(path)!r}: {other} and {path}; "
                "their results would get the same name"
            )
    return index


def _index_unique(paths: Iterable[Path]) -> dict[str, Path]:
    """Index by the stem without its role; a stem that is not unique then is left out."""
    index: dict[str, Path] = {}
    doubled: set[str] = set()
    for path in paths:
        short = stem_of(path)
        for ending in ROLE_ENDINGS:
            if short.lower().endswith(ending.lower()) and len(short) > len(ending):
                short = short[: -len(ending)]
                break
        if short in index:
            doubled.add(short)
        index[short] = path
    for short in doubled:
        del index[short]
    return index
