"""The duty that deletes ended tasks which their queue no longer keeps (`keep`).

Responsible for: finding and deleting them in bounded pieces, since the store's thread has others to serve. Any node
does it; all of them may do it at once.
"""

from __future__ import annotations

import functools
import logging
from datetime import timedelta

from disbatch_host import logs
from disbatch_host.documents.records import Queue
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import format_duration

log = logging.getLogger(__name__)

_DELETED = 500  # ended tasks deleted in one call
_ENDED = frozenset(int(status) for status in statuses.ENDED)


class Retention:
    """See `rounds.Duty`."""

    def __init__(self, store_thread: StoreThread, claiming: Claiming, pace: Pace) -> None:
        self._store_thread = store_thread
        self._claiming = claiming
        self.interval_seconds = pace.retention_seconds

    async def turn(self) -> None:
        """One look at each queue that keeps its tasks for a limited time."""
        for queue in self._claiming.queues:
            if queue.keep_seconds is None:
                continue
            deleted = 0
            delete = functools.partial(delete_ended, queue=queue)
            while count := await self._store_thread.call(delete):
                deleted += count
            if deleted:
                kept = format_duration(queue.keep_seconds)
                log.info(
                    "queue %s: %d tasks that ended more than %s ago were deleted", queue.id, deleted, kept,
                    extra=logs.ids(queue=queue.id),
                )  # fmt: skip


def delete_ended(store: Store, queue: Queue) -> int:
    """Delete some of the queue's tasks that ended longer ago than it keeps them; return how many. Orphaned ones stay:
    nobody has decided about them yet. Called in the store's thread."""
    if queue.keep_seconds is None:
        return 0
    ids = store.ended_before(queue.id, store.now() - timedelta(seconds=queue.keep_seconds), _DELETED)
    return store.delete_tasks(ids, statuses=_ENDED, or_failed=True) if ids else 0
