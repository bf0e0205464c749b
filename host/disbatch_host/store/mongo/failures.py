"""Counting failures by their cause, in the index that holds only tasks with a cause.

Responsible for: these queries, and the time that they may take. Must not know: what a group means.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.changes import TaskFilter
from disbatch_host.documents.failure_counts import ROWS_MAX, SAMPLE, FailureCount, FailureCounts
from disbatch_host.documents.records import NOBODY, Document, whole_number
from disbatch_host.store.mongo import driver_errors, forms, layout, reading
from disbatch_host.store.mongo.counting import IS_OVER, milliseconds_left
from disbatch_protocol.status import FAILURES, Status

_ENDS = frozenset(int(one) for one in (*FAILURES, Status.CANCELLED))  # of tasks with a group: those that expired
_FAILED = frozenset(int(one) for one in FAILURES)
_FIELDS = {**dict.fromkeys(("queue", "status", "node", "mtime"), 1), "version": "$run.plugin.version", "_id": 0}
_MILLISECONDS: Document = {"$convert": {"input": "$mtime", "to": "long", "onError": None, "onNull": None}}
_HOUR: Document = {"hour": {"$subtract": [_MILLISECONDS, {"$mod": [_MILLISECONDS, 3_600_000]}]}}
_ABOVE: Document = {"status": {"$gt": int(Status.FAILED)}}
# A text, which is in the index as it is; `$exists` would have the server read each document.
HAS_GROUP: Document = {"error.group.key": {"$gte": ""}}
_HAS_NO_GROUP: Document = {"error.group.key": {"$not": {"$type": "string"}}}


class Failures:
    def __init__(self, tasks: Collection[Document]) -> None:
        self._tasks = tasks

    def count(self, which: TaskFilter, seconds: float, *, by_hour: bool) -> FailureCounts:
        deadline = time.monotonic() + seconds
        hour = _HOUR if by_hour else {}
        keys = {"key": "$error.group.key", **hour}
        counted = [self._in_time(_with_group(which), keys, layout.BY_FAILURE, deadline)]
        if which.failure is None and self._has_others(which, deadline):
            failed = which if which.statuses is not None else replace(which, statuses=_FAILED, or_failed=True)
            for part in _by_status(failed):
                condition = _both(part, _HAS_NO_GROUP)
                codes = {"code": "$error.code", **hour}
                counted.append(self._in_time(condition, codes, layout.BY_STATUS, deadline))
        wanted = which if which.statuses is not None else replace(which, statuses=_ENDS, or_failed=True)
        return FailureCounts(
            rows=[row for one in counted for row in one.rows if wanted.covers(row.status)],
            is_complete=all(one.is_complete for one in counted),
        )

    def _has_others(self, which: TaskFilter, deadline: float) -> bool:
        """Whether there are failed tasks without a group: both counts need nothing but an index."""
        failed = TaskFilter(queue=which.queue, statuses=_FAILED, or_failed=True)
        pipeline: list[Document] = [{"$match": _with_group(failed)}, {"$group": {"_id": "$status", "n": {"$sum": 1}}}]
        try:
            found = _hinted(
                lambda **more: self._read(pipeline, maxTimeMS=milliseconds_left(deadline), **more), layout.BY_FAILURE
            )
            by_status = {whole_number(one["_id"]): one["n"] for one in found}
            grouped = sum(n for status, n in by_status.items() if status is not None and failed.covers(status))
            every = sum(self._count(part, layout.BY_STATUS, deadline) for part in _by_status(failed))
            return bool(every > grouped)
        except driver.OperationFailure as error:
            if error.code not in IS_OVER:
                raise
            return True

    def _count(self, condition: Document, index: layout.Keys, deadline: float) -> int:
        def count(**options: Any) -> int:
            return self._tasks.count_documents(condition, maxTimeMS=milliseconds_left(deadline), **options)

        return int(_hinted(count, index))

    def _in_time(self, condition: Document, fields: Document, index: layout.Keys, deadline: float) -> FailureCounts:
        """All of them, else some; told apart by these fields besides those that all have."""

        def counts(limit: Sequence[Document], **options: Any) -> list[Document]:
            names = (*fields, "queue", "status", "node", "version")
            pipeline: list[Document] = [
                {"$match": condition},
                *limit,
                {"$project": {**_FIELDS, **fields}},
                {
                    "$group": {
                        "_id": {one: f"${one}" for one in names},
                        "count": {"$sum": 1},
                        "first": {"$min": "$mtime"},
                        "last": {"$max": "$mtime"},
                    }
                },
                {"$limit": ROWS_MAX + 1},
            ]
            read: list[Document] = _hinted(lambda **more: self._read(pipeline, **options, **more), index)
            return read

        try:
            found = counts((), maxTimeMS=milliseconds_left(deadline))
            return FailureCounts(rows=list(_counts_of(found[:ROWS_MAX])), is_complete=len(found) <= ROWS_MAX)
        except driver.OperationFailure as error:
            if error.code not in IS_OVER:
                raise
        return FailureCounts(rows=list(_counts_of(counts([{"$limit": SAMPLE}]))), is_complete=False)

    def _read(self, pipeline: Sequence[Document], **options: Any) -> list[Document]:
        try:
            return list(self._tasks.aggregate(pipeline, **options))
        except reading.NOT_DECODED:  # a queue that no queue's id can be
            return list(self._tasks.aggregate([forms.HAS_READABLE_QUEUE, *pipeline], **options))


def _with_group(which: TaskFilter) -> Document:
    """Of tasks with any status, which is in the answer: for a choice of several conditions on it, the server would read
    each document."""
    condition = forms.condition(replace(which, statuses=None, or_failed=False))
    return condition if which.failure is not None else _both(condition, HAS_GROUP)


def _by_status(which: TaskFilter) -> list[Document]:
    """The condition in parts, each of which the server looks up in the index on statuses."""
    rest = forms.condition(replace(which, statuses=None, or_failed=False))
    exact = {"status": {"$in": sorted(which.statuses or ())}}
    return [{**rest, one: value} for part in (exact, _ABOVE)[: 1 + which.or_failed] for one, value in part.items()]


def _both(one: Document, other: Document) -> Document:
    return {**one, **other} if one.keys().isdisjoint(other) else {"$and": [one, other]}


def _hinted(query: Any, index: layout.Keys) -> Any:
    """The answer to a query that uses this index, if it is there: somebody may have dropped it."""
    try:
        return query(hint=dict(index))
    except driver.OperationFailure as error:
        if error.code not in driver_errors.NO_SUCH_INDEX:
            raise
        return query()


def _counts_of(groups: Sequence[Document]) -> Iterator[FailureCount]:
    for group in groups:
        of, node = group["_id"], group["_id"].get("node")
        status = whole_number(of.get("status"))
        if status is None or not forms.is_usable(of.get("queue")):
            continue  # of a program that knows other documents
        yield FailureCount(
            key=_text(of.get("key")),
            code=_text(of.get("code")),
            queue=of["queue"],
            status=status,
            node=None if node in (None, NOBODY) else str(node),
            version=_text(of.get("version")),
            count=group["count"],
            first=_moment(group["first"]),
            last=_moment(group["last"]),
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _moment(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None
