"""The roofline: what is counted adds up, and the page is today's."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, sys
sys.path.insert(0, {benches!r})
import roofline
found = {{path: roofline.count(path, "b0", 512, 512, 150) for path in roofline.PATHS}}
sums = {{
    path: [sum(getattr(w, what) for each in works.values() for w in each) for what in
           ("moved", "tensor", "plain")]
    for path, works in found.items()
}}
print(json.dumps({{"sums": sums, "table": roofline._table(found),
    "versions": roofline.versions(), "layers":
    {{path: sorted(works) for path, works in found.items()}}}}))
"""


@pytest.fixture(scope="module")
def counted(repository) -> dict:
    """What is counted of B0 at 512×512."""
    pytest.importorskip("transformers", minversion="5.9")
    code = CODE.format(benches=str(repository / "benches"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_products_are_those_of_the_paper(counted) -> None:
    for path in ("eager", "SDPA"):
        _, tensor, plain = counted["sums"][path]
        assert tensor + plain == pytest.approx(2 * 8.4e9, rel=0.03), path


def test_less_is_moved_from_path_to_path(counted) -> None:
    moved = {path: sums[0] for path, sums in counted["sums"].items()}
    assert moved["fastseg"] < 0.6 * moved["SDPA"] < 0.6 * moved["eager"]
    # The decoder is folded: fewer products, too.
    assert counted["sums"]["fastseg"][1] < 0.6 * counted["sums"]["SDPA"][1]


def test_every_operator_is_in_a_layer(counted) -> None:
    for path, layers in counted["layers"].items():
        # Ours turns the picture's memory around before the first layer.
        assert len(set(layers) - {"other"}) == 4 * 4 + 1, path


def test_the_page_is_that_of_today(repository, counted) -> None:
    page = (repository / "docs" / "roofline.md").read_text("utf-8")
    if counted["versions"] not in page:
        pytest.skip(f"the page was counted with other libraries than {counted['versions']}")
    assert counted["table"] in page, "run `make roofline` and commit docs/roofline.md"
