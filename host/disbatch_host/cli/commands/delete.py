"""`disbatch-host task delete`"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import click

from disbatch_host.cli import common, render, selection, times
from disbatch_host.cli.frame import common_options
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task, TaskId
from disbatch_host.errors import ExitCode, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status


@click.command()
@selection.NAMES
@selection.filter_options
@click.option("--older", metavar="S", help="Only those that ended longer ago than this, like 30d.")
@selection.YES
@common_options
def delete(ids: tuple[str, ...], filters: Mapping[str, Any], older: str | None, yes: bool) -> int:
    """Delete tasks that have ended, with their output. Nothing brings them back.

    \b
      disbatch-host task delete 5f0c… 5f0d…
      disbatch-host task delete --queue mail --status concluded --older 30d --yes

    What has not ended is refused (task cancel comes first), and so is what another task waits for. For a queue that
    keeps its tasks for so long and no longer: queue set ID keep=30d.
    """
    is_named = selection.is_named(ids, filters, *(["--older"] if older is not None else []))
    if not is_named:
        _check_statuses(filters["status"])
    age = None if older is None else times.duration("--older", older)
    with common.opened_store() as store:
        deleter = _Deleter(store)
        if is_named:
            tasks = selection.named(store, ids)
            return ExitCode.DONE if deleter.delete(tasks) == len(tasks) else ExitCode.FAILED
        which = selection.filter_of(store, filters)
        if age is not None:
            which = dataclasses.replace(which, changed_before=store.now() - age)
        deleter.delete_selected(which, filters["queue"], yes=yes)
        return ExitCode.DONE


def _check_statuses(words: tuple[str, ...]) -> None:
    values, _ = selection.statuses_of(words)
    if values is None:
        raise UsageError("expected --status with --queue, like --status concluded, found none")
    for value in sorted(values):
        if not statuses.is_finished(value):
            raise UsageError(
                f"--status: expected only statuses of tasks that have ended, found {statuses.name(value)}; "
                "what has not ended is cancelled first (`disbatch-host task cancel`)"
            )


class _Deleter:
    """Deletes ended tasks and says which stay."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: set[TaskId] = set()

    def delete_selected(self, which: TaskFilter, queue: str, *, yes: bool) -> None:
        total = self._store.count_tasks(which)
        question = f"delete {common.count_of(total, 'task')} of queue {queue}?"
        selection.confirm(question, total, yes=yes, is_explicit=False)
        deleted = 0
        with render.progress("deleting tasks", total=total) as advance:
            for batch in selection.batches(self._store, which, lambda one: one.id in self._kept):
                deleted += self.delete(batch, is_quiet=not common.wants_json())
                advance(len(batch))
        if not common.wants_json():
            click.echo(f"{common.count_of(deleted, 'task')} deleted")
            if self._kept:
                others = "another task waits for it" if len(self._kept) == 1 else "others wait for them"
                click.echo(f"{common.count_of(len(self._kept), 'task')} kept, because {others}", err=True)

    def delete(self, tasks: list[Task], *, is_quiet: bool = False) -> int:
        """How many were deleted."""
        awaited = [one for one in tasks if self._is_awaited(one)]
        unfinished = [one for one in tasks if not statuses.is_finished(one.status)]
        kept = {one.id for one in (*awaited, *unfinished)}
        deleted = [one for one in tasks if one.id not in kept]
        by_status = {one.id: one.status for one in deleted}
        if deleted:
            count = self._store.delete_tasks(list(by_status), statuses=frozenset(by_status.values()))
            if count != len(deleted):  # somebody has come in between
                left = {one.id: one for one in self._store.find_tasks(TaskFilter(ids=list(by_status)))}
                deleted = [one for one in deleted if one.id not in left]
                awaited += [one for one in left.values() if statuses.is_finished(one.status)]
                unfinished += [one for one in left.values() if not statuses.is_finished(one.status)]
        self._kept |= {one.id for one in (*awaited, *unfinished)}
        if not is_quiet:
            selection.say(self._store, deleted, "deleted", "deleted")
            selection.say(
                self._store,
                [one for one in awaited if statuses.is_finished(one.status)],
                "awaited",
                "is not deleted: another task waits for it; cancel or release that one first",
            )
            selection.say(
                self._store,
                unfinished,
                "not_ended",
                lambda one: f"is not deleted: it has not ended, it is {statuses.name(one.status)}; cancel it first",
                more=selection.status_of,
            )
        return len(deleted)

    def _is_awaited(self, task: Task) -> bool:
        """Whether others wait for it: for its end, or, after it has failed, for it to be run again."""
        if "awaited" not in task.document:
            return False
        which = TaskFilter(after=task.id, statuses=frozenset({int(Status.BLOCKED)}))
        return next(iter(self._store.find_tasks(which, limit=1, with_output=False)), None) is not None
