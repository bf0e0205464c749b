"""`disbatch-host task wait`.

Rules:
1. However many tasks are waited for, at most about a tenth of the time is spent asking for them: each look is at some
   of them in turn, and goes on as long as it finds nearly all ended.
2. Nothing is held of a task but its id and how it has ended.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import click

from disbatch_host.cli import common, render
from disbatch_host.cli.commands import show
from disbatch_host.cli.frame import common_options
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Queue, Task, TaskId
from disbatch_host.errors import ExitCode, NotFoundError, UsageError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.quantities import parse_duration
from disbatch_protocol.status import UNFINISHED, Status

_LOOK_SECONDS = 0.5  # between two looks at what is waited for, where the store does not wake us
_LOOK_BUSY_SECONDS = 0.05  # of them, at most, for looks that find little
_IDS_IN_LOOK = 1000  # asked for in one question
_WORTHWHILE = 0.9  # of these ended: the next ones are looked at at once
_NAMED_MAX = 20  # tasks that are named at the end

_UNFINISHED = frozenset(int(status) for status in UNFINISHED)
_BAD = frozenset(int(status) for status in (Status.FAILED, Status.TERMINATED, Status.CANCELLED, Status.ORPHANED))

Shown = Callable[[int, int, int], None]  # ended, of these bad, all


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID... | -]")
@click.option("--queue", "queue_name", metavar="Q", help="Until nothing of this queue is unfinished.")
@click.option("--timeout", metavar="S", help="Give up after so long.")
@common_options
def wait(ids: tuple[str, ...], queue_name: str | None, timeout: str | None) -> int:
    """Wait until tasks have ended; exit 0 when all concluded well, 1 when one did not (or the time is over).

    '-' reads their ids from stdin, one a line. With --queue, also for tasks that are created meanwhile.

    \b
      disbatch-host task wait 5f0c… 5f0d… --timeout 10m
      disbatch-host task push mail - < users.ndjson | disbatch-host task wait -
      disbatch-host task wait --queue mail
    """
    if bool(ids) is (queue_name is not None):
        raise UsageError("expected ids of tasks, '-' or --queue, and only one of these; see 'task wait --help'")
    try:
        limit_seconds = None if timeout is None else parse_duration(timeout)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error
    deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
    with common.opened_store() as store:
        if queue_name is not None:
            return _wait_for_queue(store, common.find_queue(store, queue_name), deadline)
        waited = _Waited.of(store, list(_ids(ids)))
        with _bar(waited.total) as shown:
            _look_until(store, deadline, lambda: waited.look(shown))
        return _report(waited)


def _ids(given: Sequence[str]) -> Iterator[str]:
    if list(given) != ["-"]:
        yield from given
        return
    for line in sys.stdin:
        if text := line.strip():
            yield text


def _look_until(store: Store, deadline: float | None, has_ended: Callable[[], bool]) -> None:
    """Until it has ended or the time is over."""
    watcher = store.watch()
    try:
        while True:
            began = time.monotonic()
            if has_ended():
                return
            # On a store where much happens the watcher wakes us at once, again and again.
            pause = min(_LOOK_SECONDS, (time.monotonic() - began) * _LOOK_SECONDS / _LOOK_BUSY_SECONDS)
            left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return
            woken_at = time.monotonic() + min(pause, left)
            watcher.wait(left)
            time.sleep(max(0.0, woken_at - time.monotonic()))
    finally:
        watcher.close()


# Tasks by their ids


@dataclass(slots=True)
class _Waited:
    store: Store
    open: deque[TaskId]  # in the order in which they are looked at
    total: int
    status_of: dict[TaskId, int] = field(default_factory=dict)  # as last seen
    bad: dict[TaskId, str] = field(default_factory=dict)  # why, of each that has ended but not concluded

    @classmethod
    def of(cls, store: Store, texts: Sequence[str]) -> _Waited:
        """Raises NotFoundError for the first that is not there."""
        ids: dict[TaskId, str] = {}
        for text in texts:
            task_id = store.parse_id(text)
            if task_id is None:
                common.find_task(store, text)  # says so
            ids[task_id] = text
        waited = cls(store=store, open=deque(ids), total=len(ids))
        for some in _in_pieces(list(ids)):
            found = waited.note(some)
            for task_id in some:
                if task_id not in found:
                    common.find_task(store, ids[task_id])
        waited.open = deque(one for one in waited.open if not statuses.is_finished(waited.status_of[one]))
        return waited

    @property
    def ended(self) -> int:
        return self.total - len(self.open)

    def look(self, shown: Shown) -> bool:
        """Look at some of those that have not ended; whether all have."""
        began, left = time.monotonic(), len(self.open)
        while left > 0 and time.monotonic() - began < _LOOK_BUSY_SECONDS:
            some = [self.open.popleft() for _ in range(min(left, _IDS_IN_LOOK))]
            left -= len(some)
            if len(self.note(some)) < len(some):
                raise NotFoundError("a task that was waited for is not there any more; somebody has deleted it")
            still_open = [one for one in some if not statuses.is_finished(self.status_of[one])]
            self.open.extend(still_open)
            if len(still_open) <= (1 - _WORTHWHILE) * len(some):
                began = time.monotonic()
            shown(self.ended, len(self.bad), self.total)
        return not self.open

    def note(self, ids: Sequence[TaskId]) -> set[TaskId]:
        """How these stand now; those that are there."""
        found = set()
        for task in self.store.find_tasks(TaskFilter(ids=ids), with_output=False, in_any_order=True):
            found.add(task.id)
            self.status_of[task.id] = task.status
            if statuses.is_finished(task.status) and task.status != Status.CONCLUDED:
                self.bad[task.id] = _in_words(task)
        return found


def _in_pieces(ids: Sequence[TaskId]) -> Iterator[Sequence[TaskId]]:
    return (ids[start : start + _IDS_IN_LOOK] for start in range(0, len(ids), _IDS_IN_LOOK))


def _in_words(task: Task) -> str:
    return f"task {task.id} {statuses.name(task.status)}: {show.in_short(task) or 'no reason given'}"


def _report(waited: _Waited) -> int:
    if common.wants_json():
        still_open = set(waited.open)
        for one in (*(one for one in waited.status_of if one not in still_open), *waited.open):
            status = waited.status_of[one]
            render.print_json({"_id": one, "status": status, "status_name": statuses.name(status)})
    _say_bad(list(waited.bad.values())[:_NAMED_MAX], len(waited.bad))
    if waited.open:
        _say_open([str(one) for one in list(waited.open)[:_NAMED_MAX]], len(waited.open))
    return ExitCode.FAILED if waited.bad or waited.open else ExitCode.DONE


def _say_bad(named: Sequence[str], count: int) -> None:
    for line in named:
        click.echo(line, err=True)
    if count > len(named):
        click.echo(f"and {count - len(named)} more; `disbatch-host task list --status failed` shows them", err=True)


def _say_open(named: Sequence[str], count: int) -> None:
    have = "task has" if count == 1 else "tasks have"
    names = ", ".join(named) + (f" and {count - len(named)} more" if count > len(named) else "")
    click.echo(f"{count} {have} not ended in time: {names}", err=True)


# All tasks of a queue


def _wait_for_queue(store: Store, queue: Queue, deadline: float | None) -> int:
    since = store.now()
    unfinished = TaskFilter(queue=queue.id, statuses=_UNFINISHED)
    bad = TaskFilter(queue=queue.id, statuses=_BAD, failed_too=True)
    left = store.count_tasks(unfinished)
    ended_before, bad_before = _ended(store, queue, bad), store.count_tasks(bad)
    resume_at = 0.0

    def has_ended(shown: Shown) -> bool:
        nonlocal left, resume_at
        began = time.monotonic()
        if began < resume_at:  # the last look took long
            return False
        left = store.count_tasks(unfinished)
        # Tasks that are run again or deleted meanwhile have ended before; they make nothing less than none.
        ended = max(0, _ended(store, queue, bad) - ended_before)
        shown(ended, max(0, store.count_tasks(bad) - bad_before), ended + left)
        took = time.monotonic() - began
        resume_at = began + took * _LOOK_SECONDS / _LOOK_BUSY_SECONDS
        return left == 0

    with _bar(left) as shown:
        _look_until(store, deadline, lambda: has_ended(shown))
    named, count = _bad_since(store, bad, since)
    if common.wants_json():
        ended = max(0, _ended(store, queue, bad) - ended_before)
        render.print_json({"queue": queue.id, "ended": ended, "bad": count, "unfinished": left}, store.extended_json)
    _say_bad([_in_words(task) for task in named], count)
    if left:
        found = store.find_tasks(unfinished, limit=_NAMED_MAX, with_output=False, in_any_order=True)
        _say_open([str(task.id) for task in found], left)
    return ExitCode.FAILED if count or left else ExitCode.DONE


def _ended(store: Store, queue: Queue, bad: TaskFilter) -> int:
    concluded = TaskFilter(queue=queue.id, statuses=frozenset({int(Status.CONCLUDED)}))
    return store.count_tasks(concluded) + store.count_tasks(bad)


def _bad_since(store: Store, bad: TaskFilter, since: datetime) -> tuple[list[Task], int]:
    """Some of those that have ended badly since then, and how many there are."""
    which = TaskFilter(queue=bad.queue, statuses=bad.statuses, failed_too=True, changed_since=since)
    count = store.count_tasks(which)
    return list(store.find_tasks(which, limit=_NAMED_MAX, with_output=False)) if count else [], count


# The bar


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Shown]:
    """On a terminal, for more than one: how many have ended, how many of them badly, how fast, and how long it will
    take."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda ended, bad, total: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("ended"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[bad]}", style="red"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=total, bad="", rate="")

        def shown(ended: int, bad: int, total: int) -> None:
            speed = progress.tasks[0].speed
            rate = "" if speed is None else f"{speed:.1f}/s"
            progress.update(bar, completed=ended, total=total, bad=f"{bad} bad" if bad else "", rate=rate)

        yield shown
