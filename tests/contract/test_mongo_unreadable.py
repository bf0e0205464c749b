"""Values that a server stores and the driver cannot read, or does not give back as they were: each costs only its own
document."""

from __future__ import annotations

import struct
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from disbatch_host.documents.changes import RunKey, TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.store.mongo import MongoStore
from disbatch_protocol.status import Status
from helpers.stores import NOW, change, push

pytestmark = pytest.mark.mongodb

_STRING = struct.pack("<i", 2) + b"a\0"
_TWICE = b"\x10a\0\x01\0\0\0\x10a\0\x02\0\0\0"
ODD_VALUES: dict[str, tuple[int, bytes]] = {
    "text that is not UTF-8": (0x02, struct.pack("<i", 3) + b"\xff\xfe\0"),
    "a document with a name twice": (0x03, struct.pack("<i", len(_TWICE) + 5) + _TWICE + b"\0"),
    "undefined": (0x06, b""),
    "a regular expression with other options": (0x0B, b"a\0gx\0"),
    "a DBPointer": (0x0C, _STRING + b"\0" * 12),
    "a symbol": (0x0E, _STRING),
    "code with a scope": (0x0F, struct.pack("<i", 10 + len(bson.encode({"a": 1}))) + _STRING + bson.encode({"a": 1})),
    "a list of a date": (0x04, bson.encode({"0": NOW})),
    "a date that Python does not have": (0x09, struct.pack("<q", 2**62)),
}
# Binary, subtype 2, whose inner length is not that of its content: the driver refuses the whole answer.
UNREADABLE = (0x05, struct.pack("<i", 5) + b"\x02" + struct.pack("<i", 99) + b"x")


def with_element(document: dict[str, Any], name: str, value: tuple[int, bytes]) -> RawBSONDocument:
    """The document with an element that the driver would not write."""
    kind, content = value
    rest = bson.encode({key: one for key, one in document.items() if key != name})
    body = rest[4:-1] + bytes([kind]) + name.encode() + b"\0" + content
    return RawBSONDocument(struct.pack("<i", len(body) + 5) + body + b"\0")


def insert(raw: Any, collection: str, *documents: RawBSONDocument) -> None:
    as_is = CodecOptions[RawBSONDocument](document_class=RawBSONDocument)
    raw.get_collection(collection, codec_options=as_is).insert_many(list(documents))


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES.keys())
def test_tasks_whose_mtime_is_odd_are_claimed_like_all_others(
    mongo: MongoStore, raw: Any, value: tuple[int, bytes]
) -> None:
    """Forty of them at the head of a queue stopped it without a word."""
    odd = [with_element({"_id": f"odd {n}", **new_task("q", {}, now=NOW)}, "mtime", value) for n in range(40)]
    insert(raw, "tasks", *odd)
    (good,) = push(mongo, {})
    ids = [task.id for task in mongo.claim("n1", [Want("q", 50)], "t1")]
    assert len(ids) == 41 and good in ids
    keys = [RunKey(one, "n1", "t1") for one in ids]
    assert mongo.commit([change(key, Status.CLAIMED, Status.RUNNING, mtime=NOW) for key in keys]) == set()
    assert mongo.claim("n2", [Want("q", 50)], "t2") == []


@pytest.mark.parametrize("field", ["parameters", "free", "mtime", "claim", "not_before"])
def test_a_task_that_cannot_be_read_is_passed_over(mongo: MongoStore, raw: Any, field: str) -> None:
    odd = [with_element({"_id": f"odd {n}", **new_task("q", {}, now=NOW)}, field, UNREADABLE) for n in range(3)]
    insert(raw, "tasks", *odd)
    good = push(mongo, {}, {})
    mongo.promote_due()
    assert [task.id for task in mongo.claim("n1", [Want("q", 2)], "t1")] == good
    assert mongo.waiting_queues() == {"q"}
    assert mongo.claim("n1", [Want("q", 2)], "t2") == []
    assert mongo.waiting_queues() == set()
    (found,) = mongo.passed_over()
    assert (found.queue, found.count) == ("q", 3) and "cannot be read" in found.why
    assert mongo.due("n1") == []


def test_a_task_that_cannot_be_read_is_listed_with_what_is_wrong_with_it(mongo: MongoStore, raw: Any) -> None:
    before = push(mongo, {}, {})
    odd = with_element({"_id": "odd", **new_task("q", {}, now=NOW)}, "free", UNREADABLE)
    insert(raw, "tasks", odd)
    after = push(mongo, {})
    for newest_first in (False, True):
        found = list(mongo.find_tasks(TaskFilter(queue="q"), newest_first=newest_first))
        assert {task.id for task in found} == {"odd", *before, *after} and len(found) == 4
        (faulty,) = [task for task in found if task.fault is not None]
        assert (faulty.id, faulty.queue, faulty.status) == ("odd", "q", -2)
    assert len(list(mongo.find_tasks(TaskFilter(queue="q"), limit=2))) == 2
    task = mongo.get_task("odd")
    assert task is not None and task.fault is not None
    assert mongo.count_by_status()["q"] == {-2: 4}


def test_a_queue_or_node_that_cannot_be_read_stops_no_other(mongo: MongoStore, raw: Any) -> None:
    insert(raw, "queues", with_element({"_id": "odd", "class": "X"}, "note", UNREADABLE))
    insert(raw, "nodes", with_element({"_id": "odd"}, "note", UNREADABLE))
    insert(raw, "tasks", with_element(new_task("q", {}, now=NOW), "queue", UNREADABLE))
    mongo.insert_queue({"_id": "q", "class": "Mail"})
    mongo.put_node({"_id": "n1", "session": "s", "heartbeat": {}}, replacing=None)
    push(mongo, {})
    assert [queue.id for queue in mongo.queues()] == ["q"]
    assert [node.id for node in mongo.nodes()] == ["n1"]
    assert mongo.waiting_queues() == {"q"}
    assert mongo.count_by_status()["q"] == {-2: 1}


def test_an_id_that_cannot_be_read_hides_no_other(mongo: MongoStore, raw: Any) -> None:
    insert(raw, "tasks", with_element(new_task("q", {}, now=NOW), "_id", UNREADABLE))
    good = push(mongo, {}, {})
    assert {task.id for task in mongo.find_tasks(TaskFilter(queue="q"))} == set(good)
    assert mongo.waiting_queues() == {"q"}
    assert [task.id for task in mongo.claim("n1", [Want("q", 5)], "t1")] == good


def test_tasks_whose_ids_are_no_text_are_passed_over(mongo: MongoStore, raw: Any) -> None:
    """No condition finds them by their ids: claimed again and again, they hid all others."""
    for number in range(30):
        text = b"\xff" + str(number).encode() + b"\0"
        insert(
            raw, "tasks", with_element(new_task("q", {}, now=NOW), "_id", (0x02, struct.pack("<i", len(text)) + text))
        )
    good = push(mongo, {}, {}, {})
    assert [task.id for task in mongo.claim("n1", [Want("q", 2)], "t1")] == good[:2]
    assert [task.id for task in mongo.claim("n1", [Want("q", 2)], "t2")] == good[2:]
    (found,) = mongo.passed_over()
    assert (found.queue, found.count) == ("q", 30) and "UTF-8" in found.why
    assert mongo.waiting_queues() == {"q"}
    assert mongo.claim("n1", [Want("q", 2)], "t3") == []
    assert mongo.waiting_queues() == set()
