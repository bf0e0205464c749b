"""`disbatch-host task wait`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from disbatch_host import suggested
from disbatch_host.cli import bars, common, render, results, selection, tally
from disbatch_host.cli.frame import common_options
from disbatch_host.client.finding import find_queue
from disbatch_host.client.waiting import OnProgress, Progress, Waited, wait_for_selected, wait_for_tasks
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.errors import ExitCode, UsageError
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import parse_duration


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID... | -]")
@selection.some_filter_options("queue", "batch", "since", "before", "unique_key", "where")
@click.option("--timeout", metavar="S", help="Give up after this long.")
@common_options
def wait(ids: tuple[str, ...], filters: Mapping[str, Any], timeout: str | None) -> int:
    """Wait until tasks have ended; exit 0 if all concluded, 1 if one did not (or the time is up).

    '-' reads ids from stdin, one per line. --queue and other filters wait for the tasks that are unfinished now, and
    those that are created meanwhile; tasks that ended before do not count. If none is unfinished, it says what ended
    before, and exits with 1, since nobody knows which of these were meant; `batch wait` does.

    The last line on stderr says what came of the tasks. If nothing moves, a line says why.

    \b
      disbatch-host task wait 5f0c… 5f0d… --timeout 10m
      disbatch-host task push mail - < users.ndjson | disbatch-host task wait -
      disbatch-host task wait --queue mail --where user=matt
    """
    given = selection.given_options(filters)
    if bool(ids) is bool(given):
        raise UsageError("expected either task ids, '-' or --queue or other filters; see 'task wait --help'")
    try:
        limit_seconds = None if timeout is None else parse_duration(timeout)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error
    deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
    as_json = common.wants_json()
    with common.opened_store() as store:
        if given:
            if filters["queue"] is not None:
                find_queue(store, filters["queue"])  # one that was deleted has nothing to wait for
            which = selection.filter_of(store, filters)
            with bar() as shown:
                waited = wait_for_selected(
                    store, which, deadline=deadline, on_progress=shown, on_still=results.say_still
                )
            documents: list[dict[str, Any]] = [_document_of(which, waited)]
        else:
            named = list(_ids(ids))
            with bar() as shown:
                waited = wait_for_tasks(
                    store, named, deadline=deadline, on_progress=shown, on_still=results.say_still, by=common.who()
                )
            documents = [
                {"_id": task_id, "status": status, "status_name": statuses.name(status)}
                for task_id, status in waited.statuses.items()
            ]
        for document in documents if as_json else ():
            render.print_json(document, store.extended_json)
        if waited.before is not None:
            _say_what_came_before(waited.before, filters["queue"] if len(given) == 1 else None)
        else:
            options = selection.words_of(filters)
            say_what_came_of_it(waited, limit_seconds, options)
        return ExitCode.DONE if waited.all_concluded else ExitCode.FAILED


def _ids(given: Sequence[str]) -> Iterator[str]:
    if list(given) != ["-"]:
        yield from given
        return
    for line in sys.stdin:
        if text := line.strip():
            yield text


def _document_of(which: TaskFilter, waited: Waited) -> dict[str, Any]:
    before = None if waited.before is None else {name: waited.before[name] for name in _ENDS}
    names = {name: value for name, value in (("queue", which.queue), ("batch", which.batch)) if value is not None}
    return {**names, **document_of(waited), "ended_before": before}


def document_of(waited: Waited) -> dict[str, Any]:
    """What came of many tasks, for --json."""
    return {
        "ended": waited.done,
        "concluded": waited.concluded,
        "failed": waited.failed,
        "cancelled": waited.cancelled,
        "orphaned": waited.orphaned,
        "unfinished": waited.unfinished,
        "error_codes": dict(waited.codes),
    }


_ENDS = ("concluded", "failed", "cancelled", "orphaned")


def say_what_came_of_it(waited: Waited, limit_seconds: float | None, of_what: Sequence[str]) -> None:
    """On stderr: the first that did not conclude, what is unfinished, and as the last line what came of all. `of_what`:
    the options of `task list` that show them."""
    _say_failed(waited, of_what)
    if waited.unfinished:
        _say_unfinished(waited, limit_seconds or 0.0)
    if waited.run_seconds is not None:
        took = tally.took_in_words(waited.run_seconds, waited.since_creation_seconds, is_about=waited.is_about)
        click.echo(f"it took {took}", err=True)
    words = tally.ends_in_words(
        concluded=waited.concluded, failed=waited.failed, cancelled=waited.cancelled, orphaned=waited.orphaned,
        codes=waited.codes,
    )  # fmt: skip
    unfinished = f"; {waited.unfinished} unfinished" if waited.unfinished else ""
    seconds = waited.seconds if waited.run_seconds is None else waited.run_seconds
    click.echo(f"{tally.ended_in_words(waited.done, seconds, words)}{unfinished}", err=True)


def _say_failed(waited: Waited, of_what: Sequence[str]) -> None:
    for one in waited.first_failed:
        text = f"task {one.id} {statuses.name(one.status)}: {one.reason or 'no reason given'}"
        click.echo(render.printable(text), err=True)
    if (more := waited.not_concluded - len(waited.first_failed)) > 0:
        shows = f"; {suggested.hint('task list --failed', *of_what)} shows those that failed" if waited.failed else ""
        click.echo(render.printable(f"and {more} more{shows}"), err=True)


def _say_unfinished(waited: Waited, limit_seconds: float) -> None:
    count, named = waited.unfinished, [str(one) for one in waited.first_unfinished]
    have = "task has" if count == 1 else "tasks have"
    names = ", ".join(named) + (f" and {count - len(named)} more" if count > len(named) else "")
    within = f" within {render.duration(limit_seconds)}" if limit_seconds else ""
    click.echo(f"{count} {have} not ended{within}: {names}", err=True)


def _say_what_came_before(ended: Mapping[str, int], queue: str | None) -> None:
    words = tally.ends_in_words(
        concluded=ended["concluded"], failed=ended["failed"], cancelled=ended["cancelled"], orphaned=ended["orphaned"]
    )
    before = words if any(ended[name] for name in _ENDS) else "none"
    which = "no such task is unfinished" if queue is None else f"queue {queue} has no unfinished task"
    click.echo(render.printable(f"nothing to wait for: {which}; ended before: {before}"), err=True)


@contextlib.contextmanager
def bar() -> Iterator[OnProgress]:
    """On a terminal, for more than one: how many have ended, how many failed, how fast, and the remaining
    time."""
    with contextlib.ExitStack() as stack:
        update: OnProgress | None = None

        def shown(progress: Progress) -> None:
            nonlocal update
            if update is None and sys.stderr.isatty() and progress.total > 1:
                update = stack.enter_context(_shown_bar(progress.total))
            if update is not None:
                update(progress)

        yield shown


@contextlib.contextmanager
def _shown_bar(total: int) -> Iterator[OnProgress]:
    from rich import progress as rich  # noqa: PLC0415

    columns = (
        rich.TextColumn("ended"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[bad]}", style="red"),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(compact=True),
    )
    with bars.drawn(*columns) as drawn:
        bar = drawn.add_task("", total=total, bad="", rate="")

        def update(now: Progress) -> None:
            speed = drawn.tasks[0].speed
            rate = "" if speed is None else f"{speed:.1f}/s"
            bad = f"{now.failed} failed" if now.failed else ""
            drawn.update(bar, completed=now.done, total=now.total, bad=bad, rate=rate)

        yield update
