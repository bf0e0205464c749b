"""The documents of queues.

Responsible for: the collection `queues`, and the fields that nodes of Disbatch 4 expect in it. Must not know: tasks.

Rules:
1. A queue that has `class` is this program's. Nodes of Disbatch 4 know its queues by `name`, which has a unique index
   there, so each of ours has one; `threads: 0` keeps them from claiming its tasks. Nothing reads these fields here.
2. Queues of other programs are left as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.records import Document, Queue, QueueId
from disbatch_host.store.mongo import driver_errors, forms, reading

log = logging.getLogger(__name__)


class Queues:
    def __init__(self, queues: Collection[Document]) -> None:
        self._queues = queues

    def all(self) -> list[Queue]:
        def find(fields: Any, more: Document | None = None) -> Any:
            return self._queues.find({**forms.NOT_ODD_ID, **(more or {})}, fields)

        documents, _ = reading.all_of(find, self._queues, None)
        return sorted(map(Queue.from_document, documents), key=lambda queue: str(queue.id))

    def find(self, text: str) -> Queue | None:
        found = self._queues.find_one({"_id": text})
        object_id = forms.object_id(text)
        if found is None and object_id is not None:
            found = self._queues.find_one({"_id": object_id})
        return None if found is None else Queue.from_document(found)

    def insert(self, document: Document) -> QueueId:
        new = dict(document)
        if "class" in new and "_id" in new:
            new |= {"name": str(new["_id"]), "plugin": new["class"], "threads": 0}
        return self._queues.insert_one(new).inserted_id

    def update(
        self, queue: QueueId, set: Mapping[str, Any], unset: Sequence[str], only_if: Mapping[str, Any] | None
    ) -> bool:
        also = {"plugin": set["class"]} if "class" in set else {}
        which: Document = {"_id": queue}
        if only_if:
            # As an expression: a condition on a field would be met by a list that holds the value, too.
            which["$expr"] = {
                "$and": [
                    {"$eq": [{"$ifNull": [f"${name}", None]}, {"$literal": value}]} for name, value in only_if.items()
                ]
            }
        return self._queues.update_one(which, forms.update({**set, **also}, unset)).matched_count > 0

    def delete(self, queue: QueueId) -> bool:
        return self._queues.delete_one({"_id": queue}).deleted_count > 0

    def complete(self) -> None:
        """Add the fields of rule 1 to queues of older versions of this program."""
        lacks = [{name: None} for name in ("name", "plugin", "threads")]
        which: Document = {"class": {"$type": "string"}, "_id": {"$type": ["string", "objectId"]}, "$or": lacks}
        fields = {
            "name": {"$ifNull": ["$name", {"$toString": "$_id"}]},
            "plugin": {"$ifNull": ["$plugin", "$class"]},
            "threads": {"$ifNull": ["$threads", 0]},
        }
        for document in self._queues.find(which, {"_id": 1}):
            try:
                self._queues.update_one({"_id": document["_id"]}, [{"$set": fields}])
            except driver.WriteError as error:
                if not driver_errors.is_refusal(error):
                    raise
                why = driver_errors.refusal(error.details or {})
                log.warning("queue %s is left without fields that Disbatch 4 expects: %s", document["_id"], why)
