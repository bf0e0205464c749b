"""The duty that ends batches: marks one as done, creates the task that its `on_done` names, and cancels what waits once
`stop_after` is reached.

Responsible for: noticing it in time; `store.batch_ends` writes it down. Any node does it; all of them may do it at
once. Must not know: how tasks run.

Rules:
1. It looks soon after a task of a batch has ended here, or somebody else has written, and else now and then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from disbatch_host import logs
from disbatch_host.documents import batch as batches
from disbatch_host.documents import requests, transitions
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.changes import TaskChange, TaskFilter
from disbatch_host.documents.records import Task
from disbatch_host.node.compartment import Troubles, write_each
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.store import batch_ends
from disbatch_host.store.batch_ends import Survey
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

_BATCH = "batch"
_LOOKED_AT = 1000  # batches in one look; their order changes from look to look
_CANCELLED = 500  # tasks in one write
_WAITING = frozenset({int(Status.CREATED), int(Status.BLOCKED)})
_FAILED, _ = statuses.parse("failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The result of one look."""

    created: int = 0  # tasks
    is_all: bool = True  # nothing is left for another look
    goes_on: bool = False  # with what a batch that has ended is to say: the next look finds more of it


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
        self._surveys = Surveys()
        self._loop = asyncio.get_running_loop()
        self._looked_at = float("-inf")
        self._is_planned = False  # a look soon
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
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_at(self._looked_at + self._pace.batch_after_change_seconds, self._look_now)

    def _look_now(self) -> None:
        self._is_planned = False
        self.wake.set()

    async def turn(self) -> None:
        """One look. The rest comes with the next."""
        self._looked_at = self._loop.time()
        settled = await self._store_thread.call(
            lambda store: settle_batches(
                store, self._node_id, self._troubles, self._surveys, seconds=self._pace.piece_seconds
            )
        )
        if settled.created:
            self._on_created()
        if not settled.is_all:
            self._look_soon()


class Surveys:
    """Those of batches that have ended and are large: they go on with the next look. Used in the store's thread."""

    def __init__(self) -> None:
        self._of: dict[str, Survey] = {}

    def keep_only(self, batch_ids: Collection[str]) -> None:
        """Forget those of other batches: another node has marked them, or they were deleted."""
        for gone in self._of.keys() - set(batch_ids):
            del self._of[gone]

    def of(self, batch: Batch) -> Survey:
        """That of this round of a batch."""
        survey = self._of.get(batch.id)
        if survey is None or not survey.is_of(batch):
            survey = self._of[batch.id] = Survey(batch)
        return survey


def settle_batches(store: Store, node_id: str, troubles: Troubles, surveys: Surveys, *, seconds: float) -> Settled:
    """Do what has to be done with batches, as far as there is time. Called in the store's thread."""
    found = store.watched_batches(_LOOKED_AT)
    surveys.keep_only({str(one.get("_id")) for one in found})
    deadline = time.monotonic() + seconds
    created, is_all, goes_on = 0, len(found) < _LOOKED_AT, False
    # Not always the same ones first, where there is no time for all.
    start = int(deadline * 1000) % len(found) if len(found) > 1 else 0
    for number, document in enumerate([*found[start:], *found[:start]]):
        if number and time.monotonic() > deadline:
            return Settled(created=created, is_all=False, goes_on=goes_on)
        batch = Batch.from_document(document)
        if batch.fault is not None:
            troubles.report(_BATCH, batch.id, batch.fault)
        elif not troubles.is_resting(_BATCH, batch.id):
            with troubles.contained(_BATCH, batch.id):
                one = _settle(store, batch, node_id, troubles, surveys, deadline)
                created, is_all, goes_on = created + one.created, is_all and one.is_all, goes_on or one.goes_on
    return Settled(created=created, is_all=is_all, goes_on=goes_on)


def _settle(store: Store, batch: Batch, node_id: str, troubles: Troubles, surveys: Surveys, deadline: float) -> Settled:
    created = 0
    if batch.owes_task:
        created += batch_ends.pay(store, batch)
        batch = batch_ends.read(store, batch.id) or batch
    if batch.stop_after is not None and batch.stopped is None and batch.state is not BatchState.DONE:
        batch = _stopped_if_reached(store, batch, batch.stop_after)
    if batch.is_stopping:
        if not _cancel_waiting(store, batch, node_id, troubles, deadline):
            return Settled(created=created, is_all=False)
        batch = batch_ends.read(store, batch.id) or batch
    if not batch_ends.can_be_done(store, batch):
        return Settled(created=created)
    survey = surveys.of(batch)
    while not survey.is_over:
        survey.go_on(store, max(0.0, deadline - time.monotonic()))
        if time.monotonic() > deadline:
            return Settled(created=created, is_all=False, goes_on=True)
    finished = batch_ends.finish(store, batch, survey)
    if finished is not None:
        created += finished.has_created
        summary = finished.summary
        log.info(
            "batch %s is done: %d tasks, %d concluded, %d failed",
            batch.id, summary["total"], summary["concluded"], summary["failed"],
            extra=logs.ids(batch=batch.id),
        )  # fmt: skip
    return Settled(created=created)


def _stopped_if_reached(store: Store, batch: Batch, most: int) -> Batch:
    failed = store.count_tasks(TaskFilter(batch=batch.id, statuses=_FAILED, or_failed=True))
    if failed < most or not batch_ends.apply(store, batch, batches.stopped_change(batch, failed, now=store.now())):
        return batch
    log.warning(
        "batch %s: %d tasks have failed, so those that wait are cancelled (stop_after %d)", batch.id, failed, most,
        extra=logs.ids(batch=batch.id),
    )  # fmt: skip
    return batch_ends.read(store, batch.id) or batch


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
            return batch_ends.apply(store, batch, batches.stop_carried_out_change(batch, cancelled))
        if not _carry_out(store, changes, troubles) or time.monotonic() > deadline:
            return False


def _carry_out(store: Store, changes: Sequence[TaskChange], troubles: Troubles) -> int:
    """Returns how many were carried out."""
    faults = []

    def report(change: TaskChange, error: Exception) -> None:
        faults.append(change)
        troubles.report(_BATCH, change.task_id, error)

    return len(changes) - len(write_each(store.change_tasks, changes, report)) - len(faults)
