"""Looks for a page of tasks. See `paging`.

Responsible for: candidates in the order of creation, without sorting a queue. Must not know: how far a look goes.

Rules:
1. The index on queue and status has the tasks of each pair of these in the order of creation, and so has that on batch
   and status. So the newest tasks of a queue are merged from a few such runs; no index has them together, and none is
   needed. The failures of one cause are a run of their own index.
2. A statement says NOT INDEXED where positions are given: the rows are read by these, whatever else it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from operator import itemgetter
from typing import Any

import orjson

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Task
from disbatch_host.store.paging import Found, Position, Step
from disbatch_host.store.sqlite import conditions, moments, records

Read = Callable[..., list[Any]]

_RUNS_MAX = 200  # merged in one statement; beyond that all tasks are walked through
_LOWEST, _HIGHEST = -1, 2**63 - 1  # places
_ENDS = "SELECT (SELECT min(seq) FROM tasks), (SELECT max(seq) FROM tasks)"
_CROWDED = 4  # times as many candidates as wanted: the window is made narrower
_CANDIDATES = 20_000  # looked at in one step, where only some match
_WIDER = 16  # the next window after an empty one


def is_selective(which: TaskFilter) -> bool:
    """Whether there is more to a filter than queue, or batch, and statuses, and no index for it."""
    if which.failure is not None:
        return not _is_indexed(which) and replace(which, failure=None) != TaskFilter()
    one = replace(which, queue=None, queues=None) if which.batch is None else replace(which, batch=None)
    return not _is_indexed(which) and replace(one, statuses=None, or_failed=False) != TaskFilter()


def _run_of(which: TaskFilter) -> str:
    """The first column of the index whose runs are merged."""
    return "queue" if which.batch is None else "batch"


def _run_condition(which: TaskFilter) -> str:
    """What tells one run from the others of its index."""
    if which.failure is not None:
        return f"{conditions.HAS_GROUP} AND {conditions.GROUP_KEY} = ?"
    return f"{_run_of(which)} = ? AND status = ?"


def _is_indexed(which: TaskFilter) -> bool:
    """Whether an index has the few tasks that match, so that they are found, then sorted."""
    return any(one is not None for one in (which.ids, which.unique_key, which.parent, which.after))


def has_runs(which: TaskFilter) -> bool:
    """Whether the tasks of a filter are found by the runs of an index (rule 1), not by a better one."""
    return bool(_given(which)) and which.failure is None and not _is_indexed(which)


def in_order(
    read: Read, which: TaskFilter, columns: str, *, newest_first: bool, limit: int | None, sizes: tuple[int, int]
) -> Iterator[Task]:
    """All tasks of a filter that `has_runs`, each page at a cost that does not grow. `sizes`: of the first page, and of
    the largest."""
    size, largest = sizes
    left, last = _HIGHEST if limit is None else limit, None
    while left > 0:
        rows = Rows(read, which, columns, descending=newest_first, after=last)
        count = min(size, left)
        step = rows.step(_CANDIDATES if rows.is_selective else count, count)
        yield from (task for _, task in step.found)
        is_full = len(step.found) >= count
        if step.is_end and not is_full:
            return
        last, left = step.found[-1][0] if is_full else step.last, left - len(step.found)
        size = min(2 * size, largest)


class Rows:
    """The candidates of one look.

    If every candidate matches, their places are read first, then the rows there. If only some do, windows are looked
    through, each a range of places wide enough to have about as many candidates as wanted: no place of one that does
    not match leaves the database."""

    def __init__(
        self, read: Read, which: TaskFilter, columns: str, *, descending: bool, after: Position | None
    ) -> None:
        self._read, self._columns, self._descending = read, columns, descending
        self._beyond, self._order = ("seq < ?", "seq DESC") if descending else ("seq > ?", "seq")
        # A window: above the first place, up to and with the second one; or from it, and below the first.
        self._window = "seq >= ? AND seq < ?" if descending else "seq > ? AND seq <= ?"
        self._last: Position = after if after is not None else _HIGHEST if descending else _LOWEST
        self._condition, self._values = conditions.where(which)
        self._is_indexed = _is_indexed(which)
        self._runs = None if self._is_indexed else _runs(read, which)
        self._run = _run_condition(which)
        # Also where all tasks are walked through although only those of some statuses match.
        self.is_selective = not self._is_indexed and (is_selective(which) or (_has_runs(which) and self._runs is None))
        lowest, highest = read(_ENDS)[0] if self.is_selective else (None, None)
        self._end: Position = lowest if descending else highest
        if lowest is not None and highest is not None:
            self._last = min(self._last, highest + 1) if descending else max(self._last, lowest - 1)
        self._width = 1.0  # of a window, for each candidate that it should have

    def step(self, size: int, count: int) -> Step:
        return self._through_window(size, count) if self.is_selective else self._by_places(size, count)

    def created(self, position: Position) -> datetime | None:
        rows = self._read("SELECT ctime FROM tasks WHERE seq >= ? ORDER BY seq LIMIT 1", (position,))
        try:
            return moments.from_milliseconds(rows[0][0]) if rows else None
        except records.UNREADABLE:
            return None

    def _by_places(self, size: int, count: int) -> Step:
        places = self._places(size)
        if places:
            self._last = places[-1]
        statement = (
            f"SELECT seq, {self._columns} FROM tasks NOT INDEXED WHERE seq IN (SELECT value FROM json_each(?)) "
            f"AND {self._condition} ORDER BY {self._order} LIMIT ?"
        )
        rows = self._read(statement, (orjson.dumps(places).decode(), *self._values, count)) if places else []
        last = self._last if places else None
        return Step(found=_found(rows), looked_at=len(places), last=last, is_end=len(places) < size)

    def _places(self, size: int) -> list[Position]:
        """The next candidates."""
        tail = f"{self._beyond} ORDER BY {self._order} LIMIT ?"
        if self._is_indexed:
            statement, values = f"SELECT seq FROM tasks WHERE {self._condition} AND {tail}", [*self._values]
        elif self._runs is None:
            statement, values = f"SELECT seq FROM tasks NOT INDEXED WHERE {tail}", []
        elif not self._runs:
            return []
        else:
            run = f"SELECT * FROM (SELECT seq FROM tasks WHERE {self._run} AND {tail})"
            statement = f"{' UNION ALL '.join([run] * len(self._runs))} ORDER BY {self._order} LIMIT ?"
            values = [one for run_values in self._runs for one in (*run_values, self._last, size)]
            return [seq for (seq,) in self._read(statement, (*values, size))]
        return [seq for (seq,) in self._read(statement, (*values, self._last, size))]

    def _through_window(self, size: int, count: int) -> Step:
        if self._end is None or self._runs == []:
            return Step(found=[], looked_at=0, last=None, is_end=True)
        edge, number = self._edge(size)
        found: list[Found] = []
        for run, values in self._in_window("", edge):
            statement = f"{run} AND {self._condition} ORDER BY {self._order} LIMIT ?"
            found += _found(self._read(statement, (*values, *self._values, count)))
        found.sort(key=itemgetter(0), reverse=self._descending)
        self._last = edge
        is_end = edge <= self._end if self._descending else edge >= self._end
        return Step(found=found[:count], looked_at=number, last=edge, is_end=is_end)

    def _edge(self, size: int) -> tuple[Position, int]:
        """Where the next window ends, and how many candidates it has: about `size`, or fewer where many places in a row
        have none."""
        while True:
            width = max(1, int(size * self._width))
            edge = max(self._last - width, _LOWEST) if self._descending else min(self._last + width, _HIGHEST)
            number = sum(self._read(run, values)[0][0] for run, values in self._in_window("count(*)", edge))
            if number > _CROWDED * size and width > 1:
                self._width *= size / number  # narrower: it is crowded
                continue
            self._width = width / number if number else self._width * _WIDER
            return edge, number

    def _in_window(self, what: str, edge: Position) -> Iterator[tuple[str, list[Any]]]:
        """The statements that read the candidates between the last window and this edge, and their values."""
        what = what or f"seq, {self._columns}"
        window = [edge, self._last] if self._descending else [self._last, edge]
        if self._runs is None:
            yield f"SELECT {what} FROM tasks NOT INDEXED WHERE {self._window}", window
        for values in self._runs or ():
            yield f"SELECT {what} FROM tasks WHERE {self._run} AND {self._window}", [*values, *window]


def _found(rows: Sequence[Sequence[Any]]) -> list[Found]:
    return [(row[0], records.task_of(row[1:])) for row in rows]


def read_position(text: str) -> Position:
    """Raises ValueError."""
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(_HIGHEST)):
        raise ValueError(text)
    return min(int(text), _HIGHEST)


def ids_beginning(read: Read, text: str, limit: int) -> list[str]:
    after = f"{text[:-1]}{chr(ord(text[-1]) + 1)}"
    return [
        one
        for (one,) in read("SELECT id FROM tasks WHERE id >= ? AND id < ? ORDER BY id LIMIT ?", (text, after, limit))
    ]


def _has_runs(which: TaskFilter) -> bool:
    return any(one is not None for one in (which.queue, which.queues, which.batch, which.statuses))


def _runs(read: Read, which: TaskFilter) -> list[tuple[Any, ...]] | None:
    """The cause of failure, or the pairs of queue (or batch) and status that may have such tasks, found by steps
    through the index; None if these are all or too many."""
    if which.failure is not None:
        return [(which.failure,)]
    if not _has_runs(which):
        return None
    runs: list[tuple[Any, ...]] = []
    column = _run_of(which)
    for value in _given(which) or _values(read, column, "1", ()):
        for status in _values(read, "status", f"{column} = ?", (value,)):
            if not isinstance(status, int) or which.covers(status):
                runs.append((value, status))
            if len(runs) > _RUNS_MAX:
                return None
    return runs


def _given(which: TaskFilter) -> Sequence[Any]:
    """The batch or the queues that a filter names; empty if it names none, or an empty choice of queues."""
    if which.batch is not None:
        return [which.batch]
    return [which.queue] if which.queue is not None else which.queues or ()


def _values(read: Read, column: str, condition: str, values: Sequence[Any]) -> Any:
    """The different values of a column that an index has in order."""
    ((last,),) = read(f"SELECT min({column}) FROM tasks WHERE {condition}", values)
    while last is not None:
        yield last
        ((last,),) = read(f"SELECT min({column}) FROM tasks WHERE {condition} AND {column} > ?", (*values, last))
