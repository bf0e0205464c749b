"""The rows of a file: CSV with a header line, or NDJSON; plain or compressed by gzip.

Responsible for: reading them one by one in bounded memory, each with the line it starts on, and explaining why a row
cannot be read. Must not know: how rows are used, parameters, stores, terminals.

Rules:
1. An unreadable row is returned as a `BadRow` in its place, and the rows after it are read: the number of a row
   does not depend on errors in other rows.
2. No line, row or field longer than ROW_MAX is held in memory, whatever the file contains.
3. Iterating again rereads the file from the start.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any, Protocol

from disbatch_host.client.formula_cells import from_cells
from disbatch_host.errors import UsageError

ROW_MAX = 8 * 2**20  # characters or bytes of one row: larger ones cannot be parameters (same limit)
_BLOCK = 2**18
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16, which spreadsheets also write
FIRST_BYTES = 2**16  # bytes that tell the format, the encoding and the delimiter
_SHOWN_MAX = 2000  # characters of an unreadable line, shown in a report

ReadJson = Callable[[bytes, str], Any]  # strict JSON, and its name in errors; raises UsageError


_NO_UTF_8 = "expected UTF-8, found byte %#x; is the file in another encoding? (iconv -f latin1 -t utf-8)"


class Format(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be read."""

    reason: str
    row: Any = None  # the part that can be shown


class Rows(Protocol):
    """Rows that can be read more than once."""

    name: str  # for people: the file's
    form: str  # how bytes are split into rows
    columns: tuple[str, ...] | None  # from the header, if the file has one
    notices: tuple[str, ...]  # what was taken for granted about the file, for people

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        """(line from 1, size, row) of each: a list of texts, one per column; an object; or a BadRow. `size` is its
        approximate number of bytes."""


def format_of(name: str, first: bytes) -> Format | None:
    """The format of a file, by its name or its first bytes; None if neither is conclusive."""
    base = name.lower().removesuffix(".gz")
    if base.endswith((".csv", ".tsv")):
        return Format.CSV
    if base.endswith((".ndjson", ".jsonl")) or first.removeprefix(_BOM).lstrip()[:1] == b"{":
        return Format.NDJSON
    return None


class Source:
    """The bytes of a file that can be read more than once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._is_compressed = os.pread(file.fileno(), 2, 0) == b"\x1f\x8b"
        self._was = self._stamp()
        self._raw: _Raw | None = None

    @property
    def share_read(self) -> float:
        """How much of it has been read since it was last opened, from 0 to 1."""
        size = self._was[0]
        return 0.0 if self._raw is None or not size else min(1.0, self._raw.position / size)

    def first_bytes(self) -> bytes:
        """The first bytes of its content. Raises UsageError if that cannot be decompressed."""
        try:
            return self.opened().read(FIRST_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"it cannot be read: {error}") from error

    def opened(self) -> io.BufferedReader:
        """From the start, decompressed."""
        raw = self._raw = _Raw(self._file.fileno())
        if self._is_compressed:
            return io.BufferedReader(gzip.GzipFile(fileobj=io.BufferedReader(raw, _BLOCK)), _BLOCK)
        return io.BufferedReader(raw, _BLOCK)

    def has_changed(self) -> bool:
        """Whether it was written to since it was opened."""
        return self._stamp() != self._was

    def _stamp(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns


class _Raw(io.RawIOBase):
    """A file from its start, with its own position."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._descriptor, [buffer], self.position)
        self.position += count
        return count


class CsvRows:
    """CSV according to RFC 4180, UTF-8, with the column names in its first line. Empty lines are skipped, and so are
    columns without a name at the end, where spreadsheets leave them, as long as they are empty. The apostrophe that an
    export has put before what a spreadsheet would evaluate is taken off.

    `has_sep_line`: a line like `sep=;` comes before the header. `counts_rows`: lines are numbered as a spreadsheet
    numbers rows: one whose fields have line ends is one, and the header is the first. Raises UsageError if there is no
    readable header.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        delimiter: str,
        *,
        row_max: int = ROW_MAX,
        has_sep_line: bool = False,
        counts_rows: bool = False,
        notices: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.form = f"csv {delimiter}"
        self._source = source
        self._delimiter = delimiter
        self._row_max = row_max
        self._has_sep_line = has_sep_line
        self._counts_rows = counts_rows
        # For the whole process; the only other CSV readers in it are instances of this class.
        csv.field_size_limit(row_max)
        header = next(iter(self._records()), None)
        if header is None:
            raise UsageError(f"{name}: expected a header line with the names of the columns, found nothing")
        line, _, columns = header
        if isinstance(columns, BadRow):
            raise UsageError(f"{name}:{line}: expected a header line, but {columns.reason}")
        if any("\0" in one for one in columns):
            raise UsageError(f"{name}:{line}: expected names of columns, found a NUL in one; is it a text file?")
        self._width = len(columns)
        while len(columns) > 1 and not columns[-1]:
            columns = columns[:-1]
        self.columns: tuple[str, ...] | None = tuple(columns)
        if nameless := self._width - len(columns):
            what = "its last column has" if nameless == 1 else f"its last {nameless} columns have"
            notices = (*notices, f"{name}: {what} no name and no place in the tasks")
        self.notices = notices

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        records = iter(self._records())
        next(records, None)
        width, named = self._width, len(self.columns or ())
        for record in records:
            row = record[2]
            if type(row) is list and (len(row) != width or named != width):
                yield record[0], record[1], self._fitted(row)
            else:
                yield record

    def _fitted(self, row: list[str]) -> Any:
        """A row of another width than the header's names, where what is too much is empty."""
        named = len(self.columns or ())
        if not any(row):
            return [""] * named
        if len(row) != self._width:
            return BadRow(reason=f"expected {_fields(self._width)}, found {len(row)}", row=row)
        if any(row[named:]):
            return BadRow(reason=f"expected {_fields(named)}, found a value in a column without a name", row=row)
        return row[:named]

    def _records(self) -> Iterator[tuple[int, int, Any]]:
        lines = _TextLines(self._source.opened(), self.name, self._row_max)
        texts = iter(lines)
        before = 0  # lines before the header
        if self._has_sep_line and next(texts, None) is not None:
            before = 1
        reader = csv.reader(texts, delimiter=self._delimiter, strict=True)
        seen = number = 0  # characters before this record, and its number
        while True:
            number += 1
            line = number if self._counts_rows else reader.line_num + 1 + before
            row: Any
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row = BadRow(reason=_csv_error_in_words(str(error), self._row_max))
            if lines.too_long_at:
                row, lines.too_long_at = BadRow(reason=f"expected lines of at most {self._row_max} characters"), 0
            elif not row:  # an empty line
                seen = lines.characters
                continue
            elif type(row) is list:
                text = "".join(row)
                if not text.isascii() and (bad := _bad_byte(text)) is not None:
                    row = BadRow(reason=_NO_UTF_8 % bad, row=[_shown(one) for one in row])
                elif "'" in text:
                    row = from_cells(row)
            yield line, lines.characters - seen, row
            seen = lines.characters


class _TextLines:
    """The lines of a file as text, with line ends; bytes that are not valid UTF-8 as lone surrogates."""

    def __init__(self, file: io.BufferedReader, name: str, row_max: int) -> None:
        _refuse_wide(name, file.peek(FIRST_BYTES))
        # newline="": the CSV reader decides what ends a line; inside quotes, line ends belong to the field.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._read = functools.partial(text.readline, row_max)
        self._row_max = row_max
        self._name = name
        self.characters = 0
        self.too_long_at = 0  # the last line that was skipped; the reader resets it

    def __iter__(self) -> Iterator[str]:
        number = 0
        try:
            while line := self._read():
                number += 1
                self.characters += len(line)
                if len(line) == self._row_max and line[-1] not in "\r\n":
                    while (rest := self._read()) and rest[-1] not in "\r\n":
                        pass
                    self.too_long_at = number
                    line = "\n"
                yield line
        except (EOFError, OSError, zlib.error) as error:
            raise UsageError(f"{self._name}: it cannot be read after line {number}: {error}") from error


class NdjsonRows:
    """One JSON object per line. Empty lines are skipped, and so is a last line `{"end": n}` after n others: what the
    web API sends ends with it, so that its reader knows that it was all."""

    form = "ndjson"
    columns: tuple[str, ...] | None = None
    notices: tuple[str, ...] = ()

    def __init__(self, name: str, source: Source, read_json: ReadJson, *, row_max: int = ROW_MAX) -> None:
        self.name = name
        self._source = source
        self._read_json = read_json
        self._row_max = row_max

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        file = self._source.opened()
        _refuse_wide(self.name, file.peek(FIRST_BYTES))
        read = functools.partial(file.readline, self._row_max)
        read_json = self._read_json
        number = rows = 0
        held: tuple[int, int, Any] | None = None  # what may be the line at the end
        try:
            while line := read():
                number += 1
                if number == 1:
                    line = line.removeprefix(_BOM)
                if len(line) == self._row_max and not line.endswith(b"\n"):
                    while (rest := read()) and not rest.endswith(b"\n"):
                        pass
                    if held is not None:
                        yield held
                    rows, held = rows + 1, None
                    yield number, 0, BadRow(reason=f"expected lines of at most {self._row_max} bytes")
                    continue
                if not line.strip():
                    continue
                if held is not None:
                    yield held
                    held = None
                row: Any
                try:
                    row = read_json(line.rstrip(b"\r\n"), "the line")
                except UsageError as error:
                    row = BadRow(reason=str(error), row=line.decode("utf-8", "replace").rstrip("\r\n")[:_SHOWN_MAX])
                else:
                    if type(row) is not dict:
                        what = "a list; `jq -c '.[]'` splits it into lines" if type(row) is list else "something else"
                        row = BadRow(reason=f"expected a JSON object in each line, found {what}", row=row)
                if type(row) is dict and row.keys() == {"end"} and row["end"] == rows and type(row["end"]) is int:
                    held = number, len(line), row
                else:
                    yield number, len(line), row
                rows += 1
        except (EOFError, OSError, zlib.error) as error:
            raise UsageError(f"{self.name}: it cannot be read after line {number}: {error}") from error


def _refuse_wide(name: str, first: bytes) -> None:
    """Raises UsageError for UTF-16, with a byte order mark or without: then all NULs are at even places, or at odd."""
    first = first[:FIRST_BYTES]
    found = "UTF-16" if first[:2] in _WIDE_BOMS else None
    if found is None and b"\0" in first:
        zeros = [first[place::2].count(0) for place in (0, 1)]
        if max(zeros) * _WIDE_SHARE >= len(first) and min(zeros) == 0:
            found = "UTF-16BE" if zeros[0] else "UTF-16LE"
    if found is not None:
        raise UsageError(f"{name}: expected UTF-8, found {found[:6]}; `iconv -f {found} -t UTF-8` converts it")


_WIDE_SHARE = 50  # of so many bytes at least one is NUL in UTF-16, whatever the language: delimiters and line ends


def _bad_byte(text: str) -> int | None:
    """The first byte that was not valid UTF-8, None if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return ord(text[error.start]) & 0xFF
    return None


def _shown(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _csv_error_in_words(message: str, row_max: int) -> str:
    if "unexpected end of data" in message:
        return "a field begins with a double quote that is never closed"
    if "field larger" in message:
        return f"expected fields of at most {row_max} characters; is a double quote not closed?"
    if "expected after" in message:
        return 'text follows the closing double quote of a field; write "" for a double quote inside a field'
    return f"not valid CSV: {message}"


def _fields(count: int) -> str:
    return f"{count} field{'' if count == 1 else 's'}, as the header has"


def duplicates(names: Sequence[str]) -> list[str]:
    """The names that occur more than once."""
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]
