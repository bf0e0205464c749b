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
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        files = [ROOT / "tests" / one for one in re.findall(r"`([a-z]+/test_\w+\.py)`", line)]
        for one in files:
            assert one.exists(), one
        for name in re.findall(r"`(test_\w+)`", line):
            assert not files or any(f"def {name}(" in one.read_text(encoding="utf-8") for one in files), name


def test_each_of_the_forty_holes_is_closed_by_something_that_a_test_shows_or_said_to_be_open() -> None:
    lines = (ROOT / "docs" / "supervisor-holes.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if re.match(r"\| \d+ \|", line)]
    assert [int(number) for number, *_ in rows] == list(range(1, 41))
    for number, _, closed, shown in rows:
        assert re.search(r"`\w+/(test_)?\w+\.(py|json)`", shown) or "*Open:*" in closed, number
