"""The duty that ends batches: marks one as done, creates the task that its `on_done` names, and cancels what waits once
`stop_after` is reached.

Responsible for: noticing it, and writing what `documents.batch` decides. Any node does it; all of them may do it at
once. Must not know: how tasks run.

Rules:
1. A batch is done if it is closed and, at one moment after that, none of its tasks was unfinished. Everything counted
   at that moment is in its summary.
2. The task of `on_done` gets its id with the change that marks the batch. Where that change and the task cannot be one
   commit, the batch owes the task until it exists; a node that dies in between leaves the debt to the next.
3. It looks soon after a task of a batch has ended here, or somebody else has written, and else now and then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from disbatch_host import logs
from disbatch_host.decide import counts
from disbatch_host.documents import batch as batches
from disbatch_host.documents import requests, transitions
from disbatch_host.documents.batch import Batch, BatchChange, BatchState
from disbatch_host.documents.causes import group_in
from disbatch_host.documents.changes import TaskChange, TaskFilter
from disbatch_host.documents.records import Document, Task, new_task
from disbatch_host.node.compartment import Troubles, write_each
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

_BATCH = "batch"
_LOOKED_AT = 1000  # batches in one look; their order changes from look to look
_CANCELLED = 500  # tasks in one write
_CAUSES_SECONDS = 0.5  # for counting the causes of failures
_WAITING = frozenset({int(Status.CREATED), int(Status.BLOCKED)})
_FAILED, _ = statuses.parse("failed")
_UNFINISHED = frozenset(map(int, statuses.UNFINISHED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The result of one look."""

    created: int = 0  # tasks
    is_all: bool = True  # nothing is left for another look


class Batches:
    """See `rounds.Duty`."""

    def __init__(
        self,
        store_thread: StoreThread,
        node_id: str,
        troubles: Troubles,
        pace: Pace,
        *,
        on_created: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_created` is called when there is a new task."""
        self.name = "batches"
        self._store_thread = store_thread
        self._node_id = node_id
        self._troubles = troubles
        self._pace = pace
        self._on_created = on_created
        self._loop = asyncio.get_running_loop()
        self._looked_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self.wake = asyncio.Event()  # see `Rounds`

    @property
    def interval_seconds(self) -> float:
        return self._pace.batch_seconds

    def on_change(self) -> None:
        """Somebody else has written."""
        self._look_soon()

    def on_end(self, task: Task) -> None:
        """A run of this node has ended."""
        if "batch" in task.document:
            self._look_soon()

    def _look_soon(self) -> None:
        if self._timer is None or self._timer.cancelled() or self._timer.when() < self._loop.time():
            at = max(self._looked_at + self._pace.batch_after_change_seconds, self._loop.time())
            self._timer = self._loop.call_at(at, self.wake.set)

    async def turn(self) -> None:
        """One look. The rest comes with the next."""
        self._looked_at = self._loop.time()
        settled = await self._store_thread.call(
            lambda store: settle_batches(store, self._node_id, self._troubles, seconds=self._pace.piece_seconds)
        )
        if settled.created:
            self._on_created()
        if not settled.is_all:
            self._look_soon()


def settle_batches(store: Store, node_id: str, troubles: Troubles, *, seconds: float) -> Settled:
    """Do what has to be done with batches, as far as there is time. Called in the store's thread."""
    found = store.watched_batches(_LOOKED_AT)
    deadline = time.monotonic() + seconds
    created, is_all = 0, len(found) < _LOOKED_AT
    # Not always the same ones first, where there is no time for all.
    start = int(deadline * 1000) % len(found) if len(found) > 1 else 0
    for number, document in enumerate([*found[start:], *found[:start]]):
        if number and time.monotonic() > deadline:
            return Settled(created=created, is_all=False)
        batch = Batch.from_document(document)
        if batch.fault is not None:
            troubles.report(_BATCH, batch.id, batch.fault)
        elif not troubles.is_resting(_BATCH, batch.id):
            with troubles.contained(_BATCH, batch.id):
                one = _settle(store, batch, node_id, troubles, deadline)
                created, is_all = created + one.created, is_all and one.is_all
    return Settled(created=created, is_all=is_all)


def _settle(store: Store, batch: Batch, node_id: str, troubles: Troubles, deadline: float) -> Settled:
    created = int(batch.owes_task and _pay(store, batch))
    if batch.stop_after is not None and batch.stopped is None and batch.state is not BatchState.DONE:
        batch = _stopped_if_reached(store, batch, batch.stop_after)
    if batch.is_stopping and not _cancel_waiting(store, batch, node_id, troubles, deadline):
        return Settled(created=created, is_all=False)
    if batch.state is BatchState.CLOSED and not store.is_batch_unfinished(batch.id):
        created += _finish(store, batch)
    return Settled(created=created)


def _finish(store: Store, batch: Batch) -> bool:
    """Mark it as done, if it is; returns whether a task was created."""
    now = store.now()
    counted = store.count_batch(batch.id).by_status
    if any(counted.get(status) for status in _UNFINISHED) or store.is_batch_unfinished(batch.id):
        return False
    summary = _summary(store, batch, counted, seconds=(now - batch.ctime).total_seconds() if batch.ctime else 0.0)
    task_id = store.new_ids(1)[0] if batch.is_armed else None
    with store.together():
        if not _apply(store, batch, batches.done_change(batch, summary, now=now, task_id=task_id)):
            return False  # another node was faster, or tasks of it run again
        done = _read(store, batch.id)
        is_created = done is not None and done.owes_task and _pay(store, done)
    log.info(
        "batch %s is done: %d tasks, %d concluded, %d failed",
        batch.id, summary["total"], summary["concluded"], summary["failed"],
        extra=logs.ids(batch=batch.id),
    )  # fmt: skip
    return is_created


def _pay(store: Store, batch: Batch) -> bool:
    """Create the task that it owes; False if another node was faster."""
    on_done, summary = batch.on_done or {}, batch.summary or {}
    queue = store.find_queue(str(on_done["queue"]))
    given = on_done.get("parameters")
    parameters: Document = {
        **(given if isinstance(given, Mapping) else {}),
        "batch": batch.id,
        **{name: summary.get(name) for name in _TOLD},
    }
    document = new_task(
        on_done["queue"] if queue is None else queue.id, parameters, now=store.now(), created_by=batch.by
    )
    secrets = on_done.get("secrets")
    more = {"secrets": secrets} if isinstance(secrets, list) else {}
    # Read once more: a process that stood still since it was read finds the debt paid, and perhaps the task deleted.
    now = _read(store, batch.id)
    if now is None or not now.owes_task or now.on_done != batch.on_done:
        return False
    store.insert_tasks([{"_id": on_done["task"], **document, **more}], again=True)
    _apply(store, batch, batches.paid_change(batch))
    return True


_TOLD = ("total", "concluded", "failed", "cancelled", "orphaned", "seconds", "causes")


def _summary(store: Store, batch: Batch, counted: Mapping[int, int], *, seconds: float) -> Document:
    total = counts.totals(counted)
    return {
        "total": sum(counted.values()),
        **{name: total[name] for name in ("concluded", "failed", "terminated", "cancelled", "orphaned")},
        "seconds": max(0.0, round(seconds, 3)),
        "causes": _causes(store, batch) if total["failed"] else [],
    }


def _causes(store: Store, batch: Batch) -> list[Document]:
    """The most frequent causes of its failures. One without a key, of another program's tasks, is told by its code."""
    which = TaskFilter(batch=batch.id, statuses=_FAILED, or_failed=True)
    found: Counter[tuple[str | None, str | None]] = Counter()
    for row in store.count_failures(which, seconds=_CAUSES_SECONDS).rows:
        found[row.key, row.code if row.key is None else None] += row.count
    return [
        {"key": key or code or "", "text": code or _text_of(store, which, key), "count": count}
        for (key, code), count in found.most_common(batches.CAUSES_MAX)
    ]


def _text_of(store: Store, which: TaskFilter, key: str | None) -> str:
    """The text of a cause, from one of the tasks that have it."""
    of_cause = replace(which, failure=key)
    for task in store.find_tasks(of_cause, limit=1, with_output=False, with_parameters=False, in_any_order=True):
        if (group := group_in(task.document)) is not None:
            return group[0]
    return key or ""


def _stopped_if_reached(store: Store, batch: Batch, most: int) -> Batch:
    failed = store.count_tasks(TaskFilter(batch=batch.id, statuses=_FAILED, or_failed=True))
    if failed < most or not _apply(store, batch, batches.stopped_change(batch, failed, now=store.now())):
        return batch
    log.warning(
        "batch %s: %d tasks have failed, so those that wait are cancelled (stop_after %d)", batch.id, failed, most,
        extra=logs.ids(batch=batch.id),
    )  # fmt: skip
    return _read(store, batch.id) or batch


def _cancel_waiting(store: Store, batch: Batch, node_id: str, troubles: Troubles, deadline: float) -> bool:
    """Cancel what waits; returns whether nothing is left."""
    stopped, now = batch.stopped or {}, store.now()
    why = f"{stopped.get('failed')} tasks of batch {batch.id} failed, after which it stops"
    request = requests.request_of(f"node {node_id}", why, now=now)
    which = TaskFilter(batch=batch.id, statuses=_WAITING)
    while True:
        found = store.find_tasks(which, limit=_CANCELLED, with_output=False, with_parameters=False, in_any_order=True)
        changes = [one for task in found if (one := transitions.cancel_change(task, request, now=now)) is not None]
        if not changes:
            cancelled = store.count_tasks(TaskFilter(batch=batch.id, statuses=frozenset({int(Status.CANCELLED)})))
            return _apply(store, batch, batches.stop_carried_out_change(batch, cancelled))
        if not _carry_out(store, changes, troubles) or time.monotonic() > deadline:
            return False


def _carry_out(store: Store, changes: Sequence[TaskChange], troubles: Troubles) -> int:
    """Returns how many were carried out."""
    faults = []

    def report(change: TaskChange, error: Exception) -> None:
        faults.append(change)
        troubles.report(_BATCH, change.task_id, error)

    return len(changes) - len(write_each(store.change_tasks, changes, report)) - len(faults)


def _read(store: Store, batch_id: str) -> Batch | None:
    document = store.get_batch(batch_id)
    return None if document is None else Batch.from_document(document)


def _apply(store: Store, batch: Batch, change: BatchChange) -> bool:
    return store.change_batch(batch.id, change.set, change.unset, only_if=change.only_if)
