"""What is only MongoDB's: the plans of hot queries, documents of other programs, a server that goes away."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import gridfs
import pytest
from bson import Decimal128, ObjectId, Regex

from disbatch_host.clock import SystemClock
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import OUTPUT_CHUNK_SIZE, OutputChunk, RunKey, TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.errors import StoreRefusedError, StoreUnreachableError
from disbatch_host.store.mongo import MongoStore
from disbatch_host.store.mongo.ahead import READ_AHEAD
from disbatch_host.store.mongo.due import Due
from disbatch_protocol.quantities import parse_rate
from disbatch_protocol.status import Status
from helpers.mongod import Mongod
from helpers.stores import NOW, PAST, change, claim_one, push

pytestmark = pytest.mark.mongodb


class Plans:
    """Every query on tasks that an action makes, with its plan, as the server's own profiler has seen it."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def of(self, action: Any) -> list[dict[str, Any]]:
        self._raw.command("profile", 0)
        self._raw["system.profile"].drop()  # it is a small ring: begin with an empty one
        self._raw.command("profile", 2)
        action()
        self._raw.command("profile", 0)
        entries = [
            one for one in self._raw["system.profile"].find({"ns": {"$regex": r"\.tasks$"}}) if "planSummary" in one
        ]
        assert entries
        return entries


@pytest.mark.own_database
def test_no_hot_query_grows_with_waiting_or_finished_tasks(mongo: MongoStore, raw: Any) -> None:
    now = mongo.now()
    mongo.promote_due()  # the first one counts tasks with odd ids as well, which is seldom done
    for status, queue in ((-2, "q"), (1, "q"), (-2, "other"), (7, "other"), (-4, "q")):
        push(mongo, *({"n": number} for number in range(2500)), queue=queue, status=status)
    tasks = mongo.claim("n1", [Want("q", 5)], "t1")
    keys = [RunKey(task.id, "n1", "t1") for task in tasks]
    mongo.commit([change(key, Status.CLAIMED, Status.RUNNING) for key in keys])
    push(mongo, {}, status=-4, not_before=now)
    # Many that wait for others, also after their time has come, many that are awaited and have not ended or whose
    # followers know, many that expire later or have ended before, and a cancelled one of another node.
    awaited = push(mongo, *({} for _ in range(300)), queue="blocked", awaited=True, status=-4)
    (ended,) = push(mongo, {}, status=1)
    push(mongo, *({} for _ in range(300)), queue="blocked", status=-4, not_before=now, after=awaited[:1])
    push(mongo, *({} for _ in range(300)), queue="ended", status=1, awaited=False, expires=now)
    push(mongo, *({} for _ in range(300)), queue="later", expires=now + timedelta(days=1), priority=5)
    push(mongo, *({} for _ in range(300)), queue="newest", status=-2)
    push(mongo, {}, status=0, node="n2", cancel={"at": now, "by": "me"})
    push(mongo, {}, status=-4, after=[ended])
    followers = TaskFilter(after=ended, statuses=frozenset({-4}))
    limited = Want("q", 10, maxtotal=100, rate=parse_rate("1000/s"))
    in_hand = TaskFilter(node="n1", statuses=frozenset({-1, 0}))
    hot = {
        "claim": (lambda: mongo.claim("n1", [Want("q", 10), Want("other", 10)], "t2"), 2 * READ_AHEAD + 30),
        "which queues wait": (mongo.waiting_queues, 5),
        "commit": (lambda: mongo.commit([change(key, Status.RUNNING, stdout="x") for key in keys]), 10),
        "refused commit": (lambda: mongo.commit([change(keys[0], Status.CLAIMED, stdout="x")]), 10),
        "promote": (mongo.promote_due, 5),
        "what a node has in hand": (lambda: list(mongo.find_tasks(in_hand)), 60),
        "unfinished": (lambda: mongo.has_unfinished(["nothing", "q"]), 10),
        "claim the newest": (lambda: mongo.claim("n1", [Want("newest", 10, newest_first=True)], "t3"), 30),
        "claim of one priority": (lambda: mongo.claim("n1", [Want("later", 10, newest_first=True)], "t4"), 40),
        "claim with limits": (lambda: mongo.claim("n1", [limited], "t5"), 40),
        "what is due": (lambda: mongo.due("n1"), 10),
        "followers": (lambda: list(mongo.find_tasks(followers)), 5),
        "told": (lambda: mongo.change_tasks([transitions.followers_told_change(mongo.due("n1")[0])]), 20),
        "oldest waiting": (mongo.oldest_waiting, 25),
    }
    plans = Plans(raw)
    for name, (action, most) in hot.items():
        entries = plans.of(action)
        for entry in entries:
            summary = entry["planSummary"]
            assert "COLLSCAN" not in summary, (name, entry)
            assert not entry.get("hasSortStage") or name == "what a node has in hand", (name, entry)
        examined = sum(entry.get("docsExamined", 0) for entry in entries)
        looked_at = sum(entry.get("keysExamined", 0) for entry in entries)
        assert examined <= most and looked_at <= 3 * most, (name, examined, looked_at, entries)


@pytest.mark.own_database
def test_mixed_priorities_cost_no_more_than_the_index_either(mongo: MongoStore, raw: Any) -> None:
    for priority in (-1, 0, 5):
        push(mongo, *({} for _ in range(500)), priority=priority)
    push(mongo, *({} for _ in range(3000)))
    raw["tasks"].update_many({"priority": 5}, {"$set": {"status": 1}})
    tasks: list[Any] = []
    entries = Plans(raw).of(lambda: tasks.extend(mongo.claim("n1", [Want("q", 10)], "t1")))
    assert [task.document["priority"] for task in tasks] == [0] * 10
    for entry in entries:
        assert "COLLSCAN" not in entry["planSummary"] and not entry.get("hasSortStage"), entry
    assert sum(entry["docsExamined"] for entry in entries) <= 50 + READ_AHEAD, entries
    entries = Plans(raw).of(lambda: mongo.claim("n1", [Want("q", 10)], "t2"))  # nothing is read ahead any more
    assert sum(entry["docsExamined"] for entry in entries) <= 60, entries


@pytest.mark.own_database
def test_counts_are_answered_from_the_index_alone(mongo: MongoStore, raw: Any) -> None:
    push(mongo, *({} for _ in range(300)), status=1)
    entries = Plans(raw).of(mongo.count_by_status)
    assert all("IXSCAN" in entry["planSummary"] and entry["docsExamined"] == 0 for entry in entries), entries


def test_documents_of_any_bson_type_are_claimed_and_kept(mongo: MongoStore, raw: Any) -> None:
    other = {"when": NOW, "price": Decimal128("1.10"), "like": Regex("a.b", "i"), "ref": ObjectId()}
    queue = ObjectId()
    raw["tasks"].insert_one({"_id": "own id", **new_task(queue, {}, now=NOW), "other": other})
    (task,) = mongo.claim("n1", [Want(queue, 1)], "t1")
    assert task.id == mongo.parse_id("own id") == "own id"
    key = RunKey(task.id, "n1", "t1")
    assert mongo.commit([change(key, Status.CLAIMED, Status.RUNNING)]) == set()
    assert raw["tasks"].find_one()["other"] == other


def test_a_queue_of_another_program_is_found_by_its_object_id(mongo: MongoStore, raw: Any) -> None:
    queue_id = raw["queues"].insert_one({"class": "Mail"}).inserted_id
    found = mongo.find_queue(str(queue_id))
    assert found is not None and found.id == queue_id


def test_long_output_can_be_read_by_any_gridfs_reader(mongo: MongoStore, raw: Any) -> None:
    task, key = claim_one(mongo)
    data = bytes(range(256)) * 3000
    pieces = [data[at : at + OUTPUT_CHUNK_SIZE] for at in range(0, len(data), OUTPUT_CHUNK_SIZE)]
    for number, piece in enumerate(pieces):
        mongo.commit([], [OutputChunk(key=key, stream="stdout", number=number, data=piece)])
    bucket = gridfs.GridFSBucket(raw, bucket_name="tasks")
    assert bucket.open_download_stream_by_name(f"{task.id}/stdout").read() == data
    assert mongo.delete_tasks([task.id]) == 1
    assert list(bucket.find()) == []


@pytest.mark.parametrize("name", ["a.b", "$set", ""])
def test_field_names_that_would_mean_something_else_are_refused(mongo: MongoStore, name: str) -> None:
    _, key = claim_one(mongo)
    with pytest.raises(StoreRefusedError, match="expected a field name"):
        mongo.commit([change(key, Status.CLAIMED, Status.RUNNING, **{name: 1})])


def test_a_server_that_goes_and_comes_back(own_mongod: Callable[..., Mongod]) -> None:
    with own_mongod() as server:
        store = MongoStore(server.database_url("gone") + "&serverSelectionTimeoutMS=1500", SystemClock())
        store.open()
        (task_id,) = push(store, {})
        watcher = store.watch()
        server.kill()
        began = time.monotonic()
        with pytest.raises(StoreUnreachableError, match="cannot be reached"):
            store.get_task(task_id)
        assert time.monotonic() - began < 10
        assert watcher.wait(0.2) in (True, False)  # never raises
        server.start()
        assert store.get_task(task_id) is not None
        assert watcher.wait(30)
        watcher.close()
        store.close()


def test_a_wrong_password_is_said_as_such(mongod_server: Mongod) -> None:
    url = f"mongodb://me:s3cret@127.0.0.1:{mongod_server.port}/x?replicaSet=rs0"
    store = MongoStore(url, SystemClock())
    with pytest.raises(StoreRefusedError, match="refuses the user or password") as caught:
        store.open()
    assert "s3cret" not in str(caught.value)


def test_time_is_the_servers(mongo: MongoStore, mongo_url: str) -> None:
    from datetime import datetime, timedelta

    class LateClock(SystemClock):
        def now(self) -> datetime:
            return super().now() - timedelta(minutes=5)

    late = MongoStore(mongo_url, LateClock())
    late.open()
    late.put_node({"_id": "n1", "session": "s", "heartbeat": {"pid": 1}}, replacing=None)
    record = mongo.get_node("n1")
    assert record is not None and record.age_seconds is not None and record.age_seconds < 5
    assert abs((late.now() - mongo.now()).total_seconds()) < 1
    late.close()


def test_a_change_wakes_at_once_and_not_when_the_server_would_have_answered_anyway(mongo: MongoStore) -> None:
    """The watcher used to wait for further changes after the first one, a quarter of a second where none came: an idle
    node began every task so much too late."""
    watcher = mongo.watch()
    try:
        while watcher.wait(0.3):
            pass
        seconds = []
        for _ in range(5):
            began = time.monotonic()
            push(mongo, {})
            assert watcher.wait(10)
            seconds.append(time.monotonic() - began)
        assert sorted(seconds)[2] < 0.15
        push(mongo, *({} for _ in range(300)))
        wakes = 0
        while watcher.wait(0.3):
            wakes += 1
        assert 1 <= wakes < 50  # many that come at once wake seldom
    finally:
        watcher.close()


class Leaping(SystemClock):
    """A clock by which each look takes long."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        self.at += 1.0
        return self.at


@pytest.mark.own_database
def test_after_a_look_that_took_long_each_kind_of_due_task_is_looked_for_by_its_own_index(
    mongo: MongoStore, raw: Any
) -> None:
    """Planning the query for all kinds at once takes the server seconds where tasks are large, in every look."""
    now = SystemClock().now()
    request = {"at": now, "by": "somebody"}
    kinds = {
        "cancelled": {"cancel": request},
        "stopped": {"status": 0, "node": "n1", "claim": {"token": "t", "at": now}, "cancel": request},
        "awaited": {"status": 1, "awaited": True},
        "expired": {"expires": PAST},
    }
    for name, fields in kinds.items():
        mongo.insert_tasks([{**new_task(name, {}, now=now), **fields} for _ in range(3)])
    due = Due(raw["tasks"], Leaping())

    def found() -> list[str]:
        return sorted(str(task.queue) for task in due.find("n1", 500, now))

    assert found() == sorted(kinds)  # the first look is by each index as well
    raw["tasks"].update_many({}, {"$rename": {"cancel": "c", "awaited": "a", "expires": "e"}})
    assert not due.find("n1", 500, now)
    raw["tasks"].update_many({}, {"$rename": {"c": "cancel", "a": "awaited", "e": "expires"}})
    assert len(found()) == 1  # of all kinds together; then there was no more time
    assert found() == found() == sorted(kinds)  # none keeps the others from being found
    plans = [one["planSummary"] for one in Plans(raw).of(found)]
    raw["tasks"].drop_index("status_1_expires_1")
    assert found() == sorted(kinds)  # somebody has dropped an index
    assert plans == [
        "IXSCAN { status: 1, node: 1 }",
        "IXSCAN { status: 1, node: 1 }",
        "IXSCAN { awaited: 1, status: 1 }",
        "IXSCAN { status: 1, expires: 1 }",
    ]


@pytest.mark.own_database
def test_the_server_is_told_by_which_index_followers_are_found(mongo: MongoStore, raw: Any) -> None:
    """It tried its indexes on a hundred of them for each look, which are large now and then."""
    push(mongo, {}, {}, status=int(Status.BLOCKED), after=["first"])
    which = TaskFilter(after="first", statuses=frozenset({int(Status.BLOCKED)}))
    (entry,) = Plans(raw).of(lambda: list(mongo.find_tasks(which, with_parameters=False, in_any_order=True)))
    assert entry["command"]["hint"] == {"after": 1, "_id": 1} and entry["nreturned"] == 2
