"""docs/batches.md, typed as it stands."""

from __future__ import annotations

from pathlib import Path

from acceptance.conftest import Terminal
from acceptance.test_importing_guide import type_page

PAGE = Path(__file__).parents[2] / "docs/batches.md"


def test_every_step_of_the_page_does_what_it_shows(terminal: Terminal, tmp_path: Path) -> None:
    assert type_page(PAGE, terminal, tmp_path / "place") == 25
