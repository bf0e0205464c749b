"""Waiting until tasks have ended.

Responsible for: checking often enough to notice soon and seldom enough to cost little, and the final tally.
Must not know: how progress and results are shown.

Rules:
1. However many tasks are waited for, querying takes at most about a tenth of the time: each look covers some
   of them in turn, and continues as long as nearly all of those have ended.
2. Only ids and statuses are kept, and the reasons of the first tasks that did not conclude.
3. A wait that found nothing to wait for is not a success: it says what had ended before.
4. If nothing ends and nothing runs on a node that is there, the listener is told why, in the sentence of `why`.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from disbatch_host.client.finding import find_task
from disbatch_host.client.history import code_of_error, reason_in_short
from disbatch_host.client.standstill import OnStill, Standstill, first_in_the_way, first_lost
from disbatch_host.decide import counts
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task, TaskId
from disbatch_host.errors import NotFoundError
from disbatch_host.store.contract import Store
from disbatch_protocol import status as statuses
from disbatch_protocol.status import IN_HAND, UNFINISHED, Status

NAMED_MAX = 20  # tasks named at the end
CODES_MAX = 1000  # failed tasks whose error codes are counted
_LOOK_SECONDS = 0.5  # between looks, unless the store wakes us
_LOOK_BUSY_SECONDS = 0.05  # of these, at most, for looks that find little
_IDS_IN_LOOK = 1000  # per query
_WORTHWHILE = 0.9  # ended: look at the next ones at once

_UNFINISHED = frozenset(int(status) for status in UNFINISHED)
_IN_HAND = frozenset(int(status) for status in IN_HAND)
_FAILED, _ = statuses.parse("failed")
_BAD = _FAILED | {int(Status.CANCELLED), int(Status.ORPHANED)}
_FINISHED = _BAD | {int(Status.CONCLUDED)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the wait has come."""

    done: int  # tasks that ended, in any way
    failed: int  # of these, those that failed or were terminated
    total: int


OnProgress = Callable[[Progress], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTask:
    """A task that ended but did not conclude: failed, terminated, cancelled or orphaned."""

    id: TaskId
    status: int
    reason: str  # in short; empty if there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """The state of the tasks at the end of a wait."""

    done: int  # that ended, in any way
    concluded: int  # of these
    failed: int  # of these: failed or terminated
    cancelled: int = 0
    orphaned: int = 0
    unfinished: int  # above 0 only after a timeout
    seconds: float = field(default=0.0, compare=False)  # how long it took
    codes: Mapping[str, int] = field(default_factory=dict)  # of the failed ones by error code, the first thousand
    first_failed: tuple[FailedTask, ...] = ()  # some of those that did not conclude, at most 20
    first_unfinished: tuple[TaskId, ...] = ()
    statuses: Mapping[TaskId, int] = field(default_factory=dict, repr=False)  # of tasks named by id, ended ones first
    is_open: bool = False  # of a batch: more tasks may be added to it
    run_seconds: float | None = None  # of a batch: from the first start to the last end
    since_creation_seconds: float | None = None  # of a batch: from then to the last end
    is_about: bool = False  # these two are of a part of its tasks
    before: Mapping[str, int] | None = (
        None  # no selected task was unfinished: those that had ended, by `counts.COLUMNS`
    )

    @property
    def not_concluded(self) -> int:
        """The tasks that ended in any other way."""
        return self.failed + self.cancelled + self.orphaned

    @property
    def all_concluded(self) -> bool:
        """False also if there was nothing to wait for, since its tasks may all have failed before, and of an open
        batch."""
        return not self.not_concluded and not self.unfinished and self.before is None and not self.is_open


_GONE = "a task that was waited for no longer exists; somebody deleted it"


def wait_for_tasks(
    store: Store,
    ids: Iterable[TaskId],
    *,
    deadline: float | None = None,
    on_progress: OnProgress | None = None,
    on_still: OnStill | None = None,
    by: str | None = None,
) -> Waited:
    """Wait until all of them have ended, or the monotonic clock has reached the deadline. Ids are read as by
    `find_task`.

    Raises NotFoundError for the first that does not exist, and if one is deleted meanwhile."""
    return wait_for(store, _Tasks(store, ids, by), deadline, on_progress, on_still)


def wait_for_selected(
    store: Store,
    which: TaskFilter,
    *,
    deadline: float | None = None,
    on_progress: OnProgress | None = None,
    on_still: OnStill | None = None,
) -> Waited:
    """Wait until no selected task is unfinished, including any that are created meanwhile; the statuses of the filter
    are left aside. Counts the tasks that end during the wait; if none is unfinished when it begins, `before` says what
    had ended."""
    return wait_for(store, _TasksSelected(store, which), deadline, on_progress, on_still)


def wait_for_ends(
    store: Store,
    ids: Iterable[TaskId],
    on_ended: Callable[[int], object] = lambda count: None,
    on_still: OnStill | None = None,
) -> list[Task]:
    """Wait until these tasks have ended or been deleted; returns those that were not cancelled. `on_ended` gets the
    number since the last call, and `on_still` is told if only nodes that are not there could end them."""
    left = set(ids)
    others: list[Task] = []

    def first_in_the_way() -> TaskId | None:
        return first_lost(store, TaskFilter(ids=list(left)[:_IDS_IN_LOOK], statuses=_IN_HAND))

    standstill, done = Standstill(store, first_in_the_way, on_still), 0
    watcher = store.watch()
    try:
        while left:
            found = {one.id: one for one in _tasks_now(store, left)}
            ended = {one for one in left if one not in found or statuses.is_finished(found[one].status)}
            others += [found[one] for one in ended if one in found and found[one].status != Status.CANCELLED]
            left -= ended
            on_ended(len(ended))
            done += len(ended)
            standstill.look(done)
            if left:
                watcher.wait(_LOOK_SECONDS)
    finally:
        watcher.close()
    return others


def _tasks_now(store: Store, ids: Iterable[TaskId]) -> Iterator[Task]:
    for some in _in_pieces(list(ids)):
        yield from store.find_tasks(TaskFilter(ids=some), with_output=False)


def _in_pieces(ids: Sequence[TaskId]) -> Iterator[Sequence[TaskId]]:
    return (ids[start : start + _IDS_IN_LOOK] for start in range(0, len(ids), _IDS_IN_LOOK))


class Waiting(Protocol):
    """The tasks that are waited for: by id, of a queue, or of a batch (`batch_waiting`)."""

    @property
    def done(self) -> int:
        """The number that ended, as last seen."""

    def look(self, tell: OnProgress) -> bool:
        """Look at them; whether all have ended."""

    def first_in_the_way(self) -> TaskId | None:
        """One of them that waits, if none of them is in the hands of a node that is there."""

    def waited(self, seconds: float) -> Waited: ...


def wait_for(
    store: Store, tasks: Waiting, deadline: float | None, on_progress: OnProgress | None, on_still: OnStill | None
) -> Waited:
    """Wait until all of them have ended, or the monotonic clock has reached the deadline."""
    began = time.monotonic()
    tell = on_progress or (lambda progress: None)
    standstill = Standstill(store, tasks.first_in_the_way, on_still)

    def has_ended() -> bool:
        if tasks.look(tell):
            return True
        standstill.look(tasks.done)
        return False

    if not _look_until(store, deadline, has_ended):
        standstill.say()
    return tasks.waited(time.monotonic() - began)


def _look_until(store: Store, deadline: float | None, has_ended: Callable[[], bool]) -> bool:
    """Wait until it has ended; False if the time is up."""
    watcher = store.watch()
    try:
        while True:
            began = time.monotonic()
            if has_ended():
                return True
            # On a busy store the watcher wakes us at once, again and again.
            pause = min(_LOOK_SECONDS, (time.monotonic() - began) * _LOOK_SECONDS / _LOOK_BUSY_SECONDS)
            left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return False
            woken_at = time.monotonic() + min(pause, left)
            watcher.wait(left)
            time.sleep(max(0.0, woken_at - time.monotonic()))
    finally:
        watcher.close()


def failed_task(task: Task) -> FailedTask:
    return FailedTask(id=task.id, status=task.status, reason=reason_in_short(task))


class _Tasks:
    """Tasks by id."""

    def __init__(self, store: Store, given: Iterable[TaskId], by: str | None) -> None:
        """Raises NotFoundError for the first that does not exist."""
        self._store = store
        self._status_of: dict[TaskId, int] = {}  # as last seen
        self._ended: Counter[int] = Counter()  # by status
        self._codes: Counter[str] = Counter()
        self._first_failed: list[FailedTask] = []
        texts: dict[TaskId, str] = {}
        for text in map(str, given):
            task_id = store.parse_id(text)
            texts[find_task(store, text, by).id if task_id is None else task_id] = text
        meant: dict[TaskId, TaskId] = {}  # ids for texts that are not ids themselves
        for some in _in_pieces(list(texts)):
            found = self._note(some)
            meant |= {one: find_task(store, texts[one], by).id for one in some if one not in found}
        self._note([one for one in set(meant.values()) if one not in self._status_of])
        ids = dict.fromkeys(meant.get(one, one) for one in texts)
        if not ids.keys() <= self._status_of.keys():
            raise NotFoundError(_GONE)
        self._total = len(ids)
        self._open = deque(one for one in ids if not statuses.is_finished(self._status_of[one]))  # in turn

    def look(self, tell: OnProgress) -> bool:
        """Look at some of the unfinished tasks; whether all have ended."""
        began, left = time.monotonic(), len(self._open)
        self._tell(tell)
        while left > 0 and time.monotonic() - began < _LOOK_BUSY_SECONDS:
            some = [self._open.popleft() for _ in range(min(left, _IDS_IN_LOOK))]
            left -= len(some)
            if len(self._note(some)) < len(some):
                raise NotFoundError(_GONE)
            still_open = [one for one in some if not statuses.is_finished(self._status_of[one])]
            self._open.extend(still_open)
            if len(still_open) <= (1 - _WORTHWHILE) * len(some):
                began = time.monotonic()
            self._tell(tell)
        return not self._open

    @property
    def done(self) -> int:
        return self._total - len(self._open)

    def first_in_the_way(self) -> TaskId | None:
        in_hand = [one for one in self._open if self._status_of[one] in IN_HAND]
        if in_hand:
            return first_lost(self._store, TaskFilter(ids=in_hand[:_IDS_IN_LOOK], statuses=_IN_HAND))
        return self._open[0] if self._open else None

    def waited(self, seconds: float) -> Waited:
        still_open = set(self._open)
        order = (*(one for one in self._status_of if one not in still_open), *self._open)
        ended = counts.totals(self._ended)
        return Waited(
            done=self.done,
            concluded=ended["concluded"],
            failed=ended["failed"],
            cancelled=ended["cancelled"],
            orphaned=ended["orphaned"],
            unfinished=len(self._open),
            seconds=seconds,
            codes=dict(self._codes.most_common()),
            first_failed=tuple(self._first_failed),
            first_unfinished=tuple(self._open)[:NAMED_MAX],
            statuses={one: self._status_of[one] for one in order},
        )

    def _tell(self, tell: OnProgress) -> None:
        tell(Progress(done=self.done, failed=counts.totals(self._ended)["failed"], total=self._total))

    def _note(self, ids: Sequence[TaskId]) -> set[TaskId]:
        """Record the current statuses; returns the ids that exist."""
        found = set()
        for task in self._store.find_tasks(TaskFilter(ids=ids), with_output=False, in_any_order=True):
            if task.id in found:  # a task that changes meanwhile may come twice
                continue
            found.add(task.id)
            self._status_of[task.id] = task.status
            if not statuses.is_finished(task.status):
                continue
            self._ended[task.status] += 1
            if task.status != Status.CONCLUDED and len(self._first_failed) < NAMED_MAX:
                self._first_failed.append(failed_task(task))
            if statuses.is_failed(task.status) and self._codes.total() < CODES_MAX:
                self._codes[code_of_error(task)] += 1
        return found


class _TasksSelected:
    """All tasks of a queue, or of another filter."""

    def __init__(self, store: Store, which: TaskFilter) -> None:
        self._store = store
        self._which = which
        self._since = store.now()
        self._left = store.count_tasks(self._of(_UNFINISHED))
        self._before = self._count_each() if not self._left else None
        self._ended_before = self._count_ended()
        self._failed_before = store.count_tasks(self._of(_FAILED))
        self._resume_at = 0.0
        self.done = 0  # since the start; tasks that are retried or deleted meanwhile lower it, but never below 0

    def look(self, tell: OnProgress) -> bool:
        """Whether nothing is unfinished; after a slow look, the next ones are skipped for a while."""
        began = time.monotonic()
        if began < self._resume_at:
            return False
        self._left = self._store.count_tasks(self._of(_UNFINISHED))
        self.done = max(0, self._count_ended() - self._ended_before)
        failed = max(0, self._store.count_tasks(self._of(_FAILED)) - self._failed_before)
        tell(Progress(done=self.done, failed=failed, total=self.done + self._left))
        took = time.monotonic() - began
        self._resume_at = began + took * _LOOK_SECONDS / _LOOK_BUSY_SECONDS
        return self._left == 0

    def first_in_the_way(self) -> TaskId | None:
        return first_in_the_way(self._store, self._which)

    def waited(self, seconds: float) -> Waited:
        failed, cancelled, orphaned = (
            self._store.count_tasks(self._of(which, is_since=True))
            for which in (_FAILED, frozenset({int(Status.CANCELLED)}), frozenset({int(Status.ORPHANED)}))
        )
        bad = failed + cancelled + orphaned
        found = list(self._some(self._of(_BAD, is_since=True), CODES_MAX)) if bad else []
        codes = Counter(code_of_error(task) for task in found if statuses.is_failed(task.status))
        unfinished = self._some(self._of(_UNFINISHED), NAMED_MAX) if self._left else ()
        done = max(self.done, bad)
        return Waited(
            done=done,
            concluded=done - bad,
            failed=failed,
            cancelled=cancelled,
            orphaned=orphaned,
            unfinished=self._left,
            seconds=seconds,
            codes=dict(codes.most_common()),
            first_failed=tuple(map(failed_task, found[:NAMED_MAX])),
            first_unfinished=tuple(task.id for task in unfinished),
            before=self._before if not self.done else None,
        )

    def _count_ended(self) -> int:
        return self._store.count_tasks(self._of(_FINISHED))

    def _count_each(self) -> Mapping[str, int]:
        """How many have ended, by `counts.COLUMNS`."""
        return counts.totals({one: self._store.count_tasks(self._of(frozenset({one}))) for one in _FINISHED})

    def _of(self, which: frozenset[int], *, is_since: bool = False) -> TaskFilter:
        """Its tasks of these statuses; `is_since`: that have changed since the start."""
        since = self._since if is_since else self._which.changed_since
        return replace(self._which, statuses=which, or_failed=int(Status.FAILED) in which, changed_since=since)

    def _some(self, which: TaskFilter, limit: int) -> Iterator[Task]:
        yield from self._store.find_tasks(which, limit=limit, with_output=False)
