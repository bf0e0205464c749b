"""The documents and records that rows hold: of tasks, queues and nodes.

Responsible for: reading rows, including damaged ones. Must not know: a connection, who asks. Pure.

Rules:
1. People also write rows that cannot be read. Such a row costs only itself: it is returned as a record with `fault`.
2. The value of a column wins over the same field in a JSON text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from disbatch_host.documents.records import NOBODY, Document, NodeRecord, Queue, QueueId, Task, away_seconds_of
from disbatch_host.store.sqlite import fields, json_text, moments
from disbatch_protocol.status import Status

SELECT = ", ".join(fields.COLUMNS)
SELECT_LIGHT = SELECT.replace("parameters, stdout, stderr", "NULL, NULL, NULL")

# Raised when a column holds something invalid: text that is not JSON or not UTF-8, another type, a wrong date.
UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError)


def selected(*, with_output: bool, with_parameters: bool) -> str:
    """The columns of a row, with NULL for those that are not to be read."""
    columns = SELECT if with_output else SELECT.replace("stdout, stderr", "NULL, NULL")
    return columns if with_parameters else columns.replace("parameters", "NULL")


def task_of(row: Sequence[Any]) -> Task:
    """The task of a row in the order of `SELECT`, without the columns that are NULL; one with `fault` if the row is
    damaged."""
    try:
        return Task.from_document(document_of(row))
    except UNREADABLE:
        return damaged_task(row)


def damaged_task(row: Sequence[Any]) -> Task:
    """The readable part of a row, with the rest explained. Repeats nothing from JSON: that may be secret."""
    damage = _damage(row)
    readable = dict(zip(fields.COLUMNS, row, strict=True))
    readable |= {name: _HARMLESS[name](readable[name]) for name in damage}
    faults = [f'the column "{name}" of its row cannot be read: {why}' for name, why in damage.items()]
    task = Task.from_document(document_of(tuple(readable.values())))
    return dataclasses.replace(task, fault="; ".join(faults) or "its row cannot be read")


def damage_in_short(row: Sequence[Any]) -> str:
    """Which columns of a damaged row cannot be read: few words, the same for many rows."""
    names = [f'"{name}"' for name in _damage(row)]
    return f"{', '.join(names)} of its row cannot be read" if names else "its row cannot be read"


def document_of(row: Sequence[Any]) -> Document:
    """The document of a row. Raises one of `UNREADABLE` if a column holds something invalid."""
    (
        task_id, queue, status, node, priority, ctime, mtime, not_before, token, claimed_at, parameters, stdout, stderr,
        run, after, unique_key, expires, cancel, awaited, parent, batch, created_by, rest,
    ) = row  # fmt: skip
    optional = (node, token, stdout, stderr, unique_key, parent, batch, created_by)
    if not (type(task_id) is type(queue) is str and _TEXTS.issuperset(map(type, optional))):
        for text in (task_id, queue):
            _text(text)
        for text in optional:
            if text is not None:
                _text(text)
    if type(status) is bytes or type(priority) is not int:
        _status(status)
        _whole(priority)
    document: Document = {
        "_id": task_id,
        "queue": queue,
        "ctime": moments.from_milliseconds(ctime),
        "mtime": moments.from_milliseconds(mtime),
        "status": status,
        "node": NOBODY if node in (None, _NOBODY) else node,
    }
    if parameters is not None:
        document["parameters"] = json_text.decode(parameters)
    if stdout is not None:
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
        document["cancel"] = json_text.as_object(json_text.decode(cancel))
    if awaited is not None:
        document["awaited"] = bool(awaited)
    if parent is not None:
        document["parent"] = parent
    if batch is not None:
        document["batch"] = batch
    if created_by is not None:
        document["created_by"] = created_by
    return {**document, **_without_columns(json_text.decode(rest))} if rest != "{}" else document


def shown_id(value: Any) -> str:
    """An id as text, which every id is outside this package; the column may hold anything."""
    if isinstance(value, str):
        return value
    return f"x'{value.hex()}'"[:100] if isinstance(value, bytes) else str(value)  # as people write it in SQL


def _damage(row: Sequence[Any]) -> dict[str, str]:
    """Why each column that cannot be read cannot."""
    found = {}
    for name, value in zip(fields.COLUMNS, row, strict=True):
        if value is None:
            continue  # missing, or not read
        try:
            _CHECKS[name](value)
        except UNREADABLE as error:
            found[name] = f"it holds {value!r:.40}" if name in _DATE_COLUMNS else why_unreadable(error)
    return found


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError("expected a text in UTF-8")


def _status(value: Any) -> None:
    if isinstance(value, bytes):
        raise TypeError("expected a whole number")


def _whole(value: Any) -> None:
    if not isinstance(value, int):
        raise TypeError("expected a whole number")


def _is_object(value: Any) -> None:
    json_text.as_object(json_text.decode(value))


_DATE_COLUMNS = ("ctime", "mtime", "not_before", "claimed_at", "expires")
_TEXT_COLUMNS = (
    "id", "queue", "node", "claim_token", "stdout", "stderr", "unique_key", "parent", "batch", "created_by",
)  # fmt: skip
# What raises one of `UNREADABLE` for a column that is damaged.
_CHECKS: Mapping[str, Callable[[Any], object]] = {
    **dict.fromkeys(_TEXT_COLUMNS, _text),
    **dict.fromkeys(_DATE_COLUMNS, moments.from_milliseconds),
    **dict.fromkeys(("parameters", "run", "after"), json_text.decode),
    **dict.fromkeys(("cancel", "rest"), _is_object),
    "status": _status,
    "priority": _whole,
    "awaited": bool,
}
# What stands for a column that cannot be read.
_HARMLESS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(fields.COLUMNS, lambda _: None),
    **dict.fromkeys(("id", "queue"), shown_id),
    **dict.fromkeys(("stdout", "stderr"), lambda _: ""),
    "node": shown_id,
    "status": lambda _: int(Status.BLOCKED),
    "priority": lambda _: 0,
    "parameters": lambda _: "null",
    "rest": lambda _: "{}",
}
_NOBODY = str(NOBODY)
_TEXTS = frozenset({str, type(None)})


def queue_of(queue_id: QueueId, encoded: Any) -> Queue:
    """The queue of a row; one with `fault` if its id or document cannot be read."""
    fault = "its id is not a text in UTF-8; delete its row"
    if isinstance(queue_id, str):
        try:
            return Queue.from_document({**json_text.as_object(json_text.decode(encoded)), "_id": queue_id})
        except UNREADABLE as error:
            fault = f"its document cannot be read: {why_unreadable(error)}"
    shown = shown_id(queue_id)
    return Queue(id=shown, class_name="", fault=fault, document={"_id": shown})


def node_of(row: Sequence[Any], now: datetime) -> NodeRecord:
    """The node of a row, with its age as it is `now`."""
    node_id, session, heartbeat_at, encoded = shown_id(row[0]), row[1], row[2], row[3]
    age_seconds = None
    try:
        document = {**json_text.as_object(json_text.decode(encoded)), "_id": node_id}
        if heartbeat_at is not None:
            heartbeat = {"datetime": moments.from_milliseconds(heartbeat_at), **(document.get("heartbeat") or {})}
            document["heartbeat"] = heartbeat
            age_seconds = max(0.0, (moments.to_milliseconds(now) - heartbeat_at) / 1000)
    except UNREADABLE:
        document = {"_id": node_id}  # not of any program known here
    return NodeRecord(
        id=node_id,
        session=session if isinstance(session, str) else None,
        age_seconds=age_seconds,
        document=document,
        away_seconds=away_seconds_of(document, now),
    )


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
