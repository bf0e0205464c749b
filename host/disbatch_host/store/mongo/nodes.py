"""The documents of nodes: which nodes there are, and how long each has been silent.

Responsible for: the collection `nodes`. Must not know: the requests made to a node, when one counts as dead.

Rules:
1. The server's clock dates a heartbeat in the write itself, and its age comes with the document: one clock alone
   decides whether a node is dead.
2. Every write can be made twice: the answer to the first one may have been lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo import ReturnDocument
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.records import Document, NodeRecord
from disbatch_host.store.mongo import forms


class Nodes:
    def __init__(self, nodes: Collection[Document]) -> None:
        self._nodes = nodes

    def find(self, condition: Document) -> list[NodeRecord]:
        pipeline: list[Document] = [{"$match": condition}, {"$project": {"document": "$$ROOT", "now": "$$NOW"}}]
        return [forms.node_record(one["document"], one["now"]) for one in self._nodes.aggregate(pipeline)]

    def put(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        # Our own session is among them (rule 2). A null stands for the missing session of another program's node.
        sessions = [] if document.get("session") is None else [document["session"]]
        if replacing is not None:
            sessions.append(replacing.session)
        whole = {"$mergeObjects": [{"$literal": document}, {"heartbeat": forms.dated(document.get("heartbeat"))}]}
        key = {"_id": document["_id"], "session": {"$in": sessions}}
        try:
            # If no document is to be replaced, one that already exists makes the insert fail.
            result = self._nodes.update_one(key, [{"$replaceWith": whole}], upsert=replacing is None)
        except driver.DuplicateKeyError:
            return False
        return result.matched_count > 0 or result.upserted_id is not None

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> Mapping[str, Any] | None:
        forms.check_names(set)
        fields = {name: {"$literal": value} for name, value in set.items()}
        key = {"_id": node_id, "session": session}
        update = [{"$set": {**fields, "heartbeat": forms.dated(set.get("heartbeat"))}}]
        found = self._nodes.find_one_and_update(
            key, update, projection={"requests": 1}, return_document=ReturnDocument.AFTER
        )
        if found is None:
            return None
        requests = found.get("requests")
        return requests if isinstance(requests, Mapping) else {}

    def request(self, node_id: str, name: str, value: Document | None) -> bool:
        forms.check_names([name])
        place = f"requests.{name}"
        update = {"$unset": {place: ""}} if value is None else {"$set": {place: value}}
        return self._nodes.update_one({"_id": node_id}, update).matched_count > 0

    def remove(self, node_id: str, session: str | None) -> bool:
        return self._nodes.delete_one({"_id": node_id, "session": session}).deleted_count > 0
