"""The documents of batches, and counts of their tasks.

Responsible for: the collection `batches` and what the index on a task's batch and status tells. Must not know: what a
state means, who asks.

Counts that decide are of one moment where the server can do that (a replica set, a cluster): a plain count lets writes
pass in the middle, so that a task may be in neither of two statuses. A standalone server is asked twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING
from pymongo import errors as driver
from pymongo.collection import Collection as MongoCollection
from pymongo.read_concern import ReadConcern

from disbatch_host.documents.records import Document, whole_number
from disbatch_host.store.contract.answers import BatchCounts
from disbatch_host.store.mongo import driver_errors, forms, layout, reading
from disbatch_protocol.status import Status

_SNAPSHOT = ReadConcern("snapshot")
# Of a server that has no snapshots: not a replica set, too old, or another storage engine.
_NO_SNAPSHOTS = frozenset({20, 72, 123, 246, 263})
_IS_OVER = frozenset({50, 262})  # the time that a query was given


class Batches:
    def __init__(self, batches: MongoCollection[Document], tasks: MongoCollection[Document]) -> None:
        self._batches = batches
        self._tasks = tasks

    def insert(self, document: Document) -> bool:
        try:
            self._batches.insert_one(dict(document))
        except driver.DuplicateKeyError:
            return False
        return True

    def find(
        self, states: Collection[str] | None, prefix: str, limit: int | None, *, newest_first: bool
    ) -> list[Document]:
        which: Document = {"_id": {"$type": "string"}}
        if prefix:
            which["_id"]["$regex"] = f"^{re.escape(prefix)}"
        if states is not None:
            which["state"] = {"$in": list(states)}

        def find(fields: Any, more: Document | None = None) -> Any:
            order = DESCENDING if newest_first else ASCENDING
            found = self._batches.find({**which, **(more or {})}, fields).sort([("ctime", order), ("_id", order)])
            return found.limit(limit or 0)

        if limit == 0:
            return []
        documents, unreadable = reading.all_of(find, self._batches, None)
        return [*documents, *({"_id": one, "fault": reading.FAULT} for one in unreadable)]

    def ids(self, states: Collection[str] | None) -> list[tuple[datetime | None, str]]:
        which: Document = {"_id": {"$type": "string"}}
        if states is not None:
            which["state"] = {"$in": list(states)}

        def find(fields: Any, more: Document | None = None) -> Any:
            found = self._batches.find({**which, **(more or {})}, fields)
            return found.sort([("ctime", ASCENDING), ("_id", ASCENDING)])

        documents, unreadable = reading.all_of(find, self._batches, {"ctime": 1})
        moments = [(one.get("ctime"), one["_id"]) for one in documents]
        known = [(moment if isinstance(moment, datetime) else None, batch_id) for moment, batch_id in moments]
        return [*((None, one) for one in unreadable), *known]

    def watched(self, limit: int) -> list[Document]:
        def find(fields: Any, more: Document | None = None) -> Any:
            return self._batches.find({"watched": True, **(more or {})}, fields, limit=limit)

        documents, _ = reading.all_of(find, self._batches, None)
        return [one for one in documents if isinstance(one["_id"], str)]

    def get(self, batch_id: str) -> Document | None:
        try:
            return self._batches.find_one({"_id": batch_id})
        except reading.NOT_DECODED:
            return {"_id": batch_id, "fault": reading.FAULT}

    def change(self, batch_id: str, set: Mapping[str, Any], unset: Sequence[str], only_if: Mapping[str, Any]) -> bool:
        which = {"_id": batch_id, **{name: {"$eq": value} for name, value in only_if.items()}}
        return self._batches.update_one(which, forms.update(set, unset)).matched_count > 0

    def delete(self, batch_id: str, only_if: Mapping[str, Any]) -> bool:
        which = {"_id": batch_id, **{name: {"$eq": value} for name, value in only_if.items()}}
        return self._batches.delete_one(which).deleted_count > 0

    def counts(self, batch_id: str, budget_seconds: float | None) -> BatchCounts:
        if budget_seconds is None:
            return BatchCounts(by_status=self._count_in_one_moment(batch_id), is_whole=True)
        try:
            return BatchCounts(by_status=self._count(self._tasks, batch_id, budget_seconds), is_whole=True)
        except driver.OperationFailure as error:
            if error.code not in _IS_OVER:
                raise
        few = {
            int(status): self._tasks.count_documents(
                {"batch": batch_id, "status": int(status)}, limit=BatchCounts.SEEN_MAX
            )
            for status in Status
        }
        return BatchCounts(by_status={status: count for status, count in few.items() if count}, is_whole=False)

    def is_unfinished(self, batch_id: str) -> bool:
        unfinished = {"batch": batch_id, "status": {"$in": [*forms.WAITING, *forms.IN_HAND]}}
        # Follow-up tasks that are still to be created belong to it as well.
        return any(
            self._tasks.find_one(which, {"_id": 1}) is not None
            for which in (unfinished, {"batch": batch_id, **forms.OWING})
        )

    def undone(self) -> Document:
        """The condition that a task is in no batch that is not done (`Store.delete_tasks`)."""
        undone = [one["_id"] for one in self._batches.find({"state": {"$ne": "done"}}, {"_id": 1})]
        return {"batch": {"$nin": undone}} if undone else {}

    def _count_in_one_moment(self, batch_id: str) -> dict[int, int]:
        try:
            return self._count(self._tasks.with_options(read_concern=_SNAPSHOT), batch_id, None)
        except driver.OperationFailure as error:
            if error.code not in _NO_SNAPSHOTS:
                raise
        found = self._count(self._tasks, batch_id, None)
        for _ in range(10):
            again = self._count(self._tasks, batch_id, None)
            if again == found:
                break
            found = again
        return found

    def _count(self, tasks: MongoCollection[Document], batch_id: str, budget_seconds: float | None) -> dict[int, int]:
        pipeline: list[Document] = [
            {"$match": {"batch": batch_id}},
            {"$group": {"_id": "$status", "count": {"$sum": 1}}},
        ]
        options: dict[str, Any] = {"hint": dict(layout.BY_BATCH)}
        if budget_seconds is not None:
            options["maxTimeMS"] = max(1, int(budget_seconds * 1000))
        try:
            groups = list(tasks.aggregate(pipeline, **options))
        except driver.OperationFailure as error:
            if "hint" not in options or error.code not in driver_errors.NO_SUCH_INDEX:
                raise
            del options["hint"]  # somebody has dropped the index
            groups = list(tasks.aggregate(pipeline, **options))
        by_status: dict[int, int] = {}
        for group in groups:
            number = whole_number(group["_id"])
            status = int(Status.BLOCKED) if number is None else number  # as `Task.from_document` counts it
            by_status[status] = by_status.get(status, 0) + group["count"]
        return by_status
