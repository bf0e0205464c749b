"""Which tasks a command is about: those that are named, or those that fit filters; and going through very many of them.

Responsible for: the options, what they mean as a TaskFilter, batches, and the question before many are changed. Must
not know: what is done to the tasks.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import click

from disbatch_host.cli import common, render, times
from disbatch_host.documents.changes import TaskChange, TaskFilter
from disbatch_host.documents.records import QueueId, Task, TaskId
from disbatch_host.errors import UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses

BATCH = 1000  # tasks in hand at once
_PASSES = 3  # over what fits: tasks that change meanwhile may be met only then; what comes for ever is not waited for
_TRIES = 5  # of a change whose task is somebody else's at the same moment
_NAMED_IN_QUERY = 1000


def filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that narrow; the command gets them as `filters`, for `filter_of`."""

    @functools.wraps(function)
    def with_filters(**given: Any) -> Any:
        filters = {name: given.pop(name) for name in _FILTERS}
        return function(filters=filters, **given)

    wrapped: Callable[..., Any] = with_filters
    for option in reversed(tuple(_FILTERS.values())):
        wrapped = option(wrapped)
    return wrapped


_FILTERS = {
    "queue": click.option("--queue", metavar="Q", help="Only of this queue."),
    "status": click.option(
        "--status",
        multiple=True,
        metavar="STATUS",
        help=f"One of {', '.join(statuses.names())}, or a number; several with commas between them, or given again.",
    ),
    "node": click.option("--node", metavar="ID", help="Only those that this node has or had in hand."),
    "since": click.option("--since", metavar="S|TIME", help="Created since this time, or not longer ago than this."),
    "before": click.option("--before", metavar="S|TIME", help="Created before this time, or longer ago than this."),
    "error": click.option("--error", metavar="CODE", help="Only those with this error code."),
    "unique_key": click.option("--unique-key", metavar="K", help="Only those with this unique key."),
}

NAMES = click.argument("ids", nargs=-1, metavar="[ID...]")
YES = click.option("--yes", is_flag=True, help="Do not ask.")


def filter_of(store: Store, filters: Mapping[str, Any]) -> TaskFilter:
    """What the options mean. Raises UsageError, and NotFoundError for a queue that nobody knows."""
    values, failed_too = statuses_of(filters["status"])
    since, before = filters["since"], filters["before"]
    now = store.now() if since is not None or before is not None else None
    return TaskFilter(
        queue=None if filters["queue"] is None else _queue_id(store, filters["queue"]),
        statuses=values,
        failed_too=failed_too,
        node=filters["node"],
        created_since=_moment("--since", since, now),
        created_before=_moment("--before", before, now),
        error_code=filters["error"],
        unique_key=filters["unique_key"],
    )


def statuses_of(words: Sequence[str]) -> tuple[frozenset[int] | None, bool]:
    """The statuses that any of the words stands for, None without a word; and whether all above 2 count as well."""
    values: set[int] = set()
    failed_too = False
    for word in [one for given in words for one in given.split(",")]:
        try:
            some, failed = statuses.parse(word)
        except ValueError as error:
            raise UsageError(f"--status: {error}") from error
        values |= some
        failed_too |= failed
    return (frozenset(values) if words else None), failed_too


def _queue_id(store: Store, name: str) -> QueueId:
    """The id of a queue, also of a deleted one that has left tasks. Raises NotFoundError."""
    if store.find_queue(name) is None and store.count_tasks(TaskFilter(queue=name)):
        return name
    return common.find_queue(store, name).id


def _moment(where: str, text: str | None, now: datetime | None) -> datetime | None:
    return None if text is None or now is None else times.moment_gone_by(where, text, now)


def is_named(ids: Sequence[str], filters: Mapping[str, Any], *more: str) -> bool:
    """Whether tasks are named, not filtered. Raises UsageError where it is both or neither: a command that changes
    tasks wants at least a queue. `more`: other filters that were given."""
    given = [f"--{name.replace('_', '-')}" for name, value in filters.items() if value not in (None, ())] + list(more)
    if ids and given:
        raise UsageError(f"expected either ids of tasks or {given[0]}, found both")
    if not ids and filters["queue"] is None:
        raise UsageError("expected ids of tasks, or --queue Q and filters; `disbatch-host task list` shows tasks")
    return bool(ids)


def confirm(question: str, count: int, *, yes: bool, is_explicit: bool) -> None:
    """Ask whoever sits at a terminal before more than one task is changed. A script has to say `--yes`, unless it has
    said exactly what it means (`is_explicit`). Raises UsageError, or Abort."""
    if yes or not count:
        return
    if sys.stdin.isatty():
        if count > 1:
            click.confirm(question, abort=True, err=True)
    elif not is_explicit:
        raise UsageError(f"expected --yes, found nobody who could answer: {question}")


def named(store: Store, ids: Sequence[str]) -> list[Task]:
    """The tasks of these ids, each once, in their order. Raises NotFoundError."""
    parsed = {text: store.parse_id(text) for text in ids}
    known = [one for one in parsed.values() if one is not None]
    found: dict[TaskId, Task] = {}
    for start in range(0, len(known), _NAMED_IN_QUERY):
        which = TaskFilter(ids=known[start : start + _NAMED_IN_QUERY])
        found |= {one.id: one for one in store.find_tasks(which, with_output=False)}
    for text, task_id in parsed.items():
        if task_id not in found:
            common.find_task(store, text)  # says that it is not there
    return list({task_id: found[task_id] for task_id in parsed.values()}.values())


def batches(store: Store, which: TaskFilter, is_done: Callable[[Task], bool]) -> Iterator[list[Task]]:
    """The tasks that fit, in batches, so that millions need no memory. What is done to a batch may change whether its
    tasks fit; `is_done` tells of one that does still, or again, that it has had its turn."""
    for _ in range(_PASSES):
        has_found = False
        batch: list[Task] = []
        for one in store.find_tasks(which, with_output=False, in_any_order=True):
            if is_done(one):
                continue
            batch.append(one)
            if len(batch) == BATCH:
                yield batch
                has_found, batch = True, []
        if batch:
            yield batch
        elif not has_found:
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What has become of changes of tasks. The tasks as they were before."""

    done: list[Task] = field(default_factory=list)
    unfit: list[Task] = field(default_factory=list)  # there is nothing to be changed in its state
    refused: list[Task] = field(default_factory=list)  # by the store, though it has not changed
    gone: list[Task] = field(default_factory=list)


def change(store: Store, tasks: Sequence[Task], change_of: Callable[[Task], TaskChange | None]) -> Changed:
    """Change each task as `change_of` says; where one has changed since it was read, as it says then."""
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
        left = [one for one in now.values() if _has_changed(before[one.id], one)]
        changed.refused.extend(one for one in now.values() if not _has_changed(before[one.id], one))
    changed.refused.extend(left)
    return changed


def _has_changed(before: Task, after: Task) -> bool:
    return (before.status, before.document.get("mtime")) != (after.status, after.document.get("mtime"))


def say(
    store: Store,
    tasks: Sequence[Task],
    outcome: str,
    words: Callable[[Task], str] | str,
    *,
    more: Callable[[Task], Mapping[str, Any]] = lambda _: {},
) -> None:
    """A line for each task: in words, or with --json a document with its `outcome`. `more`: further fields of that."""
    for one in tasks:
        if common.wants_json():
            document = {"_id": one.id, "queue": one.queue, "outcome": outcome, **more(one)}
            render.print_json(document, store.extended_json)
        else:
            click.echo(f"{one.id} {words if isinstance(words, str) else words(one)}")


def say_gone(store: Store, tasks: Sequence[Task]) -> None:
    say(store, tasks, "gone", "has just been deleted")


def status_of(task: Task) -> Mapping[str, Any]:
    """For `say`: the status that stands in the way."""
    return {"status": task.status, "status_name": statuses.name(task.status)}
