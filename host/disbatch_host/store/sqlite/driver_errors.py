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
    StoreError,
    StoreRefusedError,
    StoreUnreachableError,
    StoreUnwritableError,
)
from disbatch_host.store.sqlite import connections

_PRIMARY_CODE = 0xFF  # of an extended result code
# The effect of a full disk on the file that SQLite shares between processes (-shm); no other cause is known.
_ALSO_FULL = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP})
# Faults of the file system and not of this change: they pass once somebody has fixed them (promise 6). SQLite has
# rolled back the transaction. The words say what to do.
_MENDABLE = {
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; check permissions and mount",
    sqlite3.SQLITE_IOERR: "the disk or file system fails; check both",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that its directory is there and may be written",
}


@contextlib.contextmanager
def translated(path: Path, duplicate: str = "") -> Iterator[None]:
    """Translate the driver's exceptions to the host's (errors, rule 3)."""
    where = f"sqlite://{path}"
    try:
        yield
    except StoreError:
        raise
    except sqlite3.IntegrityError as error:
        if "UNIQUE" in str(error) and duplicate:
            raise DuplicateIdError(duplicate) from error
        raise StoreRefusedError(f"{where} refuses a value: {error}") from error
    except sqlite3.OperationalError as error:
        extended = getattr(error, "sqlite_errorcode", 0)
        code = sqlite3.SQLITE_FULL if extended in _ALSO_FULL else extended & _PRIMARY_CODE
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreUnreachableError(
                f"{where} is locked by another process, which did not end its transaction within "
                f"{connections.BUSY_SECONDS:.0f} s"
            ) from error
        if code in _MENDABLE:
            raise StoreUnwritableError(f"{where} cannot be written: {_MENDABLE[code]} ({error})") from error
        raise StoreRefusedError(f"{where}: {error}") from error
    except sqlite3.DatabaseError as error:
        if "malformed" in str(error):
            raise StoreRefusedError(
                f"{where} is damaged ({error}); put back a copy, or save what can be read with "
                f"`sqlite3 {path} .recover`"
            ) from error
        raise StoreRefusedError(f"{where} is not a database of this program: {error}; name another file") from error
    except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
        raise StoreRefusedError(f"{where} refuses: {error}") from error
