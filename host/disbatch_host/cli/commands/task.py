"""`disbatch-host task …`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from disbatch_host.cli import common, render, selection
from disbatch_host.cli.frame import Subcommands, common_options
from disbatch_host.cli.kinds import Whole
from disbatch_host.client import history
from disbatch_host.decide.absence import absence_of
from disbatch_host.documents.records import NodeRecord, Task
from disbatch_protocol.status import IN_HAND, Status

_LIST_LIMIT = 50

_ELSEWHERE = {
    "bundle": "bundle.bundle",
    "cancel": "cancel.cancel",
    "delete": "delete.delete",
    "export": "export.export",
    "failures": "failures.failures",
    "import": "import_.import_",
    "output": "output.output",
    "push": "push.push",
    "release": "retry.release",
    "retry": "retry.retry",
    "set": "task_set.set_",
    "show": "show.show",
    "wait": "wait.wait",
    "why": "why.why",
}


@click.group(cls=Subcommands, elsewhere=_ELSEWHERE)
@common_options
def task() -> None:
    """Push, list, show, cancel, retry and delete tasks, read their output, and wait for them."""


def _ran(task: Task, now: datetime) -> str:
    """How long its last run took, or takes so far."""
    if history.was_never_started(task.run):
        return "-"
    started = task.run.get("started")
    if task.status == Status.RUNNING and isinstance(started, datetime):
        return f"{render.duration(round(max(0.0, (now - started).total_seconds())))} so far"
    return render.duration(None if task.run.get("reason") == history.LOST else task.run.get("seconds"))


def _remark(task: Task, nodes: Sequence[NodeRecord]) -> str | tuple[str, str]:
    """Why it failed; of a task that concluded, what may be wrong all the same; of one in the hands of a node that is
    not there, that."""
    if absence := absence_of(task, nodes):
        return f"node {absence.node} {absence.heard}", "yellow"
    if task.status != Status.CONCLUDED:
        return history.reason_in_short(task)
    return "; ".join(history.doubts(task)), "dim"


@task.command("list")
@selection.filter_options
@click.option(
    "--limit",
    type=Whole(1),
    default=_LIST_LIMIT,
    show_default=True,
    metavar="N",
    help="Show at most this many.",
)
@common_options
def list_(filters: Mapping[str, Any], limit: int) -> None:
    """List tasks, the newest first.

    \b
      disbatch-host task list --queue mail --status failed --since 2h
      disbatch-host task list --error timeout --before 2026-11-25 --limit 1000 --json
    """
    with common.opened_store() as store:
        which = selection.filter_of(store, filters)
        tasks = list(store.find_tasks(which, limit=limit + 1, newest_first=True, with_output=False))
        if common.wants_json():
            masker = common.masker(store)
            for one in tasks[:limit]:
                render.print_json(masker.document(one), store.extended_json)
        else:
            now = store.now()
            nodes = store.nodes() if any(one.status in IN_HAND for one in tasks) else ()
            rows = [
                (
                    one.id,
                    one.queue,
                    render.status_cell(one.status),
                    one.node or "-",
                    render.age(one.document.get("ctime"), now),
                    _ran(one, now),
                    _remark(one, nodes),
                )
                for one in tasks[:limit]
            ]
            columns = ("task", "queue", "status", "node", "created", "ran", "error")
            render.print_table(columns, rows, cuts_middle=True)
        if len(tasks) > limit:
            click.echo(f"the newest {limit}; there are more, --limit shows them", err=True)
