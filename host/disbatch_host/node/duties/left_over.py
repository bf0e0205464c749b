"""The duty that keeps a task from another attempt while something of its last one could not be ended.

Responsible for: looking whether it is still there, and setting the time before which no attempt begins. Must not know:
how anything is ended.

Rule: the end of such a run is recorded at once, and its place is free. A task that will be tried again is Blocked; this
duty keeps moving its `not_before` while any of the processes (`run.left_over`) is alive. So a node that ends and does
not come back holds the task for `HOLD_SECONDS` at most.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from disbatch_host import logs
from disbatch_host.clock import Clock
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task, TaskId
from disbatch_host.node.compartment import Troubles
from disbatch_host.node.pace import Pace
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.process import leftovers
from disbatch_host.run import notes
from disbatch_host.run.ending import HOLD_SECONDS
from disbatch_host.run.notes import Note
from disbatch_host.run.report import RunReport
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status

log = logging.getLogger(__name__)

_HOLD = timedelta(seconds=HOLD_SECONDS)


@dataclass(slots=True)
class _Held:
    task_id: TaskId
    token: str  # of the run that has left something
    processes: Sequence[tuple[object, object]]  # pid and start, as the document has them
    free_from: datetime  # when it may be tried again, once nothing is left
    until: datetime  # as it was set last

    @property
    def is_anything_there(self) -> bool:
        return any(leftovers.is_alive(pid, started) for pid, started in self.processes)


class LeftOver:
    """See `rounds.Duty`. Used in the event loop."""

    def __init__(self, store_thread: StoreThread, clock: Clock, troubles: Troubles, pace: Pace) -> None:
        """`clock`: the store's, by which tasks become due."""
        self.name = "left over"
        self.interval_seconds = pace.left_over_seconds
        self._store_thread = store_thread
        self._clock = clock
        self._troubles = troubles
        self._held: list[_Held] = []

    def hold(self, task: Task, report: RunReport) -> None:
        """Something of a run of this task, whose end is recorded, could not be ended."""
        log.warning(
            "task %s: %d processes of its run could not be ended, such as %s; no other attempt begins beside them",
            task.id, len(report.left_over), report.left_over[0].get("pid"), extra=logs.ids(task=task.id),
        )  # fmt: skip
        delay = None if report.conclusion is None else report.conclusion.delay_seconds
        now = self._clock.now()
        free_from = now + timedelta(seconds=delay or 0.0)
        if task.token is not None:
            self._held.append(_Held(task.id, task.token, _processes(report.left_over), free_from, now + _HOLD))

    async def hold_again(self, left: Sequence[bytes]) -> None:
        """The same for runs of an earlier life, by their notes."""
        read = [note for one in left if (note := notes.read(one)) is not None]
        for note in read:
            task = await self._store_thread.call(partial(_task_of_note, note=note))
            if task is not None and _is_of(task, note.token):
                now, until = self._clock.now(), task.document.get("not_before")
                is_later = isinstance(until, datetime) and until > now + _HOLD  # it waits for something else as well
                free_from = until if isinstance(until, datetime) and is_later else now
                self._held.append(_Held(task.id, note.token, _processes(task.run.get("left_over")), free_from, now))

    async def turn(self) -> None:
        """Set the time of each again, or let it go."""
        for held in list(self._held):
            with self._troubles.contained("what is left over of task", held.task_id):
                is_there, now = held.is_anything_there, self._clock.now()
                if is_there and held.until > now + _HOLD / 2:
                    continue
                held.until = max(now + _HOLD, held.free_from) if is_there else held.free_from
                is_waiting = await self._store_thread.call(partial(_set_time, held=held, until=held.until))
                if not is_there:
                    ids = logs.ids(task=held.task_id)
                    log.info("task %s: nothing of its last run is left", held.task_id, extra=ids)
                if not (is_there and is_waiting):
                    self._held.remove(held)


def _set_time(store: Store, held: _Held, until: datetime) -> bool:
    """Whether the task still waits."""
    task = _task_of(store, held.task_id)
    if task is None or not _is_of(task, held.token):
        return False
    change = transitions.hold_change(task, until)
    if change is not None:
        store.change_tasks([change])  # one that is refused was changed meanwhile: the next look sees that
    return change is not None


def _task_of_note(store: Store, note: Note) -> Task | None:
    return _task_of(store, notes.task_id_of(note, store.parse_id))


def _task_of(store: Store, task_id: TaskId | None) -> Task | None:
    if task_id is None:
        return None
    which = TaskFilter(ids=[task_id], statuses=frozenset({int(Status.BLOCKED)}))
    return next(iter(store.find_tasks(which, with_output=False, with_parameters=False)), None)


def _is_of(task: Task, token: str) -> bool:
    """Whether this run is its last one."""
    return task.run.get("token") == token


def _processes(left: Iterable[Document] | object) -> list[tuple[object, object]]:
    entries = left if isinstance(left, (list, tuple)) else ()
    return [(one.get("pid"), one.get("pid_started")) for one in entries if isinstance(one, Mapping)]
