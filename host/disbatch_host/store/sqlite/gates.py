"""What people have said of queues and nodes up to this moment, as far as it forbids a claim.

Responsible for: reading that in the transaction of the claim, so that nothing of a queue is claimed once a command that
pauses it, limits it or drains the node has returned: the node itself reads queues and requests only about once a
second. Must not know: tasks, what a node wants.

Rule: a gate only ever narrows what a node asked for. A queue without a document has no gate.
"""

from __future__ import annotations

import sqlite3

from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import Queue, QueueId
from disbatch_host.store.sqlite import records

_FIND_QUEUE = "SELECT document FROM queues WHERE id = ?"
# The document is long and changes with every heartbeat: it is read only if the word is in it.
_FIND_DRAIN = "SELECT document FROM nodes WHERE id = ? AND instr(document, '\"drain\"')"


class Gates:
    """The gates of one store. As long as nobody has written, they are as they were."""

    def __init__(self) -> None:
        self._queues: dict[QueueId, tuple[object, Queue | None]] = {}  # each with the text that it was read from
        self._drained: dict[str, bool] = {}
        self._current: set[QueueId] = set()  # queues that are known to be as they were read
        self._seen_version: int | None = None  # changes with the commits of other connections

    def forget(self) -> None:
        """This store has written a queue, or a request to a node."""
        self._seen_version = None

    def look(self, connection: sqlite3.Connection) -> None:
        """To be called in the transaction of a claim, before the others."""
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen_version:
            self._seen_version = version
            self._current.clear()
            self._drained.clear()

    def is_drained(self, connection: sqlite3.Connection, node_id: str) -> bool:
        """Whether somebody wants this node to claim nothing more."""
        known = self._drained.get(node_id)
        if known is None:
            row = connection.execute(_FIND_DRAIN, (node_id,)).fetchone()
            requests = {} if row is None else records.requests_of(records.node_document(node_id, row[0]))
            known = self._drained[node_id] = isinstance(requests.get("drain"), dict)
        return known

    def narrowed(self, connection: sqlite3.Connection, node_id: str, want: Want) -> int:
        """How many of those that the node wants it may have, by the queue's document as it is now."""
        queue = self._queue(connection, want.queue)
        if queue is None:
            return want.count
        if queue.paused is not None or queue.fault is not None or not queue.is_for(node_id):
            return 0
        if queue.maxthreads is None:
            return want.count
        return max(0, min(want.count, queue.maxthreads - want.in_hand))

    def _queue(self, connection: sqlite3.Connection, queue_id: QueueId) -> Queue | None:
        if queue_id in self._current:
            return self._queues[queue_id][1]
        row = connection.execute(_FIND_QUEUE, (queue_id,)).fetchone()
        text = None if row is None else row[0]
        known = self._queues.get(queue_id)
        if known is None or known[0] != text:
            known = text, None if row is None else records.queue_of(queue_id, text)
            self._queues[queue_id] = known
        self._current.add(queue_id)
        return known[1]
