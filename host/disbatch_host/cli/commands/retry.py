"""`disbatch-host task retry` and `task release`: tasks that nothing happens to any more are run after all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from disbatch_host.cli import common, render, selection
from disbatch_host.cli.frame import common_options
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.errors import ExitCode, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status, may_become


@click.command()
@selection.NAMES
@click.option("--failed", is_flag=True, help="All of the queue that have failed or were terminated.")
@selection.filter_options
@common.reason_option
@selection.YES
@common_options
def retry(ids: tuple[str, ...], failed: bool, filters: Mapping[str, Any], reason: str | None, yes: bool) -> int:
    """Run tasks again that have ended; how each earlier attempt ended is kept.

    \b
      disbatch-host task retry 5f0c… --reason 'server is back'
      disbatch-host task retry --failed --queue mail
      disbatch-host task retry --failed --queue mail --error timeout
      disbatch-host task retry --status orphaned --queue mail

    Each gets as many attempts as a new task. Exit 1 where one has not ended, or where another unfinished task has its
    unique key.
    """
    is_named = selection.is_named(ids, filters, *(["--failed"] if failed else []))
    if not is_named and failed == bool(filters["status"]):
        found = "both" if failed else "neither"
        raise UsageError(f"expected either --failed or --status with --queue, found {found}")
    chosen = {**filters, "status": ("failed", "terminated") if failed else filters["status"]}
    _check_ended(chosen["status"])
    with common.opened_store() as store:
        retrier = _Retrier(store, common.request(reason, store.now()))
        if is_named:
            retrier.retry(selection.named(store, ids))
        else:
            retrier.retry_selected(chosen, yes=yes)
        return ExitCode.FAILED if retrier.has_refused else ExitCode.DONE


def _check_ended(words: tuple[str, ...]) -> None:
    values, _ = selection.statuses_of(words)
    for value in sorted(values or ()):
        if not may_become(value, Status.CREATED) or not statuses.is_finished(value):
            raise UsageError(
                f"--status: expected only statuses of tasks that have ended, found {statuses.name(value)}; "
                "what has not ended is not run again"
            )


class _Retrier:
    """Makes tasks Created again and says what has become of each."""

    def __init__(self, store: Store, request: Document) -> None:
        self._store = store
        self._request = request
        self._refused: set[TaskId] = set()

    @property
    def has_refused(self) -> bool:
        return bool(self._refused)

    def retry_selected(self, filters: Mapping[str, Any], *, yes: bool) -> None:
        which = selection.filter_of(self._store, filters)
        total = self._store.count_tasks(which)
        question = f"run {common.count_of(total, 'task')} of queue {filters['queue']} again?"
        selection.confirm(question, total, yes=yes, is_explicit=True)
        retried = 0
        with render.progress("running tasks again", total=total) as advance:
            for batch in selection.batches(self._store, which, self._has_had_its_turn):
                retried += self.retry(batch, is_quiet=not common.wants_json())
                advance(len(batch))
        if not common.wants_json():
            click.echo(f"{common.count_of(retried, 'task')} will be run again")

    def _has_had_its_turn(self, task: Task) -> bool:
        """It may have failed again already, or have been refused."""
        retried = task.document.get("retried")
        is_ours = isinstance(retried, Mapping) and all(
            retried.get(name) == self._request[name] for name in ("at", "by")
        )
        return is_ours or task.id in self._refused

    def retry(self, tasks: list[Task], *, is_quiet: bool = False) -> int:
        """How many will be run again. What will not is always said."""
        now = self._store.now()
        changed = selection.change(
            self._store, tasks, lambda one: transitions.retry_change(one, self._request, now=now)
        )
        if not is_quiet:
            selection.say(self._store, changed.done, "retried", "will be run again")
        self._refused |= {one.id for one in (*changed.unfit, *changed.refused, *changed.gone)}
        selection.say_gone(self._store, changed.gone)
        selection.say(
            self._store,
            changed.unfit,
            "not_ended",
            lambda one: f"is not run again: it has not ended, it is {statuses.name(one.status)}",
            more=selection.status_of,
        )
        for one in changed.refused:
            self._say_refused(one, self._holder_of_key(one))
        return len(changed.done)

    def _say_refused(self, task: Task, other: Task | None) -> None:
        if other is None:
            selection.say(self._store, [task], "refused", "is not run again: somebody has changed it just now")
            return
        why = f"task {other.id}, which is {statuses.name(other.status)}, has the same unique key"
        selection.say(
            self._store, [task], "unique_key", f"is not run again: {why}", more=lambda _: {"other": str(other.id)}
        )

    def _holder_of_key(self, task: Task) -> Task | None:
        """The unfinished task of its queue that has its unique key."""
        key = task.document.get("unique_key")
        if not isinstance(key, str):
            return None
        unfinished = frozenset(map(int, statuses.UNFINISHED))
        which = TaskFilter(queue=task.queue, unique_key=key, statuses=unfinished)
        found = self._store.find_tasks(which, with_output=False)
        return next((one for one in found if one.id != task.id), None)


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@common_options
def release(ids: tuple[str, ...]) -> int:
    """Let blocked tasks run now, whatever time or task they wait for.

    \b
      disbatch-host task release 5f0c…

    For a task whose predecessor has failed and will not be run again (task retry), or one that is due too late.
    """
    with common.opened_store() as store:
        now = store.now()
        tasks = selection.named(store, ids)
        changed = selection.change(store, tasks, lambda one: transitions.release_change(one, now=now))
        selection.say(store, changed.done, "released", "is released")
        selection.say_gone(store, changed.gone)
        selection.say(
            store,
            [*changed.unfit, *changed.refused],
            "not_blocked",
            lambda one: f"is not blocked, it is {statuses.name(one.status)}",
            more=selection.status_of,
        )
        return ExitCode.DONE if len(changed.done) == len(tasks) else ExitCode.FAILED
