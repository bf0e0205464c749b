"""The order in which the tasks of a queue are claimed.

Responsible for: this order, from an index that has it only nearly. Must not know: who claims, how many a node may have.
It only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pymongo import ASCENDING, DESCENDING
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.changes import Want
from disbatch_host.documents.records import Document, QueueId, TaskId
from disbatch_host.documents.steps import CLAIM
from disbatch_host.store.mongo import driver_errors, forms, layout, reading

_DAMAGED_MAX = 2000  # read at once beside those whose ids are damaged text


class ReadAhead(NamedTuple):
    """How many may be read at most, and what is asked after each whether the others can be left."""

    most: int
    is_enough: Callable[[Document], bool]


_Chosen = dict[TaskId, Document]  # in the order of the claim

_BY_AGE = [("_id", ASCENDING)]
_NEWEST = [("_id", DESCENDING)]
_BY_PRIORITY = [("priority", DESCENDING), *_BY_AGE]  # the index's order, in which a missing one comes after all numbers
# A missing priority is 0, so the order has three parts, and the index is right within each of them. A list matches if
# any of its elements does, and would be in several of them.
_NO_LIST = {"$not": {"$type": "array"}}
_ABOVE_ZERO: Document = {"priority": {"$gt": 0, **_NO_LIST}}
_ZERO: Document = {"priority": {"$in": [0, None], **_NO_LIST}}
_BELOW_ZERO: Document = {"priority": {"$lt": 0, **_NO_LIST}}


def first_of(
    tasks: Collection[Document],
    want: Want,
    count: int,
    projection: Document | None = None,
    *,
    passed_over: Sequence[TaskId] = (),
    unreadable: list[TaskId] | None = None,
    ahead: ReadAhead | None = None,
) -> list[Document]:
    """The first `count` of the queue that are free, in the order of `want`, without those that are passed over. Those
    whose priority is not a number come last. The ids of those that cannot be read are added to `unreadable`. With
    `ahead` perhaps more, as far as they cost no further query."""
    if count <= 0:
        return []
    waiting = _Waiting(tasks, want.queue, projection, passed_over, [] if unreadable is None else unreadable)
    return waiting.newest_first(count) if want.newest_first else waiting.oldest_first(count, ahead)


class _Waiting:
    """The free tasks of one queue."""

    def __init__(
        self,
        tasks: Collection[Document],
        queue: QueueId,
        projection: Document | None,
        passed_over: Sequence[TaskId],
        unreadable: list[TaskId],
    ) -> None:
        self._tasks = tasks
        self._projection = projection
        self._unreadable = unreadable
        self._free = {
            "status": int(CLAIM.left),
            "queue": {"$eq": queue, "$not": {"$type": "array"}},  # a list would match each of its elements
            "node": forms.UNCLAIMED,
            **forms.usable_id_but(passed_over),
        }

    def oldest_first(self, count: int, ahead: ReadAhead | None) -> list[Document]:
        if ahead is None:
            rows = self._find({}, _BY_PRIORITY, count)
        else:
            rows = self._find({}, _BY_PRIORITY, ahead.most, is_enough=ahead.is_enough)
        # Zero, negative numbers and values that are not numbers would come before a missing one. Nearly always there is
        # nothing of that kind among the first, and the order of the index is right.
        if all(forms.is_before_zero_or_missing(row.get("priority")) for row in rows):
            return rows
        chosen: _Chosen = {}
        for part, order in ((_ABOVE_ZERO, _BY_PRIORITY), (_ZERO, _BY_AGE), (_BELOW_ZERO, _BY_PRIORITY)):
            chosen |= self._find_more(part, order, count, chosen)
        return _filled_up(chosen, rows, count)

    def newest_first(self, count: int) -> list[Document]:
        head = self._find({}, _BY_PRIORITY, 1, {"priority": 1})
        if not head or head[0].get("priority") is None:  # and so have all others
            return self._find({"priority": None}, _NEWEST, count) if head else []
        chosen: _Chosen = {}
        self._choose_newest_of_each_priority(_ABOVE_ZERO, count, chosen)
        chosen |= self._find_more(_ZERO, _NEWEST, count, chosen)
        self._choose_newest_of_each_priority(_BELOW_ZERO, count, chosen)
        return _filled_up(chosen, self._find({}, _BY_PRIORITY, count) if len(chosen) < count else [], count)

    def _choose_newest_of_each_priority(self, part: Document, count: int, chosen: _Chosen) -> None:
        """The index has the newest last within a priority, so it is read backwards, from one priority to the next."""
        bounds: Document = dict(part["priority"])
        while len(chosen) < count and (head := self._find({"priority": bounds}, _BY_PRIORITY, 1, {"priority": 1})):
            highest = head[0]["priority"]
            chosen |= self._find_more({"priority": {"$eq": highest, **_NO_LIST}}, _NEWEST, count, chosen)
            bounds["$lt"] = highest

    def _find_more(self, priority: Document, order: Sequence[tuple[str, int]], count: int, chosen: _Chosen) -> _Chosen:
        """As many as are missing. One that is chosen already may be among them, if others have changed it."""
        return {row["_id"]: row for row in self._find(priority, order, count - len(chosen))}

    def _find(
        self,
        priority: Document,
        order: Sequence[tuple[str, int]],
        limit: int,
        projection: Document | None = None,
        *,
        is_enough: Callable[[Document], bool] | None = None,
    ) -> list[Document]:
        if limit <= 0:  # to the server, 0 means all
            return []
        wanted = limit

        def find(fields: Any, more: Document | None = None, **options: Any) -> Any:
            which = {**self._free, **priority, **(more or {})}
            return self._tasks.find(which, fields, **options).sort(list(order)).limit(limit)

        # The index is named, or the server would weigh it against that of `_id` each time.
        by_index = partial(find, hint=layout.BY_STATUS)
        fields = projection or self._projection
        while True:
            try:
                documents, unreadable = reading.all_of(by_index, self._tasks, fields, is_enough=is_enough)
            except driver.OperationFailure as error:
                if error.code not in driver_errors.NO_SUCH_INDEX:
                    raise
                documents, unreadable = reading.all_of(find, self._tasks, fields, is_enough=is_enough)
            # No condition can name an id whose text is damaged, so as many more are read.
            damaged = sum([forms.is_damaged(one["_id"]) for one in documents])
            if not damaged or len(documents) < limit or len(documents) - damaged >= wanted or limit >= _DAMAGED_MAX:
                break
            limit += damaged
        if damaged:
            self._unreadable += [one["_id"] for one in documents if forms.is_damaged(one["_id"])]
            documents = [one for one in documents if not forms.is_damaged(one["_id"])][:wanted]
        self._unreadable += unreadable
        return documents


def _filled_up(chosen: _Chosen, rest: Sequence[Document], count: int) -> list[Document]:
    """Completed by those whose priority is not a number, at the end: no part has them."""
    return list((chosen | {row["_id"]: row for row in rest if row["_id"] not in chosen}).values())[:count]
