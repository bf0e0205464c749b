"""Rows as they are tried: what people should know of those that fit.

Responsible for: which rows are the same as an earlier one, which have nothing where something is required, where the
first ones are. Must not know: what a row becomes, stores, terminals.

Rules:
1. Memory is bounded: rows after the first SAME_MAX are not compared with each other.
2. No sentence holds a value: it may be a secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from disbatch_host.client.importing.rows import Rows

SAME_MAX = 200_000  # rows whose digests are kept
_LINES_MAX = 5  # that are named
_FIRST = 10  # rows that fit whose lines are kept


class Watched:
    """The rows of a file, watched as they are read. `required`: the columns of required parameters, by their place,
    whose empty fields become a value."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.name, self.form, self.columns, self.notices = rows.name, rows.form, rows.columns, rows.notices
        self.required: Mapping[int, str] = {}
        self._line: int | None = None  # of the row that was read last, unless it does not fit
        self._reset()

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        self._reset()
        for line, size, row in self._rows:
            self._line = line
            yield line, size, row
            # Not told of a fault meanwhile: it fits.
            if self._line is not None and (type(row) is dict or (type(row) is list and any(row))):
                self._see(line, row)

    def _reset(self) -> None:
        self._line = None
        self.lines: list[int] = []  # of the first ones that fit
        self._seen: set[int] = set()
        self._same: list[int] = []
        self._count_same = self._count_empty = 0
        self._empty: Counter[str] = Counter()

    def forget(self) -> None:
        """The row that was read last does not fit."""
        self._line = None

    def _see(self, line: int, row: Any) -> None:
        if len(self.lines) < _FIRST:
            self.lines.append(line)
        if type(row) is not list:
            return
        digest = hash(tuple(row))
        if digest in self._seen:
            self._count_same += 1
            if len(self._same) < _LINES_MAX:
                self._same.append(line)
        elif len(self._seen) < SAME_MAX:
            self._seen.add(digest)
        empty = [column for place, column in self.required.items() if not row[place]]
        if empty:
            self._count_empty += 1
            self._empty.update(empty)

    def notices_at_end(self, *, has_keys: bool) -> Iterator[str]:
        """Sentences for people. `has_keys`: equal rows become one task."""
        if count := self._count_empty:
            names = ", ".join(map(repr, self._empty))
            have, fit = ("has", "fits") if count == 1 else ("have", "fit")
            columns = "a required column" if len(self._empty) == 1 else "required columns"
            yield f"{_rows(count)} {have} nothing in {columns}, {names}, and {fit} with an empty value"
        if (count := self._count_same) and not has_keys:
            more = ", …" if count > len(self._same) else ""
            lines = f"line{'' if count == 1 else 's'} {', '.join(map(str, self._same))}{more}"
            what = "is the same as an earlier one and becomes a task" if count == 1 else (
                "are the same as an earlier one, and each becomes a task")  # fmt: skip
            yield f"{_rows(count)} {what}: {lines}"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
