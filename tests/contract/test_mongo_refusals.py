"""What the server refuses because of an index or a validator of another program: each costs only itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from bson import ObjectId

from contract.test_mongo_races import failing
from disbatch_host.clock import SystemClock
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunChange, RunKey, TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.errors import (
    ChangesRefusedError,
    DuplicateIdError,
    ExitCode,
    ForeignIndexError,
    StoreRefusedError,
    StoreUnreachableError,
)
from disbatch_host.store.mongo import MongoStore, passed_over
from disbatch_protocol.status import Status
from helpers.mongod import Mongod
from helpers.stores import FUTURE, NOW, PAST, REQUEST, change, end, push, status_change, stored, task_of

pytestmark = [pytest.mark.mongodb, pytest.mark.own_database]

USER_A = {"parameters.user": "a"}


class SteppingClock(SystemClock):
    """The machine's clocks, moved forward by a test."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture(autouse=True)
def collection(mongo: MongoStore, raw: Any) -> Iterator[None]:
    push(mongo, {})  # the collection must exist before it can have a validator
    raw["tasks"].delete_many({})
    yield


def one_waiting_task_per_user(raw: Any) -> None:
    """As people make a queue without duplicates."""
    keys = [("queue", 1), ("parameters.user", 1)]
    raw["tasks"].create_index(keys, name="one per user", unique=True, partialFilterExpression={"status": -2})


def refuse(raw: Any, **fields: Any) -> None:
    """A validator that accepts no document with these fields."""
    raw.command(
        "collMod", "tasks", validator={"$nor": [{name.replace("__", "."): one for name, one in fields.items()}]}
    )


def accept_all(raw: Any) -> None:
    raw.command("collMod", "tasks", validator={})


def running(store: MongoStore, *parameters: Any) -> list[RunKey]:
    ids = push(store, *parameters)
    store.claim("n1", [Want("q", len(ids))], "t1")
    keys = [RunKey(one, "n1", "t1") for one in ids]
    assert store.commit([change(key, Status.CLAIMED, Status.RUNNING) for key in keys]) == set()
    return keys


def test_a_task_whose_claim_is_refused_is_passed_over_and_the_others_are_claimed(mongo: MongoStore, raw: Any) -> None:
    bad, first, second = push(mongo, {"user": "a"}, {"user": "b"}, {"user": "c"})
    refuse(raw, parameters__user="a", status=-1)
    assert [task.id for task in mongo.claim("n1", [Want("q", 2)], "t1")] == [first, second]
    assert stored(mongo, bad)["status"] == -2
    (found,) = mongo.passed_over()
    assert (found.queue, found.count) == ("q", 1) and "validator" in found.why
    assert mongo.waiting_queues() == {"q"}
    assert mongo.claim("n1", [Want("q", 2)], "t2") == []
    assert mongo.waiting_queues() == set()


def test_a_refused_claim_beside_ends_leaves_the_ends_and_the_other_claims(mongo: MongoStore, raw: Any) -> None:
    keys = running(mongo, {"user": "x"}, {"user": "y"})
    bad, good, better = push(mongo, {"user": "a"}, {"user": "b"}, {"user": "c"})
    refuse(raw, parameters__user="a", status=-1)
    with mongo.together():
        refused = mongo.commit([change(key, Status.RUNNING, Status.CONCLUDED) for key in keys])
        tasks = mongo.claim("n1", [Want("q", 3)], "t2")
    assert refused == set() and [task.id for task in tasks] == [good, better]
    assert [stored(mongo, key.task_id)["status"] for key in keys] == [1, 1]
    assert stored(mongo, bad)["status"] == -2


def test_a_start_that_is_refused_with_its_claim_leaves_no_claim_behind(mongo: MongoStore, raw: Any) -> None:
    bad, good = push(mongo, {"user": "a"}, {"user": "b"})
    refuse(raw, parameters__user="a", status=0)

    def start(task: Any) -> RunChange:
        return change(RunKey(task.id, "n1", "t1"), Status.CLAIMED, Status.RUNNING)

    assert [task.id for task in mongo.claim("n1", [Want("q", 2)], "t1", start)] == [good]
    assert (stored(mongo, bad)["status"], stored(mongo, bad)["node"]) == (-2, -1)


def test_a_thousand_refused_tasks_do_not_hide_the_one_behind_them(mongo: MongoStore, raw: Any) -> None:
    push(mongo, *({"user": "a"} for _ in range(1000)))
    (good,) = push(mongo, {"user": "b"})
    refuse(raw, parameters__user="a", status=-1)
    claims = 0
    while stored(mongo, good)["status"] == -2:
        claims += 1
        assert claims < 10
        mongo.claim("n1", [Want("q", 10)], f"t{claims}")
    assert mongo.passed_over()[0].count == 1000


def test_a_change_that_nobody_can_find_is_left_to_the_run(mongo: MongoStore) -> None:
    first, second = push(mongo, {}, {})

    def fail(task: Any) -> RunChange:
        if task.id == first:
            raise ValueError("cannot convert float NaN to integer")
        return change(RunKey(task.id, "n1", "t1"), Status.CLAIMED, Status.RUNNING)

    assert len(mongo.claim("n1", [Want("q", 2)], "t1", fail)) == 2
    assert (stored(mongo, first)["status"], stored(mongo, second)["status"]) == (-1, 0)


def test_a_task_is_claimed_once_it_has_changed(mongo_url: str, raw: Any) -> None:
    clock = SteppingClock()
    store = MongoStore(mongo_url, clock)
    store.open()
    (bad,) = push(store, {"user": "a"})
    refuse(raw, parameters__user="a", status=-1)
    assert store.claim("n1", [Want("q", 1)], "t1") == []
    raw["tasks"].update_one({"_id": bad}, {"$set": {"parameters.user": "b"}})
    assert store.claim("n1", [Want("q", 1)], "t2") == []  # nobody has looked
    clock.forward(passed_over.LOOK_SECONDS + 1)
    store.promote_due()
    assert store.passed_over() == []
    assert [task.id for task in store.claim("n1", [Want("q", 1)], "t3")] == [bad]
    store.close()


def test_a_task_is_tried_again_later_for_the_validator_may_have_changed(mongo_url: str, raw: Any) -> None:
    clock = SteppingClock()
    store = MongoStore(mongo_url, clock)
    store.open()
    (bad,) = push(store, {"user": "a"})
    refuse(raw, parameters__user="a", status=-1)
    assert store.claim("n1", [Want("q", 1)], "t1") == []
    accept_all(raw)
    clock.forward(passed_over.LOOK_SECONDS + 1)
    store.promote_due()
    assert store.claim("n1", [Want("q", 1)], "t2") == []
    clock.forward(passed_over.AGAIN_SECONDS)
    store.promote_due()
    assert [task.id for task in store.claim("n1", [Want("q", 1)], "t3")] == [bad]
    store.close()


def test_a_task_that_cannot_be_promoted_stops_no_other(
    mongo: MongoStore, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The node ended with the exit code for wrong use, and so did every other, each time it was started."""
    caplog.set_level(logging.ERROR)
    one_waiting_task_per_user(raw)
    push(mongo, {"user": "a"})
    (bad,) = push(mongo, {"user": "a"}, status=-4, not_before=PAST)
    others = push(mongo, {"user": "b"}, {"user": "c"}, status=-4, not_before=NOW)
    mongo.promote_due()
    assert [stored(mongo, one)["status"] for one in (bad, *others)] == [-4, -2, -2]
    (later,) = push(mongo, {"user": "d"}, status=-4, not_before=NOW)
    assert mongo.promote_due() == 1 and stored(mongo, later)["status"] == -2
    assert mongo.promote_due() == 0
    (found,) = mongo.passed_over()
    assert found.count == 1 and "'one per user'" in found.why
    assert len([one for one in caplog.records if "one per user" in one.getMessage()]) == 1


def test_changes_that_are_refused_are_named_and_the_others_are_made(mongo: MongoStore, raw: Any) -> None:
    one_waiting_task_per_user(raw)
    push(mongo, {"user": "a"})
    bad, good, gone = push(mongo, {"user": "a"}, {"user": "b"}, {"user": "c"}, status=-4)
    changes = [status_change(one, -4, -2) for one in (bad, good)] + [status_change(gone, -2, -5)]
    with pytest.raises(ChangesRefusedError, match="'one per user'") as caught:
        mongo.change_tasks(changes)
    assert caught.value.reasons.keys() == {bad} and caught.value.lost == {gone}
    assert isinstance(caught.value.reasons[bad], ForeignIndexError)
    assert [stored(mongo, one)["status"] for one in (bad, good, gone)] == [-4, -2, -4]


def test_a_refused_mark_of_an_ended_task_does_not_keep_others_from_theirs(mongo: MongoStore, raw: Any) -> None:
    bad, good = push(mongo, {"user": "a"}, {"user": "b"}, awaited=True)
    end(mongo, bad)
    end(mongo, good)
    raw["tasks"].update_many({}, {"$set": {"awaited": True}})
    refuse(raw, parameters__user="a", telling={"$exists": True})
    told = [transitions.followers_told_change(task_of(mongo, one)) for one in (bad, good)]
    with pytest.raises(ChangesRefusedError) as caught:
        mongo.change_tasks(told)
    assert caught.value.not_carried_out == {bad}
    assert [stored(mongo, one)["awaited"] for one in (bad, good)] == [True, False]


def test_an_end_that_is_refused_is_named_and_the_others_are_written(mongo: MongoStore, raw: Any) -> None:
    keys = running(mongo, {"user": "b"}, {"user": "a"}, {"user": "c"}, {"user": "a"})
    refuse(raw, parameters__user="a", status=1)
    ends = [change(key, Status.RUNNING, Status.CONCLUDED) for key in keys]
    lost = change(RunKey(keys[0].task_id, "n1", "another"), Status.RUNNING, Status.CONCLUDED)
    for _ in range(2):  # also when it is sent again
        with pytest.raises(ChangesRefusedError) as caught:
            mongo.commit([*ends, lost])
        assert caught.value.reasons.keys() == {keys[1], keys[3]} and caught.value.lost == {lost.key}
    assert [stored(mongo, key.task_id)["status"] for key in keys] == [1, 0, 1, 0]


def test_a_refused_end_claims_nothing_with_it(mongo: MongoStore, raw: Any) -> None:
    keys = running(mongo, {"user": "a"}, {"user": "b"})
    (next_one,) = push(mongo, {})
    refuse(raw, parameters__user="a", status=1)
    with pytest.raises(StoreRefusedError), mongo.together():
        mongo.commit([change(key, Status.RUNNING, Status.CONCLUDED) for key in keys])
        mongo.claim("n1", [Want("q", 1)], "t2")
    assert stored(mongo, next_one)["status"] == -2


def test_a_value_that_cannot_be_encoded_costs_only_its_own_change(mongo: MongoStore) -> None:
    keys = running(mongo, {}, {})
    changes = [change(keys[0], Status.RUNNING, result=2**70), change(keys[1], Status.RUNNING, result=1)]
    with pytest.raises(ChangesRefusedError) as caught:
        mongo.commit(changes)
    assert caught.value.reasons.keys() == {keys[0]}
    assert "result" not in stored(mongo, keys[0].task_id) and stored(mongo, keys[1].task_id)["result"] == 1


def conclusion(key: RunKey, *children: Any) -> RunChange:
    return RunChange(
        key=key,
        statuses=(Status.RUNNING,),
        set={"status": int(Status.CONCLUDED), "mtime": NOW},
        creates=tuple(new_task("next", one, now=NOW) for one in children),
    )


def children(store: MongoStore) -> list[Any]:
    return sorted(task.parameters["user"] for task in store.find_tasks(TaskFilter(queue="next")))


@pytest.mark.parametrize("by", ["index", "validator"])
def test_a_follow_up_that_is_refused_is_noted_and_stops_no_other(mongo: MongoStore, raw: Any, by: str) -> None:
    """It was taken for one that exists already, or stopped every queue of every node."""
    key, other = running(mongo, {}, {})
    push(mongo, {"user": "a"}, queue="elsewhere")
    if by == "index":
        raw["tasks"].create_index("parameters.user", unique=True, sparse=True)
    else:
        refuse(raw, queue="next", **{"parameters.user": "a"})
    assert mongo.commit([conclusion(key, {"user": "a"}, {"user": "b"}), conclusion(other, {"user": "c"})]) == set()
    assert children(mongo) == ["b", "c"]
    parent = stored(mongo, key.task_id)
    assert parent["status"] == 1 and "follow_ups" not in parent
    (noted,) = parent["refused_follow_ups"]
    assert noted["task"]["parameters"] == {"user": "a"} and noted["task"]["queue"] == "next"
    assert ("parameters.user_1" if by == "index" else "validator") in noted["why"]
    assert "refused_follow_ups" not in stored(mongo, other.task_id)
    assert mongo.promote_due() == 0
    assert mongo.delete_tasks([key.task_id]) == 1


def test_a_task_that_owes_follow_ups_is_not_deleted(mongo: MongoStore, raw: Any) -> None:
    owed = [{"_id": ObjectId(), **new_task("next", {"user": "a"}, now=NOW)}]
    owing, free = push(mongo, {}, {}, status=1, mtime=PAST)
    raw["tasks"].update_one({"_id": owing}, {"$set": {"follow_ups": owed}})
    assert mongo.ended_before("q", FUTURE, 10) == [free]
    assert mongo.delete_tasks([owing, free], statuses=frozenset({1})) == 1
    assert mongo.promote_due() == 1 and children(mongo) == ["a"]
    assert mongo.delete_tasks([owing]) == 1


def test_a_parent_that_cannot_be_changed_is_not_asked_again_and_again(
    mongo: MongoStore, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    owed = [{"_id": ObjectId(), **new_task("next", {"user": "b"}, now=NOW)}]
    (owing,) = push(mongo, {"user": "a"}, status=1)
    raw["tasks"].update_one({"_id": owing}, {"$set": {"follow_ups": owed}})
    refuse(raw, parameters__user="a", follow_ups={"$exists": False})
    for _ in range(3):
        mongo.promote_due()
    assert children(mongo) == ["b"]
    assert len([one for one in caplog.records if "follow-up" in one.getMessage()]) == 1


def test_a_foreign_index_is_named_and_so_are_the_tasks_that_were_created(mongo: MongoStore, raw: Any) -> None:
    raw["tasks"].create_index("parameters.user", unique=True, sparse=True)
    with pytest.raises(ForeignIndexError, match=r"1 of 3 tasks.*'parameters.user_1'.*2 were created") as caught:
        push(mongo, {"user": "b"}, {"user": "b"}, {"user": "c"})
    assert set(caught.value.created) == {one["_id"] for one in raw["tasks"].find()}
    assert len(caught.value.created) == 2 and all(str(one) in str(caught.value) for one in caught.value.created)
    assert caught.value.exit_code == ExitCode.STORE
    with pytest.raises(ForeignIndexError) as caught:
        push(mongo, {"user": "b"})
    assert caught.value.created == () and "'b'" not in str(caught.value)


def test_rows_that_are_created_again_say_the_same(mongo: MongoStore, raw: Any) -> None:
    raw["tasks"].create_index("parameters.user", unique=True, sparse=True)
    ids = mongo.new_ids(3)
    documents = [{"_id": one, **new_task("q", {"user": user}, now=NOW)} for one, user in zip(ids, "ddz", strict=True)]
    for _ in range(2):
        with pytest.raises(ForeignIndexError) as caught:
            mongo.insert_tasks(documents, again=True)
        assert caught.value.created == (ids[0], ids[2])


def test_one_task_that_is_too_large_does_not_hide_what_became_of_the_others(mongo: MongoStore, raw: Any) -> None:
    with pytest.raises(StoreRefusedError, match=r"at most 16777216 bytes.*2 were created") as caught:
        push(mongo, {"n": 1}, {"n": 2, "x": "y" * 17 * 2**20}, {"n": 3})
    assert sorted(one["parameters"]["n"] for one in raw["tasks"].find()) == [1, 3]
    assert len(caught.value.created) == 2


def test_a_refused_task_leaves_its_unique_key(mongo: MongoStore, raw: Any) -> None:
    push(mongo, {"user": "a"})
    raw["tasks"].create_index("parameters.user", unique=True, sparse=True)
    with pytest.raises(ForeignIndexError):
        push(mongo, {"user": "a"}, unique_key="k")
    assert len(push(mongo, {"user": "b"}, unique_key="k")) == 1


def test_an_id_that_exists_is_wrong_use_and_an_index_is_not(mongo: MongoStore, raw: Any) -> None:
    (one,) = push(mongo, {"user": "a"})
    with pytest.raises(DuplicateIdError):
        push(mongo, {}, _id=one)
    assert not issubclass(ForeignIndexError, DuplicateIdError)
    raw["queues"].create_index("description", unique=True)
    mongo.insert_queue({"_id": "q1", "class": "Mail", "description": "x"})
    with pytest.raises(ForeignIndexError, match="'description_1'"):
        mongo.insert_queue({"_id": "q2", "class": "Mail", "description": "x"})
    with pytest.raises(DuplicateIdError, match="'q1' exists already"):
        mongo.insert_queue({"_id": "q1", "class": "Mail", "description": "y"})


def test_an_index_of_ours_that_cannot_be_created_does_not_keep_a_node_from_its_work(mongo_url: str, raw: Any) -> None:
    """Documents of other programs do not fit into it: the server refuses two lists in one index."""
    for index in list(raw["tasks"].index_information()):
        if index != "_id_":
            raw["tasks"].drop_index(index)
    raw["tasks"].insert_one({"queue": ["a"], "priority": [1], "status": 1})
    store = MongoStore(mongo_url, SystemClock())
    store.open()
    (task,) = push(store, {})
    assert [one.id for one in store.claim("n1", [Want("q", 1)], "t1")] == [task]
    store.close()


def test_a_double_in_a_write_that_was_not_confirmed_proves_nothing(mongo: MongoStore, mongod_server: Mongod) -> None:
    """A push that met a change of the primary was told that its id exists already, and ended as wrong use."""
    (one,) = push(mongo, {})
    lost = {"code": 64, "errmsg": "waiting for replication timed out"}
    with (
        failing(mongod_server, {"times": 1}, failCommands=["insert"], writeConcernError=lost),
        pytest.raises(StoreUnreachableError),
    ):
        push(mongo, {}, _id=one)
    with pytest.raises(DuplicateIdError):
        push(mongo, {}, _id=one)


def test_a_retry_that_is_refused_is_said_to_the_person(mongo: MongoStore, raw: Any) -> None:
    one_waiting_task_per_user(raw)
    (failed,) = push(mongo, {"user": "a"}, status=2)
    push(mongo, {"user": "a"})
    wanted = transitions.retry_change(task_of(mongo, failed), REQUEST, now=NOW)
    assert wanted is not None
    with pytest.raises(ChangesRefusedError, match="one per user"):
        mongo.change_tasks([wanted])
    assert stored(mongo, failed)["status"] == 2
