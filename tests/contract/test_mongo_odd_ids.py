"""Ids of every type that a document can have: which of them are used, and that the others stop nothing."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS

from contract.test_mongo_only import Plans
from disbatch_host.clock import SystemClock
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import OutputChunk, PassedOver, RunKey, TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.node.duties import lost_runs
from disbatch_host.store.mongo import MongoStore, forms
from disbatch_protocol.status import Status
from helpers.stores import NOW, REQUEST, change, push, stored, task_of

pytestmark = pytest.mark.mongodb

ODD: dict[str, Any] = {
    "Decimal128": Decimal128("1.5"),
    "Decimal128 NaN": Decimal128("NaN"),
    "code": Code("f()"),
    "code with scope": Code("f()", {"a": 1}),
    "NaN": float("nan"),
    "true": True,
    "null": None,
    "document": {"a": 1},
    "date": NOW,
    "date that Python does not have": DatetimeMS(2**62),
    "timestamp": Timestamp(1, 2),
    "MinKey": MinKey(),
    "MaxKey": MaxKey(),
}
USED: dict[str, Any] = {
    "text": "mail/2026/1",
    "empty text": "",
    "text of digits": "1",
    "ObjectId": ObjectId(),
    "int": 1,
    "long": Int64(2**40),
    "double": 1.5,
    "infinity": float("inf"),
    "bytes": b"ab",
    "UUID": Binary(uuid.UUID(int=5).bytes, 4),
}


def waiting(task_id: Any, **fields: Any) -> dict[str, Any]:
    return {"_id": task_id, **new_task("q", {}, now=NOW, **fields)}


def looked_at(url: str) -> list[PassedOver]:
    """What a node that just started passes over."""
    store = MongoStore(url, SystemClock())
    store.open()
    store.promote_due()
    found = store.passed_over()
    store.close()
    return found


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_a_task_with_an_id_of_another_type_stops_nothing(mongo: MongoStore, mongo_url: str, raw: Any, odd: Any) -> None:
    """Some of them cannot be keys of a dictionary, others are equal to an id of another type: nodes ended, or ran one
    task twice and another one never."""
    past = NOW - timedelta(days=9999)
    raw["tasks"].insert_one(waiting(odd, priority=9))
    ids = push(mongo, {}, {})
    (due,) = push(mongo, {}, status=-4, not_before=past)
    assert mongo.promote_due() == 1
    assert {task.id for task in mongo.claim("n1", [Want("q", 10)], "t1")} == {*ids, due}
    assert mongo.waiting_queues() == {"q"}  # the index says so; the claim finds out
    assert mongo.claim("n1", [Want("q", 10)], "t2") == []
    assert mongo.waiting_queues() == set()
    (later,) = push(mongo, {})
    assert mongo.waiting_queues() == {"q"}
    assert [task.id for task in mongo.claim("n1", [Want("q", 10)], "t3")] == [later]
    assert {task.id for task in mongo.find_tasks(TaskFilter(queue="q"))} == {*ids, due, later}
    assert mongo.count_by_status()["q"][-2] == 1
    (found,) = looked_at(mongo_url)
    assert (found.queue, found.count) == ("q", 1) and "_id" in found.why


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize(
    "fields",
    [
        {"status": -4, "not_before": NOW},
        {"expires": NOW},
        {"status": -4, "cancel": REQUEST},
        {"status": 1, "awaited": True},
        {"status": 0, "node": "n1", "claim": {"token": "x"}},
        {"status": -1, "node": "n1", "claim": {"token": "x"}},
    ],
    ids=["due", "expired", "cancelled", "awaited", "running", "claimed"],
)
def test_such_a_task_is_in_nobodys_way_whatever_is_due_for_it(
    mongo: MongoStore, raw: Any, odd: Any, fields: dict[str, Any]
) -> None:
    raw["tasks"].insert_one(waiting(odd, **fields))
    tasks = raw["tasks"].with_options(codec_options=forms.CODEC)
    before = tasks.find_one({"_id": {"$not": {"$type": "objectId"}}})
    (good,) = push(mongo, {}, **fields)
    assert mongo.promote_due() == (1 if "not_before" in fields else 0)
    assert [task.id for task in mongo.due("n1")] == ([good] if {"expires", "cancel", "awaited"} & fields.keys() else [])
    settled = lost_runs.settle(mongo, "n1", is_on_this_machine=False)
    assert bool(settled) == ("node" in fields)
    assert repr(tasks.find_one({"_id": {"$not": {"$type": "objectId"}}})) == repr(before)


@pytest.mark.parametrize("task_id", USED.values(), ids=USED.keys())
def test_ids_of_these_types_are_used(mongo: MongoStore, raw: Any, task_id: Any) -> None:
    raw["tasks"].insert_one(waiting(task_id))
    (task,) = mongo.claim("n1", [Want("q", 1)], "t1")
    key = RunKey(task.id, "n1", "t1")
    ends = [change(key, Status.CLAIMED, Status.RUNNING), change(key, Status.RUNNING, Status.CONCLUDED)]
    assert mongo.commit(ends) == set()
    assert stored(mongo, task_id)["status"] == 1
    assert mongo.delete_tasks([task_id]) == 1


def test_ids_that_look_alike_are_different_tasks(mongo: MongoStore, raw: Any) -> None:
    alike = [1, "1", True, 1.5, "1.5", b"1"]
    raw["tasks"].insert_many([waiting(one) for one in alike])
    tasks = mongo.claim("n1", [Want("q", 10)], "t1")
    assert sorted(map(repr, (task.id for task in tasks))) == sorted(map(repr, [1, "1", 1.5, "1.5", b"1"]))
    keys = [RunKey(task.id, "n1", "t1") for task in tasks]
    mongo.commit([change(key, Status.CLAIMED, Status.RUNNING) for key in keys])
    chunks = [OutputChunk(key=key, stream="stdout", number=0, data=repr(key.task_id).encode()) for key in keys]
    mongo.commit([], chunks)
    for key in keys:
        assert b"".join(mongo.read_output(key.task_id, "t1", "stdout")) == repr(key.task_id).encode()
    assert raw["tasks"].find_one({"_id": {"$type": "bool"}})["status"] == -2


def test_a_queue_of_another_type_of_id_stops_no_other(mongo: MongoStore, raw: Any) -> None:
    raw["queues"].insert_many([{"_id": one, "class": "X"} for name, one in ODD.items() if name != "Decimal128 NaN"])
    mongo.insert_queue({"_id": "good", "class": "Mail"})
    raw["tasks"].insert_many([{**new_task(one, {}, now=NOW)} for one in ODD.values()])
    push(mongo, {}, queue="good")
    assert [queue.id for queue in mongo.queues()] == ["good"]
    assert mongo.waiting_queues() == {"good"}
    assert mongo.count_by_status()["good"] == {-2: 1}
    assert mongo.oldest_waiting().keys() == {"good"}


@pytest.mark.own_database
def test_many_odd_ids_at_the_head_of_a_queue_cost_nothing(mongo: MongoStore, mongo_url: str, raw: Any) -> None:
    raw["tasks"].insert_many([waiting({"n": number}) for number in range(1500)])
    raw["tasks"].insert_many([waiting(Decimal128(str(number))) for number in range(1500)])
    (good,) = push(mongo, {})
    entries = Plans(raw).of(lambda: mongo.claim("n1", [Want("q", 5)], "t1"))
    assert sum(entry.get("docsExamined", 0) for entry in entries) <= 1600, entries  # numbers lie among numbers
    assert task_of(mongo, good).node == "n1"
    entries = Plans(raw).of(lambda: looked_at(mongo_url))
    assert all("IXSCAN" in entry["planSummary"] for entry in entries if "$group" in str(entry["command"])), entries
    assert sum(one.count for one in looked_at(mongo_url)) == 1000  # more are not counted


def test_a_token_that_is_no_text_is_no_claim_of_this_program(mongo: MongoStore, raw: Any) -> None:
    for token in (Decimal128("1"), Code("x"), 5, {"a": 1}, None):
        raw["tasks"].insert_one({**new_task("q", {}, now=NOW, node="n1", claim={"token": token}), "status": 0})
    assert not lost_runs.settle(mongo, "n1", is_on_this_machine=False)
    assert raw["tasks"].count_documents({"status": 0, "node": "n1"}) == 5


def test_a_cancel_of_a_task_with_a_number_as_id_is_carried_out(mongo: MongoStore, raw: Any) -> None:
    raw["tasks"].insert_many([waiting(1), waiting("1")])
    wanted = transitions.cancel_change(task_of(mongo, 1), REQUEST, now=NOW)
    assert wanted is not None
    assert mongo.change_tasks([wanted]) == set()
    assert (stored(mongo, 1)["status"], stored(mongo, "1")["status"]) == (-5, -2)
