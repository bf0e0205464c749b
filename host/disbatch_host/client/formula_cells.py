"""Texts that a spreadsheet would evaluate: an apostrophe before them in a table, which an import takes off again. Pure.

Responsible for: which texts these are; both ways, so that an import has what was exported. Must not know: files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Apostrophes of its own before it are kept: such a text gets one more.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r\n]")
_NUMBER = re.compile(r"-(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def as_cell(text: str) -> str:
    """The text as a cell that is no formula. Negative numbers stay as they are."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_cell(cell: str) -> str:
    """The text of which `as_cell` made this cell; what it has not made stays as it is."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def from_cells(row: Iterable[str]) -> list[str]:
    return [from_cell(one) for one in row]
