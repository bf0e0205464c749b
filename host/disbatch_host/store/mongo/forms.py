"""The forms that records and changes take in MongoDB: conditions, updates, and the traces of a change in a document.

Responsible for: these values. Must not know: a collection, who asks for what. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import bson
from bson.binary import Binary
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo import UpdateOne

from disbatch_host.documents.changes import OutputChunk, RunChange, TaskChange, TaskFilter
from disbatch_host.documents.records import NOBODY, Document, NodeRecord, QueueId, TaskId, away_seconds_of
from disbatch_host.errors import StoreRefusedError
from disbatch_host.store.mongo import field_conditions
from disbatch_protocol import status
from disbatch_protocol.status import UNFINISHED, Status, is_finished

_BATCH_BYTES = 12 * 2**20  # of changes sent together: a command is a document of 16 MB at most

UNCLAIMED = {"$in": [NOBODY, None]}  # null matches a missing field as well (den-1.0, claim rule)
IN_HAND, WAITING = (sorted(int(one) for one in statuses) for statuses in (status.IN_HAND, status.WAITING))
NOT_AFTER: Document = {"$in": [None, []]}  # it waits for no other task; null matches a missing field as well
# The types of ids that can be used. Two of them are the same key in Python if they are the same to the server, which
# is not so for all types: to Python, `true` is 1, NaN is not itself, and a Decimal128 or a regular expression is no key
# at all. All others are passed over.
_ID_TYPES = ["string", "objectId", "int", "long", "double", "binData"]
_ID_CLASSES = frozenset({str, ObjectId, int, Int64, float, bytes, Binary})  # as the driver returns them
# All others: an index with `_id` in it has each of these apart from the ids that are used.
ODD_IDS: tuple[Document, ...] = (
    {
        "_id": {
            "$type": [
                "null", "object", "bool", "date", "timestamp", "decimal", "dbPointer", "javascript", "symbol",
                "javascriptWithScope", "undefined", "minKey", "maxKey",
            ]
        }
    },
    {"_id": {"$eq": float("nan"), "$type": "double"}},
)  # fmt: skip
# For queries that have an index of their own, which the server must not weigh against that of `_id`: it looks for no
# index for the opposite of a type.
NOT_ODD_ID: Document = {"$nor": [*ODD_IDS]}
# Of these types only binary data may be stored in a form that the driver cannot read.
HAS_READABLE_ID: Document = {"$and": [{"_id": {"$not": {"$type": "binData"}}}]}
HAS_READABLE_QUEUE: Document = {
    "$match": {"$expr": {"$in": [{"$type": "$queue"}, [one for one in _ID_TYPES if one != "binData"]]}}
}
OWING = {"follow_ups._id": {"$exists": True, "$type": "objectId"}}  # such ids are given here, see `ids`
NOT_OWING: Document = {"follow_ups._id": {"$not": {"$type": "objectId"}}}
NO_OUTPUT = {"stdout": 0, "stderr": 0}
NO_PARAMETERS = {"parameters": 0}
# A task that others wait for: it has to be marked, unless its mark is just being removed (`task_changes`).
NOT_MARKED = {"$or": [{"awaited": {"$ne": True}}, {"telling": {"$exists": True}}]}
NOT_LARGE = {"status": 1, "node": 1, "mtime": 1, "run": 1, "claim": 1}

# Documents of others may hold dates that Python cannot represent and text that is not UTF-8; such a value comes as a
# DatetimeMS and with U+FFFD, instead of making every query fail that meets it.
CODEC = CodecOptions[Document](
    tz_aware=True,
    tzinfo=UTC,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)


Key = tuple[QueueId, str]  # a queue, and the `unique_key` of one of its tasks
Update = tuple[Document, Document]  # a guard, and the change if it holds


def guard(change: RunChange) -> Document:
    key = change.key
    statuses = [int(one) for one in change.statuses]
    return {
        "_id": key.task_id,
        "node": key.node,
        "claim.token": key.token,  # null matches if there is none
        "status": statuses[0] if len(statuses) == 1 else {"$in": statuses},
    }


def update(set: Mapping[str, Any], unset: Sequence[str]) -> Document:
    check_names((*set, *unset))
    update: Document = {}
    if set or not unset:  # a change of nothing still asks whether its guard holds
        update["$set"] = dict(set)
    if unset:
        update["$unset"] = dict.fromkeys(unset, "")
    return update


def check_names(names: Iterable[str]) -> None:
    for name in names:
        if not name or name.startswith("$") or "." in name or "\0" in name:
            raise StoreRefusedError(f'expected a field name without "." and not beginning with "$", found {name!r:.60}')


def shows(document: Document | None, change: RunChange) -> bool:
    """Whether a document is as the change would have left it: it was carried out, now or earlier."""
    if document is None:
        return False
    key, touched = change.key, {*change.set, *change.unset}
    claim = document.get("claim")
    token = claim.get("token") if isinstance(claim, Mapping) else None
    if "node" not in touched and document.get("node") != key.node:
        return False
    if "claim" not in touched and token != key.token:
        return False
    if "status" not in touched and document.get("status") not in [int(one) for one in change.statuses]:
        return False
    # `run` tells this attempt from any other; `status`, `node`, `claim` and `mtime` tell this change from the others of
    # the attempt. The plugin's own words are left out: they may be large, and add nothing.
    return all(
        document.get(name) == _as_stored(change.set[name]) if name in change.set else name not in document
        for name in NOT_LARGE
        if name in touched
    )


def _as_stored(value: Any) -> Any:
    """A value as it is when read back: BSON turns tuples into lists, enums into numbers."""
    return bson.decode(bson.encode({"value": value}), CODEC)["value"]


def in_parts(changes: Sequence[RunChange]) -> Iterator[Sequence[RunChange]]:
    """Split into batches that fit into one message."""
    part: list[RunChange] = []
    size = 0
    for change in changes:
        own = sum(_bytes(value) for value in change.set.values() if isinstance(value, (str, bytes))) + 1024
        own += len(bson.encode({"": change.creates}, codec_options=CODEC)) if change.creates else 0
        if part and size + own > _BATCH_BYTES:
            yield part
            part, size = [], 0
        part.append(change)
        size += own
    if part:
        yield part


def _bytes(value: str | bytes) -> int:
    return len(value) if isinstance(value, bytes) or value.isascii() else len(value.encode(errors="replace"))


def condition(which: TaskFilter) -> Document:
    same = {
        "queue": which.queue,
        "node": which.node,
        "unique_key": which.unique_key,
        "error.code": which.error_code,
        "error.group.key": which.failure,
        "run.plugin.class": which.class_name,
        "run.plugin.version": which.version,
        "after": which.after,
        "parent": which.parent,
        "batch": which.batch,
    }
    condition: Document = {name: value for name, value in same.items() if value is not None}
    if which.ids is not None:
        condition["_id"] = {"$in": list(which.ids)}
    for name, since, before in (
        ("ctime", which.created_since, which.created_before),
        ("mtime", which.changed_since, which.changed_before),
    ):
        bounds = {"$gte": since, "$lt": before}
        if since is not None or before is not None:
            condition[name] = {operator: moment for operator, moment in bounds.items() if moment is not None}
    condition |= status_condition(which.statuses, which.or_failed)
    grep = [] if which.grep is None else [field_conditions.grep_condition(which.grep)]
    queues = [] if which.queues is None else [{"queue": {"$in": list(which.queues)}}]
    more = [*queues, *map(field_conditions.condition_of, which.where), *grep]
    return {"$and": [condition, *more]} if more else condition


def status_condition(statuses: frozenset[int] | None, or_failed: bool) -> Document:
    if statuses is None:
        return {}
    exact = sorted(int(one) for one in statuses)
    condition: Document = {"status": exact[0] if len(exact) == 1 else {"$in": exact}}
    return {"$or": [condition, {"status": {"$gt": int(Status.FAILED)}}]} if or_failed else condition


def guard_of_task(change: TaskChange) -> Document:
    guard: Document = {"_id": change.task_id, **status_condition(change.statuses, change.or_failed)}
    if change.mtime is not None:
        guard["mtime"] = change.mtime
    return guard


def update_of_task(change: TaskChange) -> Any:
    plain = update(change.set, change.unset)
    if "status" not in change.set or "awaited" in change.set:
        return plain
    # One update, so that no node can die in between: followers that wait for its end wait for the next one. The
    # followers of an Orphaned task that ends without a run were told that it is orphaned, and are told again.
    is_awaited_again = change.set["status"] in WAITING or int(Status.ORPHANED) in change.statuses
    if not is_awaited_again:
        return plain
    fields = {name: {"$literal": value} for name, value in change.set.items()}
    awaited = {"$cond": [{"$eq": [{"$type": "$awaited"}, "missing"]}, "$$REMOVE", True]}
    return [{"$set": {**fields, "awaited": awaited}}, {"$unset": ["telling", *change.unset]}]


def may_revive(change: TaskChange) -> bool:
    """Whether it may make a finished task unfinished."""
    return change.set.get("status") in UNFINISHED and (
        change.or_failed or any(is_finished(one) for one in change.statuses)
    )


def shows_change(document: Document | None, change: TaskChange) -> bool:
    """Whether a task is as the change would have left it. One that is run again may have moved on since."""
    if document is None:
        return False
    if "retried" in change.set:
        return bool(document.get("retried") == _as_stored(change.set["retried"]))
    return all(name in document and document[name] == _as_stored(value) for name, value in change.set.items()) and all(
        name not in document for name in change.unset
    )


def after(document: Mapping[str, Any]) -> list[TaskId]:
    """The ids of the tasks that it waits for."""
    after = document.get("after")
    return [one for one in after if is_usable(one)] if isinstance(after, (list, tuple)) else []


def key_of(document: Mapping[str, Any]) -> Key | None:
    queue, key = document.get("queue"), document.get("unique_key")
    return (queue, key) if isinstance(key, str) and is_usable(queue) else None


def note_id(name: str) -> str:
    return f"note:{name}"  # the layout's version is in the same collection


def node_record(document: Document, now: datetime) -> NodeRecord:
    heartbeat = document.get("heartbeat")
    at = heartbeat.get("datetime") if isinstance(heartbeat, Mapping) else None
    session = document.get("session")
    return NodeRecord(
        id=str(document["_id"]),
        session=session if isinstance(session, str) else None,
        age_seconds=max(0.0, (now - at).total_seconds()) if isinstance(at, datetime) else None,
        document=document,
        away_seconds=away_seconds_of(document, now),
    )


def dated(heartbeat: Any) -> Document:
    """The expression for a heartbeat at the server's time. Strings that begin with "$" are text."""
    fields = dict(heartbeat) if isinstance(heartbeat, Mapping) else {}
    return {"$mergeObjects": [{"datetime": "$$NOW"}, {"$literal": fields}]}


def is_before_zero_or_missing(priority: Any) -> bool:
    return priority is None or (type(priority) in (int, float, Int64) and priority > 0)


def is_usable(value: Any) -> bool:
    """Whether it can be the id of a task or a queue (see USABLE_ID): a document of another program may hold anything
    there."""
    return type(value) in _ID_CLASSES and not (isinstance(value, float) and math.isnan(value))


def is_damaged(task_id: TaskId) -> bool:
    """Whether an id is not what is stored: text that is not UTF-8 comes with U+FFFD, and finds nothing."""
    return type(task_id) is str and "\ufffd" in task_id


def usable_id_but(passed_over: Sequence[TaskId] = ()) -> Document:
    """The condition that the id of a task can be used and is none of these. An index with `_id` in it has the others
    apart, so however many there are, they cost nothing."""
    return {"_id": {"$type": _ID_TYPES, "$nin": [float("nan"), *passed_over]}}


def unchanged_mtime(document: Mapping[str, Any]) -> Document:
    """The condition that a task's `mtime`, which every change of state sets to a date, is as it was read. A value that
    is not a date may not come back as it was stored; it is only asked to be no date still."""
    mtime = document.get("mtime")
    if isinstance(mtime, (datetime, DatetimeMS)):
        return {"mtime": {"$eq": mtime}}
    return {"$expr": {"$ne": [{"$type": "$mtime"}, "date"]}}


def piece(chunk: OutputChunk) -> UpdateOne:
    key = {"files_id": file_id(chunk.key.task_id, chunk.key.token or "", chunk.stream), "n": chunk.number}
    return UpdateOne(key, {"$set": {"data": bson.Binary(chunk.data)}}, upsert=True)


def file_id(task: TaskId, token: str, stream: str) -> str:
    """Tasks that one claim took have the same token, so ids that look alike (1 and "1") must not be written alike."""
    if isinstance(task, (str, ObjectId)):
        return f"{task}:{token}:{stream}"
    return f"{token}:{stream}:{type(task).__name__} {task!r}"


def object_id(text: str) -> ObjectId | None:
    return ObjectId(text) if re.fullmatch("[0-9a-fA-F]{24}", text) else None
