"""Finding what a person names: a queue, a task, or all tasks of a selection.

Responsible for: ids as people type them, suggestions for unknown names, and selections as a TaskFilter.
Must not know: what is done with the tasks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from disbatch_host import suggested
from disbatch_host.client import conditions, times
from disbatch_host.client.batch_finding import batch_id_of
from disbatch_host.client.times import Duration, Moment
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.conditions import Condition
from disbatch_host.documents.records import Queue, QueueId, Task, TaskId
from disbatch_host.errors import FieldError, NotFoundError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.faults import near_name

KEY_DIGITS = 8  # of `disbatch_protocol.groups`, whose patterns a selection does not need
LAST = "@last"  # the newest task of the person who asks

_NAMED_IN_QUERY = 1000
_BEGINNING = re.compile("[0-9a-fA-F]{6,}")  # of an id, enough of it to be taken for one
_BEGINNINGS_SHOWN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A choice of tasks, in the words of people. Every field that is given narrows it."""

    queue: str | None = None  # may be a deleted one that still has tasks
    queues: Sequence[str] | None = None  # of one of these, there or not
    status: (
        str | int | Sequence[str | int]
    ) = ()  # any of these words (see `statuses.names`, or with commas) and numbers
    node: str | None = None  # claimed by this node, now or earlier
    since: Moment | Duration | None = None  # created at or after this time, or within this long
    before: Moment | Duration | None = None  # created before this time, or longer ago than this
    ended_since: Moment | Duration | None = None  # ended, or last changed, at or after this time
    ended_before: Moment | Duration | None = None  # likewise, before
    error: str | None = None  # error code
    failure: str | None = None  # the key of a cause of failure
    class_name: str | None = None  # of the plugin that ran it
    version: str | None = None  # of that plugin
    unique_key: str | None = None
    batch: str | None = None  # the id of a batch, the beginning of it, or @last
    ids: Sequence[TaskId] | None = None  # these alone
    after: TaskId | None = None  # that wait for this task
    parent: TaskId | None = None  # that the run of this task created
    where: str | Sequence[str] = ()  # conditions on their content, such as user=matt (see `conditions`); all hold
    grep: str | None = None  # this text is in the code or message of the error, in upper or lower case


def filter_of(store: Store, selection: Selection, by: str | None = None) -> TaskFilter:
    """The filter for a selection of `by` at this moment. Raises FieldError, and NotFoundError for an unknown queue."""
    values, or_failed = statuses_of(selection.status)
    since, before = selection.since, selection.before
    ended_since, ended_before = selection.ended_since, selection.ended_before
    now = store.now() if any(one is not None for one in (since, before, ended_since, ended_before)) else None
    return TaskFilter(
        queue=None if selection.queue is None else queue_id(store, selection.queue),
        queues=None if selection.queues is None else _queue_ids(store, selection.queues),
        statuses=values,
        or_failed=or_failed,
        node=selection.node,
        created_since=_gone_by("since", since, now),
        created_before=_gone_by("before", before, now),
        changed_since=_gone_by("ended_since", ended_since, now),
        changed_before=_gone_by("ended_before", ended_before, now),
        error_code=selection.error,
        failure=None if selection.failure is None else failure_key(selection.failure),
        class_name=selection.class_name,
        version=selection.version,
        unique_key=selection.unique_key,
        batch=None if selection.batch is None else batch_id_of(store, selection.batch, by),
        ids=None if selection.ids is None else [one.id for one in find_named(store, selection.ids, by)],
        after=None if selection.after is None else find_task(store, selection.after, by).id,
        parent=None if selection.parent is None else str(find_task(store, selection.parent, by).id),
        where=conditions.conditions_of(selection.where),
        grep=_grep_of(selection.grep),
    )


def failure_key(text: str) -> str:
    """The key of a cause of failure, as a person types it. Raises FieldError."""
    key = text.strip().lower()
    if len(key) != KEY_DIGITS or not set(key) <= set("0123456789abcdef"):
        hint = f"{suggested.hint('task failures')} shows them"
        raise FieldError("failure", f"expected a key of {KEY_DIGITS} hexadecimal digits, found {text!r:.60}; {hint}")
    return key


def _grep_of(text: str | None) -> str | None:
    if text == "":
        raise FieldError("grep", "expected a text, found an empty one")
    return text


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


def _queue_ids(store: Store, names: Sequence[str]) -> tuple[QueueId, ...]:
    found = [(name, store.find_queue(name)) for name in names]
    return tuple(name if queue is None else queue.id for name, queue in found)


def _gone_by(field: str, value: Moment | Duration | None, now: datetime | None) -> datetime | None:
    return None if value is None or now is None else times.moment_gone_by(field, value, now)


def find_queue(store: Store, name: str) -> Queue:
    """The queue with this id. Raises NotFoundError, which suggests a similar id."""
    queue = store.find_queue(str(name))
    if queue is None:
        known = [str(one.id) for one in store.queues()]
        near = near_name(name, known)
        hint = f"did you mean {near!r}?" if near else f"{suggested.hint('queue list')} shows the queues"
        raise NotFoundError(f"no queue {name!r} in {store.description}; {hint}")
    return queue


def find_task(store: Store, task_id: TaskId, by: str | None = None) -> Task:
    """The task with this id, which may be text; six or more hexadecimal digits stand for the only id that begins with
    them, and `@last` for the newest task that `by` created. Raises NotFoundError, and UsageError if several ids begin
    like that."""
    text = str(task_id)
    parsed = store.parse_id(text)
    task = None if parsed is None else store.get_task(parsed)
    if task is None and (meant := _meant(store, text, by)) is not None:
        task = store.get_task(meant)
    if task is None:
        shows = suggested.hint("task list")
        raise NotFoundError(f"no task {text!r} in {store.description}; {shows} shows the newest")
    return task


def _meant(store: Store, text: str, by: str | None) -> TaskId | None:
    """The id that a text stands for that is not an id itself."""
    if text == LAST and by is not None:
        return _last_of(store, by)
    if not _BEGINNING.fullmatch(text):
        return None
    found = store.ids_beginning(text.lower(), limit=_BEGINNINGS_SHOWN + 1)
    if len(found) > 1:
        more = ", and others" if len(found) > _BEGINNINGS_SHOWN else ""
        ids = ", ".join(str(one) for one in found[:_BEGINNINGS_SHOWN])
        raise UsageError(f"expected the id of one task, found {text!r}, with which {ids}{more} begin; write more of it")
    return found[0] if found else None


def _last_of(store: Store, by: str) -> TaskId:
    page = store.find_page(TaskFilter(where=(Condition(("created_by",), (by,)),)), limit=1, with_parameters=False)
    if not page.tasks:
        among = f"among the newest {page.looked_at} tasks" if page.is_cut else "there"
        raise NotFoundError(f"no task {LAST} in {store.description}: {by} has created none {among}")
    return page.tasks[0].id


def ids_of(given: TaskId | Iterable[TaskId]) -> list[TaskId]:
    """One id or several, as a list."""
    return [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)


def find_named(store: Store, ids: Iterable[TaskId], by: str | None = None) -> list[Task]:
    """The tasks with these ids, each once, in the given order, without output; ids are read as by `find_task`. Raises
    NotFoundError, UsageError."""
    parsed = {text: store.parse_id(text) for text in map(str, ids)}
    known = [one for one in parsed.values() if one is not None]
    found: dict[TaskId, Task] = {}
    for start in range(0, len(known), _NAMED_IN_QUERY):
        which = TaskFilter(ids=known[start : start + _NAMED_IN_QUERY])
        found |= {one.id: one for one in store.find_tasks(which, with_output=False)}
    for text, task_id in parsed.items():
        if task_id not in found:
            meant = find_task(store, text, by)
            parsed[text], found[meant.id] = meant.id, meant
    return list({task_id: found[task_id] for task_id in parsed.values()}.values())
