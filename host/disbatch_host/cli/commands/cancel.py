"""`disbatch-host task cancel`"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from disbatch_host.cli import common, render, selection
from disbatch_host.cli.commands.node import DEAD_AFTER_SECONDS
from disbatch_host.cli.frame import common_options
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.errors import ExitCode, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status, may_become

_LOOK_SECONDS = 0.5  # between two looks at what is waited for, where the store does not wake us


@click.command()
@selection.NAMES
@selection.filter_options
@common.reason_option
@click.option("--wait", "waits", is_flag=True, help="Return when those that run have ended.")
@selection.YES
@common_options
def cancel(ids: tuple[str, ...], filters: Mapping[str, Any], reason: str | None, waits: bool, yes: bool) -> int:
    """Cancel tasks: those that wait at once; the nodes of those that run are asked to stop them.

    \b
      disbatch-host task cancel 5f0c… 5f0d… --reason 'wrong letter'
      disbatch-host task cancel --queue mail --status waiting
      disbatch-host task cancel --queue mail --status running --wait --yes

    Without --status, all of the queue that have not ended. Exit 1 where a task that was named had ended already.
    """
    is_named = selection.is_named(ids, filters)
    _check_open(filters["status"])
    with common.opened_store() as store:
        canceller = _Canceller(store, common.request(reason, store.now()))
        if is_named:
            code = canceller.cancel_named(selection.named(store, ids), waits=waits)
        else:
            code = canceller.cancel_selected(filters, waits=waits, yes=yes)
        canceller.say_who_may_not_hear()
        return code


def _check_open(words: Sequence[str]) -> None:
    values, _ = selection.statuses_of(words)
    for value in sorted(values or ()):
        if not may_become(value, Status.CANCELLED):
            raise UsageError(
                f"--status: expected only statuses of tasks that can be cancelled, found {statuses.name(value)}; "
                "waiting, running and orphaned ones can be"
            )


class _Canceller:
    """Cancels and says what has become of each."""

    def __init__(self, store: Store, request: Document) -> None:
        self._store = store
        self._request = request
        self._asked: dict[TaskId, Task] = {}  # those that run, as they were when they were asked to stop
        self._unfit: set[TaskId] = set()  # those that have ended meanwhile

    def cancel_named(self, tasks: list[Task], *, waits: bool) -> int:
        changed = self._cancel(tasks)
        selection.say(
            self._store,
            [*changed.unfit, *changed.refused],
            "ended",
            lambda one: f"had ended already: {statuses.name(one.status)}",
            more=selection.status_of,
        )
        selection.say_gone(self._store, changed.gone)
        code = ExitCode.FAILED if changed.unfit or changed.refused or changed.gone else ExitCode.DONE
        return max(code, self._wait(is_named=True)) if waits else code

    def cancel_selected(self, filters: Mapping[str, Any], *, waits: bool, yes: bool) -> int:
        which = selection.filter_of(self._store, {**filters, "status": filters["status"] or ("unfinished",)})
        total = self._store.count_tasks(which)
        question = f"cancel {common.count_of(total, 'task')} of queue {filters['queue']}?"
        selection.confirm(question, total, yes=yes, is_explicit=bool(filters["status"]))
        counts: Counter[str] = Counter()
        with render.progress("cancelling tasks", total=total) as advance:
            for batch in selection.batches(self._store, which, self._has_had_its_turn):
                before = len(self._asked)
                changed = self._cancel(batch, is_quiet=not common.wants_json())
                self._unfit |= {one.id for one in (*changed.unfit, *changed.refused)}
                counts["asked"] += len(self._asked) - before
                counts["cancelled"] += len(changed.done) - (len(self._asked) - before)
                advance(len(batch))
        if not common.wants_json():
            click.echo(f"{common.count_of(counts['cancelled'], 'task')} cancelled")
            if self._asked:
                by_node = Counter(str(one.node) for one in self._asked.values())
                nodes = ", ".join(f"{count} by node {node}" for node, count in sorted(by_node.items()))
                click.echo(f"{common.count_of(counts['asked'], 'running task')} being stopped: {nodes}")
        return self._wait(is_named=False) if waits else ExitCode.DONE

    def _has_had_its_turn(self, task: Task) -> bool:
        return task.id in self._asked or task.id in self._unfit

    def _cancel(self, tasks: list[Task], *, is_quiet: bool = False) -> selection.Changed:
        now = self._store.now()
        changed = selection.change(
            self._store, tasks, lambda one: transitions.cancel_change(one, self._request, now=now)
        )
        asked = [one for one in changed.done if one.status == Status.RUNNING]
        self._asked |= {one.id: one for one in asked}
        if not is_quiet:
            cancelled = [one for one in changed.done if one.status != Status.RUNNING]
            selection.say(self._store, cancelled, "cancelled", "cancelled")
            selection.say(
                self._store,
                asked,
                "asked",
                lambda one: f"is being stopped by node {one.node}",
                more=lambda one: {"node": one.node},
            )
        return changed

    def _wait(self, *, is_named: bool) -> int:
        """Until those that were asked to stop have ended. FAILED where one that was named has ended otherwise."""
        left = set(self._asked)
        others: list[Task] = []
        watcher = self._store.watch()
        try:
            with render.progress("waiting for their ends", total=len(left)) as advance:
                while left:
                    found = {one.id: one for one in _tasks_now(self._store, left)}
                    ended = {one for one in left if one not in found or statuses.is_finished(found[one].status)}
                    others += [found[one] for one in ended if one in found and found[one].status != Status.CANCELLED]
                    left -= ended
                    advance(len(ended))
                    if left:
                        watcher.wait(_LOOK_SECONDS)
        finally:
            watcher.close()
        for one in others:
            click.echo(f"task {one.id} ended before it could be stopped: {statuses.name(one.status)}", err=True)
        return ExitCode.FAILED if others and is_named else ExitCode.DONE

    def say_who_may_not_hear(self) -> None:
        """Which of the nodes that were asked may not do it soon, or ever."""
        asked = {str(one.node) for one in self._asked.values()}
        nodes = {one.id: one for one in self._store.nodes()} if asked else {}
        for node_id in sorted(asked):
            node = nodes.get(node_id)
            if node is None or node.is_stale(DEAD_AFTER_SECONDS):
                why = "is not alive; what it ran is cancelled as soon as another node finds that out"
            elif not node.is_ours:
                why = f"is of another program ({node.document.get('version')}), which may not stop it"
            else:
                continue
            click.echo(f"node {node_id} {why}", err=True)


def _tasks_now(store: Store, ids: set[TaskId]) -> list[Task]:
    ordered = list(ids)
    found: list[Task] = []
    for start in range(0, len(ordered), selection.BATCH):
        which = TaskFilter(ids=ordered[start : start + selection.BATCH])
        found += store.find_tasks(which, with_output=False)
    return found
