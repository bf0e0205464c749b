"""Looks for a page of tasks. See `paging`.

Responsible for: candidates in the order of their ids, without sorting. Must not know: how far a look goes.

Rules:
1. The index on status, queue and priority has the tasks of each three of these in the order of their ids. So the newest
   tasks of a queue are merged from a few such runs, by the server, if a query names them all (up to 200 of them).
   Without any of these the index of the ids has the order. The failures of one cause are such a run of their own index.
2. A comparison in a query keeps to one type of ids. So a walk has a stretch for each type, in the server's order.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import bson
from bson.binary import Binary
from bson.errors import BSONError
from bson.objectid import ObjectId
from pymongo import ASCENDING, DESCENDING
from pymongo.collection import Collection

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.records import Document, Task
from disbatch_host.store.mongo import forms, layout, reading
from disbatch_host.store.paging import Found, Position, Step
from disbatch_protocol.status import Status

_RUNS_MAX = 200
_IDS_AT_ONCE = 1000  # named in one query; more are given as a range
_SORTED_MAX = 5000  # tasks of a batch that are sorted
_BY_ID = [("_id", ASCENDING)]
# The least value of each type of ids, in the server's order. NaN, which is not used, is less than that of the numbers.
_LEAST: Sequence[Any] = (float("-inf"), "", Binary(b""), ObjectId(bytes(12)))
_KNOWN = [int(one) for one in Status]
_UNKNOWN: Document = {"$nin": _KNOWN, "$not": {"$gt": int(Status.FAILED)}}


def is_selective(which: TaskFilter) -> bool:
    """Whether there is more to a filter than queues and statuses."""
    return dataclasses.replace(which, queue=None, queues=None, statuses=None, or_failed=False) != TaskFilter()


def index_of(which: TaskFilter) -> layout.Keys:
    """The index that has the runs of such tasks."""
    return layout.BY_STATUS if which.failure is None else layout.BY_FAILURE


def _is_indexed(which: TaskFilter) -> bool:
    return which.ids is not None or which.after is not None


class Documents:
    """The candidates of one look. All calls may raise the driver's exceptions."""

    def __init__(
        self,
        tasks: Collection[Document],
        which: TaskFilter,
        projection: Mapping[str, Any],
        unreadable: Callable[[Any], Task],
        *,
        descending: bool,
        after: Position | None,
        index: layout.Keys | None,
    ) -> None:
        """`index`: see `index_of`; None if it is not there: all tasks are walked through."""
        self._tasks, self._projection, self._unreadable = tasks, projection, unreadable
        self._condition = forms.condition(which)
        self._is_indexed = _is_indexed(which) or (which.batch is not None and self._is_small_batch(which.batch))
        self._descending = descending
        self._order = DESCENDING if descending else ASCENDING
        self._runs: list[Document] | None = None
        self._index = None if index is None else list(index)
        if index is not None and not self._is_indexed:
            with contextlib.suppress(*reading.NOT_DECODED):  # a queue, or a priority, of another program
                self._runs = self._runs_of(which)
        has_runs = any(one is not None for one in (which.queue, which.queues, which.statuses))
        if which.failure is not None and self._runs is not None:
            self.is_selective = dataclasses.replace(which, failure=None) != TaskFilter()
        else:
            self.is_selective = not self._is_indexed and (is_selective(which) or (self._runs is None and has_runs))
        self._stretches = self._bounds(after)

    def step(self, size: int, count: int) -> Step:
        positions = self._positions(size)
        found: list[Found] = []
        for _, some in itertools.groupby(positions, _type_of):
            ids = list(some)
            if len(found) < count:
                found += self._matching_of_type(ids, count - len(found))
        last = positions[-1] if positions else None
        return Step(found=found, looked_at=len(positions), last=last, is_end=len(positions) < size)

    def _positions(self, count: int) -> list[Position]:
        """The next candidates, in order; fewer than `count` only at the end."""
        positions: list[Position] = []
        while self._stretches and len(positions) < count:
            wanted = count - len(positions)
            found = self._in_stretch(self._stretches[0], wanted)
            positions += found
            if len(found) < wanted:
                self._stretches = self._stretches[1:]
            else:
                self._stretches[0] |= {"$lt" if self._descending else "$gt": found[-1]}
        return positions

    def _in_stretch(self, bounds: Document, count: int) -> list[Position]:
        """The first candidates within these bounds, in order."""
        if self._runs is None:
            every = self._condition if self._is_indexed else {}
            return self._ids(every, bounds, count, None if self._is_indexed else _BY_ID)
        each = [self._ids(run, bounds, count, self._index) for run in self._runs]
        return list(itertools.islice(heapq.merge(*each, key=_key, reverse=self._descending), count))

    def _ids(self, condition: Document, bounds: Document, count: int, hint: Any) -> list[Position]:
        parts = [condition, {"_id": bounds}]
        if bounds["$gte"] == _LEAST[0]:  # there are more types of numbers than are used
            parts.append(forms.NOT_ODD_ID)
        found = self._tasks.find({"$and": parts}, {"_id": 1}, batch_size=max(2, count + 1))
        found = found.sort("_id", self._order).limit(count)
        if hint is not None:
            found = found.hint(hint)
        try:
            return [one["_id"] for one in found]
        except reading.NOT_DECODED:  # only binary ids: they are left out as a whole
            return []

    def _matching_of_type(self, ids: Sequence[Position], count: int) -> list[Found]:
        if self._is_indexed or (len(ids) <= _IDS_AT_ONCE and not self.is_selective):
            return self._found({"_id": {"$in": list(ids)}}, count, _BY_ID)
        # Many are a range, in which the same index is walked through as for the candidates.
        first, last = (ids[-1], ids[0]) if self._descending else (ids[0], ids[-1])
        between: Document = {"_id": {"$gte": first, "$lte": last}}
        if _type_of(first) == 0:
            between = {"$and": [between, forms.NOT_ODD_ID]}
        if self._runs is None:
            return self._found(between, count, _BY_ID)
        each = [self._found({"$and": [run, between]}, count, self._index) for run in self._runs]
        return list(itertools.islice(heapq.merge(*each, key=_key_of_found, reverse=self._descending), count))

    def _found(self, position: Document, count: int, hint: Any) -> list[Found]:
        def find(fields: Any, more: Document | None = None) -> Any:
            condition = {"$and": [position, self._condition, *([more] if more else [])]}
            return self._tasks.find(condition, fields).sort("_id", self._order).hint(hint).limit(count)

        try:
            return [(one["_id"], Task.from_document(one)) for one in find(self._projection)]
        except reading.NOT_DECODED:  # one of the answer
            pairs = list(reading.each(find, self._tasks, self._projection))
        return [
            (task_id, self._unreadable(task_id) if one is None else Task.from_document(one)) for task_id, one in pairs
        ]

    def created(self, position: Position) -> datetime | None:
        found = self._tasks.find_one({"_id": position}, {"ctime": 1})
        ctime = found.get("ctime") if found is not None else None
        return ctime if isinstance(ctime, datetime) else None

    def _is_small_batch(self, batch: str) -> bool:
        """Whether its tasks are so few that they are sorted at once: the index on batches does not have their order."""
        return self._tasks.count_documents({"batch": batch}, limit=_SORTED_MAX + 1) <= _SORTED_MAX

    def _bounds(self, after: Position | None) -> list[Document]:
        """The ids of each stretch of the walk, in its order (rule 2)."""
        rank = None if after is None else _type_of(after)
        bounds: list[Document] = []
        for number, least in enumerate(_LEAST):
            is_here = rank is None or (number <= rank if self._descending else number >= rank)
            if is_here:
                bounds.append({"$gte": least})
            if number == rank:
                bounds[-1] |= {"$lt" if self._descending else "$gt": after}
        return bounds[::-1] if self._descending else bounds

    def _runs_of(self, which: TaskFilter) -> list[Document] | None:
        """The conditions of the runs (rule 1), each for many that the server itself merges; None if these are all
        tasks, or too many runs."""
        if which.failure is not None:
            return [{"error.group.key": which.failure}]
        if which.queue is None and which.queues is None and which.statuses is None:
            return None
        queues = [which.queue] if which.queue is not None else [*(which.queues or self._queues_of(which))]
        known = sorted(int(one) for one in (which.statuses if which.statuses is not None else _KNOWN))
        of_queues = {"queue": _any_of(queues)}
        runs: list[Document] = []
        statuses = [*known]
        if which.statuses is None or which.or_failed:
            statuses += self._own_failures(of_queues, known)
        if which.statuses is None and self._is_any({**of_queues, "status": _UNKNOWN}):
            runs.append({**of_queues, "status": _UNKNOWN})  # which other programs gave, few: sorted as they are found
        which_ones = {**of_queues, "status": _any_of(statuses)}
        priorities: list[Any] = [None]
        if self._is_any({**which_ones, "priority": {"$ne": None}}):
            # Those of all runs, from each of them: that is what an index tells.
            for status, queue in itertools.product(statuses, queues):
                for one in self._tasks.distinct("priority", {"status": status, "queue": {"$eq": queue}}):
                    if one not in priorities:
                        priorities.append(one)
        if len(statuses) * len(queues) * len(priorities) > _RUNS_MAX:
            return None
        return [{**which_ones, "priority": _any_of(priorities)}, *runs]

    def _queues_of(self, which: TaskFilter) -> list[Any]:
        queues: list[Any] = []
        for status in sorted(which.statuses or ()):
            queues += (one for one in self._tasks.distinct("queue", {"status": status}) if one not in queues)
        if which.or_failed:
            above = {"status": {"$gt": int(Status.FAILED)}}
            queues += (one for one in self._tasks.distinct("queue", above) if one not in queues)
        return queues

    def _is_any(self, condition: Document) -> bool:
        return self._tasks.find_one(condition, {"_id": 1}, hint=layout.BY_STATUS) is not None

    def _own_failures(self, condition: Document, known: Sequence[int]) -> list[Any]:
        """The statuses above 2 that tasks have, found by steps through the index."""
        found: list[Any] = []
        above: Any = int(Status.FAILED)
        while len(found) <= _RUNS_MAX:
            one = self._tasks.find_one(
                {**condition, "status": {"$gt": above}}, {"_id": 0, "status": 1}, sort=[("status", ASCENDING)],
                hint=layout.BY_STATUS,
            )  # fmt: skip
            if one is None:
                break
            above = one["status"]
            if above not in known:
                found.append(above)
        return found


def _any_of(values: Sequence[Any]) -> Document:
    return {"$eq": values[0]} if len(values) == 1 else {"$in": list(values)}


def write_position(position: Position) -> str:
    if isinstance(position, ObjectId):
        return str(position)
    data = bson.encode({"": position}, codec_options=forms.CODEC)
    return f".{base64.urlsafe_b64encode(data).decode()}"


def read_position(text: str) -> Position:
    """Raises ValueError."""
    if not text.startswith("."):
        position: Position = forms.object_id(text)
    else:
        try:
            position = bson.decode(base64.b64decode(text[1:], b"-_", validate=True), forms.CODEC).get("")
        except (BSONError, binascii.Error, *reading.NOT_DECODED) as error:
            raise ValueError(text) from error
    if position is None or not forms.is_usable(position):
        raise ValueError(text)
    return position


def ids_beginning(tasks: Collection[Document], text: str, limit: int) -> list[Any]:
    after = f"{text[:-1]}{chr(ord(text[-1]) + 1)}"
    ranges: list[Document] = [{"$gte": text, "$lt": after}]
    if len(text) <= 24:
        ranges.append({"$gte": ObjectId(text.ljust(24, "0")), "$lte": ObjectId(text.ljust(24, "f"))})
    found: list[Any] = []
    for one in ranges:
        some = tasks.find({"_id": one}, {"_id": 1}).sort("_id", ASCENDING).limit(limit)
        found += (document["_id"] for document in some)
    return found[:limit]


def _type_of(position: Position) -> int:
    """The place of its type in the server's order."""
    if isinstance(position, ObjectId):
        return 3
    return 2 if isinstance(position, bytes) else 1 if isinstance(position, str) else 0


def _key(position: Position) -> Any:
    """What positions of one type are ordered by, as the server does."""
    if isinstance(position, bytes):
        return len(position), position.subtype if isinstance(position, Binary) else 0, bytes(position)
    return position


def _key_of_found(found: Found) -> Any:
    return _key(found[0])
