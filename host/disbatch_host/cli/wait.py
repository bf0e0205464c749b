"""`disbatch-host task wait`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from disbatch_host.cli import common, render, show
from disbatch_host.cli.main import common_options
from disbatch_host.errors import ExitCode, NotFoundError, UsageError
from disbatch_host.model import Task, TaskFilter
from disbatch_host.store.base import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import parse_duration
from disbatch_protocol.status import Status

_LOOK_SECONDS = 0.5  # between two looks at what is waited for, where the store does not wake us


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--timeout", metavar="S", help="Give up after so long.")
@common_options
def wait(ids: tuple[str, ...], timeout: str | None) -> int:
    """Wait until tasks have ended; exit 0 when all concluded well, 1 when one did not (or the time is over)."""
    try:
        limit_seconds = None if timeout is None else parse_duration(timeout)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error
    deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
    with common.opened_store() as store, render.progress("waiting", total=len(ids)) as advance:
        open_tasks = {one.id: one for one in (common.find_task(store, text) for text in ids)}
        ended: dict[Any, Task] = {}
        watcher = store.watch()
        try:
            while True:
                for found in _tasks_now(store, list(open_tasks)):
                    if found is None:
                        raise NotFoundError("a task that was waited for is not there any more; somebody has deleted it")
                    open_tasks[found.id] = found
                    if statuses.is_finished(found.status):
                        ended[found.id] = found
                        del open_tasks[found.id]
                        advance(1)
                if not open_tasks or (deadline is not None and time.monotonic() >= deadline):
                    break
                left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))
                watcher.wait(left)
        finally:
            watcher.close()
        return _report_wait(store, ended, open_tasks)


def _tasks_now(store: Store, ids: list[Any]) -> list[Task | None]:
    found = {one.id: one for one in store.find_tasks(TaskFilter(ids=ids), with_output=False)}
    return [found.get(one) for one in ids]


def _report_wait(store: Store, ended: Mapping[Any, Task], still_open: Mapping[Any, Task]) -> int:
    bad = [one for one in ended.values() if one.status != Status.CONCLUDED]
    if common.wants_json():
        for one in (*ended.values(), *still_open.values()):
            render.print_json({"_id": one.id, "status": one.status, "status_name": statuses.name(one.status)})
    for one in bad:
        click.echo(f"task {one.id} {statuses.name(one.status)}: {show.in_short(one) or 'no reason given'}", err=True)
    if still_open:
        have = "task has" if len(still_open) == 1 else "tasks have"
        click.echo(f"{len(still_open)} {have} not ended in time: {', '.join(map(str, still_open))}", err=True)
    return ExitCode.FAILED if bad or still_open else ExitCode.DONE
