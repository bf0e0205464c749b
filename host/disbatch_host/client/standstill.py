"""A standstill of tasks that somebody waits for: nothing ends, and nothing runs on a node that is there.

Responsible for: noticing it, and finding out why. Must not know: how many tasks are waited for, how it is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from disbatch_host.client import why as reasons
from disbatch_host.decide.absence import absence_of
from disbatch_host.decide.why import Code, Why, cause_of
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import TaskId
from disbatch_host.errors import NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import IN_HAND, Status

_SECONDS = 2.0  # without an end: a node that is alive claims within a second
_AGAIN_SECONDS = 10.0  # the cause may be another one by then

_IN_HAND_MAX = 1000  # tasks whose nodes are looked at

_IN_HAND = frozenset(map(int, IN_HAND))
_MOVES = frozenset({Code.RUNNING, Code.CLAIMED, Code.ENDED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """Nothing moves."""

    task_id: TaskId  # one of the tasks that wait
    queue: str
    why: Why


OnStill = Callable[[Still], object]


class Standstill:
    """Notices that nothing moves, and says why; the same cause once. `first_in_the_way`: one of the tasks that wait, if
    none of them is in the hands of a node that is there."""

    def __init__(
        self,
        store: Store,
        first_in_the_way: Callable[[], TaskId | None],
        on_still: OnStill | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._first_in_the_way = first_in_the_way
        self._on_still = on_still
        self._done = 0
        self._due = monotonic() + _SECONDS
        self._told: set[Code] = set()

    def look(self, done: int) -> None:
        """`done`: the number of tasks that have ended."""
        now = self._monotonic()
        if done != self._done:
            self._done, self._due = done, now + _SECONDS
        elif now >= self._due:
            self._due = now + _AGAIN_SECONDS
            self.say()

    def say(self) -> None:
        """Say why nothing moves, unless that was said, or something does."""
        task_id = None if self._on_still is None else self._first_in_the_way()
        if self._on_still is None or task_id is None:
            return
        try:
            snapshot = reasons.snapshot_of(self._store, task_id)
        except NotFoundError:  # deleted at this moment; the next look notices
            return
        why = cause_of(snapshot)
        if why.code not in _MOVES and why.code not in self._told:
            self._told.add(why.code)
            self._on_still(Still(task_id=task_id, queue=str(snapshot.task.queue), why=why))


def first_in_the_way(store: Store, which: TaskFilter) -> TaskId | None:
    """One of the selected tasks that waits, or is in the hands of a node that is not there, if none is in the hands of
    one that is. The statuses of the selection are left aside."""
    in_hand = replace(which, statuses=_IN_HAND, or_failed=False)
    if _first(store, in_hand) is not None:
        return first_lost(store, in_hand)
    for status in (Status.CREATED, Status.BLOCKED):
        found = _first(store, replace(which, statuses=frozenset({int(status)}), or_failed=False))
        if found is not None:
            return found
    return None


def _first(store: Store, which: TaskFilter) -> TaskId | None:
    for task in store.find_tasks(which, limit=1, with_output=False, with_parameters=False):
        return task.id
    return None


def first_lost(store: Store, in_hand: TaskFilter) -> TaskId | None:
    """The first of these tasks in the hands of nodes, if none of those nodes is there. Ends at the first that is."""
    nodes = store.nodes()
    first = None
    for task in store.find_tasks(
        in_hand, limit=_IN_HAND_MAX, with_output=False, with_parameters=False, in_any_order=True
    ):
        if absence_of(task, nodes) is None:
            return None
        first = task.id if first is None else first
    return first
