"""Whether the file that a connection has open is still the one at its path.

Responsible for: noticing that it was deleted, moved, replaced or emptied, as well as the two files beside it that
SQLite shares between processes (`-wal`, `-shm`). Must not know: a connection, who reads or writes.

A process that has a file open goes on in it when its name is gone: everything that it writes would be lost without a
word, and other processes would not see it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from disbatch_host.errors import StoreError, StoreLostError, StoreUnwritableError
from disbatch_host.store.url import sqlite_url

ALL_CHECK_SECONDS = 0.2  # between two looks at all three; each costs some 5 µs, one at the file itself a third of that

Identity = tuple[int, int]  # device and inode


class SameFile:
    """The identity of an open file. Used by the thread that has the connection."""

    def __init__(self, path: Path, opened: Identity) -> None:
        """`opened`: of the file when it was opened. The connection must have read something since: before that SQLite
        has not opened the files beside it. Raises as `check` does."""
        self._where = sqlite_url(path)
        self._names = (os.fspath(path), f"{path}-wal", f"{path}-shm")
        self._identities = (opened, *(identity_of(name) for name in self._names[1:]))
        self._looked_at = 0.0
        self.check()

    def check(self) -> None:
        """Look whether the file is in its place, and now and then whether those beside it are. Raises StoreLostError,
        or StoreUnwritableError if that cannot be seen now."""
        now = time.monotonic()
        is_all = now - self._looked_at >= ALL_CHECK_SECONDS
        try:
            self._check(self._names[0], self._identities[0])
            if is_all:
                self._looked_at = now
                for name, known in zip(self._names[1:], self._identities[1:], strict=True):
                    self._check(name, known)
        except StoreError:
            self._looked_at = 0.0  # until it is well again, each look is at all of them
            raise

    def check_now_and_then(self) -> None:
        """The same for callers that write nothing: a few times a second."""
        if time.monotonic() - self._looked_at >= ALL_CHECK_SECONDS:
            self.check()

    def _check(self, name: str, known: Identity | None) -> None:
        if known is None:
            return
        try:
            status = os.stat(name)  # noqa: PTH116  (of a text: for each commit)
        except (FileNotFoundError, NotADirectoryError):
            raise self._lost(name, "was deleted or moved") from None
        except OSError as error:
            raise StoreUnwritableError(
                f"{self._where} can no longer be seen: {error.strerror}; check the directories on its path"
            ) from error
        if (status.st_dev, status.st_ino) != known:
            raise self._lost(name, "was replaced by another file")
        if name is self._names[0] and not status.st_size:
            raise self._lost(name, "was emptied")

    def _lost(self, name: str, what: str) -> StoreLostError:
        beside = name.removeprefix(self._names[0])
        which = f"the file beside it that ends in {beside} " if beside else ""
        return StoreLostError(
            f"{self._where}: {which}{what} while it was in use; put the same file back, or restart everything that "
            "uses it"
        )


def identity_of(path: str | Path) -> Identity | None:
    """The identity of the file at a path; None if there is none, or none can be seen."""
    try:
        status = os.stat(path)  # noqa: PTH116  (of a text or a path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
