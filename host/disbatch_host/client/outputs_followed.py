"""The outputs of many tasks as they come: of those that run, and of new ones.

Responsible for: looks that find what is new at a bounded cost, whole lines, and when nothing more can come. Must not
know: how it is shown, terminals.

Rules:
1. There is one look for all tasks: it asks for those that run, and for those whose run is over since the look before.
   `mtime` says which these are, so no list of all tasks is kept.
2. Looks take at most about a tenth of the time, however many tasks there are.
3. Of a stream only whole lines are told, until its run is over: lines of several tasks are never mixed. A long line is
   not kept in memory: it is read again once it has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from disbatch_host.client.batch_waiting import OnOpen, has_ended
from disbatch_host.client.outputs import Said, may_have_said, pieces_of, read_again, start_of
from disbatch_host.client.short_ids import short_ids
from disbatch_host.client.standstill import OnStill, Standstill, first_in_the_way
from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task, TaskId
from disbatch_host.errors import FieldError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import ENDED, UNFINISHED, WAITING, Status, is_finished

_IDS_IN_LOOK = 1000  # per query
_LOOK_SECONDS = 0.5  # between looks, unless the store wakes us
_PAUSE_FACTOR = 9  # a pause is at least this many times as long as the store took for the look before it
_LATE_SECONDS = 5.0  # from the moment that an `mtime` names until it is in the store
_HELD_MAX = 2**13  # bytes of a line that has not ended, which are kept; of a longer one only its place is

_UNFINISHED = frozenset(map(int, UNFINISHED))
_RUNNING = frozenset({int(Status.RUNNING)})
_AT_REST = frozenset({*map(int, ENDED), int(Status.ORPHANED), *map(int, WAITING)})  # until another run
_RAN = _AT_REST - {int(Status.CREATED)}  # what a run may leave; a task that was just created has said nothing


def follow_outputs(
    store: Store,
    which: TaskFilter,
    streams: Sequence[str] = ("stdout",),
    *,
    tail: int | None = None,
    on_still: OnStill | None = None,
    on_open: OnOpen | None = None,
) -> Iterator[Said | None]:
    """What the tasks of a filter have said so far (`tail`: the last lines of that), first those that do not run, in the
    order of their creation; then what they and new ones say, in whole lines. None when there is no more for now.

    Ends once nothing more can come: of a batch when it is closed and all of its tasks have ended, of `ids` when these
    have; else never. `on_still` is told why nothing moves, once for each cause; `on_open`, again and again, that a
    batch is open and nothing of it is unfinished. Raises FieldError for statuses that tasks leave meanwhile."""
    if which.statuses is not None and which.statuses & _UNFINISHED:
        raise FieldError("status", "to follow tasks, expected how they end, such as failed; they leave any other")
    unfinished = replace(which, statuses=_UNFINISHED, or_failed=False, changed_since=None)

    def is_over() -> bool:
        if which.batch is not None:
            return has_ended(store, which.batch, on_open)
        return which.ids is not None and store.count_tasks(unfinished) == 0

    follower = _Follower(store, which, streams)
    standstill = Standstill(store, lambda: first_in_the_way(store, unfinished), on_still)
    watcher = store.watch()
    try:
        yield from follower.first_look(tail)
        while True:
            is_last = is_over()
            yield from follower.look()
            yield None
            if is_last:
                return
            standstill.look(follower.moves)
            woken_at = time.monotonic() + _PAUSE_FACTOR * follower.look_seconds
            watcher.wait(_LOOK_SECONDS)
            time.sleep(max(0.0, woken_at - time.monotonic()))
    finally:
        watcher.close()


class _Follower:
    """The looks."""

    def __init__(self, store: Store, which: TaskFilter, streams: Sequence[str]) -> None:
        self._store = store
        self._which = which
        self._streams = streams
        self._runs: dict[TaskId, _Run] = {}  # those that go on, or that a look may meet again
        self._since = store.now()  # what has changed from then on is still to be looked at
        self.moves = 0  # tasks met whose run was over
        self.look_seconds = 0.0  # that the store took for the last look

    def first_look(self, tail: int | None) -> Iterator[Said]:
        """What is at rest, then what runs; `tail`: the last lines of each."""
        before = self._since
        self._since -= timedelta(seconds=_LATE_SECONDS)
        at_rest = self._listed(self._of(_AT_REST, before=before), in_any_order=False)
        for task in self._read(at_rest):
            yield from self._news(task, tail)
            self._forget([task.id])
        yield from self.look(tail)

    def look(self, tail: int | None = None) -> Iterator[Said]:
        """What is new; `tail`: only the last lines of each."""
        began = self._store.now() - timedelta(seconds=_LATE_SECONDS)
        self.look_seconds = 0.0
        seen: set[TaskId] = set()
        for task in self._read(self._new(seen)):
            yield from self._news(task, tail)
        for task_id in [one for one, run in self._runs.items() if not run.is_over and one not in seen]:
            yield from self._runs.pop(task_id).rest()  # the task was deleted
        self._since = began
        self._forget(list(self._runs))

    def _new(self, seen: set[TaskId]) -> Iterator[Task]:
        """The tasks that may have said something since the last look, without their output; `seen` gets their ids."""
        for which in (self._of(_RUNNING), self._of(_RAN, since=self._since)):
            for task in self._listed(which):
                seen.add(task.id)
                yield task
        left = [one for one, run in self._runs.items() if not run.is_over and one not in seen]
        for start in range(0, len(left), _IDS_IN_LOOK):
            for task in self._listed(TaskFilter(ids=left[start : start + _IDS_IN_LOOK])):
                seen.add(task.id)
                yield task

    def _listed(self, which: TaskFilter, *, in_any_order: bool = True) -> Iterator[Task]:
        """Those that may have said something, or of which something was told."""
        if which.statuses == frozenset() and not which.or_failed:
            return
        for task in self._store.find_tasks(which, with_output=False, with_parameters=False, in_any_order=in_any_order):
            self.moves += task.status != Status.RUNNING
            if task.id in self._runs or may_have_said(task, self._streams):
                yield task

    def _read(self, listed: Iterable[Task]) -> Iterator[Task]:
        """These with their output. Measures the time."""
        groups = read_again(self._store, listed)
        while True:
            began = time.monotonic()
            some = next(groups, None)
            new = [] if some is None else [one.id for one in some if one.id not in self._runs]
            short = short_ids(self._store, new)
            self.look_seconds += time.monotonic() - began
            if some is None:
                return
            for task in some:
                if task.id in short:
                    self._runs.setdefault(task.id, _Run(task.id, short[task.id]))
                yield task

    def _news(self, task: Task, tail: int | None) -> Iterator[Said]:
        return self._runs[task.id].news(self._store, task, self._streams, tail)

    def _forget(self, ids: Iterable[TaskId]) -> None:
        """Those of these runs that no look will meet again."""
        for task_id in ids:
            if (changed := self._runs[task_id].ended_at) is not None and changed < self._since:
                del self._runs[task_id]

    def _of(
        self, statuses: frozenset[int], *, since: datetime | None = None, before: datetime | None = None
    ) -> TaskFilter:
        which = self._which
        own = statuses if which.statuses is None else statuses & which.statuses
        or_failed = int(Status.FAILED) in statuses and (which.statuses is None or which.or_failed)
        since = max((one for one in (since, which.changed_since) if one is not None), default=None)
        before = min((one for one in (before, which.changed_before) if one is not None), default=None)
        return replace(which, statuses=own, or_failed=or_failed, changed_since=since, changed_before=before)


class _Run:
    """What has been told of the last run of a task."""

    def __init__(self, task_id: TaskId, short_id: str) -> None:
        self._task_id = task_id
        self._short_id = short_id
        self._token: object = None
        self._lines: dict[str, _Lines] | None = None  # by stream; None: there was no look yet
        self.is_over = False  # everything has been told
        self.ended_at: datetime | None = None  # when the task ended, if it has

    def news(self, store: Store, task: Task, streams: Sequence[str], tail: int | None) -> Iterator[Said]:
        """What is new since the last call, as `Said` has it; `tail`: of what was said before the first one."""
        token = task.run.get("token")
        if self._lines is None or token != self._token:
            yield from self.rest()
            self._token, self.is_over = token, False
            self._lines = {one: _Lines(start_of(store, task, one, tail)) for one in streams}
        if not self.is_over:
            self.is_over = task.status != Status.RUNNING
            for stream, lines in self._lines.items():
                for data in lines.new(_reader(store, task, stream), is_over=self.is_over):
                    yield self._said(stream, lines, data)
        changed = task.document.get("mtime")
        is_ended = is_finished(task.status) and isinstance(changed, datetime)
        self.ended_at = changed if is_ended else None

    def rest(self) -> Iterator[Said]:
        """What is at hand of lines that will not go on: another run has begun, or the task is gone."""
        for stream, lines in (self._lines or {}).items():
            if held := lines.held():
                yield self._said(stream, lines, held)

    def _said(self, stream: str, lines: _Lines, data: bytes) -> Said:
        is_first, lines.is_untold = lines.is_untold, False
        return Said(task_id=self._task_id, short_id=self._short_id, stream=stream, data=data, is_first=is_first)


def _reader(store: Store, task: Task, stream: str) -> Callable[[int], Iterator[bytes]]:
    return lambda start: pieces_of(store, task, stream, start)


class _Lines:
    """The lines of one stream of a run, as far as they have ended."""

    def __init__(self, start: int) -> None:
        self._told = start  # bytes of the stream that were told, or left out
        self._seen = start  # bytes that were read
        self._held: bytes | None = b""  # those between, the beginning of a line; None: too many to keep
        self.is_untold = True  # all of it, so far

    def held(self) -> bytes:
        held, self._held, self._told = self._held or b"", b"", self._seen
        return held

    def new(self, read: Callable[[int], Iterator[bytes]], *, is_over: bool) -> Iterator[bytes]:
        """What has come since the last call, up to the last line end, or to the end if the run `is_over`, in pieces.
        `read`: the stream from a byte on."""
        for data in read(self._seen):
            end = len(data) if is_over else data.rfind(b"\n") + 1
            if end:
                yield from self._begun(read)
                yield data[:end]
                self._told = self._seen + end
            self._seen += len(data)
            self._keep(data[end:])
        if is_over:
            yield from self._begun(read)

    def _begun(self, read: Callable[[int], Iterator[bytes]]) -> Iterator[bytes]:
        """The beginning of the line that goes on now, or ends."""
        count = self._seen - self._told
        if self._held is not None:
            if self._held:
                yield self._held
        else:
            for data in read(self._told):
                if count <= 0:
                    break
                yield data[:count]
                count -= len(data)
        self._told, self._held = self._seen, b""

    def _keep(self, rest: bytes) -> None:
        if self._held is not None:
            kept = self._held + rest
            self._held = kept if len(kept) <= _HELD_MAX else None
