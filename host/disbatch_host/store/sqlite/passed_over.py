"""Rows that nothing can be done with, as long as they stay as they are.

Responsible for: remembering which rows they are and why, saying it once, leaving them out of searches, and noticing
that one has changed. Must not know: what makes a row unusable, what is searched for.

Rules:
1. A row is not looked at again until it changes: searches leave it out by its `seq`.
2. Whether it has changed is looked up when somebody has written, and only as often as that costs little
   (`_LOOK_SHARE`): ten thousand such rows slow nobody down, they are only noticed later once somebody mends them.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from disbatch_host.documents.changes import PassedOver
from disbatch_host.documents.records import QueueId
from disbatch_host.store.sqlite import connections

log = logging.getLogger(__name__)

_LOOK_SHARE = 0.02  # of the time may be spent on looking whether rows have changed
_SAVED_MAX_SECONDS = 0.05  # of it that may be spent in one go after some time without any
_ROWS_AT_ONCE = 100
_SAID_MAX = 20  # rows that are said one by one; for more, `summary` has their number


@dataclass(frozen=True, slots=True)
class _Row:
    queue: QueueId
    why: str  # as short as it can be grouped by
    mark: int  # changes when the row does


class PassedOverRows:
    """The rows of one store that one kind of search passes over. Used by the thread of the store."""

    def __init__(self, columns: str) -> None:
        """`columns`: those by which a change of a row is seen."""
        self.columns = columns
        self._rows: dict[int, _Row] = {}  # by `seq`
        self._as_json: dict[QueueId | None, str] = {}  # of the rows of a queue, and of all
        self._to_look_at: deque[int] = deque()
        self._seen_version: int | None = None  # changes with the commits of other connections
        self._is_written_here = False
        self._saved_seconds = _SAVED_MAX_SECONDS
        self._saved_at = 0.0
        self._said = 0

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, seq: int, row: Sequence[Any], queue: QueueId, why: str, *, words: str) -> None:
        """Pass over this row from now on. `row` has its `columns`; `words` are for the log."""
        if seq not in self._rows:
            self._said += 1
            log.log(logging.ERROR if self._said <= _SAID_MAX else logging.DEBUG, "%s", words)
        self._rows[seq] = _Row(queue, why, hash(tuple(row)))
        self._as_json.clear()

    def queues(self) -> set[QueueId]:
        """The queues that have any."""
        return {row.queue for row in self._rows.values()}

    def but_not_these(self, queue: QueueId | None = None) -> tuple[str, tuple[str, ...]]:
        """The end of a condition that leaves them out, and its values: those of a queue, or all."""
        if not self._rows:
            return "", ()
        found = self._as_json.get(queue)
        if found is None:
            chosen = [seq for seq, row in self._rows.items() if queue is None or row.queue == queue]
            found = self._as_json[queue] = orjson.dumps(chosen).decode()
        return ("", ()) if found == "[]" else ("AND seq NOT IN (SELECT value FROM json_each(?))", (found,))

    def note_own_write(self) -> None:
        """This store has changed tasks, so perhaps some of these."""
        self._is_written_here = bool(self._rows)

    def look_again(self, connection: sqlite3.Connection) -> None:
        """Forget those that have changed, as far as that is known by now (rule 2)."""
        if not self._rows:
            return
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if (version != self._seen_version or self._is_written_here) and not self._to_look_at:
            self._seen_version, self._is_written_here = version, False
            self._to_look_at.extend(self._rows)
        began = time.monotonic()
        self._saved_seconds = min(_SAVED_MAX_SECONDS, self._saved_seconds + _LOOK_SHARE * (began - self._saved_at))
        self._saved_at = began
        while self._to_look_at and self._saved_seconds > 0:
            self._look_at_some(connection)
            now = time.monotonic()
            self._saved_seconds -= now - self._saved_at
            self._saved_at = now

    def summary(self) -> list[PassedOver]:
        """How many rows of which queue are passed over, and why."""
        counts = Counter((row.queue, row.why) for row in self._rows.values())
        return [PassedOver(queue, count, why) for (queue, why), count in counts.items()]

    def _look_at_some(self, connection: sqlite3.Connection) -> None:
        seqs = [self._to_look_at.popleft() for _ in range(min(_ROWS_AT_ONCE, len(self._to_look_at)))]
        wanted = orjson.dumps(seqs).decode()
        find = f"SELECT seq, {self.columns} FROM tasks WHERE seq IN (SELECT value FROM json_each(?))"
        found = connections.with_odd_text(connection, lambda: connection.execute(find, (wanted,)).fetchall())
        marks = {seq: hash(tuple(row)) for seq, *row in found}
        for seq in seqs:
            if seq in self._rows and marks.get(seq) != self._rows[seq].mark:
                del self._rows[seq]
                self._as_json.clear()
