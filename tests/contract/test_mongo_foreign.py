"""What other programs and people may have put into the database: one odd document must not stop the others."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import RunKey, TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.store.mongo import MongoStore
from disbatch_protocol.document import stdin_line
from disbatch_protocol.status import Status
from helpers.stores import NOW, change, push

pytestmark = pytest.mark.mongodb


def not_utf8(text_of: str) -> RawBSONDocument:
    """A free field with a string that is no UTF-8, as drivers without a check write it."""
    whole = bson.encode({"_id": ObjectId(), **new_task("q", {}, now=NOW), text_of: "QQQQ"})
    return RawBSONDocument(whole.replace(b"QQQQ", b"\xff\xfe\xff\xfe"))


NORMAL = new_task("q", {}, now=NOW)
ODD_TASKS: dict[str, Any] = {
    "a document as id": {"_id": {"a": 1}, **NORMAL},
    "a document as queue": {**NORMAL, "queue": {"a": 1}},
    "a list as queue": {**NORMAL, "queue": ["q", "other"]},
    "no queue": {**NORMAL, "queue": None},
    "a date that Python does not have": {**NORMAL, "ctime": DatetimeMS(2**55)},
    "our fields of other types": {**NORMAL, "claim": "text", "run": 5, "parameters": "text"},
    "a status that is no number": {**NORMAL, "status": "text"},
    "hardly anything": {"status": -2, "queue": "q"},
    "text that is no UTF-8": not_utf8("free"),
}


@pytest.mark.parametrize("odd", ODD_TASKS.values(), ids=ODD_TASKS.keys())
def test_an_odd_task_does_not_stop_the_others(mongo: MongoStore, raw: Any, odd: Any) -> None:
    raw["tasks"].insert_one(odd)
    (good,) = push(mongo, {})
    assert "q" in mongo.waiting_queues()
    tasks = mongo.claim("n1", [Want("q", 10)], "t1")
    assert good in [task.id for task in tasks]
    keys = [RunKey(task.id, "n1", "t1") for task in tasks]
    assert mongo.commit([change(key, Status.CLAIMED, Status.RUNNING) for key in keys]) == set()
    assert mongo.count_by_status()["q"][0] >= 1
    assert good in [task.id for task in mongo.find_tasks(TaskFilter())]
    for task in tasks:
        assert stdin_line(task.document, other=mongo.extended_json).endswith(b"}\n")


def test_a_task_whose_id_is_a_document_is_left_alone(mongo: MongoStore, raw: Any) -> None:
    """Nothing could be said of it at a terminal, and it would hold the head of its queue."""
    raw["tasks"].insert_many([{"_id": {"n": number}, **new_task("q", {}, now=NOW)} for number in range(3)])
    (good,) = push(mongo, {})
    assert [task.id for task in mongo.claim("n1", [Want("q", 1)], "t1")] == [good]
    assert raw["tasks"].count_documents({"status": -2}) == 3


def test_a_task_of_two_queues_is_run_for_neither(mongo: MongoStore, raw: Any) -> None:
    """A list in `queue` matches both; claimed for both, it would run twice."""
    raw["tasks"].insert_one({**new_task("q", {}, now=NOW), "queue": ["q", "other"]})
    assert mongo.claim("n1", [Want("q", 5), Want("other", 5)], "t1") == []


@pytest.mark.parametrize("odd", [[{"_id": None}], {"_id": 5}, [5, {"_id": None}]], ids=str)
def test_a_field_that_looks_like_our_follow_ups_is_left_as_it_is(mongo: MongoStore, raw: Any, odd: Any) -> None:
    raw["tasks"].insert_one({"_id": "odd", **new_task("other", {}, now=NOW), "follow_ups": odd})
    (task,) = push(mongo, {}, status=int(Status.BLOCKED), not_before=NOW)
    mongo.promote_due()
    assert raw["tasks"].find_one({"_id": "odd"})["follow_ups"] == odd
    assert [one.id for one in mongo.claim("n1", [Want("q", 1)], "t1")] == [task]


@pytest.mark.parametrize(
    "odd",
    [
        {"_id": {"a": 1}, "class": "X"},
        {"_id": 7, "class": "X"},
        {"class": 5},
        {"class": "X", "ctime": DatetimeMS(2**55)},
    ],
    ids=str,
)
def test_an_odd_queue_does_not_stop_the_others(mongo: MongoStore, raw: Any, odd: Any) -> None:
    raw["queues"].insert_one(odd)
    mongo.insert_queue({"_id": "good", "class": "Mail"})
    queues = mongo.queues()
    assert "good" in {queue.id for queue in queues}  # every id can be looked up in a set


@pytest.mark.parametrize("heartbeat", [None, 5, {"datetime": "now"}, {"datetime": DatetimeMS(2**55)}, {}])
def test_an_odd_node_does_not_stop_the_others(mongo: MongoStore, raw: Any, heartbeat: Any) -> None:
    raw["nodes"].insert_one({"_id": "odd", "heartbeat": heartbeat})
    mongo.put_node({"_id": "n1", "session": "s", "heartbeat": {}}, replacing=None)
    ages = {node.id: node.age_seconds for node in mongo.nodes()}
    assert ages["odd"] is None and ages["n1"] is not None


def test_ids_of_every_type_are_listed(mongo: MongoStore, raw: Any) -> None:
    ids = [*(f"id {number}" for number in range(1200)), 5, ObjectId(), Binary(uuid.uuid4().bytes, 4)]
    raw["tasks"].insert_many([{"_id": one, **new_task("q", {}, now=NOW)} for one in ids])
    for newest_first in (False, True):
        found = [task.id for task in mongo.find_tasks(TaskFilter(queue="q"), newest_first=newest_first)]
        assert len(found) == len(ids) and set(found) == set(ids)
    assert len(list(mongo.find_tasks(TaskFilter(), limit=1201))) == 1201


@pytest.mark.parametrize("task_id", ["own id", 5, ObjectId(), Binary(b"x" * 16, 4), 1.5])
def test_a_task_with_any_scalar_id_is_claimed_and_concluded(mongo: MongoStore, raw: Any, task_id: Any) -> None:
    raw["tasks"].insert_one({"_id": task_id, **new_task("q", {}, now=NOW)})
    (task,) = mongo.claim("n1", [Want("q", 1)], "t1")
    key = RunKey(task.id, "n1", "t1")
    ends = [change(key, Status.CLAIMED, Status.RUNNING), change(key, Status.RUNNING, Status.CONCLUDED)]
    assert mongo.commit(ends) == set()
    assert raw["tasks"].find_one({"_id": task_id})["status"] == 1


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (ObjectId("0123456789abcdef01234567"), {"$oid": "0123456789abcdef01234567"}),
        (Decimal128("1.10"), {"$numberDecimal": "1.10"}),
        (Timestamp(5, 6), {"$timestamp": {"t": 5, "i": 6}}),
        (Regex("a.b", "i"), {"$regularExpression": {"pattern": "a.b", "options": "i"}}),
        (Binary(b"ab", 128), {"$binary": {"base64": "YWI=", "subType": "80"}}),
        (Code("f()"), {"$code": "f()"}),
        (DBRef("c", 5), {"$ref": "c", "$id": 5}),
        (MinKey(), {"$minKey": 1}),
        (MaxKey(), {"$maxKey": 1}),
        (DatetimeMS(2**55), {"$date": {"$numberLong": str(2**55)}}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_json_does_not_have_are_relaxed_extended_json(
    mongo: MongoStore, raw: Any, value: Any, json: Any
) -> None:
    raw["tasks"].insert_one({"value": value})
    (task,) = mongo.find_tasks(TaskFilter())
    assert mongo.extended_json(task.document["value"]) == json


def test_extended_json_is_a_type_error_for_what_no_document_holds(mongo: MongoStore) -> None:
    with pytest.raises(TypeError):
        mongo.extended_json(object())


def test_a_document_with_every_type_reaches_a_plugin(mongo: MongoStore, raw: Any) -> None:
    values = [Int64(5), NOW, b"x", 1.5, None, [ObjectId()], datetime.datetime(1, 1, 1, tzinfo=datetime.UTC)]
    (task_id,) = push(mongo, {"values": values})
    task = mongo.get_task(task_id)
    assert task is not None
    assert b'"2026-04-26T17:59:33.123Z"' in stdin_line(task.document, other=mongo.extended_json)


@pytest.mark.own_database
def test_an_index_that_another_program_has_made_does_not_hinder(mongo_url: str, raw: Any) -> None:
    raw["tasks"].create_index([("node", 1), ("status", 1)])
    raw["tasks"].create_index([("not_before", 1)], name="mine")
    store = MongoStore(mongo_url, SystemClock())
    store.open()
    push(store, {})
    assert len(store.claim("n1", [Want("q", 1)], "t1")) == 1
    store.close()
