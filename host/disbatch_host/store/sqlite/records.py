"""The documents and records that rows hold: of tasks, queues and nodes.

Responsible for: reading rows, including damaged ones. Must not know: a connection, who asks. Pure.

Rules:
1. People also write rows that cannot be read. Such a row costs only itself: it is returned as a record with `fault`.
2. The value of a column wins over the same field in a JSON text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from disbatch_host.documents.records import NOBODY, Document, NodeRecord, Queue, QueueId, Task
from disbatch_host.store.sqlite import fields, json_text, moments

SELECT = ", ".join(fields.COLUMNS)
SELECT_WITHOUT_OUTPUT = SELECT.replace("stdout, stderr", "NULL, NULL")

# Raised when a column holds something invalid: text that is not JSON, another type, a wrong date.
UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError)

_DATE_COLUMNS = frozenset({"ctime", "mtime", "not_before", "claimed_at", "expires"})
# Replacements for columns that cannot be read.
_HARMLESS: Mapping[str, str | None] = {
    **dict.fromkeys(sorted(_DATE_COLUMNS)), "parameters": "null", "run": None, "after": None, "cancel": None,
    "rest": "{}",
}  # fmt: skip


def task_of(row: Sequence[Any], *, with_output: bool = True) -> Task:
    """The task of a row in the order of `SELECT`; one with `fault` if the row is damaged."""
    try:
        return Task.from_document(document_of(row, with_output=with_output))
    except UNREADABLE:
        return damaged_task(row, with_output=with_output)


def damaged_task(row: Sequence[Any], *, with_output: bool = True) -> Task:
    """The readable part of a row, with the rest explained. Repeats nothing from JSON: that may be secret."""
    faults, readable = [], dict(zip(fields.COLUMNS, row, strict=True))
    for name, harmless in _HARMLESS.items():
        try:
            if name in _DATE_COLUMNS:
                moments.from_milliseconds(readable[name])
            elif name == "rest":
                _without_columns(json_text.decode(readable[name]))
            elif readable[name] is not None:
                json_text.decode(readable[name])
        except UNREADABLE as error:
            why = f"it holds {readable[name]!r:.40}" if name in _DATE_COLUMNS else why_unreadable(error)
            faults.append(f'the column "{name}" of its row cannot be read: {why}')
            readable[name] = harmless
    document = document_of(tuple(readable.values()), with_output=with_output)
    return dataclasses.replace(Task.from_document(document), fault="; ".join(faults) or "its row cannot be read")


def document_of(row: Sequence[Any], *, with_output: bool = True) -> Document:
    """The document of a row. Raises one of `UNREADABLE` if a column holds something invalid."""
    (
        task_id, queue, status, node, priority, ctime, mtime, not_before, token, claimed_at, parameters, stdout, stderr,
        run, after, unique_key, expires, cancel, awaited, parent, rest,
    ) = row  # fmt: skip
    document: Document = {
        "_id": task_id,
        "queue": queue,
        "ctime": moments.from_milliseconds(ctime),
        "mtime": moments.from_milliseconds(mtime),
        "parameters": json_text.decode(parameters),
        "status": status,
        "node": NOBODY if node in (None, str(NOBODY)) else node,
    }
    if with_output:
        document |= {"stdout": stdout, "stderr": stderr}
    if priority:
        document["priority"] = priority
    if not_before is not None:
        document["not_before"] = moments.from_milliseconds(not_before)
    if token is not None:
        document["claim"] = {"token": token, "at": moments.from_milliseconds(claimed_at)}
    if run is not None:
        document["run"] = json_text.decode(run)
    if after is not None:
        document["after"] = json_text.decode(after)
    if unique_key is not None:
        document["unique_key"] = unique_key
    if expires is not None:
        document["expires"] = moments.from_milliseconds(expires)
    if cancel is not None:
        document["cancel"] = json_text.decode(cancel)
    if awaited is not None:
        document["awaited"] = bool(awaited)
    if parent is not None:
        document["parent"] = parent
    return {**document, **_without_columns(json_text.decode(rest))} if rest != "{}" else document


def queue_of(queue_id: QueueId, encoded: str) -> Queue:
    """The queue of a row; one with `fault` if its document cannot be read."""
    try:
        return Queue.from_document({**json_text.as_object(json_text.decode(encoded)), "_id": queue_id})
    except UNREADABLE as error:
        fault = f"its document cannot be read: {why_unreadable(error)}"
        return Queue(id=queue_id, class_name="", fault=fault, document={"_id": queue_id})


def node_of(row: Sequence[Any], now: datetime) -> NodeRecord:
    """The node of a row, with its age as it is `now`."""
    node_id, session, heartbeat_at, encoded = row
    age_seconds = None
    try:
        document = {**json_text.as_object(json_text.decode(encoded)), "_id": node_id}
        if heartbeat_at is not None:
            heartbeat = {"datetime": moments.from_milliseconds(heartbeat_at), **(document.get("heartbeat") or {})}
            document["heartbeat"] = heartbeat
            age_seconds = max(0.0, (moments.to_milliseconds(now) - heartbeat_at) / 1000)
    except UNREADABLE:
        document = {"_id": node_id}  # not of any program known here
    return NodeRecord(id=node_id, session=session, age_seconds=age_seconds, document=document)


def node_document(node_id: str, encoded: Any) -> Document:
    """The document that a node wrote; its id alone if that cannot be read."""
    try:
        return json_text.as_object(json_text.decode(encoded))
    except UNREADABLE:
        return {"_id": node_id}


def requests_of(document: Document) -> Document:
    """The requests made to a node, by name."""
    requests = document.get("requests")
    return requests if isinstance(requests, dict) else {}


def why_unreadable(error: Exception) -> str:
    """One of `UNREADABLE` in words that repeat nothing of what was read."""
    if isinstance(error, orjson.JSONDecodeError):
        return f"it is not JSON ({error})"
    return str(error) if str(error).startswith("expected ") else "expected a text of JSON"


def _without_columns(decoded: Any) -> Document:
    """The fields that have no column; others that a person put there do not count."""
    document = json_text.as_object(decoded)
    if fields.IN_COLUMNS.isdisjoint(document):
        return document
    return {name: value for name, value in document.items() if name not in fields.IN_COLUMNS}
