"""`disbatch-host task cancel`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from disbatch_host.cli import bars, common, render, results, selection, tally
from disbatch_host.cli.frame import common_options
from disbatch_host.client import allowed, control
from disbatch_host.client.control import Outcome, Result
from disbatch_host.client.finding import find_named
from disbatch_host.client.waiting import wait_for_ends
from disbatch_host.decide import counts
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.errors import ExitCode
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses


@click.command()
@selection.NAMES
@selection.filter_options
@common.reason_option
@click.option("--wait", "waits", is_flag=True, help="Wait until the running ones have ended.")
@selection.YES
@common_options
def cancel(ids: tuple[str, ...], filters: Mapping[str, Any], reason: str | None, waits: bool, yes: bool) -> int:
    """Cancel tasks: waiting ones at once; for running ones, ask their nodes to stop them.

    \b
      disbatch-host task cancel 5f0c… 5f0d… --reason 'wrong letter'
      disbatch-host task cancel --queue mail --status waiting
      disbatch-host task cancel --queue mail --status running --wait --yes

    Without --status, all unfinished tasks of the queue. Exit 1 if a task that was named had already ended.

    At a terminal, more than one task of a queue is cancelled only after a question. A script is not asked if --status
    says which ones; without it, the script needs --yes.
    """
    is_named = selection.is_named(ids, filters)
    with common.options_named():
        allowed.check_cancellable(filters["status"])
    with common.opened_store() as store:
        canceller = Canceller(store, common.request(reason, store.now()), as_json=common.wants_json())
        if is_named:
            code = canceller.cancel_named(find_named(store, ids, common.who()))
        else:
            code = canceller.cancel_selected(filters, yes=yes)
        canceller.say_who_may_not_stop()
        return max(code, canceller.wait(is_named=is_named)) if waits else code


class Canceller:
    """Cancels tasks and reports on each."""

    def __init__(self, store: Store, request: Document, *, as_json: bool) -> None:
        self._store = store
        self._request = request
        self._as_json = as_json
        self._asked: dict[TaskId, str] = {}  # running tasks, and the node that was asked to stop each

    def cancel_named(self, tasks: list[Task]) -> int:
        code = ExitCode.DONE
        for batch in control.cancel(self._store, tasks, self._request):
            self._note(batch)
            results.say(self._store, batch, as_json=self._as_json)
            if not all(one.is_done for one in batch):
                code = ExitCode.FAILED
        return code

    def cancel_selected(self, filters: Mapping[str, Any], *, yes: bool) -> int:
        which = selection.filter_of(self._store, {**filters, "status": filters["status"] or ("unfinished",)})
        total = self._store.count_tasks(which)
        question = f"cancel {common.count_of(total, 'task')} {selection.of_what(filters)}?"
        selection.confirm(question, total, yes=yes, is_explicit=bool(filters["status"]))
        self.cancel_all(which, total)
        return ExitCode.DONE

    def cancel_all(self, which: TaskFilter, total: int) -> None:
        """Cancel what a filter selects; says how many that were."""
        cancelled = 0
        with bars.progress("cancelling tasks", total=total) as advance:
            for batch in control.cancel(self._store, which, self._request):
                self._note(batch)
                cancelled += sum(one.outcome is Outcome.CANCELLED for one in batch)
                if self._as_json:
                    results.say(self._store, [one for one in batch if one.is_done], as_json=True)
                advance(len(batch))
        if not self._as_json:
            click.echo(f"{common.count_of(cancelled, 'task')} cancelled")
            if self._asked:
                by_node = Counter(self._asked.values())
                nodes = ", ".join(f"{count} by node {node}" for node, count in sorted(by_node.items()))
                click.echo(f"{common.count_of(len(self._asked), 'running task')} being stopped: {nodes}")

    def _note(self, batch: Sequence[Result]) -> None:
        self._asked |= {one.task.id: str(one.task.node) for one in batch if one.outcome is Outcome.ASKED}

    def wait(self, *, is_named: bool) -> int:
        """Wait until the tasks that were asked to stop have ended; says of several what came of them. FAILED if one
        that was named ended otherwise."""
        began = time.monotonic()
        with bars.progress("waiting for them to end", total=len(self._asked)) as advance:
            others = wait_for_ends(self._store, self._asked, advance, results.say_still)
        for one in others:
            click.echo(f"task {one.id} ended before it could be stopped: {statuses.name(one.status)}", err=True)
        if len(self._asked) > 1:
            ends = counts.totals(Counter(one.status for one in others))
            words = tally.ends_in_words(
                concluded=ends["concluded"], failed=ends["failed"], cancelled=len(self._asked) - len(others),
                orphaned=ends["orphaned"],
            )  # fmt: skip
            click.echo(tally.ended_in_words(len(self._asked), time.monotonic() - began, words), err=True)
        return ExitCode.FAILED if others and is_named else ExitCode.DONE

    def say_who_may_not_stop(self) -> None:
        """Warn about nodes that may not stop their tasks soon, or ever."""
        for node in control.unreachable_nodes(self._store, self._asked.values()):
            click.echo(render.printable(f"node {node.id} {node.why}"), err=True)
