"""Rows that do not fit: kept in a file of the spool, and given back as a table to be mended.

Responsible for: the form of that file, and the table. Must not know: HTTP, imports, where the file is.

Rules:
1. A row is kept as a report may show it: secrets are masked, or the row is left out.
2. A file has its name once it is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import os
import secrets
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from disbatch_host.client.importing.requested import FAULTS_MAX
from disbatch_host.client.importing.task_maker import RowFault
from disbatch_host.client.tables import cell_of

_COLUMNS_MAX = 2000
_ROW_MAX = 4096  # bytes of a row that is shown with its fault
_LINES = 1000  # of a table, in a piece


def fault_json(fault: RowFault) -> dict[str, Any]:
    """A row that does not fit, without the row itself if that is long: there may be many of them."""
    row = orjson.loads(orjson.dumps(fault.row, default=str))
    is_short = len(orjson.dumps(row)) <= _ROW_MAX
    return {"line": fault.line, "column": fault.column, "reason": fault.reason, "row": row if is_short else None}


class BadRows:
    """Takes rows that do not fit, one after another."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self.first: list[dict[str, Any]] = []  # as JSON
        self._path = path
        self._part = path.with_name(f"{secrets.token_hex(16)}{path.suffix}")  # forgotten like others if it is left
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._part, flags, 0o600), "wb")

    def add(self, fault: RowFault) -> None:
        self.count += 1
        if len(self.first) < FAULTS_MAX:
            self.first.append(fault_json(fault))
        line = {"line": fault.line, "reason": fault.reason, "row": fault.row}
        self._file.write(orjson.dumps(line, default=str) + b"\n")

    def keep(self) -> None:
        """These are all."""
        self._file.close()
        self._part.replace(self._path)

    def drop(self) -> None:
        """They are not needed, unless they were kept."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()


class FaultsTable:
    """The rows that do not fit as CSV, as they were, with line and reason behind them."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if they are not kept here."""
        self._file = path.open("rb")
        self._columns: list[str] = []
        for row in self._rows():
            if isinstance(row.get("row"), dict):
                new = [name for name in row["row"] if name not in self._columns]
                self._columns += new[: _COLUMNS_MAX - len(self._columns)]

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """All of it."""
        lines = self._lines()
        with self._file:
            while data := await asyncio.to_thread(lambda: b"".join(islice(lines, _LINES))):
                yield data

    def _rows(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        for line in self._file:
            yield orjson.loads(line)

    def _lines(self) -> Iterator[bytes]:
        yield b"\xef\xbb\xbf" + _csv([*map(cell_of, self._columns), "line", "reason"])
        for one in self._rows():
            yield _csv([*self._cells(one["row"]), one["line"], cell_of(one["reason"])])

    def _cells(self, row: Any) -> list[Any]:
        if isinstance(row, dict):
            return [cell_of(row.get(name)) for name in self._columns]
        if isinstance(row, list):  # with more or fewer fields than there are columns
            cells = [cell_of(one) for one in row[: len(self._columns)]]
            return cells + [None] * (len(self._columns) - len(cells))
        return [cell_of(row), *([None] * (len(self._columns) - 1))] if self._columns else []


def _csv(cells: list[Any]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n").writerow(
        ["" if one is None else one for one in cells]
    )
    return text.getvalue().encode("utf-8", "replace")
