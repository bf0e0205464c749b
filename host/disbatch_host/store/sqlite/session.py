"""The connection of a store to its file, and its transactions.

Responsible for: opening and closing, reads and write transactions, waiting for a turn, and refusing to work in a file
that nobody else sees. Must not know: tables, what is read or written.

Rules:
1. Every write is one `BEGIN IMMEDIATE` transaction. A transaction that begins by reading and then writes fails with
   "database is locked" whatever the busy timeout; one that asks for the write lock at once waits for its turn.
2. The driver's exceptions end in `driver_errors.translated`; none of its types leaves this package.
3. Nothing is written unless the file is still the one at its path (`same_file`).
4. A text that is not UTF-8 comes as bytes. Only then is it read so, by doing the whole read or transaction once more:
   the driver is much faster at making strings by itself.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from disbatch_host.errors import StoreUnreachableError
from disbatch_host.store.contract.answers import Access
from disbatch_host.store.sqlite import connections, driver_errors, layout
from disbatch_host.store.sqlite.foreign_commits import ForeignCommits, MakeEvents
from disbatch_host.store.sqlite.same_file import SameFile
from disbatch_host.store.url import sqlite_url

Result = TypeVar("Result")

_TURN_SECONDS = 0.5  # of `connections.BUSY_SECONDS` at a time, so that `hurry` takes effect


class Session:
    """One connection, used by one thread at a time."""

    def __init__(self, path: Path, access: Access, make_events: MakeEvents) -> None:
        self._path = path
        self._access = access
        self._make_events = make_events
        self._foreign_commits = ForeignCommits(path, make_events)
        self._connection: sqlite3.Connection | None = None
        self._same_file: SameFile | None = None  # None for a store that is only in memory
        self._is_together = False  # a transaction is open, and all writes belong to it
        self._is_hurried = threading.Event()
        self._is_patient = True

    @property
    def description(self) -> str:
        return sqlite_url(self._path)

    def open(self) -> None:
        if self._connection is not None:
            return
        with driver_errors.translated(self._path):
            connection, opened = connections.open_file(self._path, self._access)
            try:
                if self._access is Access.LOOK:
                    self._is_hurried.set()
                else:
                    layout.prepare(connection, self.description)
                    self._set_turn(connection)
                self._same_file = None if opened is None else SameFile(self._path, opened)
            except BaseException:
                connection.close()
                raise
            self._connection = connection

    def close(self) -> None:
        self._foreign_commits.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with driver_errors.translated(self._path), self._transaction():
            self._is_together = True
            try:
                yield
            finally:
                self._is_together = False

    @property
    def answers_at_once(self) -> bool:
        return True

    def be_patient(self, is_patient: bool) -> None:
        if is_patient == self._is_patient:
            return
        self._is_patient = is_patient
        if self._connection is not None:
            self._set_turn(self._connection)

    def _set_turn(self, connection: sqlite3.Connection) -> None:
        milliseconds = int(_TURN_SECONDS * 1000) if self._is_patient else 0
        connection.execute(f"PRAGMA busy_timeout = {milliseconds}")

    def hurry(self) -> None:
        self._is_hurried.set()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnreachableError(f"{self.description} is not open")
        return self._connection

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._look(lambda connection: connection.execute(statement, values).fetchall())

    def _look(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        """Something that only reads, and may be done twice."""
        with driver_errors.translated(self._path):
            connection = self._opened()
            if self._same_file is not None:
                self._same_file.check_now_and_then()
            return self._in_turn(lambda: connections.with_odd_text(connection, lambda: action(connection)))

    def _write(self, action: Callable[[sqlite3.Connection], Result], *, duplicate: str = "") -> Result:
        """One transaction (rule 1), all or nothing. `action` may be called twice (rule 4)."""
        with driver_errors.translated(self._path, duplicate):
            connection = self._opened()
            if self._is_together:
                return action(connection)

            def transact() -> Result:
                with self._transaction():
                    return action(connection)

            return connections.with_odd_text(connection, transact)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._opened()
        self._in_turn(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            self._foreign_commits.begin_write()
            if self._same_file is not None:
                self._same_file.check()
            yield
            connection.execute("COMMIT")
            self._foreign_commits.end_write()
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _in_turn(self, statement: Callable[[], Result]) -> Result:
        """Something that may have to wait for other processes; gives up after `BUSY_SECONDS`, or when told to hurry."""
        deadline = time.monotonic() + connections.BUSY_SECONDS
        while True:
            try:
                return statement()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or not self._is_patient or self._is_hurried.is_set():
                    raise
                if time.monotonic() > deadline:
                    raise
