"""Operations: one action on all tasks that a selection means, as they were at one moment, in batches that survive a
kill.

Responsible for: which tasks an action takes, what it would do, doing it, and what came of each task. Must not know: who
works at it and when (`jobs`), servers.

Rules:
1. What has changed since the moment `until` of the preview is left alone: nobody has seen it.
2. The tasks of a batch are written down before the first of them is changed. A server that goes on after a kill finds
   in each of them whether it was this operation that has changed it.
3. A task gets one turn. The order is that of creation, so that a cursor says what has had its turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from disbatch_host.client import allowed, control, deleting, finding, operation_previews, times
from disbatch_host.client.batch_finding import batch_id_of
from disbatch_host.client.batch_rounds import tasks_run_again
from disbatch_host.client.batches import Batches
from disbatch_host.client.control import BATCH, Outcome, Result
from disbatch_host.client.finding import Selection
from disbatch_host.client.jobs import Job, Jobs, JobState
from disbatch_host.client.operation_previews import Preview
from disbatch_host.client.requests import request
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.errors import FieldError, NotFoundError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status, may_become

KIND = "operation"
ACTIONS = ("cancel", "retry", "delete", "release")
IDS_MAX = 1000
REFUSED_MAX = 100  # tasks that are named with the reason
CHANGED = "changed"  # of a task that somebody else has changed meanwhile
_NODES_MAX = 100
_MOMENTS = ("since", "before", "ended_since", "ended_before")
_DEFAULT_WORDS = {"cancel": ("unfinished",), "retry": allowed.FAILED, "release": ("blocked",)}
_CHECKS = {
    "cancel": allowed.check_cancellable, "retry": allowed.check_retriable, "delete": allowed.check_deletable,
    "release": allowed.check_releasable,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An action, and the tasks that it is for."""

    action: str
    selection: Selection
    reason: str | None = None
    then: Mapping[str, Any] = field(default_factory=dict)  # what follows at its end: arms or deletes a batch

    def matching(self, store: Store, until: datetime) -> TaskFilter:
        """All that the selection names. Raises as `finding.filter_of` does."""
        named = self.selection.ids
        found = finding.filter_of(store, replace(self.selection, ids=None))
        ids = None if named is None else [one for text in named if (one := store.parse_id(str(text))) is not None]
        earlier = until if found.changed_before is None else min(until, found.changed_before)
        return replace(found, ids=ids, changed_before=earlier)

    def meant(self, store: Store, until: datetime) -> TaskFilter:
        """Those of them that the action is for. Raises likewise, and FieldError for a status that it is not for."""
        words = self._words()
        _check(self.action, words)
        values, or_failed = finding.statuses_of(words)
        return replace(self.matching(store, until), statuses=values, or_failed=or_failed)

    def _words(self) -> Sequence[str | int]:
        given = self.selection.status
        if given not in ((), []):
            return [given] if isinstance(given, (str, int)) else given
        if self.selection.ids is not None:
            return _able_words(self.action)
        if self.selection.failure is not None and self.action in ("retry", "delete"):
            return allowed.FAILED_SOMEHOW
        if self.action == "delete":
            raise FieldError("status", "expected a status, such as 'concluded', found none")
        return _DEFAULT_WORDS[self.action]


def _able_words(action: str) -> Sequence[str | int]:
    """The statuses of all tasks that an action can change."""
    if action in ("retry", "delete"):
        return ("finished",)
    return ("unfinished", "orphaned") if action == "cancel" else ("blocked",)


def _check(action: str, words: Sequence[str | int]) -> None:
    _CHECKS[action](words)


def why_not(action: str, status: int) -> str:
    """Why a task with this status is not among those that an action is for: an outcome, or `not_named` where the action
    could be for it, but nobody has named that status."""
    if action == "release":
        return str(Outcome.NOT_BLOCKED)
    if action == "cancel":
        return "not_named" if may_become(status, Status.CANCELLED) else str(Outcome.ENDED)
    return "not_named" if statuses.is_finished(status) else str(Outcome.NOT_ENDED)


def settled(store: Store, operation: Operation) -> Operation:
    """The same, whenever it is looked at: moments instead of `2h`, whole ids. Raises UsageError, FieldError among them,
    and NotFoundError for anything that does not exist."""
    selection = operation.selection
    if operation.action not in ACTIONS:
        raise FieldError("action", f"expected one of {', '.join(ACTIONS)}, found {operation.action!r:.40}")
    if all(getattr(selection, name) is None for name in ("queue", "batch", "failure", "ids")):
        raise FieldError("filter", "expected a queue, a batch, a cause of failure, or ids of tasks, found none of them")
    now = store.now()
    given = {name: getattr(selection, name) for name in _MOMENTS}
    changes: dict[str, Any] = {
        name: times.moment_gone_by(name, value, now) for name, value in given.items() if value is not None
    }
    if selection.ids is not None:
        if len(selection.ids) > IDS_MAX:
            raise FieldError("ids", f"expected at most {IDS_MAX:,}, found {len(selection.ids):,}; a filter takes more")
        changes["ids"] = [str(one.id) for one in finding.find_named(store, selection.ids)]
    if selection.batch is not None:
        changes["batch"] = batch_id_of(store, selection.batch)
    return replace(operation, selection=replace(selection, **changes))


def preview(store: Store, operation: Operation, until: datetime, *, samples: int = 5) -> Preview:
    """What a settled operation would do. Raises FieldError for a status that the action is not for."""
    meant = operation.meant(store, until)
    return operation_previews.preview(
        store, operation.matching(store, until), meant, until, samples=samples, keys_count=operation.action == "retry",
        why_not=lambda status: why_not(operation.action, status),
    )  # fmt: skip


def begin(
    store: Store, jobs: Jobs, operation: Operation, by: str, until: datetime, of: int, job_id: str | None = None
) -> Job:
    """Have a settled operation carried out. `of`: how many tasks it is for, as far as is known. Raises UsageError for a
    reason that cannot be shown."""
    asked = request(by, operation.reason, now=store.now())
    chosen = {one.name: getattr(operation.selection, one.name) for one in fields(Selection)}
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    document = {
        "action": operation.action,
        "selection": {name: value for name, value in given.items() if value not in (None, [])},
        "then": dict(operation.then),
        "request": asked,
        "until": until,
        "of": of,
        "done": 0,
        "outcomes": {},
        "refused": [],
    }
    return jobs.create(job_id or str(store.new_ids(1)[0]), document)


def operation_of(job: Job) -> Operation:
    """What a job is to do."""
    document = job.document
    return Operation(
        action=str(document["action"]),
        selection=Selection(**document["selection"]),
        reason=document["request"].get("why"),
        then=document["then"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The tasks whose turn is next."""

    tasks: tuple[TaskId, ...]
    cursor: str | None  # where to go on after them; None: they are the last

    def to_document(self) -> Document:
        return {"tasks": list(self.tasks), "cursor": self.cursor}


def step(store: Store, jobs: Jobs, job: Job) -> Job:
    """Do some of it: at most a batch. Raises LostJobError if somebody else works at it."""
    if job.is_to_stop:
        return jobs.end(job, JobState.STOPPED, plan=None)
    operation = operation_of(job)
    try:
        meant = operation.meant(store, job.document["until"])
    except NotFoundError:  # the queue is gone, and its last task with it
        return _ended(store, jobs, job, operation, {})
    planned = job.document.get("plan")
    if planned is None:
        return jobs.keep(job, plan=_next(store, meant, None).to_document())
    plan = _Plan(tasks=tuple(planned["tasks"]), cursor=planned["cursor"])
    told = _told(job.document, _carried_out(store, operation.action, meant, plan, job), store)
    if plan.cursor is None:
        return _ended(store, jobs, job, operation, told)
    return jobs.keep(job, **told, plan=_next(store, meant, plan.cursor).to_document(), is_resumed=False)


def _next(store: Store, meant: TaskFilter, cursor: str | None) -> _Plan:
    page = store.find_page(meant, limit=BATCH, newest_first=False, cursor=cursor, with_parameters=False)
    return _Plan(tasks=tuple(one.id for one in page.tasks), cursor=page.next)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What came of a batch."""

    results: Sequence[Result] = ()
    own: int = 0  # tasks that this operation had changed before it was killed
    deleted: int = 0  # likewise
    changed: int = 0  # left alone, since others have changed them


def _carried_out(store: Store, action: str, meant: TaskFilter, plan: _Plan, job: Job) -> _Done:
    if not plan.tasks:
        return _Done()
    found = list(store.find_tasks(TaskFilter(ids=list(plan.tasks)), with_output=False))
    asked: Document = dict(job.document["request"])
    is_resumed = bool(job.document.get("is_resumed"))
    own = [one for one in found if is_resumed and _is_own(one, action, asked, meant)]
    if action == "retry" and own:
        tasks_run_again(store, own)  # a kill may have come before that was said
    known = {one.id for one in own}

    def is_meant(task: Task) -> bool:
        changed = task.document.get("mtime")
        is_late = isinstance(changed, datetime) and meant.changed_before is not None and changed >= meant.changed_before
        return meant.covers(task.status) and not is_late

    ready = [one for one in found if one.id not in known and is_meant(one)]
    results = _results(store, action, ready, asked, is_meant)
    gone = len(plan.tasks) - len(found)
    is_deleted = action == "delete" and is_resumed
    left_alone = len(found) - len(own) - len(results) + (0 if is_deleted else gone)
    return _Done(results=results, own=len(own), deleted=gone if is_deleted else 0, changed=left_alone)


def _results(store: Store, action: str, tasks: Sequence[Task], asked: Document, is_meant: Any) -> Sequence[Result]:
    if not tasks:
        return ()
    match action:
        case "cancel":
            return control.cancel_some(store, tasks, asked, is_meant)
        case "retry":
            return control.retry_some(store, tasks, asked, is_meant)
        case "release":
            return control.release_some(store, tasks)
        case _:
            return deleting.delete_some(store, tasks)


def _is_own(task: Task, action: str, asked: Mapping[str, Any], meant: TaskFilter) -> bool:
    """Whether this operation has changed a task already."""

    def is_asked(value: Any) -> bool:
        return isinstance(value, Mapping) and all(value.get(name) == asked[name] for name in ("at", "by"))

    if action == "retry":
        return is_asked(task.document.get("retried"))
    if action == "cancel":
        return is_asked(task.document.get("cancel")) or is_asked(task.run.get("cancelled"))
    return action == "release" and not meant.covers(task.status)  # nothing in it says who has released it


_OWN = {"retry": Outcome.RETRIED, "cancel": Outcome.CANCELLED, "release": Outcome.RELEASED}


def _told(document: Mapping[str, Any], done: _Done, store: Store) -> dict[str, Any]:
    """The fields of the note that say what has come of it."""
    outcomes = Counter(document["outcomes"])
    outcomes.update(str(one.outcome) for one in done.results)
    if done.own:
        outcomes[str(_OWN[document["action"]])] += done.own
    if done.deleted:
        outcomes[str(Outcome.DELETED)] += done.deleted
    if done.changed:
        outcomes[CHANGED] += done.changed
    refused = [*document["refused"], *(_refused(one) for one in done.results if not one.is_done)][:REFUSED_MAX]
    asked_nodes = {str(one.task.node) for one in done.results if one.outcome is Outcome.ASKED}
    nodes = sorted({*document.get("nodes", ()), *asked_nodes})[:_NODES_MAX]
    told = {"outcomes": dict(outcomes), "done": outcomes.total(), "refused": refused}
    return {**told, "nodes": nodes} if nodes else told


def _refused(result: Result) -> Document:
    other = {} if result.other is None else {"other": str(result.other.id)}
    why = {"why": result.why} if result.why else {}
    return {"task": str(result.task.id), "outcome": str(result.outcome), **other, **why}


def _ended(store: Store, jobs: Jobs, job: Job, operation: Operation, told: Mapping[str, Any]) -> Job:
    document = {**job.document, **told}
    notes = [f"node {one.id} {one.why}" for one in control.unreachable_nodes(store, document.get("nodes", ()))]
    by = str(job.document["request"].get("by"))
    if (batch := operation.then.get("arms")) is not None and not Batches(store, by).arm(str(batch)):
        notes.append(f"batch {batch} was made without on_done, so nothing is armed")
    if (batch := operation.then.get("deletes")) is not None and not document["refused"]:
        try:
            Batches(store, by).delete(str(batch))
        except (NotFoundError, UsageError) as error:  # gone, or others have run some of its tasks again
            notes.append(str(error))
    return jobs.end(job, JobState.DONE, **told, notes=notes, plan=None)


def done_already(jobs: Jobs, action: str, by: str, now: datetime, job_id: str, **told: Any) -> Job:
    """The note of something that needed no batches, such as the closing of a batch."""
    document = {
        "action": action, "selection": {}, "then": {}, "request": {"by": by, "at": now}, "until": now, "of": 1,
        "done": 1, "refused": [], **told,
    }  # fmt: skip
    return jobs.create(job_id, document, state=JobState.DONE)


def differs(found: int, expected: int) -> bool:
    """Whether there are so many more or fewer tasks than somebody has seen that he should look again."""
    return abs(found - expected) > max(_FEW, expected * _SHARE)


_FEW = 10
_SHARE = 0.1
