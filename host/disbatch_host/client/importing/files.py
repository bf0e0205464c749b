"""The file of an import, opened so that its rows can be read more than once.

Responsible for: spooling pipes, the digest of a file's content, and the format of its rows. Must not
know: how rows are used, terminals.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from disbatch_host.client.importing import delimiters
from disbatch_host.client.importing.rows import FIRST_BYTES, CsvRows, Format, NdjsonRows, Rows, Source, format_of
from disbatch_host.client.parameters import parse_json
from disbatch_host.errors import FieldError, UsageError

_BLOCK = 2**20

OnBytes = Callable[[int], object]


def _ignored(count: int) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """An open file that can be reread from the start."""

    name: str  # for people
    file: IO[bytes]
    source: Source
    digest: bytes | None = None  # of its content, if already known

    def content_digest(self) -> bytes:
        """SHA-256 of its bytes on disk."""
        if self.digest is not None:
            return self.digest
        self.file.seek(0)
        return hashlib.file_digest(self.file, "sha256").digest()  # type: ignore[arg-type]


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], on_bytes: OnBytes = _ignored) -> Iterator[OpenFile]:
    """A file, open for the length of the block. Anything but a regular file (a pipe) is spooled to one; `on_bytes` gets
    the number of bytes each time some arrive. Raises UsageError if it cannot be read."""
    name = os.fspath(path)
    try:
        plain = Path(name).open("rb")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"file {name} cannot be read: {error.strerror}") from error
    with plain:
        if stat.S_ISREG(os.fstat(plain.fileno()).st_mode):
            yield OpenFile(name=name, file=plain, source=Source(plain))
            return
        with kept(plain, name, on_bytes) as file:
            yield file


@contextlib.contextmanager
def kept(stream: IO[bytes], name: str, on_bytes: OnBytes = _ignored) -> Iterator[OpenFile]:
    """A stream, read to its end and spooled to a file. Raises UsageError if it cannot be read or spooled."""
    import tempfile  # noqa: PLC0415

    digest = hashlib.sha256()
    with tempfile.TemporaryFile(prefix="disbatch-") as spool:
        try:
            while block := stream.read(_BLOCK):
                digest.update(block)
                spool.write(block)
                on_bytes(len(block))
            spool.flush()
        except OSError as error:
            what = f"{name} cannot be read, or cannot be stored in {tempfile.gettempdir()}"
            raise UsageError(f"{what}: {error.strerror}; set TMPDIR to use another directory") from error
        yield OpenFile(name=name, file=spool, source=Source(spool), digest=digest.digest())


def rows_of(
    file: OpenFile, *, form: str | None = None, delimiter: str | None = None, counts_rows: bool = False
) -> Rows:
    """The rows of a file: `csv` or `ndjson` according to `form`, else to its name or first bytes. `counts_rows`: see
    `CsvRows`.

    Raises UsageError if the format is unclear, or the file cannot be read that way."""
    name = file.name
    try:
        first = file.source.first_bytes()
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    found = form or format_of(name, first)
    if found is None and delimiter is not None:
        found = Format.CSV
    if found is None:
        raise FieldError("form", f"expected csv or ndjson, since the format of {name} is unclear")
    if found == Format.NDJSON:
        if delimiter is not None:
            raise FieldError("delimiter", f"only CSV has one, but {name} is NDJSON, unless its format is given as csv")
        return NdjsonRows(name, file.source, parse_json)
    return _csv_rows(file, first, delimiter, counts_rows)


def _csv_rows(file: OpenFile, first: bytes, delimiter: str | None, counts_rows: bool) -> CsvRows:
    """By the given delimiter, else by the one that the file names, or that its first lines show."""
    name, sample = file.name, first.decode("utf-8-sig", "replace")
    if len(first) == FIRST_BYTES:  # the last line may be cut
        sample = sample[: max(sample.rfind("\n"), sample.rfind("\r")) + 1] or sample
    named = delimiters.in_sep_line(sample)
    usual = delimiters.TAB if name.lower().removesuffix(".gz").endswith(".tsv") else delimiters.COMMA
    notices: tuple[str, ...] = ()
    if delimiter is not None:
        chosen = _delimiter_of(delimiter)
    else:
        chosen = delimiters.recognized(sample, usual) if named is None else named
        if chosen != usual:
            words = delimiters.in_words(chosen)
            notices = (f"{name}: {words} is taken as the delimiter of the fields (--delimiter names another one)",)
    return CsvRows(name, file.source, chosen, has_sep_line=named is not None, counts_rows=counts_rows, notices=notices)


def _delimiter_of(text: str) -> str:
    found = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise FieldError("delimiter", f"expected one character (or \\t for a tab), found {text!r:.40}")
    return found
