"""The documents of nodes: which nodes there are, and how long each has been silent.

Responsible for: the collection `nodes`. Must not know: the requests made to a node, when one counts as dead.

Rules:
1. The server's clock dates a heartbeat in the write itself, and its age comes with the document: one clock alone
   decides whether a node is dead.
2. Every write can be made twice: the answer to the first one may have been lost.
3. Nodes of Disbatch 4 know each other by `node`, which has a unique index there, and show when each was last seen by
   `timestamp`. So each of ours has both. Nothing reads them in our documents.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from pymongo import ReturnDocument
from pymongo import errors as driver
from pymongo.collection import Collection

from disbatch_host.documents.records import Document, NodeRecord
from disbatch_host.store.mongo import driver_errors, forms, reading

log = logging.getLogger(__name__)


class Nodes:
    def __init__(self, nodes: Collection[Document]) -> None:
        self._nodes = nodes

    def find(self, condition: Document) -> list[NodeRecord]:
        pipeline: list[Document] = [{"$match": condition}, {"$project": {"document": "$$ROOT", "now": "$$NOW"}}]
        try:
            found = list(self._nodes.aggregate(pipeline))
        except reading.NOT_DECODED:
            found = self._find_one_by_one(condition)
        return [forms.node_record(one["document"], one["now"]) for one in found]

    def _find_one_by_one(self, condition: Document) -> list[Document]:
        """Those of them that can be read."""
        found: list[Document] = []
        for one in self._nodes.find(condition, {"_id": 1}):
            pipeline: list[Document] = [
                {"$match": {"_id": {"$eq": one["_id"]}}},
                {"$project": {"document": "$$ROOT", "now": "$$NOW"}},
            ]
            with contextlib.suppress(*reading.NOT_DECODED):
                found += self._nodes.aggregate(pipeline)
        return found

    def put(self, document: Document, *, replacing: NodeRecord | None) -> bool:
        # Our own session is among them (rule 2). A null stands for the missing session of another program's node.
        sessions = [] if document.get("session") is None else [document["session"]]
        if replacing is not None:
            sessions.append(replacing.session)
        host = document.get("host")
        host_name = host.get("name") if isinstance(host, Mapping) else None
        for_others = {"node": {"$literal": f"{host_name or ''}:{document['_id']}"}, "timestamp": "$$NOW"}
        heartbeat = {"heartbeat": forms.dated(document.get("heartbeat"))}
        whole = {"$mergeObjects": [{"$literal": document}, heartbeat, for_others]}
        key = {"_id": document["_id"], "session": {"$in": sessions}}
        try:
            # If no document is to be replaced, one that already exists makes the insert fail.
            result = self._nodes.update_one(key, [{"$replaceWith": whole}], upsert=replacing is None)
        except driver.DuplicateKeyError as error:
            if not driver_errors.is_same_id(error.details or {}):
                raise
            return False
        return result.matched_count > 0 or result.upserted_id is not None

    def heartbeat(self, node_id: str, session: str, set: Mapping[str, Any]) -> Mapping[str, Any] | None:
        forms.check_names(set)
        fields = {name: {"$literal": value} for name, value in set.items()}
        beat = {"heartbeat": forms.dated(set.get("heartbeat")), "timestamp": "$$NOW"}
        found = self._nodes.find_one_and_update(
            {"_id": node_id, "session": session},
            [{"$set": {**fields, **beat}}],
            projection={"requests": 1},
            return_document=ReturnDocument.AFTER,
        )
        if found is None:
            return None
        requests = found.get("requests")
        return requests if isinstance(requests, Mapping) else {}

    def complete(self) -> None:
        """Add the fields of rule 3 to documents of older versions of this program."""
        which: Document = {"version": {"$regex": "^disbatch-host "}, "_id": {"$type": "string"}, "node": None}
        host_name = {"$cond": [{"$eq": [{"$type": "$host.name"}, "string"]}, "$host.name", ""]}
        fields = {
            "node": {"$concat": [host_name, ":", "$_id"]},
            "timestamp": {"$ifNull": ["$timestamp", "$heartbeat.datetime"]},
        }
        for document in self._nodes.find(which, {"_id": 1}):
            try:
                self._nodes.update_one({"_id": document["_id"]}, [{"$set": fields}])
            except driver.WriteError as error:
                if not driver_errors.is_refusal(error):
                    raise
                why = driver_errors.refusal(error.details or {})
                log.warning("node %s is left without fields that Disbatch 4 expects: %s", document["_id"], why)

    def request(self, node_id: str, name: str, value: Document | None) -> bool:
        forms.check_names([name])
        place = f"requests.{name}"
        update = {"$unset": {place: ""}} if value is None else {"$set": {place: value}}
        return self._nodes.update_one({"_id": node_id}, update).matched_count > 0

    def remove(self, node_id: str, session: str | None) -> bool:
        return self._nodes.delete_one({"_id": node_id, "session": session}).deleted_count > 0
