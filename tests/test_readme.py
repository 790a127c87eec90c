"""The examples in README.md and docs/ work as they stand.

Blocks that open with ```python run in order, those of one page in one namespace, in a folder
that holds examples/ and nothing else. ```python no-run leaves one out: other people's code,
above all. In ```sh blocks, the lines that start with `fastseg ` run too.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastseg
from fastseg.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, int, str]]:
    """Language, line number and text of each block that is to run."""
    text = page.read_text()
    return [
        (match[1], text.count("\n", 0, match.start(2)), match[2]) for match in BLOCK.finditer(text)
    ]


def commands(block: str) -> list[str]:
    joined = block.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("fastseg ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    before = fastseg.get_num_threads()
    yield tmp_path
    fastseg.set_num_threads(before)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_examples_run(page: Path, folder: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for language, line, block in blocks(page):
        if language == "python":
            # The empty lines make a traceback name the line in the page.
            code = compile("\n" * line + block, str(page), "exec")
            exec(code, namespace)
            continue
        for command in commands(block):
            assert main(shlex.split(command, comments=True)[1:]) == 0, command


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


def test_every_model_is_in_the_tables() -> None:
    named = re.compile(r"`(\w+)`")
    for page in ("models", "public-weights"):
        lines = (ROOT / "docs" / f"{page}.md").read_text().splitlines()
        listed = {name for line in lines if line.startswith("| `") for name in named.findall(line)}
        missing = set(fastseg.list_models()) - listed
        # They are a row from b0 to b5.
        assert missing <= {f"segformer_b{size}" for size in range(1, 6)}, page


def test_the_readme_has_examples_that_run() -> None:
    languages = {language for language, _, _ in blocks(ROOT / "README.md")}
    assert languages == {"python", "sh"}
