"""The duty that does what is due for waiting and ended tasks (they expire, are cancelled, or others wait for their end)
and cancels runs of this node on request.

Responsible for: finding these tasks (`Store.due` does the search) and writing what `documents.transitions` decides.
Any node does it; all of them may do it at once. Must not know: processes, how runs work.

Rules:
1. Every write is guarded, so two nodes that do the same thing do it once. Anything refused comes with the next look.
2. Each call does a bounded piece: the store's thread has others to serve.
3. An end is told to all followers before its mark `awaited` is removed: a node that dies in between leaves the mark,
   and another node goes on.
4. It looks once a second; at once when a run of this node has ended that others wait for; and soon when somebody else
   has written, since that may be a request to cancel, or a task that waits for one that is running here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from disbatch_host.documents import transitions
from disbatch_host.documents.changes import TaskChange, TaskFilter
from disbatch_host.documents.records import Task
from disbatch_host.node import pieces
from disbatch_host.node.claiming import Claiming
from disbatch_host.node.compartment import Troubles, write_each
from disbatch_host.node.pace import Pace
from disbatch_host.node.pieces import Pieces
from disbatch_host.node.runs import Runs
from disbatch_host.node.store_thread import StoreThread
from disbatch_host.store.contract import DUE_SECONDS, Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import Status

_DUE = "due task"
_LOOKED_AT = 500  # of each kind in one look, and as many more as rest: they must not be all that is seen
_FOLLOWERS = 1000  # told in one write

_WAITING = frozenset({int(Status.BLOCKED), int(Status.CREATED)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The result of one look."""

    to_stop: Sequence[Task] = ()  # they run on this node, and are to be cancelled
    changed: int = 0  # tasks
    is_all: bool = True  # nothing is left for another look


class Due:
    """See `rounds.Duty`."""

    def __init__(
        self, store_thread: StoreThread, runs: Runs, claiming: Claiming, troubles: Troubles, pace: Pace
    ) -> None:
        self.name = "due tasks"
        self._troubles = troubles
        self._store_thread = store_thread
        self._runs = runs
        self._claiming = claiming
        self._pace = pace
        self._node_id = runs.context.site.node_id
        self._loop = asyncio.get_running_loop()
        self._looked_at = float("-inf")
        self._changed_at = float("-inf")  # somebody else has written
        self._timer: asyncio.TimerHandle | None = None
        self.wake = asyncio.Event()  # see `Rounds`

    @property
    def interval_seconds(self) -> float:
        return self._pace.due_seconds

    def on_change(self) -> None:
        """Somebody else has written."""
        self._changed_at = self._loop.time()
        self._look_soon(self._pace.due_after_change_seconds)

    def on_end(self, task: Task, seconds: float) -> None:
        """A run of this node has ended, `seconds` after its start; `task` is as it was claimed."""
        if task.document.get("awaited") is True:
            self._look_soon(self._pace.told_at_once_seconds)
        elif self._changed_at >= self._loop.time() - seconds - self._pace.due_after_change_seconds:
            # Somebody has written while it ran: perhaps a task that waits for it.
            self._look_soon(self._pace.due_after_change_seconds)

    def _look_soon(self, between_seconds: float) -> None:
        """Look now, or this long after the last look."""
        at = max(self._looked_at + between_seconds, self._loop.time())
        if self._timer is not None and not self._timer.cancelled() and self._timer.when() >= self._loop.time():
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self.wake.set)

    async def turn(self) -> None:
        """One look. The rest comes with the next."""
        self._looked_at = self._loop.time()
        settled = await self._store_thread.call(
            lambda store: settle_due(store, self._node_id, self._troubles, seconds=self._pace.piece_seconds)
        )
        if settled.changed:
            self._claiming.on_change()  # others may wait no longer
        if settled.changed and not settled.is_all:
            self._look_soon(self._pace.told_at_once_seconds)
        self._runs.cancel(settled.to_stop)


def settle_due(store: Store, node_id: str, troubles: Troubles, *, seconds: float) -> Settled:
    """Do what is due now, as far as there is time: `seconds`, and up to half as long again for telling followers about
    ends, however much else is due. Called in the store's thread."""
    most = _LOOKED_AT + troubles.resting(_DUE)
    began = time.monotonic()
    found = store.due(node_id, most)
    if not found:
        return Settled()
    now = store.now()
    changed, is_all = 0, len(found) < most and time.monotonic() - began < DUE_SECONDS
    deadline = time.monotonic() + seconds
    to_stop: list[Task] = []
    changes: list[TaskChange] = []
    awaited: list[Task] = []
    for task in found:
        if troubles.is_resting(_DUE, task.id):
            continue
        with troubles.contained(_DUE, task.id):
            request = task.cancel
            if task.status == Status.RUNNING and request is not None:
                if task.node == node_id:
                    to_stop.append(task)
            elif request is not None and not _has_ended(task):
                change = transitions.cancel_change(task, request, now=now)
                changes += [] if change is None else [change]
            elif task.status in _WAITING and _has_expired(task, now):
                changes.append(transitions.expire_change(task, now=now))
            elif task.document.get("awaited") is True:
                awaited.append(task)
            else:  # the store found it by a field that cannot be read
                troubles.report(
                    _DUE, task.id, 'expected "cancel" to be a request with "at" and "by", found another value'
                )
    left = len(changes)
    for piece in pieces.of(changes, Pieces(_LOOKED_AT), deadline - time.monotonic()):
        changed += _carry_out(store, piece, troubles)
        left -= len(piece)
    deadline = max(deadline, time.monotonic() + seconds / 2)
    for task in awaited:
        if time.monotonic() >= deadline:
            is_all = False
            break
        with troubles.contained(_DUE, task.id):
            told, are_all_told = _tell_followers(store, task, troubles, deadline)
            changed, is_all = changed + told, is_all and are_all_told
    return Settled(to_stop=to_stop, changed=changed, is_all=is_all and not left)


def _carry_out(store: Store, changes: Sequence[TaskChange], troubles: Troubles) -> int:
    """Carry out changes, each by itself where not all together can be; returns how many were carried out."""
    faults = []

    def report(change: TaskChange, error: Exception) -> None:
        faults.append(change)
        troubles.report(_DUE, change.task_id, error)

    return len(changes) - len(write_each(store.change_tasks, changes, report)) - len(faults)


def _has_expired(task: Task, now: datetime) -> bool:
    """Whether its time is over; a date that cannot be read was compared by the store."""
    expires = task.document.get("expires")
    return expires is not None and not (isinstance(expires, datetime) and expires > now)


def _has_ended(task: Task) -> bool:
    """Whether it has ended. Orphaned has not: a person decides what becomes of it."""
    return statuses.is_finished(task.status) and task.status != Status.ORPHANED


def _tell_followers(store: Store, ended: Task, troubles: Troubles, deadline: float) -> tuple[int, bool]:
    """Tell some of those that wait for this task how it ended; when none are left, remove its mark. Returns how many
    were told, and whether none are left."""
    now = store.now()
    which = TaskFilter(after=ended.id, statuses=frozenset({int(Status.BLOCKED)}))
    changes: list[TaskChange] = []
    sizes = Pieces(_FOLLOWERS).sizes(deadline - time.monotonic())
    size = next(sizes)
    told, is_all = 0, True
    # A follower that was told that this task failed goes on waiting for it, so it is found again: it needs no change.
    for follower in store.find_tasks(which, with_output=False, with_parameters=False, in_any_order=True):
        if troubles.is_resting(_DUE, follower.id):
            is_all = False
            continue
        try:
            change = transitions.follow_change(follower, ended, now=now)
        except Exception as error:
            troubles.report(_DUE, follower.id, error)
            is_all = False
            continue
        if change is not None:
            changes.append(change)
        if len(changes) == size:
            carried_out = _carry_out(store, changes, troubles)
            told, is_all = told + carried_out, is_all and carried_out == size
            changes, size = [], next(sizes, 0)
        if not size or time.monotonic() > deadline:
            is_all = False
            break
    carried_out = _carry_out(store, changes, troubles)
    told, is_all = told + carried_out, is_all and carried_out == len(changes)
    if is_all:
        is_all = not store.change_tasks([transitions.followers_told_change(ended)])
    return told, is_all
