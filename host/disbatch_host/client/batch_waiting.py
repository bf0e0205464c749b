"""Waiting until a batch is done.

Responsible for: what done means to somebody who waits: closed, and every task of the batch has ended, whenever it did.
Must not know: how progress and results are shown.

Rules:
1. The tasks themselves are counted, not what a node has noted in the batch, so it needs no node that lives.
2. The end is believed only after a count of one moment. What has been deleted since counts by the batch's summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from disbatch_host.client.batch_progress import facts_of
from disbatch_host.client.history import code_of_error
from disbatch_host.client.standstill import OnStill, first_in_the_way
from disbatch_host.client.waiting import CODES_MAX, NAMED_MAX, OnProgress, Progress, Waited, failed_task, wait_for
from disbatch_host.decide import counts
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task, TaskId
from disbatch_host.errors import NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import UNFINISHED, Status

_LOOK_SECONDS = 1.0  # for one count; of very many tasks, only whether any is unfinished is asked
_UNFINISHED = frozenset(map(int, UNFINISHED))
_FAILED, _ = statuses.parse("failed")
_BAD = _FAILED | {int(Status.CANCELLED), int(Status.ORPHANED)}
_SUMMED = ("concluded", "failed", "cancelled", "orphaned")

OnOpen = Callable[[Batch], object]  # is told once that nothing of it is unfinished, but it is open


def wait_for_batch(
    store: Store,
    batch: Batch,
    *,
    deadline: float | None = None,
    on_progress: OnProgress | None = None,
    on_still: OnStill | None = None,
    on_open: OnOpen | None = None,
) -> Waited:
    """Wait until the batch is done, or the monotonic clock has reached the deadline. The result counts all of its
    tasks. Raises NotFoundError if it is deleted meanwhile."""
    return wait_for(store, _TasksOfBatch(store, batch, on_open), deadline, on_progress, on_still)


def has_ended(store: Store, batch_id: str, on_open: OnOpen | None = None) -> bool:
    """Whether a batch is closed and all of its tasks have ended; `on_open` is told that only the first is missing. Of a
    batch without a document only the tasks count."""
    document = store.get_batch(batch_id)
    if store.is_batch_unfinished(batch_id):
        return False
    batch = None if document is None else Batch.from_document(document)
    if batch is not None and batch.state is BatchState.OPEN:
        if on_open is not None:
            on_open(batch)
        return False
    by_status = store.count_batch(batch_id).by_status  # of one moment, see rule 2
    return not any(by_status.get(status) for status in _UNFINISHED)


class _TasksOfBatch:
    """See `waiting.Waiting`."""

    def __init__(self, store: Store, batch: Batch, on_open: OnOpen | None) -> None:
        self._store = store
        self._batch = batch
        self._on_open = on_open
        self._by_status: Mapping[int, int] = {}
        self.done = 0

    def look(self, tell: OnProgress) -> bool:
        document = self._store.get_batch(self._batch.id)
        if document is None:
            raise NotFoundError(f"batch {self._batch.id}, which was waited for, no longer exists; somebody deleted it")
        self._batch = batch = Batch.from_document(document)
        is_unfinished = self._store.is_batch_unfinished(batch.id)
        counted = self._store.count_batch(batch.id, budget_seconds=_LOOK_SECONDS)
        if counted.is_whole:
            self._by_status = counted.by_status
            self._tell(tell)
        if is_unfinished or self._is_any_unfinished():
            return False
        if batch.state is BatchState.OPEN:
            if self._on_open is not None:
                self._on_open(batch)
                self._on_open = None
            return False
        self._by_status = self._store.count_batch(batch.id).by_status
        self._tell(tell)
        return not self._is_any_unfinished() and not self._store.is_batch_unfinished(batch.id)

    def _is_any_unfinished(self) -> bool:
        return any(self._by_status.get(status) for status in _UNFINISHED)

    def _tell(self, tell: OnProgress) -> None:
        total = counts.totals(self._by_status)
        self.done = counts.ended(total)
        tell(Progress(done=self.done, failed=total["failed"], total=max(sum(self._by_status.values()), self.done)))

    def first_in_the_way(self) -> TaskId | None:
        return first_in_the_way(self._store, TaskFilter(batch=self._batch.id))

    def waited(self, seconds: float) -> Waited:
        total = counts.totals(self._by_status)
        unfinished = sum(self._by_status.get(status, 0) for status in _UNFINISHED)
        ended = {name: total[name] for name in _SUMMED}
        if not unfinished and counts.ended(total) < self._batch.summed("total"):
            ended = {name: self._batch.summed(name) for name in _SUMMED}
        bad = list(self._some(_BAD, CODES_MAX)) if any(ended[name] for name in _SUMMED[1:]) else []
        facts = None if unfinished else facts_of(self._store, self._batch)
        codes = Counter(code_of_error(task) for task in bad if statuses.is_failed(task.status))
        return Waited(
            done=sum(ended.values()),
            concluded=ended["concluded"],
            failed=ended["failed"],
            cancelled=ended["cancelled"],
            orphaned=ended["orphaned"],
            unfinished=unfinished,
            is_open=self._batch.state is BatchState.OPEN,
            seconds=seconds,
            run_seconds=None if facts is None else facts.run_seconds,
            since_creation_seconds=None if facts is None else facts.seconds_since(self._batch.ctime),
            is_about=facts is not None and facts.looked_at < sum(ended.values()),
            codes=dict(codes.most_common()),
            first_failed=tuple(map(failed_task, bad[:NAMED_MAX])),
            first_unfinished=tuple(one.id for one in self._some(_UNFINISHED, NAMED_MAX)) if unfinished else (),
        )

    def _some(self, of: frozenset[int], limit: int) -> Iterator[Task]:
        which = TaskFilter(batch=self._batch.id, statuses=of, or_failed=of is _BAD)
        return self._store.find_tasks(which, limit=limit, with_output=False, with_parameters=False, in_any_order=True)
