"""Claims from tasks that were read ahead: in the right order, never of a task that is no longer there to be claimed."""

from __future__ import annotations

from typing import Any

import pytest

from contract.test_mongo_only import Plans
from contract.test_mongo_races import ids_of
from disbatch_host.clock import SystemClock
from disbatch_host.documents.changes import Want
from disbatch_host.store.mongo import MongoStore
from helpers.stores import push

pytestmark = pytest.mark.mongodb


class ManualClock(SystemClock):
    """Its monotonic time stands still until it is told."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ahead(mongo: MongoStore, mongo_url: str, clock: ManualClock) -> Any:
    """A store with a clock that stands still."""
    store = MongoStore(mongo_url, clock)
    store.open()
    yield store
    store.close()


def claimed(store: MongoStore, count: int, *, queue: str = "q", token: str = "t") -> list[Any]:
    return ids_of(store.claim("n1", [Want(queue, count)], token))


@pytest.mark.own_database
def test_many_claims_cost_one_look(ahead: MongoStore, mongo: MongoStore, raw: Any) -> None:
    ids = push(mongo, *({} for _ in range(60)))
    got: list[Any] = []
    entries = Plans(raw).of(lambda: got.extend(claimed(ahead, 8) for _ in range(6)))
    assert [one for of_claim in got for one in of_claim] == ids[:48]
    finds = [one for one in entries if one["op"] == "query" and "sort" in one["command"]]
    assert len(finds) == 1, finds


def test_a_task_of_a_higher_priority_is_next_after_a_tenth_of_a_second(
    ahead: MongoStore, mongo: MongoStore, clock: ManualClock
) -> None:
    ids = push(mongo, *({} for _ in range(10)))
    assert claimed(ahead, 2) == ids[:2]
    (urgent,) = push(mongo, {}, priority=9)
    clock.seconds += 0.11
    assert claimed(ahead, 2) == [urgent, ids[2]]


def test_what_the_same_store_pushes_counts_at_once(ahead: MongoStore) -> None:
    ids = push(ahead, *({} for _ in range(10)))
    assert claimed(ahead, 2) == ids[:2]
    (urgent,) = push(ahead, {}, priority=9)
    assert claimed(ahead, 2) == [urgent, ids[2]]


def test_what_others_have_changed_meanwhile_is_left_alone(ahead: MongoStore, mongo: MongoStore, raw: Any) -> None:
    """Cancelled, claimed, deleted, or only changed by another program: the guard of each claim refuses it."""
    ids = push(mongo, *({} for _ in range(12)))
    assert claimed(ahead, 2) == ids[:2]
    raw["tasks"].update_one({"_id": ids[2]}, {"$set": {"status": -3}})
    raw["tasks"].delete_one({"_id": ids[3]})
    (other,) = ids_of(mongo.claim("n2", [Want("q", 1)], "other"))
    assert other == ids[4]
    some = claimed(ahead, 4)  # after a refusal, any of the next ones
    assert len(some) == 4
    assert sorted([*some, *claimed(ahead, 9)]) == ids[5:]
    assert raw["tasks"].count_documents({"node": "n1"}) == 9


def test_two_nodes_that_claim_in_turn_share_everything(ahead: MongoStore, mongo: MongoStore) -> None:
    ids = push(mongo, *({} for _ in range(300)))
    got: list[Any] = []
    while more := [*claimed(ahead, 7), *ids_of(mongo.claim("n2", [Want("q", 7)], "other"))]:
        got += more
    assert sorted(got) == ids


def test_queues_are_read_ahead_one_by_one(ahead: MongoStore, mongo: MongoStore) -> None:
    first = push(mongo, *({} for _ in range(6)))
    second = push(mongo, *({} for _ in range(6)), queue="r")
    for at in (0, 2, 4):
        got = ids_of(ahead.claim("n1", [Want("q", 2), Want("r", 2)], f"t{at}"))
        assert got == [*first[at : at + 2], *second[at : at + 2]]


def test_documents_as_they_were_read_are_claimed_only_unchanged(ahead: MongoStore, mongo: MongoStore, raw: Any) -> None:
    """Its parameters were changed after they were read: it is claimed as it is, not as it was."""
    ids = push(mongo, *({"n": 1} for _ in range(4)))
    assert claimed(ahead, 1) == ids[:1]
    raw["tasks"].update_one({"_id": ids[1]}, {"$set": {"parameters": {"n": 2}}, "$currentDate": {"mtime": True}})
    (task,) = ahead.claim("n1", [Want("q", 1)], "t2")
    assert task.id != ids[1] or task.parameters == {"n": 2}
