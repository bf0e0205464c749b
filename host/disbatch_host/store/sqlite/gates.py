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
    """The gates of one store. Reading a document that has not changed since costs no more than comparing it."""

    def __init__(self) -> None:
        self._queues: dict[QueueId, tuple[object, Queue]] = {}  # each with the text that it was read from

    def is_drained(self, connection: sqlite3.Connection, node_id: str) -> bool:
        """Whether somebody wants this node to claim nothing more."""
        row = connection.execute(_FIND_DRAIN, (node_id,)).fetchone()
        return row is not None and isinstance(
            records.requests_of(records.node_document(node_id, row[0])).get("drain"), dict
        )

    def narrowed(self, connection: sqlite3.Connection, node_id: str, want: Want) -> int:
        """How many of those that the node wants it may have, by the queue's document as it is now."""
        row = connection.execute(_FIND_QUEUE, (want.queue,)).fetchone()
        if row is None:
            return want.count
        known = self._queues.get(want.queue)
        if known is None or known[0] != row[0]:
            known = self._queues[want.queue] = row[0], records.queue_of(want.queue, row[0])
        queue = known[1]
        if queue.paused is not None or queue.fault is not None or not queue.is_for(node_id):
            return 0
        if queue.maxthreads is None:
            return want.count
        return max(0, min(want.count, queue.maxthreads - want.in_hand))
