"""The end of a batch, on any store: the mark that it is done, its summary, and the task that its `on_done` names.

Responsible for: writing what `documents.batch` decides, once, no matter which node or command notices the end first.
Must not know: who that is, any driver.

Rules:
1. A batch is done if it is closed and, at one moment after that, none of its tasks was unfinished. Everything counted
   at that moment is in its summary.
2. The task of `on_done` gets its id with the change that marks the batch. Where that change and the task cannot be one
   commit, the batch owes the task until it exists; a process that dies in between leaves the debt to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from disbatch_host.decide import counts
from disbatch_host.documents import batch as batches
from disbatch_host.documents.batch import Batch, BatchChange, BatchState
from disbatch_host.documents.causes import group_in
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, new_task
from disbatch_host.store import batch_facts
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses

_CAUSES_SECONDS = 0.5  # for counting the causes of failures
_LOOK_SECONDS = 2.0  # for what single tasks tell
_FAILED, _ = statuses.parse("failed")
_UNFINISHED = frozenset(map(int, statuses.UNFINISHED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A batch that was marked as done."""

    summary: Document
    has_created: bool  # the task of `on_done`


class Survey:
    """What the summary of a batch needs of its single tasks, found in pieces: where there are a million, nobody else
    could use the store for seconds. It is of one round."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._look = batch_facts.Look(batch.id, _LOOK_SECONDS)
        self._causes: list[Document] | None = None

    def is_of(self, batch: Batch) -> bool:
        return (batch.id, batch.round) == (self._batch.id, self._batch.round)

    @property
    def is_over(self) -> bool:
        return self._causes is not None

    def go_on(self, store: Store, seconds: float) -> None:
        """Another piece, of about so long."""
        if not self._look.is_over:
            self._look.go_on(store, seconds)
        elif self._causes is None:
            self._causes = _causes(store, self._batch)

    def to_summary(self) -> Document:
        return {"causes": self._causes or [], **self._look.facts().to_summary()}


def can_be_done(store: Store, batch: Batch) -> bool:
    """Whether `finish` would mark it as done now."""
    return (
        batch.state is BatchState.CLOSED
        and batch.fault is None
        and not batch.is_stopping
        and not store.is_batch_unfinished(batch.id)
    )


def finish(store: Store, batch: Batch, survey: Survey | None = None) -> Finished | None:
    """Mark a closed batch as done, and create the task of `on_done`; None if it is not done, or somebody else was
    faster. `survey`: of this round, and over; None: it is made now."""
    if not can_be_done(store, batch):
        return None
    if survey is None:
        survey = Survey(batch)
        while not survey.is_over:
            survey.go_on(store, _LOOK_SECONDS)
    now = store.now()
    counted = store.count_batch(batch.id).by_status
    if any(counted.get(status) for status in _UNFINISHED) or store.is_batch_unfinished(batch.id):
        return None
    seconds = (now - batch.ctime).total_seconds() if batch.ctime else 0.0
    summary = _summary(batch, counted, survey, seconds=seconds)
    task_id = store.new_ids(1)[0] if batch.is_armed else None
    with store.together():
        if not apply(store, batch, batches.done_change(batch, summary, now=now, task_id=task_id)):
            return None  # somebody else was faster, or tasks of it run again
        done = read(store, batch.id)
        is_created = done is not None and done.owes_task and pay(store, done)
    return Finished(summary=summary, has_created=is_created)


def pay(store: Store, batch: Batch) -> bool:
    """Create the task that it owes; False if somebody else was faster."""
    on_done, summary = batch.on_done or {}, batch.summary or {}
    queue = store.find_queue(str(on_done["queue"]))
    given = on_done.get("parameters")
    parameters: Document = {
        **(given if isinstance(given, Mapping) else {}),
        "batch": batch.id,
        **{name: summary.get(name) for name in _TOLD},
        **{name: summary[name] for name in batch.tells if name in summary},
    }
    document = new_task(
        on_done["queue"] if queue is None else queue.id, parameters, now=store.now(), created_by=batch.by
    )
    secrets = on_done.get("secrets")
    more = {"secrets": secrets} if isinstance(secrets, list) else {}
    # Read once more: a process that stood still since it was read finds the debt paid, and perhaps the task deleted.
    now = read(store, batch.id)
    if now is None or not now.owes_task or now.on_done != batch.on_done:
        return False
    store.insert_tasks([{"_id": on_done["task"], **document, **more}], again=True)
    apply(store, batch, batches.paid_change(batch))
    return True


_TOLD = ("total", "concluded", "failed", "cancelled", "orphaned", "seconds", "causes")


def _summary(batch: Batch, counted: Mapping[int, int], survey: Survey, *, seconds: float) -> Document:
    total, in_all = counts.totals(counted), sum(counted.values())
    return {
        "total": in_all,
        # Of one with a name nobody counts what each of its makers creates.
        "created": in_all if batch.total is None else batch.total,
        "existing": batch.existing or 0,
        "skipped": batch.skipped or 0,
        **{name: total[name] for name in ("concluded", "failed", "terminated", "cancelled", "orphaned")},
        "seconds": max(0.0, round(seconds, 3)),
        **survey.to_summary(),
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


def read(store: Store, batch_id: str) -> Batch | None:
    """The batch as it is now."""
    document = store.get_batch(batch_id)
    return None if document is None else Batch.from_document(document)


def apply(store: Store, batch: Batch, change: BatchChange) -> bool:
    """Carry out a change; False if its guard does not hold."""
    return store.change_batch(batch.id, change.set, change.unset, only_if=change.only_if)
