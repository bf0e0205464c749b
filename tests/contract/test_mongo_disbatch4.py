"""Beside nodes of Disbatch 4 in one database: documents as that program writes them, and its indexes."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId

from disbatch_host import __version__
from disbatch_host.documents.records import new_task
from disbatch_host.errors import ForeignIndexError
from disbatch_host.node.duties import lost_runs
from disbatch_host.store.mongo import MongoStore
from helpers.stores import NOW, push, stored

pytestmark = pytest.mark.mongodb

OUR_VERSION = f"disbatch-host {__version__}"


def make_their_indexes(raw: Any) -> None:
    """As their daemon does at its start; it exits if one cannot be made."""
    for keys in (
        [("node", 1), ("status", 1), ("queue", 1)],
        [("node", 1), ("status", 1), ("queue", 1), ("_id", 1)],
        [("node", 1), ("status", 1), ("queue", 1), ("_id", -1)],
        [("queue", 1), ("status", 1)],
    ):
        raw["tasks"].create_index(keys)
    raw["queues"].create_index("name", unique=True)
    raw["nodes"].create_index("node", unique=True)


def their_node(host: str) -> dict[str, Any]:
    return {"node": host, "timestamp": NOW, "maxthreads": None}


def their_queue(name: str) -> dict[str, Any]:
    return {"name": name, "plugin": "Disbatch::Plugin::Demo", "threads": 2}


def their_task(queue: ObjectId, host: str | None, status: int) -> dict[str, Any]:
    fields = {"params": {"user": "a"}, "stdout": None, "stderr": None, "ctime": NOW, "mtime": NOW}
    return {"queue": queue, "node": host, "status": status, **fields}


def our_node(node_id: str) -> dict[str, Any]:
    host = {"name": "vm", "boot_id": "b"}
    return {"_id": node_id, "session": f"s-{node_id}", "version": OUR_VERSION, "host": host, "heartbeat": {"pid": 1}}


@pytest.mark.own_database
def test_any_number_of_our_nodes_and_queues_fit_beside_theirs(mongo: MongoStore, raw: Any) -> None:
    make_their_indexes(raw)
    raw["nodes"].insert_one(their_node("vm"))
    raw["queues"].insert_one(their_queue("demo"))
    for node_id in ("ours1", "ours2"):
        assert mongo.put_node(our_node(node_id), replacing=None)
    for name in ("first", "second"):
        mongo.insert_queue({"_id": name, "class": "Mail"})
    documents = {one["_id"]: one for one in raw["nodes"].find({"version": OUR_VERSION})}
    assert {one["node"] for one in documents.values()} == {"vm:ours1", "vm:ours2"}
    assert all(one["timestamp"] == one["heartbeat"]["datetime"] for one in documents.values())
    for queue in raw["queues"].find({"class": "Mail"}):
        assert (queue["name"], queue["plugin"], queue["threads"]) == (queue["_id"], "Mail", 0)


@pytest.mark.own_database
def test_their_daemon_starts_beside_documents_of_an_older_version_of_ours(mongo: MongoStore, raw: Any) -> None:
    raw["nodes"].insert_many([{**our_node(one), "version": "disbatch-host 0.1.0"} for one in ("old1", "old2")])
    raw["queues"].insert_many([{"_id": one, "class": "Mail"} for one in ("first", "second", ObjectId())])
    foreign = raw["queues"].insert_one({"name": "demo", "plugin": "P", "threads": "2"}).inserted_id
    assert mongo.put_node(our_node("new"), replacing=None)
    make_their_indexes(raw)
    assert {one["node"] for one in raw["nodes"].find()} == {"vm:old1", "vm:old2", "vm:new"}
    ours = list(raw["queues"].find({"class": "Mail"}))
    assert all((one["name"], one["plugin"], one["threads"]) == (str(one["_id"]), "Mail", 0) for one in ours)
    assert raw["queues"].find_one({"_id": foreign}) == {"_id": foreign, "name": "demo", "plugin": "P", "threads": "2"}


def test_a_heartbeat_renews_what_their_page_shows(mongo: MongoStore, raw: Any) -> None:
    mongo.put_node(our_node("n1"), replacing=None)
    assert mongo.heartbeat("n1", "s-n1", {"heartbeat": {"pid": 1}}) == {}
    document = raw["nodes"].find_one({"_id": "n1"})
    assert document["node"] == "vm:n1" and document["timestamp"] == document["heartbeat"]["datetime"]


def test_a_queue_keeps_its_plugin_the_same_as_its_class(mongo: MongoStore, raw: Any) -> None:
    mongo.insert_queue({"_id": "q", "class": "Mail"})
    mongo.update_queue("q", {"class": "Post"})
    found = raw["queues"].find_one({"_id": "q"})
    assert (found["class"], found["plugin"], found["threads"]) == ("Post", "Post", 0)


@pytest.mark.own_database
def test_a_name_that_one_of_their_queues_has_is_refused_with_the_index(mongo: MongoStore, raw: Any) -> None:
    make_their_indexes(raw)
    raw["queues"].insert_one(their_queue("demo"))
    with pytest.raises(ForeignIndexError, match=r"'name_1'.*same name"):
        mongo.insert_queue({"_id": "demo", "class": "Mail"})
    raw["nodes"].insert_one(their_node("vm:n1"))
    with pytest.raises(ForeignIndexError, match=r"'node_1'.*same node"):
        mongo.put_node(our_node("n1"), replacing=None)


@pytest.mark.own_database
def test_an_old_queue_whose_name_is_taken_does_not_keep_a_node_from_its_start(mongo: MongoStore, raw: Any) -> None:
    raw["queues"].create_index("name", unique=True)
    raw["queues"].insert_many([their_queue("demo"), {"_id": "demo", "class": "Mail"}])
    assert mongo.put_node(our_node("n1"), replacing=None)
    assert "name" not in raw["queues"].find_one({"_id": "demo"})


def test_their_tasks_are_never_settled_whatever_name_their_node_has(mongo: MongoStore, raw: Any) -> None:
    """A node of ours with the name of their host made orphans of what ran there, and gave back what was claimed."""
    queue = ObjectId()
    theirs = [their_task(queue, "vm", status) for status in (-1, 0, 0)]
    raw["tasks"].insert_many(theirs)
    (ours,) = push(mongo, {}, node="vm", claim={"token": "t"}, status=0)
    settled = lost_runs.settle(mongo, "vm", is_on_this_machine=False)
    assert settled.orphaned == 1 and settled.given_back == 0
    assert stored(mongo, ours)["status"] == -6
    for task in theirs:
        assert raw["tasks"].find_one({"_id": task["_id"]}) == task


def test_tasks_of_theirs_are_listed_as_they_are(mongo: MongoStore, raw: Any) -> None:
    queue = raw["queues"].insert_one(their_queue("demo")).inserted_id
    raw["tasks"].insert_many([their_task(queue, None, -2), {**new_task(queue, {}, now=NOW), "node": None}])
    assert mongo.count_by_status()[queue] == {-2: 2}
    (found,) = mongo.queues()
    assert found.fault is not None and found.class_name == ""
