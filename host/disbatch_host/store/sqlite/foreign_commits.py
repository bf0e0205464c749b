"""Whether other connections have committed something, and when it is worth while to look.

Responsible for: the looks of one connection, their intervals, and whether writes by others are announced. Must not
know: who looks, what has been committed.

A look reads the file's change counter. Writes to the log are announced (`write_events`), but a commit is announced when
it is written and counts once it is durable, milliseconds later, which nothing announces. So:

1. After an announcement the looks begin at once, a millisecond apart, and become rarer with the time that has passed:
   what has taken that long may take a quarter longer. Meanwhile writes that follow each other closely are not waited
   for, but found by looks that are at most as frequent as without announcements.
2. Where nothing is announced, or nothing any more, each look comes `WATCH_SECONDS` after the last.
3. With announcements there is a look a second all the same. If that finds what was not announced, several times in a
   row, the file system does not announce what others write, whatever it says: rule 2.
4. What this connection writes is announced like everything else, and taken back after its commit. While it has the
   write lock nobody else writes, so nothing of others is taken back with it unless they have begun in the microseconds
   after; such a commit is found by rule 3, a second late at most.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from disbatch_host.store.contract.answers import Look
from disbatch_host.store.sqlite.write_events import WriteEvents
from disbatch_host.store.url import sqlite_url

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.007  # between two looks where nothing is announced: some 50 µs each in a node, 0.7 % of a core
_FIRST_SECONDS = 0.001  # between an announcement and the second look
_QUIET_SECONDS = 1.0  # between two looks while nothing is announced
_SLOWING, _GROWTH = 4, 1.5
_UNHEARD_MAX = 3  # rule 3; an announcement may get lost once (rule 4)

MakeEvents = Callable[[], WriteEvents]


class ForeignCommits:
    """Used by the thread that has the connection; `stop` by any."""

    def __init__(self, path: Path, make_events: MakeEvents = WriteEvents) -> None:
        """`make_events` may raise OSError where the system announces nothing."""
        self._path = path
        self._make_events = make_events
        self._events: WriteEvents | None = None
        self._tried_at = float("-inf")
        self._is_deaf = False  # rule 3
        self._unheard = 0  # commits in a row that were not announced
        self._seen: int | None = None
        self._heard_at = float("-inf")
        self._has_heard = False  # since the last commit that was found
        self._least_seconds = _FIRST_SECONDS
        self._is_own = False

    def look(self, connection: sqlite3.Connection) -> Look:
        """The first look has always found something. Raises the driver's exceptions."""
        now = time.monotonic()
        self._listen(now)
        heard = self._take(now)  # before the counter is read: what is announced after that is for the next look
        version = int(connection.execute("PRAGMA data_version").fetchone()[0])
        has_changed, is_first, self._seen = version != self._seen, self._seen is None, version
        if has_changed and not is_first:
            self._judge(heard or self._has_heard or self._take(now))
        self._has_heard = heard or (self._has_heard and not has_changed)
        if not self._hears:
            return Look(has_changed, WATCH_SECONDS)
        again = max(self._least_seconds, min((now - self._heard_at) / _SLOWING, _QUIET_SECONDS))
        events = self._events if again > WATCH_SECONDS else None
        return Look(has_changed, again, None if events is None else events.descriptor)

    def begin_write(self) -> None:
        """This connection has got the write lock."""
        self._is_own = self._events is not None and not self._events.is_pending()

    def end_write(self) -> None:
        """It has committed (rule 4)."""
        if self._is_own and self._events is not None:
            self._events.take()

    def stop(self) -> None:
        """Ends a wait for the descriptor in another thread."""
        if self._events is not None:
            self._events.stop()

    def close(self) -> None:
        """Nobody may be waiting for the descriptor. Closing twice is fine; the next look opens it again."""
        if self._events is not None:
            self._events.close()
        self._events, self._tried_at, self._seen = None, float("-inf"), None

    @property
    def _hears(self) -> bool:
        return self._events is not None and self._events.is_watching and not self._is_deaf

    def _listen(self, now: float) -> None:
        """Have writes announced, if they are not and that may be possible by now."""
        if self._hears or self._is_deaf or now - self._tried_at < _QUIET_SECONDS:
            return
        is_first, self._tried_at = self._tried_at == float("-inf"), now
        try:
            self._events = self._events or self._make_events()
            self._events.watch(self._written())
        except OSError as error:
            if is_first:
                log.info(
                    "%s: the system does not announce what others write (%s), so it is checked every %.0f ms",
                    sqlite_url(self._path), error.strerror, WATCH_SECONDS * 1000,
                )  # fmt: skip

    def _written(self) -> Path:
        """The file that every commit writes to: the log, or the database where that has none (see `layout`)."""
        real = os.path.realpath(self._path)
        log_path = Path(f"{real}-wal")
        return log_path if log_path.exists() else Path(real)

    def _take(self, now: float) -> bool:
        if self._events is None or not self._events.take():
            return False
        is_after_a_pause = now - self._heard_at > _SLOWING * WATCH_SECONDS
        self._least_seconds = _FIRST_SECONDS if is_after_a_pause else min(self._least_seconds * _GROWTH, WATCH_SECONDS)
        self._heard_at = now
        return True

    def _judge(self, was_heard: bool) -> None:
        """Rule 3."""
        self._unheard = 0 if was_heard or not self._hears else self._unheard + 1
        if self._unheard >= _UNHEARD_MAX:
            log.info(
                "%s: what others write is not announced here, so it is checked every %.0f ms",
                sqlite_url(self._path), WATCH_SECONDS * 1000,
            )  # fmt: skip
            self._is_deaf = True
            self.stop()
