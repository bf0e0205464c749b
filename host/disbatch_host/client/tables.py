"""Tables of tasks as files that people open with a spreadsheet: CSV, TSV, and NDJSON of some columns.

Responsible for: the columns of a table, one row for each task, and the characters of a cell. Must not know: which
tasks, terminals, which parameters are secret.

Rules:
1. A cell is never a formula: a text that a spreadsheet would evaluate begins with an apostrophe. Numbers stay numbers.
2. Texts are in quotes and numbers are not, so that a reader who asks for it (or a spreadsheet that is told to) gets
   `01067` as it was.
3. Without given columns there is one for each parameter and each part of a result that any task has, however late it
   comes: rows are spooled until the last one is known. What is beyond `COLUMNS_MAX` is in the column `more`.
"""

from __future__ import annotations

import csv
import io
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import PurePath
from typing import IO, Any

import orjson

from disbatch_host.client import columns
from disbatch_host.client.columns import Column, Document
from disbatch_host.client.formula_cells import as_cell
from disbatch_host.documents.records import Task
from disbatch_host.errors import FieldError, UsageError
from disbatch_protocol.document import Other, rfc3339, to_json

COLUMNS_MAX = 2000  # of parameters and results; a spreadsheet has room for 16,384
_FIRST = (
    "task", "queue", "status", "created", "started", "ended", "ran", "attempt", "exit", "error", "message", "node",
    "batch", "created_by",
)  # fmt: skip
_FLAT = ("parameters", "result")
_MORE = "more"
_BOM = "\ufeff"  # without it spreadsheets take UTF-8 for something else
_EXACT_BELOW = 10**15  # larger numbers are texts: spreadsheets keep 15 digits
_DEPTH_MAX = 20  # of an object whose members have columns of their own

ToldRow = tuple[Task, Document]


class Format(StrEnum):
    NDJSON = "ndjson"
    CSV = "csv"
    TSV = "tsv"


_ENDINGS = {
    ".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON, ".json": Format.NDJSON, ".csv": Format.CSV, ".tsv": Format.TSV,
    ".tab": Format.TSV,
}  # fmt: skip
_OTHERS = frozenset({".xls", ".xlsx", ".ods", ".xml", ".html", ".parquet", ".zip"})
_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}


def format_of(name: str | None, given: str | None = None) -> Format:
    """The format of a file: as given, else by the ending of its name, which may be followed by `.gz`. Raises UsageError
    if the name promises one that is not there."""
    if given is not None:
        try:
            return Format(given.lower())
        except ValueError:
            raise FieldError("format", f"expected one of {', '.join(Format)}, found {given!r:.40}") from None
    endings = [one.lower() for one in PurePath(name or "").suffixes]
    if endings[-1:] == [".gz"]:
        endings.pop()
    ending = endings[-1] if endings else ""
    if ending in _OTHERS:
        path = PurePath(str(name))
        stem = path.name[: path.name.lower().rindex(ending)]
        raise UsageError(
            f"{name}: expected the name of a CSV, TSV or NDJSON file, such as {stem}.csv, which spreadsheets open, "
            f"found {ending}"
        )
    return _ENDINGS.get(ending, Format.NDJSON)


def delimiter_of(given: str | None, form: Format) -> str:
    """The character between cells. Raises FieldError."""
    if form is Format.TSV or given is None:
        if given is not None:
            raise FieldError("delimiter", "expected it with CSV only, found it with TSV")
        return "\t" if form is Format.TSV else ","
    found = _DELIMITERS.get(given.lower(), given)
    if form is not Format.CSV:
        raise FieldError("delimiter", f"expected it with CSV only, found it with {form.upper()}")
    if len(found) != 1 or found in '"\r\n\0' or found.isalnum():
        raise FieldError("delimiter", f"expected one character, such as ';' or 'tab', found {given!r:.40}")
    return found


def write_lines(
    rows: Iterator[ToldRow], shown: Sequence[Column], out: IO[bytes], now: datetime, other: Other
) -> Iterator[None]:
    """NDJSON of these columns; yields after each row."""
    for task, document in rows:
        line = {one.name: to_json(one.value(task, document, now), other=other) for one in shown}
        out.write(orjson.dumps(line) + b"\n")
        yield


@dataclass(slots=True, kw_only=True)
class Table:
    """Writes CSV."""

    out: IO[bytes]
    delimiter: str
    has_mark: bool  # at the beginning, of the encoding
    now: datetime
    other: Other
    spool_directory: str | None = None
    left_over: int = 0  # how many columns there would be beyond those that there are
    _names: dict[str, int] = field(default_factory=dict)
    _beyond: set[str] = field(default_factory=set)

    def write(self, rows: Iterator[ToldRow], shown: Sequence[Column] | None) -> Iterator[None]:
        """Writes all rows; yields after each. `shown`: None for the usual columns (rule 3)."""
        if shown is not None:
            yield from self.write_rows(rows, shown)
            return
        with tempfile.TemporaryFile(dir=self.spool_directory) as spool:
            yield from self.add_to_spool(rows, spool)
            for _ in self.write_spooled(spool):
                pass

    def write_rows(self, rows: Iterator[ToldRow], shown: Sequence[Column]) -> Iterator[None]:
        """The same with given columns."""
        write = row_writer(self.out, self.delimiter, has_mark=self.has_mark)
        write([cell_of(one.name) for one in shown])
        for task, document in rows:
            write([self._cell(one.value(task, document, self.now)) for one in shown])
            yield

    def add_to_spool(self, rows: Iterator[ToldRow], spool: IO[bytes]) -> Iterator[None]:
        """The usual columns, first half: rows in a form of their own (rule 3)."""
        fixed = [columns.column_of(one) for one in _FIRST]
        for task, document in rows:
            first = [self._cell(one.value(task, document, self.now)) for one in fixed]
            spool.write(orjson.dumps([first, *self._flat_cells(document)]) + b"\n")
            yield

    def write_spooled(self, spool: IO[bytes]) -> Iterator[None]:
        """Second half: all rows are known, and are written; yields after each."""
        write = row_writer(self.out, self.delimiter, has_mark=self.has_mark)
        self.left_over = len(self._beyond)
        names = list(self._names)
        # Parameters before results, each in the order in which they came first.
        order = sorted(range(len(names)), key=lambda one: not names[one].startswith(_FLAT[0]))
        place = {number: index for index, number in enumerate(order)}
        more = [_MORE] if self._beyond else []
        write([*_FIRST, *(cell_of(names[one]) for one in order), *more])
        spool.seek(0)
        for line in spool:
            first, numbers, values, rest = orjson.loads(line)
            cells: list[Any] = [None] * (len(order) + len(more))
            for number, value in zip(numbers, values, strict=True):
                cells[place[number]] = value
            if rest:
                cells[-1] = orjson.dumps(rest).decode()
            write([*first, *cells])
            yield

    def _flat_cells(self, document: Document) -> tuple[list[int], list[Any], dict[str, Any]]:
        """The cells of parameters and result: the numbers of their columns, and their values; and what has none."""
        numbers: list[int] = []
        values: list[Any] = []
        rest: dict[str, Any] = {}
        for top in _FLAT:
            for path, value in _flat(document.get(top), (top,)):
                name = columns.path_text(path)
                number = self._names.get(name)
                if number is None:
                    if len(self._names) >= COLUMNS_MAX:
                        self._beyond.add(name)
                        rest[name] = _plain(value, self.other)
                        continue
                    number = self._names[name] = len(self._names)
                numbers.append(number)
                values.append(self._cell(value))
        return numbers, values, rest

    def _cell(self, value: Any) -> Any:
        return cell_of(_plain(value, self.other))


def row_writer(out: IO[bytes], delimiter: str, *, has_mark: bool) -> Callable[[list[Any]], object]:
    """Writes a row of cells. `has_mark`: of the encoding, before the first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    begun = not has_mark

    def write(cells: list[Any]) -> None:
        nonlocal begun
        writer.writerow(["" if one is None else one for one in cells])
        mark, begun = "" if begun else _BOM, True
        out.write((mark + text.getvalue()).encode("utf-8", "replace"))
        text.seek(0)
        text.truncate()

    return write


def cell_of(value: Any) -> Any:
    """A JSON value as a cell: a number, or a text that is not a formula; None for an empty one."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return as_cell(text.replace("\0", "\ufffd"))


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The single values of an object, each with its path. Lists, and what is empty, stay as they are."""
    if isinstance(value, Mapping) and value and len(path) < _DEPTH_MAX:
        for name, one in value.items():
            yield from _flat(one, (*path, str(name)))
    elif value is not None and not (isinstance(value, Mapping) and len(path) == 1):
        yield path, value


def _plain(value: Any, other: Other) -> Any:
    """A value of a document as JSON has it; its id as text."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (int, float)):
        return value if abs(value) < _EXACT_BELOW else str(value)
    try:
        return to_json(value, other=other)
    except (TypeError, ValueError, RecursionError):
        return None
