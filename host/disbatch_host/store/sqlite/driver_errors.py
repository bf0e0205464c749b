"""The driver's exceptions, translated to the host's.

Responsible for: being the only place that knows the names and codes of the driver's and SQLite's errors. Must not know:
what was asked for, beyond the words for a duplicate.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from disbatch_host.errors import (
    DuplicateIdError,
    ForeignIndexError,
    StoreRefusedError,
    StoreUnreachableError,
    StoreUnwritableError,
)
from disbatch_host.store.sqlite import connections
from disbatch_host.store.url import sqlite_url

_PRIMARY_CODE = 0xFF  # of an extended result code
# The effect of a full disk on the file that SQLite shares between processes (-shm); no other cause is known.
_ALSO_FULL = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP})
# The driver's words for an `_id` that exists already; any other unique index is somebody else's.
_OWN_IDS = frozenset({"UNIQUE constraint failed: tasks.id", "UNIQUE constraint failed: queues.id"})
# Faults of the file system and not of this change: they pass once somebody has fixed them (promise 6). SQLite has
# rolled back the transaction. The words say what to do.
_MENDABLE = {
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_READONLY: (
        "the file, one beside it (-wal, -shm) or its directory is read-only; check permissions and mount"
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk or file system fails, or a file beside it (-wal, -shm) is not its own; check these"
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "it or a file beside it (-wal, -shm) cannot be opened; check that they are files, and that their directory is "
        "there and may be written"
    ),
}


def is_of_one_row(error: sqlite3.DatabaseError, connection: sqlite3.Connection) -> bool:
    """Whether the file refuses one row for what is in it, and would take others: an index, a constraint or a trigger
    that somebody has added. The driver has undone that statement alone, and the transaction goes on."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    is_refusal = code in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH)
    return is_refusal and connection.in_transaction


@contextlib.contextmanager
def translated(path: Path, duplicate: str = "") -> Iterator[None]:
    """Translate the driver's exceptions to the host's (errors, rule 3)."""
    try:
        yield
    except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
        raise _translation(error, path, duplicate) from error


def _translation(error: Exception, path: Path, duplicate: str) -> Exception:
    where = sqlite_url(path)
    if isinstance(error, sqlite3.IntegrityError):
        if duplicate and str(error) in _OWN_IDS:
            return DuplicateIdError(duplicate)
        if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_UNIQUE:
            return ForeignIndexError(
                f"{where} refuses a value, because of a unique index that this program did not make: {error}"
            )
        return StoreRefusedError(f"{where} refuses a value: {error}")
    if isinstance(error, sqlite3.OperationalError):
        extended = getattr(error, "sqlite_errorcode", 0)
        code = sqlite3.SQLITE_FULL if extended in _ALSO_FULL else extended & _PRIMARY_CODE
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreUnreachableError(
                f"{where} is locked by another process, which did not end its transaction within "
                f"{connections.BUSY_SECONDS:.0f} s"
            )
        if extended == sqlite3.SQLITE_IOERR_SHORT_READ:
            return StoreUnwritableError(
                f"{where} is shorter than the files beside it say, {path}-wal and {path}-shm: they may belong to a "
                "database that was at its path before; stop everything that uses it, and put that one back or move "
                f"these two away ({error})"
            )
        if code in _MENDABLE:
            return StoreUnwritableError(f"{where} cannot be written: {_MENDABLE[code]} ({error})")
        return StoreRefusedError(f"{where}: {error}")
    if isinstance(error, sqlite3.DatabaseError):
        if "malformed" in str(error):
            return StoreRefusedError(
                f"{where} is damaged ({error}); put back a copy, or save what can be read with "
                f"`sqlite3 {path} .recover`"
            )
        return StoreRefusedError(f"{where} is not a database of this program: {error}; name another file")
    return StoreRefusedError(f"{where} refuses: {error}")
