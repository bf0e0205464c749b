"""The pages of the repository: what they link to is there, headings included."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "plugins/**/*.md", "protocol/**/*.md", "bench/**/*.md")
    for page in ROOT.glob(pattern)
    if "node_modules" not in page.parts
)


def prose(page: Path) -> str:
    """The page without its blocks of code, where `#` begins a comment."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, heading = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not heading or heading in anchors(linked), target


@pytest.mark.parametrize("page", ["guarantees.md", "supervisor-holes.md"])
def test_every_test_that_a_page_names_as_proof_is_there(page: str) -> None:
    """In the file that is named last before it."""
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        text = ""
        for file, name in re.findall(r"`(?:([a-z]+/test_\w+\.py)|(test_\w+))`", line):
            if file:
                text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            else:
                assert f"def {name}(" in text, name


def test_what_closes_a_hole_is_there() -> None:
    package = ROOT / "host" / "disbatch_host"
    text = (ROOT / "docs" / "supervisor-holes.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.[ch]|(?:node|plugin|process|run)(?:/[a-z_]+)+\.py)`", text)
    assert len(named) > 20
    for one in named:
        places = [package / one, package / "process" / one, package / "process" / "native" / one]
        assert any(place.exists() for place in places), one


def test_each_of_the_forty_holes_is_closed_by_something_that_a_test_shows() -> None:
    lines = (ROOT / "docs" / "supervisor-holes.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if re.match(r"\| \d+ \|", line)]
    assert [int(number) for number, *_ in rows] == list(range(1, 41))
    for number, _, closed, shown in rows:
        assert re.search(r"`\w+/(test_|vectors/)\w+\.(py|json)`", shown), number
        assert "open:" not in closed.lower(), number
