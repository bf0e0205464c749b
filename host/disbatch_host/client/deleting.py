"""Deleting tasks.

Responsible for: which tasks may go, and why the others stay. Rules as in `control`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from disbatch_host.client.control import Outcome, Result, in_batches, results_of
from disbatch_host.documents.batch import Batch, BatchState
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task, TaskId
from disbatch_host.store import batch_ends
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status


def delete(store: Store, which: TaskFilter | Sequence[Task]) -> Iterator[list[Result]]:
    """Delete ended tasks with their output, unless another task waits for them, or their batch is not done."""
    kept: set[TaskId] = set()
    for batch in in_batches(store, which, lambda one: one.id in kept):
        results = delete_some(store, batch)
        kept.update(one.task.id for one in results if not one.is_done)
        yield results


def delete_some(store: Store, tasks: Sequence[Task]) -> list[Result]:
    """Delete these, at most `control.BATCH`."""
    _end_batches(store, tasks)
    owing: list[Task] = []
    in_batch: list[Task] = []
    unfinished = [one for one in tasks if not statuses.is_finished(one.status)]
    awaited = [one for one in tasks if statuses.is_finished(one.status) and _is_awaited(store, one)]
    kept = {one.id for one in (*awaited, *unfinished)}
    deleted = [one for one in tasks if one.id not in kept]
    by_status = {one.id: one.status for one in deleted}
    if deleted:
        count = store.delete_tasks(list(by_status), statuses=frozenset(by_status.values()))
        if count != len(deleted):  # somebody else was faster
            found = store.find_tasks(TaskFilter(ids=list(by_status)), with_output=False)
            left = {one.id: one for one in found}
            deleted = [one for one in deleted if one.id not in left]
            owing = [one for one in left.values() if statuses.is_finished(one.status) and "follow_ups" in one.document]
            others = [one for one in left.values() if statuses.is_finished(one.status) and one not in owing]
            in_batch = _of_unfinished_batches(store, others)
            awaited += [one for one in others if one not in in_batch]
            unfinished += [one for one in left.values() if not statuses.is_finished(one.status)]
    return [
        *results_of(Outcome.DELETED, deleted),
        *results_of(Outcome.AWAITED, awaited),
        *results_of(Outcome.IN_BATCH, in_batch),
        *results_of(Outcome.OWES, owing),
        *results_of(Outcome.NOT_ENDED, unfinished),
    ]


def _is_awaited(store: Store, task: Task) -> bool:
    """Whether other tasks wait for it to end or, if it failed, to be run again."""
    if "awaited" not in task.document:
        return False
    which = TaskFilter(after=task.id, statuses=frozenset({int(Status.BLOCKED)}))
    return next(iter(store.find_tasks(which, limit=1, with_output=False)), None) is not None


def _end_batches(store: Store, tasks: Sequence[Task]) -> None:
    """Mark batches of these tasks as done whose end no node has noticed yet."""
    for batch_id in {name for one in tasks if isinstance(name := one.document.get("batch"), str)}:
        if (batch := batch_ends.read(store, batch_id)) is not None:
            batch_ends.finish(store, batch)


def _of_unfinished_batches(store: Store, tasks: Sequence[Task]) -> list[Task]:
    found: dict[str, bool] = {}
    for batch_id in {name for one in tasks if isinstance(name := one.document.get("batch"), str)}:
        document = store.get_batch(batch_id)
        found[batch_id] = document is not None and Batch.from_document(document).state is not BatchState.DONE
    return [one for one in tasks if found.get(str(one.document.get("batch")), False)]
