"""Connections to the file, and help for reading through them.

Responsible for: how a file is opened, created or only read, and text in it that is not UTF-8. Must not know: the
content of the file.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from disbatch_host.errors import StoreRefusedError, StoreUnwritableError
from disbatch_host.store.contract import Access

Result = TypeVar("Result")

BUSY_SECONDS = 30.0  # how long a writer waits for its turn; a commit of the largest batch takes well under one
_OPEN_HINTS = {
    errno.EACCES: "check its permissions and those of its directory, or name another file",
    errno.EPERM: "check its permissions and those of its directory, or name another file",
    errno.EROFS: "name a file on a disk that can be written",
    errno.EISDIR: "name a file in it",
    errno.EEXIST: "a part of its path is a file, not a directory",
    errno.ENOTDIR: "a part of its path is a file, not a directory",
    errno.ENOSPC: "make room, or name a file on another disk",
}


def open_file(path: Path, access: Access) -> sqlite3.Connection:
    """A connection to the file as a caller wants it. Raises StoreRefusedError if it must exist and does not,
    StoreUnwritableError if it cannot be opened or created."""
    where = f"sqlite://{path}"
    if access is not Access.CREATE and not path.exists():
        if access is Access.OR_EMPTY:
            return connect(Path(":memory:"))
        raise StoreRefusedError(f"{where} is not there; check the path, or make it with `disbatch-host queue create`")
    try:
        if access is Access.CREATE:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Created by us if it is new: SQLite would make it readable for everybody, and tasks hold secrets.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if access is not Access.CREATE and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            connection = _connect_for_reading(path)
            if connection is not None:
                return connection
        hint = _OPEN_HINTS.get(error.errno or 0, "name another file")
        raise StoreUnwritableError(f"{where} cannot be opened: {error.strerror}; {hint}") from error
    return connect(path)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that may write. Raises the driver's exceptions."""
    # isolation_level None: transactions are begun and ended here, not by the driver.
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


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


def _connect_for_reading(path: Path) -> sqlite3.Connection | None:
    """A connection to a file that may only be read; None if not even that is possible."""
    if not os.access(path, os.R_OK):
        return None
    # If there is no journal and none can be made, no other process has the file open: SQLite would have made one.
    modes = ["mode=ro"] if Path(f"{path}-wal").exists() else ["mode=ro", "mode=ro&immutable=1"]
    for mode in modes:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
        connection.execute("PRAGMA query_only = ON")
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            connection.close()
        else:
            return connection
    return None


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
