"""fastseg does not declare itself safe without the global interpreter lock: docs/threads.md."""

from pathlib import Path


def test_the_lock_stays_on_in_free_threaded_python(repository: Path) -> None:
    # PyO3 declares the opposite for a module that says nothing. Whoever changes this brings the
    # test that shows it to be safe.
    source = (repository / "rust/fastseg-py/src/lib.rs").read_text()
    assert "#[pymodule(gil_used = true)]" in source
