"""Connections to the file, and help for reading through them.

Responsible for: how a file is opened, created or only read, that it is the one at its path, and text in it that is not
UTF-8. Must not know: the content of the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from disbatch_host import suggested
from disbatch_host.errors import StoreRefusedError, StoreUnwritableError
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.sqlite import field_conditions
from disbatch_host.store.sqlite.same_file import Identity, identity_of
from disbatch_host.store.url import sqlite_url

Result = TypeVar("Result")

BUSY_SECONDS = 30.0  # how long a writer waits for its turn; a commit of the largest batch takes well under one
LOOK_SECONDS = 2.0  # likewise, of somebody who only looks at the store
_OPENINGS = 10  # of a file that is just being replaced; a layer of a container replaces one when it is first written
_OPEN_HINTS = {
    errno.EACCES: "check its permissions and those of its directory, or name another file",
    errno.EPERM: "check its permissions and those of its directory, or name another file",
    errno.EROFS: "name a file on a disk that can be written",
    errno.EISDIR: "name a file in it",
    errno.EEXIST: "a part of its path is a file, not a directory",
    errno.ENOTDIR: "a part of its path is a file, not a directory",
    errno.ENOSPC: "make room, or name a file on another disk",
}


def open_file(path: Path, access: Access) -> tuple[sqlite3.Connection, Identity | None]:
    """A connection to the file as a caller wants it, and the file's identity; None for one that is only in memory.
    Raises StoreRefusedError if it must exist and does not, or only the files beside it do, StoreUnwritableError if it
    cannot be opened or created."""
    where = sqlite_url(path)
    _refuse_leftovers(path, where)
    if access is Access.LOOK:
        return _look_at(path, where)
    try:
        if access is Access.CREATE:
            _create(path)
        elif not path.exists():
            if access is Access.OR_EMPTY:
                return connect(Path(":memory:")), None
            raise StoreRefusedError(f"{where} is not there; {_how_to_make_it()}")
        why_not = why_not_writable(path)
    except OSError as error:
        why_not = error
    if why_not is None:
        return _connect_to_same(path, connect)
    if access is not Access.CREATE and why_not.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        with contextlib.suppress(sqlite3.OperationalError):  # not even for reading
            return _connect_to_same(path, _connect_for_reading)
    hint = _OPEN_HINTS.get(why_not.errno or 0, "name another file")
    raise StoreUnwritableError(f"{where} cannot be opened: {why_not.strerror}; {hint}") from why_not


def _how_to_make_it() -> str:
    return f"check the path, or make it with {suggested.hint('queue create ID --class CLASS')}"


def _look_at(path: Path, where: str) -> tuple[sqlite3.Connection, Identity | None]:
    """A connection that can only read, and for which not even the files beside it are made."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.stat().st_size:  # nobody has used it yet
            return connect(Path(":memory:")), None
    except FileNotFoundError:
        raise StoreRefusedError(f"{where} is not there; {_how_to_make_it()}") from None
    except OSError as error:
        hint = _OPEN_HINTS.get(error.errno or 0, "name another file")
        raise StoreUnwritableError(f"{where} cannot be opened: {error.strerror}; {hint}") from None
    # Of a file that some process uses both are there. Where one is missing, nobody uses it, and SQLite would make it.
    real = os.path.realpath(path)
    is_used = all(os.path.exists(f"{real}-{name}") for name in ("wal", "shm"))  # noqa: PTH110
    mode = "mode=ro" if is_used else "mode=ro&immutable=1"
    return _connect_to_same(path, lambda path: _connect_in_mode(path, mode, LOOK_SECONDS))


def _refuse_leftovers(path: Path, where: str) -> None:
    """A new database beside the log of a deleted one would be read through that one's index, and fails with "disk I/O
    error" or is damaged. The log may hold tasks that are nowhere else, so that it is not removed here."""
    real = os.path.realpath(path)
    beside = [name for name in (f"{real}-wal", f"{real}-shm") if os.path.lexists(name)]
    if not beside:
        return
    # In this order: SQLite writes to a new file before it makes those beside it, which another process may do just now.
    try:
        is_empty = not os.stat(real).st_size  # noqa: PTH116
        what = "is empty"
    except (FileNotFoundError, NotADirectoryError):
        is_empty, what = True, "is not there"
    except OSError:
        return  # the opening says why
    if is_empty:
        raise StoreRefusedError(
            f"{where} {what}, but files of a database that was at its path are left ({', '.join(beside)}): put that "
            "database back, or stop everything that uses it and move these files away"
        )


def _create(path: Path) -> None:
    """Create the file if it is missing. By us: SQLite would make it readable for everybody, and tasks hold secrets.

    An existing file is never opened here: closing it again would drop all locks that this process has on it (POSIX),
    also those of SQLite's other connections, and other processes could then remove the log that those still write.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def why_not_writable(path: Path) -> OSError | None:
    """Why the file cannot be written by this user; None if it can, as far as that shows without doing it."""
    if path.is_dir():
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        return None
    number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
    return OSError(number, os.strerror(number))


def _connect_to_same(
    path: Path, connect_to: Callable[[Path], sqlite3.Connection]
) -> tuple[sqlite3.Connection, Identity | None]:
    """A connection, and the identity of the very file that it has open: if another one took its place just now, it is
    opened again."""
    for _ in range(_OPENINGS):
        before = identity_of(path)
        connection = connect_to(path)
        if identity_of(path) == before:
            return connection, before
        connection.close()
    raise StoreUnwritableError(f"{sqlite_url(path)} cannot be opened: it is being replaced all the time")


def connect(path: Path) -> sqlite3.Connection:
    """A connection that may write. Raises the driver's exceptions."""
    # isolation_level None: transactions are begun and ended here, not by the driver.
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    field_conditions.register(connection)
    return connection


def with_odd_text(connection: sqlite3.Connection, read: Callable[[], Result]) -> Result:
    """The result of `read`; if a text is not UTF-8, it is read once more and such texts come as bytes."""
    try:
        return read()
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    connection.text_factory = _text_or_bytes
    try:
        return read()
    finally:
        connection.text_factory = str


def _connect_for_reading(path: Path) -> sqlite3.Connection:
    """A connection to a file that may only be read. Raises OperationalError if not even that is possible."""
    # If there is no journal and none can be made, no other process has the file open: SQLite would have made one.
    modes = ["mode=ro"] if Path(f"{path}-wal").exists() else ["mode=ro", "mode=ro&immutable=1"]
    for is_last, mode in ((mode is modes[-1], mode) for mode in modes):
        try:
            return _connect_in_mode(path, mode, BUSY_SECONDS)
        except sqlite3.OperationalError:
            if is_last:
                raise
    raise AssertionError("unreachable: the last mode returns or raises")


def _connect_in_mode(path: Path, mode: str, seconds: float) -> sqlite3.Connection:
    """A connection that can only read. Raises the driver's exceptions if not even that is possible."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{mode}", uri=True, timeout=seconds, isolation_level=None, check_same_thread=False
    )
    try:
        field_conditions.register(connection)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
