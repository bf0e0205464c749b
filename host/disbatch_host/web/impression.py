"""What the beginning of a file shows: its form, its columns, its first rows, and what is wrong with it in words.

Responsible for: reading no more than a beginning. Must not know: HTTP, queues, what becomes of the rows.

Rules:
1. What is wrong with all of a file is said before anybody has to think about its columns.
2. The rows may hold secrets: they are not for logs, and a page shows only what it knows to be none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from disbatch_host.client.importing import files
from disbatch_host.client.importing.delimiters import COMMA, in_words, recognized
from disbatch_host.client.importing.rows import BadRow, duplicates, format_of
from disbatch_host.errors import UsageError
from disbatch_host.web.spool import Received

ROWS_MAX = 10_000  # that are read
FIRST = 5  # rows that are shown
_BYTES_MAX = 32 * 2**20  # of rows that are read
_COLUMNS_OF = 100  # objects whose names are columns
_COLUMNS_MAX = 500  # of objects
_NAMED_MAX = 5
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # of xlsx and ods, and of xls
_NO_UTF_8 = "expected UTF-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One of the first."""

    line: int
    values: Any = None  # texts, one for each column, or an object
    reason: str = ""  # why it cannot be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Impression:
    """What a beginning shows."""

    format: str
    delimiter: str | None  # of CSV
    columns: tuple[str, ...]
    rows_seen: int
    is_all: bool  # there are no further rows
    rows: tuple[Row, ...]  # the first ones
    is_guess: bool = False  # that it is CSV
    unreadable: int = 0  # rows among those that were seen
    first_unreadable: Row | None = None
    faults: tuple[str, ...] = ()  # why the file cannot be imported as it is
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the API has it."""
        return {
            "format": self.format,
            "delimiter": self.delimiter,
            "encoding": "utf-8",  # nothing else is read
            "columns": list(self.columns),
            "rows_seen": self.rows_seen,
            "is_all": self.is_all,
            "notices": list(self.notices),
        }

    @property
    def delimiter_in_words(self) -> str:
        return in_words(self.delimiter or "")


def impression_of(received: Received, delimiter: str | None = None, *, guesses: bool = False) -> Impression:
    """Of a file that was sent. `guesses`: where neither its name nor its first bytes say what it is, it is CSV. Raises
    UsageError if it cannot be read at all."""
    with received.opened() as file:
        first = file.source.first_bytes()
        if first.startswith(_WORKBOOKS):
            raise UsageError(f"{file.name} is a workbook, not a table: save it as CSV (UTF-8) in your spreadsheet")
        if not first.strip():
            raise UsageError(f"{file.name} is empty")
        is_guess = guesses and delimiter is None and format_of(file.name, first) is None
        if is_guess:
            delimiter = recognized(first.decode("utf-8-sig", "replace"), COMMA)
        rows = files.rows_of(file, delimiter=delimiter, counts_rows=True)
        form, _, found = rows.form.partition(" ")
        columns = rows.columns
        seen = size = unreadable = 0
        names: dict[str, None] = {}
        shown: list[Row] = []
        first_unreadable: Row | None = None
        for line, length, row in rows:
            seen += 1
            size += length
            bad = type(row) is BadRow
            if bad:
                unreadable += 1
                first_unreadable = first_unreadable or Row(line=line, reason=row.reason)
            elif columns is None and seen <= _COLUMNS_OF:
                names |= dict.fromkeys(row)
            if len(shown) < FIRST:
                shown.append(Row(line=line, reason=row.reason) if bad else Row(line=line, values=row))
            if seen == ROWS_MAX or size >= _BYTES_MAX:
                break
        is_all = seen < ROWS_MAX and size < _BYTES_MAX
        known = tuple(names)[:_COLUMNS_MAX] if columns is None else columns
        return Impression(
            format=form, delimiter=found if form == "csv" else None, columns=known, rows_seen=seen, is_all=is_all,
            rows=tuple(shown), unreadable=unreadable, first_unreadable=first_unreadable, notices=tuple(rows.notices),
            is_guess=is_guess, faults=tuple(_faults(known, seen, unreadable)),
        )  # fmt: skip


def _faults(columns: tuple[str, ...], seen: int, unreadable: int) -> list[str]:
    found = []
    if double := [one for one in duplicates(columns) if one]:
        more = f", and {len(double) - _NAMED_MAX} more" if len(double) > _NAMED_MAX else ""
        named = ", ".join(repr(one) for one in double[:_NAMED_MAX])
        found.append(f"the header has {named}{more} more than once: give each column a name of its own")
    if not seen:
        found.append("there is a header, and no row below it")
    elif unreadable == seen:
        found.append("no row can be read")
    return found


def is_other_encoding(row: Row | None) -> bool:
    """Whether a row cannot be read because it is not UTF-8."""
    return row is not None and row.reason.startswith(_NO_UTF_8)
