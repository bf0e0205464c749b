"""The duty that deletes what is no longer kept: ended tasks (`keep` of their queue), and the documents of batches.

Responsible for: finding and deleting them in bounded pieces, since the store's thread has others to serve. Any node
does it; all of them may do it at once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence, Set
from datetime import timedelta

from disbatch_host import logs
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.records import Queue, TaskId
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.compartment import Troubles, write_each
from disbatch_host.node.pace import Pace
from disbatch_host.node.pieces import Pieces
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.settings.table import default_of
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import format_duration

log = logging.getLogger(__name__)

_ENDED_TASK = "ended task"
_DELETED = 500  # ended tasks deleted in one write, at most
_BATCHES = 500  # looked at in one turn, the oldest
_ENDED = frozenset(int(status) for status in statuses.ENDED)


class Retention:
    """See `rounds.Duty`."""

    def __init__(self, store_thread: StoreThread, claiming: Claiming, troubles: Troubles, pace: Pace) -> None:
        self.name = "retention"
        self._troubles = troubles
        self._store_thread = store_thread
        self._claiming = claiming
        self._pace = pace
        self.interval_seconds = pace.retention_seconds
        self.keep_batches_seconds = float(default_of("keep_batches"))

    async def turn(self) -> None:
        """One look at each queue that keeps its tasks for a limited time, and at the oldest batches."""
        for queue in self._claiming.queues:
            if queue.keep_seconds is not None:
                with self._troubles.contained("retention of queue", queue.id):
                    await self._delete_ended(queue, queue.keep_seconds)
        keep_seconds = self.keep_batches_seconds
        await self._store_thread.call(lambda store: delete_batches(store, keep_seconds))

    async def _delete_ended(self, queue: Queue, keep_seconds: float) -> None:
        deleted, is_all, pieces = 0, False, Pieces(_DELETED)
        delete = functools.partial(
            delete_ended, queue=queue, troubles=self._troubles, pieces=pieces, seconds=self._pace.piece_seconds
        )
        while not is_all:
            count, is_all = await self._store_thread.call(delete)
            deleted += count
        if deleted:
            log.info(
                "queue %s: %d tasks that ended more than %s ago were deleted",
                queue.id, deleted, format_duration(keep_seconds),
                extra=logs.ids(queue=queue.id),
            )  # fmt: skip


def delete_batches(store: Store, keep_seconds: float) -> int:
    """Delete the documents of batches that were done longer ago than that; return how many. Their tasks stay for as
    long as their queues keep them. Called in the store's thread."""
    before = store.now() - timedelta(seconds=keep_seconds)
    deleted = 0
    for document in store.find_batches(states={BatchState.DONE}, limit=_BATCHES):
        batch = Batch.from_document(document)
        if batch.done_at is not None and batch.done_at < before:
            deleted += store.delete_batch(batch.id, only_if={"done": batch.done_at})
    if deleted:
        log.info("%d batches that were done more than %s ago were deleted", deleted, format_duration(keep_seconds))
    return deleted


def delete_ended(
    store: Store, queue: Queue, troubles: Troubles, *, pieces: Pieces | None = None, seconds: float = 1.0
) -> tuple[int, bool]:
    """Delete the queue's tasks that ended longer ago than it keeps them, as far as there is time; return how many, and
    whether none are left but those that cannot be deleted. Orphaned ones stay: nobody has decided about them yet.
    Called in the store's thread."""
    if queue.keep_seconds is None:
        return 0, True
    before = store.now() - timedelta(seconds=queue.keep_seconds)
    deleted = refused = 0

    def delete(ids: Sequence[TaskId]) -> Set[TaskId]:
        nonlocal deleted
        deleted += store.delete_tasks(ids, statuses=_ENDED, or_failed=True)
        return frozenset()

    def report(task_id: TaskId, error: Exception) -> None:
        nonlocal refused
        refused += 1
        troubles.report(_ENDED_TASK, task_id, error)

    for size in (pieces or Pieces(_DELETED)).sizes(seconds):
        found = store.ended_before(queue.id, before, size + troubles.resting(_ENDED_TASK))
        awake = [task_id for task_id in found if not troubles.is_resting(_ENDED_TASK, task_id)]
        done = deleted + refused
        write_each(delete, awake[:size], report)
        if deleted + refused == done:  # there are none, or none that still are what they were
            return deleted, True
    return deleted, False
