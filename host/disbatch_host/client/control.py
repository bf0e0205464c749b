"""What people do to tasks that exist: cancel them, run them again, release, change and delete them.

Responsible for: which tasks a verb is allowed for, changes that lose a race and are made again, going through millions
in batches, and what became of each task. Must not know: how results are shown, who is asked before.

Rules:
1. Each verb goes through its tasks in batches and yields the results of each as soon as they are durable. Nothing
   happens while nobody asks for the next batch.
2. A task that has changed since it was read is judged again as it is now.
3. A task gets one turn in a call, also where it fits the selection again afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from disbatch_host.client import times
from disbatch_host.client.pushing import check_priority
from disbatch_host.decide import readings
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import TaskChange, TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name
from disbatch_protocol.status import Status

BATCH = 1000  # tasks in hand at once
_PASSES = 3  # over what fits: tasks that change meanwhile may be met only then; what comes for ever is not waited for
_TRIES = 5  # of a change whose task is somebody else's at the same moment
_LEFT_MAX = 1000  # results of tasks that were not changed, kept for the caller
_SETTABLE = ("priority", "expires")
_WAITING = frozenset({int(Status.CREATED), int(Status.BLOCKED)})
_UNFINISHED = frozenset(map(int, statuses.UNFINISHED))


class Outcome(StrEnum):
    """What became of a task; a closed list."""

    # It was changed.
    CANCELLED = "cancelled"
    ASKED = "asked"  # it runs, and its node was asked to stop it
    RETRIED = "retried"
    RELEASED = "released"
    DELETED = "deleted"
    SET = "set"
    # It was not.
    ENDED = "ended"  # already
    NOT_ENDED = "not_ended"
    NOT_BLOCKED = "not_blocked"
    NOT_WAITING = "not_waiting"
    UNIQUE_KEY = "unique_key"  # another unfinished task has it
    AWAITED = "awaited"  # another task waits for it
    REFUSED = "refused"  # somebody changes it all the time
    GONE = "gone"  # deleted meanwhile


_DONE = frozenset({Outcome.CANCELLED, Outcome.ASKED, Outcome.RETRIED, Outcome.RELEASED, Outcome.DELETED, Outcome.SET})


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one task."""

    task: Task  # as it was before, without its output
    outcome: Outcome
    other: Task | None = None  # the one that has its unique key

    @property
    def is_done(self) -> bool:
        return self.outcome in _DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What became of all tasks of a call."""

    counts: Mapping[Outcome, int]
    stopping: Mapping[TaskId, str] = field(
        default_factory=dict
    )  # running tasks, and the node that was asked to stop each
    left: tuple[Result, ...] = ()  # those that were not changed, the first thousand

    @property
    def done(self) -> int:
        """How many were changed, or asked to stop."""
        return sum(count for outcome, count in self.counts.items() if outcome in _DONE)

    @classmethod
    def of(cls, batches: Iterable[Sequence[Result]], on_progress: Callable[[int], object] | None = None) -> Changes:
        """Carry out the batches of a verb. `on_progress` gets how many tasks have had their turn so far."""
        counts: Counter[Outcome] = Counter()
        stopping: dict[TaskId, str] = {}
        left: list[Result] = []
        for results in batches:
            counts.update(one.outcome for one in results)
            stopping |= {one.task.id: str(one.task.node) for one in results if one.outcome is Outcome.ASKED}
            left += [one for one in results if not one.is_done][: _LEFT_MAX - len(left)]
            if on_progress is not None:
                on_progress(counts.total())
        return cls(counts=dict(counts), stopping=stopping, left=tuple(left))


def cancel(store: Store, which: TaskFilter | Sequence[Task], request: Document) -> Iterator[list[Result]]:
    """Cancel tasks: those that wait at once; the nodes of those that run are asked to stop them. Of a filter, a task
    whose status is not meant any more when its turn comes is left alone: one that was started while those that wait
    are cancelled, say."""
    had_their_turn: set[TaskId] = set()
    is_meant = _is_meant(which)
    for batch in _batches(store, which, lambda one: one.id in had_their_turn):
        results = _cancelled(store, batch, request, is_meant)
        had_their_turn.update(one.task.id for one in results if one.outcome is not Outcome.CANCELLED)
        yield results


def _cancelled(
    store: Store, tasks: Sequence[Task], request: Document, is_meant: Callable[[Task], bool]
) -> list[Result]:
    now = store.now()
    changed = change(store, tasks, lambda one: transitions.cancel_change(one, request, now=now), is_meant)
    return [
        *_results(Outcome.CANCELLED, [one for one in changed.done if one.status != Status.RUNNING]),
        *_results(Outcome.ASKED, [one for one in changed.done if one.status == Status.RUNNING]),
        *_results(Outcome.ENDED, [*changed.unfit, *changed.refused]),
        *_results(Outcome.GONE, changed.gone),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreachableNode:
    """A node that may not stop soon what it was asked to stop, or ever."""

    id: str
    version: str | None = None  # of the other program that it is; None: it is not alive


def unreachable_nodes(store: Store, node_ids: Iterable[str]) -> list[UnreachableNode]:
    """Which of the nodes that were asked to stop tasks may not do it."""
    asked = sorted(set(node_ids))
    nodes = {one.id: one for one in store.nodes()} if asked else {}
    found = []
    for node_id in asked:
        node = nodes.get(node_id)
        if node is None or not readings.is_alive(node):
            found.append(UnreachableNode(id=node_id))
        elif not node.is_ours:
            found.append(UnreachableNode(id=node_id, version=str(node.document.get("version"))))
    return found


def retry(store: Store, which: TaskFilter | Sequence[Task], request: Document) -> Iterator[list[Result]]:
    """Run tasks again that have ended, with as many attempts as a new task has. Of a filter, a task whose status is not
    meant any more when its turn comes is left alone."""
    refused: set[TaskId] = set()

    def has_had_its_turn(task: Task) -> bool:
        """It may have failed again already."""
        retried = task.document.get("retried")
        is_ours = isinstance(retried, Mapping) and all(retried.get(name) == request[name] for name in ("at", "by"))
        return is_ours or task.id in refused

    is_meant = _is_meant(which)
    for batch in _batches(store, which, has_had_its_turn):
        results = _retried(store, batch, request, is_meant)
        refused.update(one.task.id for one in results if not one.is_done)
        yield results


def _retried(store: Store, tasks: Sequence[Task], request: Document, is_meant: Callable[[Task], bool]) -> list[Result]:
    now = store.now()
    changed = change(store, tasks, lambda one: transitions.retry_change(one, request, now=now), is_meant)
    results = [
        *_results(Outcome.RETRIED, changed.done),
        *_results(Outcome.GONE, changed.gone),
        *_results(Outcome.NOT_ENDED, changed.unfit),
    ]
    for one in changed.refused:
        other = _holder_of_key(store, one)
        outcome = Outcome.REFUSED if other is None else Outcome.UNIQUE_KEY
        results.append(Result(task=one, outcome=outcome, other=other))
    return results


def _holder_of_key(store: Store, task: Task) -> Task | None:
    """The unfinished task of its queue that has its unique key."""
    key = task.document.get("unique_key")
    if not isinstance(key, str):
        return None
    which = TaskFilter(queue=task.queue, unique_key=key, statuses=_UNFINISHED)
    found = store.find_tasks(which, with_output=False)
    return next((one for one in found if one.id != task.id), None)


def release(store: Store, tasks: Sequence[Task]) -> Iterator[list[Result]]:
    """Let blocked tasks run now, whatever time or task they wait for."""
    for batch in _batches(store, tasks, lambda _: False):
        yield _released(store, batch)


def _released(store: Store, tasks: Sequence[Task]) -> list[Result]:
    now = store.now()
    changed = change(store, tasks, lambda one: transitions.release_change(one, now=now))
    return [
        *_results(Outcome.RELEASED, changed.done),
        *_results(Outcome.GONE, changed.gone),
        *_results(Outcome.NOT_BLOCKED, [*changed.unfit, *changed.refused]),
    ]


def check_settable(name: str) -> None:
    """Raises UsageError for a field of a task that cannot be set."""
    if name not in _SETTABLE:
        near = near_name(name, _SETTABLE)
        hint = f"did you mean {near!r}?" if near else f"known are {', '.join(_SETTABLE)}"
        raise UsageError(f"a task has no field {name!r:.40} that can be set; {hint}")


def set_fields(store: Store, tasks: Sequence[Task], values: Mapping[str, Any]) -> Iterator[list[Result]]:
    """Change `priority` or `expires` of tasks that wait; None removes the field. Raises UsageError at once."""
    now = store.now()
    fields = {name: _value_of(name, value, now) for name, value in values.items()}
    return (_fields_set(store, batch, fields) for batch in _batches(store, tasks, lambda _: False))


def _value_of(name: str, value: Any, now: datetime) -> Any:
    check_settable(name)
    if value is None:
        return None
    return times.moment_to_come(name, value, now) if name == "expires" else check_priority(value)


def _fields_set(store: Store, tasks: Sequence[Task], fields: Mapping[str, Any]) -> list[Result]:
    now = store.now()

    def change_of(task: Task) -> TaskChange | None:
        if task.status not in _WAITING:
            return None
        return TaskChange(
            task_id=task.id,
            statuses=frozenset({int(task.status)}),
            # The date tells whoever has read the task before, such as a node that is about to let it expire.
            set={"mtime": now, **{name: value for name, value in fields.items() if value is not None}},
            unset=tuple(name for name, value in fields.items() if value is None),
        )

    changed = change(store, tasks, change_of)
    return [
        *_results(Outcome.SET, changed.done),
        *_results(Outcome.GONE, changed.gone),
        *_results(Outcome.NOT_WAITING, [*changed.unfit, *changed.refused]),
    ]


def delete(store: Store, which: TaskFilter | Sequence[Task]) -> Iterator[list[Result]]:
    """Delete tasks that have ended, with their output, unless another task waits for them."""
    kept: set[TaskId] = set()
    for batch in _batches(store, which, lambda one: one.id in kept):
        results = _deleted(store, batch)
        kept.update(one.task.id for one in results if not one.is_done)
        yield results


def _deleted(store: Store, tasks: Sequence[Task]) -> list[Result]:
    unfinished = [one for one in tasks if not statuses.is_finished(one.status)]
    awaited = [one for one in tasks if statuses.is_finished(one.status) and _is_awaited(store, one)]
    kept = {one.id for one in (*awaited, *unfinished)}
    deleted = [one for one in tasks if one.id not in kept]
    by_status = {one.id: one.status for one in deleted}
    if deleted:
        count = store.delete_tasks(list(by_status), statuses=frozenset(by_status.values()))
        if count != len(deleted):  # somebody has come in between
            found = store.find_tasks(TaskFilter(ids=list(by_status)), with_output=False)
            left = {one.id: one for one in found}
            deleted = [one for one in deleted if one.id not in left]
            awaited += [one for one in left.values() if statuses.is_finished(one.status)]
            unfinished += [one for one in left.values() if not statuses.is_finished(one.status)]
    return [
        *_results(Outcome.DELETED, deleted),
        *_results(Outcome.AWAITED, awaited),
        *_results(Outcome.NOT_ENDED, unfinished),
    ]


def _is_awaited(store: Store, task: Task) -> bool:
    """Whether others wait for it: for its end, or, after it has failed, for it to be run again."""
    if "awaited" not in task.document:
        return False
    which = TaskFilter(after=task.id, statuses=frozenset({int(Status.BLOCKED)}))
    return next(iter(store.find_tasks(which, limit=1, with_output=False)), None) is not None


def _results(outcome: Outcome, tasks: Sequence[Task]) -> list[Result]:
    return [Result(task=one, outcome=outcome) for one in tasks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What has become of changes of tasks. The tasks as they were before."""

    done: list[Task] = field(default_factory=list)
    unfit: list[Task] = field(default_factory=list)  # there is nothing to be changed in its state
    refused: list[Task] = field(default_factory=list)  # by the store, though it has not changed
    gone: list[Task] = field(default_factory=list)


def _is_meant(which: TaskFilter | Sequence[Task]) -> Callable[[Task], bool]:
    """Whether a task is still among those that were asked for; one that was named always is."""
    return (lambda one: which.covers(one.status)) if isinstance(which, TaskFilter) else (lambda _: True)


def change(
    store: Store,
    tasks: Sequence[Task],
    change_of: Callable[[Task], TaskChange | None],
    is_meant: Callable[[Task], bool] = lambda _: True,
) -> Changed:
    """Change each task as `change_of` says; where one has changed since it was read, as it says then, and not at all
    where it `is_meant` no longer: such a task is in no list of the result."""
    changed = Changed()
    left = list(tasks)
    for _ in range(_TRIES):
        planned = [(one, change_of(one)) for one in left]
        changed.unfit.extend(one for one, change in planned if change is None)
        changes = [change for _, change in planned if change is not None]
        refused = store.change_tasks(changes) if changes else set()
        changed.done.extend(one for one, change in planned if change is not None and one.id not in refused)
        if not refused:
            return changed
        before = {one.id: one for one in left if one.id in refused}
        now = {one.id: one for one in store.find_tasks(TaskFilter(ids=list(refused)), with_output=False)}
        changed.gone.extend(one for one in before.values() if one.id not in now)
        left = [one for one in now.values() if _has_changed(before[one.id], one) and is_meant(one)]
        changed.refused.extend(one for one in now.values() if not _has_changed(before[one.id], one))
    changed.refused.extend(left)
    return changed


def _has_changed(before: Task, after: Task) -> bool:
    return (before.status, before.document.get("mtime")) != (after.status, after.document.get("mtime"))


def _batches(
    store: Store, which: TaskFilter | Sequence[Task], has_had_its_turn: Callable[[Task], bool]
) -> Iterator[Sequence[Task]]:
    """The tasks, in batches, so that millions need no memory. What is done to a batch may change whether its tasks fit
    a filter; `has_had_its_turn` tells of one that does still, or again, that it is not looked at once more."""
    if not isinstance(which, TaskFilter):
        yield from (which[start : start + BATCH] for start in range(0, len(which), BATCH))
        return
    for _ in range(_PASSES):
        has_found = False
        batch: list[Task] = []
        for one in store.find_tasks(which, with_output=False, in_any_order=True):
            if has_had_its_turn(one):
                continue
            batch.append(one)
            if len(batch) == BATCH:
                yield batch
                has_found, batch = True, []
        if batch:
            yield batch
        elif not has_found:
            return
