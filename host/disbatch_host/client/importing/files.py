"""The file of an import, opened so that its rows can be gone through more than once.

Responsible for: keeping what a pipe holds, the digest of a file's content, and which kind of rows a file has. Must not
know: what becomes of rows, terminals.
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

from disbatch_host.client.importing.rows import CsvRows, Format, NdjsonRows, Rows, Source, format_of
from disbatch_host.client.parameters import parse_json
from disbatch_host.errors import UsageError

_BLOCK = 2**20

OnBytes = Callable[[int], object]


def _ignored(count: int) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """An open file that can be read from its start again."""

    name: str  # for people
    file: IO[bytes]
    source: Source
    digest: bytes | None = None  # of its content, where that is known already

    def content_digest(self) -> bytes:
        """SHA-256 of what it holds, as it is on disk."""
        if self.digest is not None:
            return self.digest
        self.file.seek(0)
        return hashlib.file_digest(self.file, "sha256").digest()  # type: ignore[arg-type]


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], on_bytes: OnBytes = _ignored) -> Iterator[OpenFile]:
    """A file, open for the length of the block. What is not a plain file (a pipe) is kept in one; `on_bytes` gets how
    many bytes have come each time. Raises UsageError where it cannot be read."""
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
    """What a stream holds to its end, as a file. Raises UsageError where it cannot be read, or not be kept."""
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
            what = f"{name} cannot be read, or not kept in {tempfile.gettempdir()}"
            raise UsageError(f"{what}: {error.strerror}; $TMPDIR names another directory") from error
        yield OpenFile(name=name, file=spool, source=Source(spool), digest=digest.digest())


def rows_of(file: OpenFile, *, form: str | None = None, delimiter: str | None = None) -> Rows:
    """The rows of a file: `csv` or `ndjson` as `form` says, else as its name or its first bytes tell.

    Raises UsageError where nothing tells, or the file cannot be read so."""
    name = file.name
    try:
        first = file.source.first_bytes()
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    found = form or format_of(name, first)
    if found is None and delimiter is not None:
        found = Format.CSV
    if found is None:
        raise UsageError(f"expected --format csv or ndjson, since {name} does not tell which; found neither")
    if found == Format.NDJSON:
        if delimiter is not None:
            raise UsageError(f"--delimiter is for CSV, but {name} is NDJSON (--format csv says otherwise)")
        return NdjsonRows(name, file.source, parse_json)
    return CsvRows(name, file.source, _delimiter_of(delimiter, name))


def _delimiter_of(text: str | None, name: str) -> str:
    if text is None:
        return "\t" if name.lower().removesuffix(".gz").endswith(".tsv") else ","
    found = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(found) != 1 or found in '"\r\n':
        raise UsageError(f"--delimiter: expected one character (or \\t for a tab), found {text!r:.40}")
    return found
