"""Finding what a person names: a queue, a task, or all tasks of a selection.

Responsible for: ids as people type them, suggestions for unknown names, and selections as a TaskFilter.
Must not know: what is done with the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from disbatch_host.client import times
from disbatch_host.client.batch_finding import batch_id_of
from disbatch_host.client.times import Duration, Moment
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Queue, QueueId, Task, TaskId
from disbatch_host.errors import FieldError, NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name

KEY_DIGITS = 8  # of `disbatch_protocol.groups`, whose patterns a selection does not need
_NAMED_IN_QUERY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A choice of tasks, in the words of people. Every field that is given narrows it."""

    queue: str | None = None  # may be a deleted one that still has tasks
    status: (
        str | int | Sequence[str | int]
    ) = ()  # any of these words (see `statuses.names`, or with commas) and numbers
    node: str | None = None  # claimed by this node, now or earlier
    since: Moment | Duration | None = None  # created at or after this time, or within this long
    before: Moment | Duration | None = None  # created before this time, or longer ago than this
    ended_since: Moment | Duration | None = None  # ended, or last changed, at or after this time
    error: str | None = None  # error code
    failure: str | None = None  # the key of a cause of failure
    class_name: str | None = None  # of the plugin that ran it
    version: str | None = None  # of that plugin
    unique_key: str | None = None
    batch: str | None = None  # the id of a batch, or the beginning of it


def filter_of(store: Store, selection: Selection) -> TaskFilter:
    """The filter for a selection at this moment. Raises FieldError, and NotFoundError for an unknown queue."""
    values, or_failed = statuses_of(selection.status)
    since, before, ended_since = selection.since, selection.before, selection.ended_since
    now = store.now() if any(one is not None for one in (since, before, ended_since)) else None
    return TaskFilter(
        queue=None if selection.queue is None else queue_id(store, selection.queue),
        statuses=values,
        or_failed=or_failed,
        node=selection.node,
        created_since=_gone_by("since", since, now),
        created_before=_gone_by("before", before, now),
        changed_since=_gone_by("ended_since", ended_since, now),
        error_code=selection.error,
        failure=None if selection.failure is None else failure_key(selection.failure),
        class_name=selection.class_name,
        version=selection.version,
        unique_key=selection.unique_key,
        batch=None if selection.batch is None else batch_id_of(store, selection.batch),
    )


def failure_key(text: str) -> str:
    """The key of a cause of failure, as a person types it. Raises FieldError."""
    key = text.strip().lower()
    if len(key) != KEY_DIGITS or not set(key) <= set("0123456789abcdef"):
        hint = "`disbatch-host task failures` shows them"
        raise FieldError("failure", f"expected a key of {KEY_DIGITS} hexadecimal digits, found {text!r:.60}; {hint}")
    return key


def statuses_of(given: str | int | Sequence[str | int]) -> tuple[frozenset[int] | None, bool]:
    """The statuses that any of the words and numbers stand for, None without one; and whether all above 2 count too.
    Raises FieldError."""
    words = [given] if isinstance(given, (str, int)) else given
    values: set[int] = set()
    or_failed = False
    for word in [one for some in words for one in str(int(some) if isinstance(some, int) else some).split(",")]:
        try:
            some_values, failed = statuses.parse(word)
        except ValueError as error:
            raise FieldError("status", str(error)) from error
        values |= some_values
        or_failed |= failed
    return (frozenset(values) if words else None), or_failed


def queue_id(store: Store, name: str) -> QueueId:
    """The id of a queue, which may be a deleted one that still has tasks. Raises NotFoundError."""
    if store.find_queue(name) is None and store.count_tasks(TaskFilter(queue=name)):
        return name
    return find_queue(store, name).id


def _gone_by(field: str, value: Moment | Duration | None, now: datetime | None) -> datetime | None:
    return None if value is None or now is None else times.moment_gone_by(field, value, now)


def find_queue(store: Store, name: str) -> Queue:
    """The queue with this id. Raises NotFoundError, which suggests a similar id."""
    queue = store.find_queue(str(name))
    if queue is None:
        known = [str(one.id) for one in store.queues()]
        near = near_name(name, known)
        hint = f"did you mean {near!r}?" if near else "`disbatch-host queue list` shows the queues"
        raise NotFoundError(f"no queue {name!r} in {store.description}; {hint}")
    return queue


def find_task(store: Store, task_id: TaskId) -> Task:
    """The task with this id, which may be text. Raises NotFoundError."""
    text = str(task_id)
    parsed = store.parse_id(text)
    task = None if parsed is None else store.get_task(parsed)
    if task is None:
        raise NotFoundError(f"no task {text!r} in {store.description}; `disbatch-host task list` shows the newest")
    return task


def ids_of(given: TaskId | Iterable[TaskId]) -> list[TaskId]:
    """One id or several, as a list."""
    return [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)


def find_named(store: Store, ids: Iterable[TaskId]) -> list[Task]:
    """The tasks with these ids, each once, in the given order, without output. Raises NotFoundError."""
    parsed = {text: store.parse_id(text) for text in map(str, ids)}
    known = [one for one in parsed.values() if one is not None]
    found: dict[TaskId, Task] = {}
    for start in range(0, len(known), _NAMED_IN_QUERY):
        which = TaskFilter(ids=known[start : start + _NAMED_IN_QUERY])
        found |= {one.id: one for one in store.find_tasks(which, with_output=False)}
    for text, task_id in parsed.items():
        if task_id not in found:
            find_task(store, text)  # raises NotFoundError
    return list({task_id: found[task_id] for task_id in parsed.values()}.values())
