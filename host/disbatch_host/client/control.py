"""What people do to existing tasks: cancel, retry, release and change them; `deleting` deletes them.

Responsible for: which tasks a verb applies to, retrying changes that lost a race, processing millions of tasks
in batches, and the result for each task. Must not know: how results are shown, whether anyone is asked first.

Rules:
1. Each verb processes its tasks in batches and yields the results of each as soon as they are durable. Nothing
   happens until the caller asks for the next batch.
2. A task that has changed since it was read is judged again in its new state, and left alone if the status that a
   filter asked for is no longer its own.
3. A task gets one turn per call, even if it matches the selection again afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from disbatch_host.client import times
from disbatch_host.client.batch_rounds import tasks_run_again
from disbatch_host.client.pushing import check_priority
from disbatch_host.decide import readings
from disbatch_host.decide.absence import absence_of_node
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import TaskChange, TaskFilter
from disbatch_host.documents.new_parameters import NewParameters
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.errors import ChangesRefusedError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name
from disbatch_protocol.status import Status

BATCH = 1000  # tasks held at once
_PASSES = 3  # over the selection, to catch tasks that changed meanwhile; an endless inflow is not chased
_SHOWN_MAX = 20  # tasks whose results people read one by one
_TRIES = 5  # per change of a task that others are changing too
_LEFT_MAX = 1000  # results of unchanged tasks, kept for the caller
_SETTABLE = ("priority", "expires")
_WAITING = frozenset({int(Status.CREATED), int(Status.BLOCKED)})
_UNFINISHED = frozenset(map(int, statuses.UNFINISHED))


class Outcome(StrEnum):
    """The result for a task; a closed list."""

    # It was changed.
    CANCELLED = "cancelled"
    ASKED = "asked"  # running, and its node was asked to stop it
    RETRIED = "retried"
    RELEASED = "released"
    DELETED = "deleted"
    SET = "set"
    # It was not.
    ENDED = "ended"  # already
    NOT_ENDED = "not_ended"
    NOT_BLOCKED = "not_blocked"
    NOT_WAITING = "not_waiting"
    UNIQUE_KEY = "unique_key"  # held by another unfinished task
    AWAITED = "awaited"  # another task waits for it
    REFUSED = "refused"  # others keep changing it
    STORE_REFUSED = "store_refused"  # the store does not take the change: an index or a validator of another program
    IN_BATCH = "in_batch"  # of a batch that is not done
    OWES = "owes"  # its follow-up tasks are still to be created
    GONE = "gone"  # deleted meanwhile


_DONE = frozenset({Outcome.CANCELLED, Outcome.ASKED, Outcome.RETRIED, Outcome.RELEASED, Outcome.DELETED, Outcome.SET})


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result for one task."""

    task: Task  # as it was before, without its output
    outcome: Outcome
    other: Task | None = None  # the task that holds its unique key
    why: str = ""  # the store's words, if it refused

    @property
    def is_done(self) -> bool:
        return self.outcome in _DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The results of a call."""

    counts: Mapping[Outcome, int]
    stopping: Mapping[TaskId, str] = field(
        default_factory=dict
    )  # running tasks, and the node that was asked to stop each
    left: tuple[Result, ...] = ()  # unchanged tasks, the first thousand

    @property
    def done(self) -> int:
        """The number of tasks that were changed, or asked to stop."""
        return sum(count for outcome, count in self.counts.items() if outcome in _DONE)

    @classmethod
    def of(cls, batches: Iterable[Sequence[Result]], on_progress: Callable[[int], object] | None = None) -> Changes:
        """Carry out the batches of a verb. `on_progress` gets the number of tasks processed so far."""
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
    """Cancel tasks: waiting ones at once; for running ones, ask their nodes to stop them. With a filter, a task whose
    status no longer matches when its turn comes is left alone, such as one that started while waiting tasks are being
    cancelled."""
    had_their_turn: set[TaskId] = set()
    is_meant = _is_meant(which)
    for batch in in_batches(store, which, lambda one: one.id in had_their_turn):
        results = cancel_some(store, batch, request, is_meant)
        had_their_turn.update(one.task.id for one in results if one.outcome is not Outcome.CANCELLED)
        yield results


def cancel_some(
    store: Store, tasks: Sequence[Task], request: Document, is_meant: Callable[[Task], bool]
) -> list[Result]:
    """Cancel these, at most `BATCH`. One that has changed since it was read, and is not `is_meant` any more, is left
    alone, and has no result."""
    now = store.now()
    changed = change(store, tasks, lambda one: transitions.cancel_change(one, request, now=now), is_meant)
    return [
        *results_of(Outcome.CANCELLED, [one for one in changed.done if one.status != Status.RUNNING]),
        *results_of(Outcome.ASKED, [one for one in changed.done if one.status == Status.RUNNING]),
        *results_of(Outcome.ENDED, [*changed.unfit, *changed.refused]),
        *results_of(Outcome.GONE, changed.gone),
        *changed.by_store,
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreachableNode:
    """A node that may not act on a request to stop tasks soon, or ever."""

    id: str
    why: str  # after its name


def unreachable_nodes(store: Store, node_ids: Iterable[str]) -> list[UnreachableNode]:
    """The nodes that were asked to stop tasks but may not do so."""
    asked = sorted(set(node_ids))
    nodes = store.nodes() if asked else ()
    found = []
    for node_id in asked:
        absence = absence_of_node(node_id, nodes, settles="its tasks", fate="they are cancelled")
        if absence is not None:
            found.append(UnreachableNode(id=node_id, why=f"{absence.heard}; {absence.then}"))
    for one in nodes:
        if one.id in asked and not one.is_ours and readings.is_alive(one):
            program = f"another program ({one.document.get('version')})"
            found.append(UnreachableNode(id=one.id, why=f"belongs to {program}, which may not stop it"))
    return found


def retry(
    store: Store,
    which: TaskFilter | Sequence[Task],
    request: Document,
    new_of: Callable[[Task], NewParameters | None] = lambda _: None,
) -> Iterator[list[Result]]:
    """Run ended tasks again, with as many attempts as a new task has. With a filter, a task whose status no longer
    matches when its turn comes is left alone. `new_of`: the parameters of a task from now on, if they change; what it
    raises ends this."""
    refused: set[TaskId] = set()

    def has_had_its_turn(task: Task) -> bool:
        """It may have failed again already."""
        retried = task.document.get("retried")
        is_ours = isinstance(retried, Mapping) and all(retried.get(name) == request[name] for name in ("at", "by"))
        return is_ours or task.id in refused

    is_meant = _is_meant(which)
    for batch in in_batches(store, which, has_had_its_turn):
        results = retry_some(store, batch, request, is_meant, new_of)
        refused.update(one.task.id for one in results if not one.is_done)
        yield results


def retry_some(
    store: Store,
    tasks: Sequence[Task],
    request: Document,
    is_meant: Callable[[Task], bool],
    new_of: Callable[[Task], NewParameters | None] = lambda _: None,
) -> list[Result]:
    """Run these again, at most `BATCH`; otherwise as `cancel_some`."""
    now = store.now()
    changed = change(
        store, tasks, lambda one: transitions.retry_change(one, request, now=now, new=new_of(one)), is_meant
    )
    tasks_run_again(store, changed.done)
    results = [
        *results_of(Outcome.RETRIED, changed.done),
        *results_of(Outcome.GONE, changed.gone),
        *changed.by_store,
        *results_of(Outcome.NOT_ENDED, changed.unfit),
    ]
    for one in changed.refused:
        other = holder_of_key(store, one)
        outcome = Outcome.REFUSED if other is None else Outcome.UNIQUE_KEY
        results.append(Result(task=one, outcome=outcome, other=other))
    return results


def holder_of_key(store: Store, task: Task) -> Task | None:
    """The unfinished task of its queue that holds its unique key."""
    key = task.document.get("unique_key")
    if not isinstance(key, str):
        return None
    which = TaskFilter(queue=task.queue, unique_key=key, statuses=_UNFINISHED)
    found = store.find_tasks(which, with_output=False)
    return next((one for one in found if one.id != task.id), None)


def release(store: Store, which: TaskFilter | Sequence[Task]) -> Iterator[list[Result]]:
    """Let blocked tasks run now, regardless of the time or tasks they wait for. With a filter, each has one turn: one
    that is blocked again by then, such as by its plugin, stays so."""
    had_their_turn: set[TaskId] = set()
    is_meant = _is_meant(which)
    for batch in in_batches(store, which, lambda one: one.id in had_their_turn):
        had_their_turn.update(one.id for one in batch)
        yield release_some(store, batch, is_meant)


def release_some(
    store: Store, tasks: Sequence[Task], is_meant: Callable[[Task], bool] = lambda _: True
) -> list[Result]:
    """Release these, at most `BATCH`; otherwise as `cancel_some`."""
    now = store.now()
    changed = change(store, tasks, lambda one: transitions.release_change(one, now=now), is_meant)
    return [
        *results_of(Outcome.RELEASED, changed.done),
        *results_of(Outcome.GONE, changed.gone),
        *changed.by_store,
        *results_of(Outcome.NOT_BLOCKED, [*changed.unfit, *changed.refused]),
    ]


def check_settable(name: str) -> None:
    """Raises UsageError for a task field that cannot be set."""
    if name not in _SETTABLE:
        near = near_name(name, _SETTABLE)
        hint = f"did you mean {near!r}?" if near else f"the fields are {', '.join(_SETTABLE)}"
        raise UsageError(f"a task has no field {name!r:.40} that can be set; {hint}")


def set_fields(store: Store, tasks: Sequence[Task], values: Mapping[str, Any]) -> Iterator[list[Result]]:
    """Change `priority` or `expires` of waiting tasks; None removes the field. Raises UsageError at once."""
    now = store.now()
    fields = {name: _value_of(name, value, now) for name, value in values.items()}
    return (_fields_set(store, batch, fields) for batch in in_batches(store, tasks, lambda _: False))


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
            # The date tells anyone who read the task before, such as a node that is about to let it expire.
            set={"mtime": now, **{name: value for name, value in fields.items() if value is not None}},
            unset=tuple(name for name, value in fields.items() if value is None),
        )

    changed = change(store, tasks, change_of)
    return [
        *results_of(Outcome.SET, changed.done),
        *results_of(Outcome.GONE, changed.gone),
        *changed.by_store,
        *results_of(Outcome.NOT_WAITING, [*changed.unfit, *changed.refused]),
    ]


def results_of(outcome: Outcome, tasks: Sequence[Task]) -> list[Result]:
    """The same result for each of them."""
    return [Result(task=one, outcome=outcome) for one in tasks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The results of changes. The tasks are as they were before."""

    done: list[Task] = field(default_factory=list)
    unfit: list[Task] = field(default_factory=list)  # nothing to change in their state
    refused: list[Task] = field(default_factory=list)  # by the store, though unchanged
    gone: list[Task] = field(default_factory=list)
    by_store: list[Result] = field(default_factory=list)  # refused because of their content


def _is_meant(which: TaskFilter | Sequence[Task]) -> Callable[[Task], bool]:
    """Whether a task still belongs to the selection; one that was named always does."""
    return (lambda one: which.covers(one.status)) if isinstance(which, TaskFilter) else (lambda _: True)


def change(
    store: Store,
    tasks: Sequence[Task],
    change_of: Callable[[Task], TaskChange | None],
    is_meant: Callable[[Task], bool] = lambda _: True,
) -> Changed:
    """Change each task as `change_of` says; a task that has changed since it was read is decided again, and skipped if
    `is_meant` is no longer true of it: it is then in no list of the result."""
    changed = Changed()
    left = list(tasks)
    for _ in range(_TRIES):
        planned = [(one, change_of(one)) for one in left]
        changed.unfit.extend(one for one, change in planned if change is None)
        changes = [change for _, change in planned if change is not None]
        refused, reasons = _change(store, changes)
        changed.done.extend(one for one, change in planned if change is not None and one.id not in refused)
        if not refused:
            return changed
        changed.by_store.extend(
            Result(task=one, outcome=Outcome.STORE_REFUSED, why=reasons[one.id]) for one in left if one.id in reasons
        )
        before = {one.id: one for one in left if one.id in refused and one.id not in reasons}
        now = {one.id: one for one in store.find_tasks(TaskFilter(ids=list(before)), with_output=False)}
        changed.gone.extend(one for one in before.values() if one.id not in now)
        left = [one for one in now.values() if _has_changed(before[one.id], one) and is_meant(one)]
        changed.refused.extend(one for one in now.values() if not _has_changed(before[one.id], one))
    changed.refused.extend(left)
    return changed


def _change(store: Store, changes: Sequence[TaskChange]) -> tuple[set[TaskId], dict[TaskId, str]]:
    """Make these changes. Returns the ids of those that were not made, and why the store refuses some of them."""
    try:
        # Of few, each result is shown: none may be wrong because another of them was refused.
        is_shown = len(changes) <= _SHOWN_MAX
        return (store.change_tasks(changes, one_by_one=is_shown) if changes else set()), {}
    except ChangesRefusedError as error:
        return error.not_carried_out, {task_id: str(why) for task_id, why in error.reasons.items()}


def _has_changed(before: Task, after: Task) -> bool:
    return (before.status, before.document.get("mtime")) != (after.status, after.document.get("mtime"))


def in_batches(
    store: Store, which: TaskFilter | Sequence[Task], has_had_its_turn: Callable[[Task], bool]
) -> Iterator[Sequence[Task]]:
    """The tasks in batches, to bound memory. Processing a batch may change which of its tasks match the
    filter; `has_had_its_turn` keeps a task that still matches, or matches again, from being processed twice."""
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
