"""Saved models of other libraries."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from references import hugging_face_segformer


@pytest.fixture(scope="session")
def theirs():
    """A tiny SegFormer of transformers."""
    return hugging_face_segformer.segmentation()


@pytest.fixture
def saved(theirs, tmp_path: Path) -> Path:
    """The folder that it was saved to."""
    theirs.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"
