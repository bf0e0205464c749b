"""What control asks of MongoDB where several clients are at it at once: keys, limits over all nodes, who waits for
whom.

Nothing here needs a transaction or a unique index, so that it holds on a sharded cluster as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from contract.test_mongo_races import _LOST, failing, ids_of
from disbatch_host.clock import SystemClock
from disbatch_host.documents import transitions
from disbatch_host.documents.changes import RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.errors import DuplicateIdError, StoreRefusedError, StoreUnreachableError
from disbatch_host.store.contract import SCHEMA_VERSION
from disbatch_host.store.mongo import MongoStore, unique_keys
from disbatch_protocol.quantities import parse_rate
from disbatch_protocol.status import UNFINISHED, Status
from helpers.mongod import Mongod
from helpers.processes import wait_until
from helpers.steps import walk
from helpers.stores import NOW, change, push, stored

pytestmark = pytest.mark.mongodb

BY = {"at": NOW, "by": "me@here"}


def keyed(store: MongoStore, key: str = "k", **more: Any) -> Any:
    (task_id,) = push(store, {}, unique_key=key, **more)
    return task_id


def finish(store: MongoStore, task_id: Any, status: int = Status.FAILED) -> None:
    walk(store, task_id, status, mtime=store.now())


def retry_of(store: MongoStore, task_id: Any) -> TaskChange:
    task = store.get_task(task_id)
    assert task is not None
    change = transitions.retry_change(task, BY, now=store.now())
    assert change is not None
    return change


def unfinished(raw: Any, key: str = "k") -> list[Any]:
    which = {"unique_key": key, "status": {"$in": [int(status) for status in UNFINISHED]}}
    return [one["_id"] for one in raw["tasks"].find(which)]


def before_call(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], None]) -> None:
    """`act` is done once, just before the named method of this object is carried out."""
    method, done = getattr(owner, name), []

    def overtaken(*arguments: Any, **more: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return method(*arguments, **more)

    monkeypatch.setattr(owner, name, overtaken)


def in_threads(count: int, act: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def carry_out(number: int) -> None:
        try:
            act(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=carry_out, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


@pytest.fixture
def clients(mongo_url: str, mongo: MongoStore) -> Iterator[list[MongoStore]]:
    stores = [MongoStore(mongo_url, SystemClock()) for _ in range(6)]
    for store in stores:
        store.open()
    yield stores
    for store in stores:
        store.close()


def test_of_many_clients_that_push_one_key_at_once_all_get_the_same_task(
    clients: list[MongoStore], mongo: MongoStore, raw: Any
) -> None:
    for number in range(20):
        answers: list[Any] = []
        start = threading.Barrier(len(clients))

        def push_one(client: int, key: str, answers: list[Any], start: threading.Barrier) -> None:
            start.wait(30)
            answers.append(keyed(clients[client], key))

        in_threads(len(clients), lambda client: push_one(client, f"k{number}", answers, start))  # noqa: B023
        assert len(answers) == len(clients) and len(set(answers)) == 1
        assert unfinished(raw, f"k{number}") == [answers[0]]


@pytest.mark.parametrize("seconds", [1.5, pytest.param(20.0, marks=pytest.mark.soak)])
def test_pushes_and_retries_of_one_key_never_make_two_unfinished_tasks(
    clients: list[MongoStore], mongo: MongoStore, raw: Any, seconds: float
) -> None:
    """Each client pushes, ends what is there, and runs again what has ended, as it comes."""
    seen: list[int] = []
    end = time.monotonic() + seconds

    def play(number: int) -> None:
        client, turn = clients[number], number
        while time.monotonic() < end:
            turn += 1
            if turn % 3 == 0:
                keyed(client)
            elif turn % 3 == 1:
                for task in client.find_tasks(TaskFilter(queue="q", statuses=frozenset({-2}))):
                    fields = {"status": -5, "mtime": client.now()}
                    client.change_tasks([TaskChange(task_id=task.id, statuses=frozenset({-2}), set=fields)])
            else:
                for task in client.find_tasks(TaskFilter(queue="q", statuses=frozenset({-5})), limit=3):
                    again = transitions.retry_change(task, BY, now=client.now())
                    assert again is not None
                    client.change_tasks([again])
            # One command, and tasks of a single collection in one order: no more than there are at some moment, except
            # that the server may yield between two documents; so what looks like two is looked at again.
            if len(unfinished(raw)) > 1:
                seen.append(min(len(unfinished(raw)) for _ in range(5)))

    in_threads(len(clients), play)
    assert not [count for count in seen if count > 1]
    assert raw["tasks"].count_documents({}) > 1


def test_who_comes_between_the_key_and_the_task_of_another_makes_the_same_task(
    mongo: MongoStore, second_mongo: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = []
    before_call(monkeypatch, mongo._creation, "_create", lambda: answers.append(keyed(second_mongo)))
    answers.append(keyed(mongo))
    assert answers[0] == answers[1]
    assert ids_of(list(mongo.find_tasks(TaskFilter()))) == answers[:1]


def test_a_client_that_dies_between_the_key_and_its_task_has_nobody_told_of_a_task_that_is_not_there(
    mongo: MongoStore, second_mongo: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(Exception):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Died

    with monkeypatch.context() as dying:
        dying.setattr(mongo._creation, "_create", die)
        dying.setattr(unique_keys.Keys, "release", lambda *_: None)
        with pytest.raises(Died):
            keyed(mongo)
    task_id = keyed(second_mongo)
    assert second_mongo.get_task(task_id) is not None
    assert keyed(mongo) == task_id


def test_the_key_of_a_task_that_is_gone_is_taken_over_after_a_minute(mongo: MongoStore, raw: Any) -> None:
    old = keyed(mongo)
    raw["tasks"].delete_one({"_id": old})
    raw["disbatch_keys"].update_one({}, {"$set": {"at": mongo.now() - timedelta(seconds=61)}})
    new = keyed(mongo)
    assert new != old and unfinished(raw) == [new]


def test_a_client_that_stood_still_takes_its_task_back_where_its_key_was_taken_over(
    mongo_url: str, second_mongo: MongoStore, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowClock(SystemClock):
        late = 0.0

        def monotonic(self) -> float:
            return super().monotonic() + self.late

    clock = SlowClock()
    slow = MongoStore(mongo_url, clock)
    slow.open()
    answers: list[Any] = []

    def stand_still() -> None:
        clock.late += 120
        raw["disbatch_keys"].update_one({}, {"$set": {"at": NOW}})
        answers.append(keyed(second_mongo))

    before_call(monkeypatch, slow._creation, "_create", stand_still)
    assert [keyed(slow)] == answers == unfinished(raw)
    slow.close()


def test_a_task_that_is_refused_leaves_its_key(mongo: MongoStore, raw: Any) -> None:
    with pytest.raises(StoreRefusedError):
        push(mongo, "x" * 17 * 2**20, unique_key="k")
    assert raw["disbatch_keys"].count_documents({}) == 0


def test_an_id_that_another_task_has_is_refused_with_a_key_too(mongo: MongoStore, raw: Any) -> None:
    (other,) = push(mongo, {})
    with pytest.raises(DuplicateIdError):
        keyed(mongo, _id=other)
    assert unfinished(raw) == []
    assert keyed(mongo) != other


def test_what_was_created_by_an_earlier_call_is_meant_whoever_has_the_key_now(mongo: MongoStore, raw: Any) -> None:
    ids = mongo.new_ids(3)
    documents = [
        {"_id": one, **new_task("q", {}, now=NOW, unique_key=key)} for one, key in zip(ids, "abc", strict=True)
    ]
    assert mongo.insert_tasks(documents[:2]) == ids[:2]
    finish(mongo, ids[0])
    newer = keyed(mongo, "a")
    assert mongo.insert_tasks(documents, again=True) == ids
    assert unfinished(raw, "a") == [newer] and unfinished(raw, "b") == ids[1:2] and unfinished(raw, "c") == ids[2:]
    with pytest.raises(DuplicateIdError):
        mongo.insert_tasks([{"_id": ids[0], **new_task("q", {}, now=NOW)}])


def test_a_push_waits_for_what_becomes_of_a_task_that_is_just_run_again(
    mongo: MongoStore, second_mongo: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = keyed(mongo)
    finish(mongo, task_id)
    answers: list[Any] = []
    looks: list[Any] = []
    find = second_mongo._keys._find
    monkeypatch.setattr(second_mongo._keys, "_find", lambda keys: looks.append(keys) or find(keys))
    pushing = threading.Thread(target=lambda: answers.append(keyed(second_mongo)))

    def push_meanwhile() -> None:
        pushing.start()
        wait_until(lambda: len(looks) > 2, 30, "the other client has not looked at the key")
        assert answers == []

    before_call(monkeypatch, mongo._task_changes._tasks, "bulk_write", push_meanwhile)
    assert mongo.change_tasks([retry_of(mongo, task_id)]) == set()
    pushing.join(30)
    assert answers == [task_id]


def test_a_retry_that_comes_too_late_is_refused_by_the_servers_clock(mongo: MongoStore, raw: Any) -> None:
    task_id = keyed(mongo)
    finish(mongo, task_id)
    mongo._keys.retry_seconds = unique_keys.RETRY_MARGIN_SECONDS / 2
    assert mongo.change_tasks([retry_of(mongo, task_id)]) == {task_id}
    assert stored(mongo, task_id)["status"] == Status.FAILED
    new = keyed(mongo)  # and nobody waits for it any more
    assert new != task_id and unfinished(raw) == [new]


def test_who_dies_while_it_runs_a_task_again_delays_others_only_for_a_while(mongo: MongoStore, raw: Any) -> None:
    task_id = keyed(mongo)
    finish(mongo, task_id)
    until = mongo.now() + timedelta(seconds=0.7)
    raw["disbatch_keys"].update_one({}, {"$set": {"retrying_until": until}})
    new = keyed(mongo)
    assert new != task_id and unfinished(raw) == [new] and mongo.now() >= until


def test_a_task_that_is_run_again_has_its_key_again_or_is_refused(mongo: MongoStore, raw: Any) -> None:
    first = keyed(mongo)
    finish(mongo, first)
    second = keyed(mongo)
    assert mongo.change_tasks([retry_of(mongo, first)]) == {first}
    finish(mongo, second)
    assert mongo.change_tasks([retry_of(mongo, first), retry_of(mongo, second)]) in ({first}, {second})
    (has_it,) = unfinished(raw)
    assert keyed(mongo) == has_it
    finish(mongo, has_it)
    assert keyed(mongo) not in (first, second)  # at once: nobody runs the old one again any more


def test_a_key_goes_with_its_task(mongo: MongoStore, raw: Any) -> None:
    ids = [keyed(mongo, key) for key in "abc"]
    finish(mongo, ids[0])
    assert mongo.delete_tasks(ids, statuses=frozenset({2})) == 1
    assert {one["_id"]["key"] for one in raw["disbatch_keys"].find()} == {"b", "c"}
    assert keyed(mongo, "a") not in ids


def conclude(store: MongoStore, task: Any, node: str) -> None:
    key = RunKey(task.id, node, task.token)
    assert (
        store.commit([change(key, Status.CLAIMED, Status.RUNNING), change(key, Status.RUNNING, Status.CONCLUDED)])
        == set()
    )


def test_a_limit_over_all_nodes_holds_however_many_claim_at_once(
    clients: list[MongoStore], mongo: MongoStore, raw: Any
) -> None:
    push(mongo, *({} for _ in range(120)))
    in_hand = {"status": {"$in": [-1, 0]}}
    seen: list[int] = []

    def work(number: int) -> None:
        node, claims = f"n{number}", 0
        while raw["tasks"].count_documents({"status": -2}):
            claims += 1
            tasks = clients[number].claim(node, [Want("q", 3, maxtotal=7)], f"{node}-{claims}")
            seen.append(raw["tasks"].count_documents(in_hand))
            for task in tasks:
                conclude(clients[number], task, node)
        clients[number].hold(node, {})

    in_threads(len(clients), work)
    assert raw["tasks"].count_documents({"status": 1}) == 120
    assert 1 < max(seen) <= 7
    assert raw["disbatch_limits"].find_one({"_id": "q"})["held"] == {}


def test_tasks_of_a_claim_whose_answer_was_lost_count_until_they_are_given_back(
    mongo: MongoStore, second_mongo: MongoStore, mongod_server: Mongod, raw: Any
) -> None:
    push(mongo, *({} for _ in range(10)))
    want = Want("q", 3, maxtotal=3)
    with (
        failing(mongod_server, {"times": 1}, failCommands=["update"], writeConcernError=_LOST),
        pytest.raises(StoreUnreachableError),
    ):
        mongo.claim("n1", [want], "t1")
    assert raw["tasks"].count_documents({"status": -1}) == 3
    assert mongo.claim("n1", [want], "t2") == []
    mongo.hold("n1", {"q": 0})
    assert second_mongo.claim("n2", [want], "t3") == []


def test_places_of_which_others_were_faster_with_the_task_are_free_at_once(
    mongo: MongoStore, second_mongo: MongoStore, monkeypatch: pytest.MonkeyPatch, raw: Any
) -> None:
    push(mongo, {}, {})
    without_limit = [Want("q", 2)]  # as a node that has not seen the queue's new limit yet
    before_call(
        monkeypatch, mongo._claims, "_take", lambda: ids_of(second_mongo.claim("n2", without_limit, "t2")) and None
    )
    assert mongo.claim("n1", [Want("q", 2, maxtotal=2)], "t1") == []
    assert raw["disbatch_limits"].find_one({"_id": "q"})["held"] == {}


def test_what_a_node_has_in_hand_counts_though_the_limit_is_new(mongo: MongoStore) -> None:
    push(mongo, *({} for _ in range(6)))
    assert len(mongo.claim("n1", [Want("q", 4)], "t1")) == 4
    mongo.hold("n1", {"q": 4})
    assert len(mongo.claim("n2", [Want("q", 9, maxtotal=5)], "t2")) == 1


def test_a_queue_with_a_generated_id_has_limits_too(mongo: MongoStore) -> None:
    queue = ObjectId()
    push(mongo, {}, {}, {}, queue=queue)  # type: ignore[arg-type]
    assert len(mongo.claim("n1", [Want(queue, 3, maxtotal=2, rate=parse_rate("100/s"))], "t1")) == 2


def test_a_rate_holds_over_all_nodes(clients: list[MongoStore], mongo: MongoStore) -> None:
    """60 in 600 ms: a burst of 10, then one each 11.8 ms."""
    push(mongo, *({} for _ in range(60)))
    rate = parse_rate("60/600ms")
    began, got = time.monotonic(), []

    def work(number: int) -> None:
        for claims in range(10_000):
            got.extend(clients[number].claim(f"n{number}", [Want("q", 20, rate=rate)], f"{number}-{claims}"))
            if not clients[number].waiting_queues():
                return

    in_threads(len(clients), work)
    assert len(got) == 60
    assert time.monotonic() - began >= (60 - rate.burst) * rate.interval_seconds - 0.005


def test_a_burst_after_a_pause_is_no_larger_than_any_other(mongo: MongoStore, raw: Any) -> None:
    push(mongo, *({} for _ in range(100)))
    rate = parse_rate("200/h")  # one in 18 s
    want = Want("q", 50, rate=rate)
    assert [len(mongo.claim("n1", [want], f"t{number}")) for number in range(3)] == [rate.burst, 0, 0]
    raw["disbatch_limits"].update_one({}, {"$set": {"rate_from": 0.0}})  # as after a week
    assert len(mongo.claim("n1", [want], "t4")) == rate.burst


def test_a_clock_that_was_wrong_does_not_stop_a_queue_with_a_rate(mongo: MongoStore, raw: Any) -> None:
    push(mongo, {}, {})
    want = Want("q", 1, rate=parse_rate("100/s"))
    raw["disbatch_limits"].insert_one({"_id": "q", "rate_from": 9e12})  # in the year 2255
    mongo.claim("n1", [want], "t1")
    wait_until(lambda: bool(mongo.claim("n1", [want], "t2")), 10, "nothing is claimed")


@pytest.mark.own_database
def test_queues_without_limits_write_nothing_about_them(mongo: MongoStore, raw: Any) -> None:
    push(mongo, {}, {})
    assert len(mongo.claim("n1", [Want("q", 2)], "t1")) == 2
    assert set(raw.list_collection_names()) & {"disbatch_limits", "disbatch_keys"} == set()


@pytest.mark.parametrize("at_once", [1, 3, 20])
def test_the_newest_of_the_highest_priority_comes_first(mongo: MongoStore, at_once: int) -> None:
    priorities = [None, 0, 5, -1, 2.5, "missing", 5, -7, None, 0, -1, "missing"]
    ids = [push(mongo, {}, **({} if one == "missing" else {"priority": one}))[0] for one in priorities]
    numbers = [one if isinstance(one, (int, float)) else 0 for one in priorities]
    wanted = [ids[place] for place in sorted(range(len(ids)), key=lambda place: (-numbers[place], -place))]
    got: list[Any] = []
    while tasks := mongo.claim("n1", [Want("q", at_once, newest_first=True)], f"t{len(got)}"):
        got += ids_of(tasks)
    assert got == wanted


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("other", ["high", True, {"of": 1}, [1, 0], [[0], 3], [], float("nan"), NOW], ids=str)
def test_a_priority_that_is_no_number_is_the_last_and_keeps_no_other_from_its_turn(
    mongo: MongoStore, other: Any, at_once: int, newest_first: bool
) -> None:
    """A list matches as each of its elements does: it was counted twice, and others seemed to be no more."""
    ids = {str(priority): push(mongo, {}, priority=priority)[0] for priority in (other, 0, -1, 4)}
    want = Want("q", at_once, newest_first=newest_first)
    claims = [ids_of(mongo.claim("n1", [want], f"t{number}")) for number in range(4 // at_once)]
    assert [one for claim in claims for one in claim] == [ids["4"], ids["0"], ids["-1"], ids[str(other)]]


def test_the_oldest_waiting_is_found_whatever_its_priority(mongo: MongoStore) -> None:
    for minutes, priority in ((3, 5), (9, None), (1, -2), (4, "odd")):
        mongo.insert_tasks([new_task("q", {}, now=NOW - timedelta(minutes=minutes), priority=priority)])
    mongo.insert_tasks([new_task("other", {}, now=NOW - timedelta(minutes=2))])
    push(mongo, {}, queue="ended", status=1)
    oldest = {"q": NOW - timedelta(minutes=9), "other": NOW - timedelta(minutes=2)}
    assert mongo.oldest_waiting() == oldest


def told(store: MongoStore, task_id: Any) -> set[Any]:
    task = store.get_task(task_id)
    assert task is not None
    return store.change_tasks([transitions.followers_told_change(task)])


def test_a_follower_that_comes_before_the_mark_is_taken_away_is_not_overlooked(
    mongo: MongoStore, second_mongo: MongoStore
) -> None:
    """A sweep has asked who waits, and found nobody; before it takes the mark away, somebody has come."""
    for status in (Status.CONCLUDED, Status.FAILED):
        (ended,) = push(mongo, {}, status=int(status), awaited=True)
        push(second_mongo, {}, status=-4, after=[ended])
        assert told(mongo, ended) == {ended}
        assert stored(mongo, ended)["awaited"] is True
        wait_until(lambda ended=ended: ended in ids_of(mongo.due("n1")), 10, "due")  # type: ignore[misc]


def test_a_follower_that_comes_after_the_last_look_is_not_overlooked(
    mongo: MongoStore, second_mongo: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ended,) = push(mongo, {}, status=1, awaited=True)  # the only one: a slow look gives the first of several
    with monkeypatch.context() as racing:
        look = mongo._tasks.find

        def find_and_be_overtaken(*arguments: Any, **more: Any) -> Any:
            found = list(look(*arguments, **more).limit(5))
            if "after" in arguments[0]:
                push(second_mongo, {}, status=-4, after=[ended])

            class Found(list[Any]):
                def limit(self, _: int) -> list[Any]:
                    return self

            return Found(found)

        racing.setattr(mongo._tasks, "find", find_and_be_overtaken)
        changes = [transitions.followers_told_change(task) for task in second_mongo.due("n1")]
        assert len(changes) == 1
        assert mongo.change_tasks(changes) == {ended}
    assert stored(mongo, ended)["awaited"] is True and "telling" not in stored(mongo, ended)


def test_who_has_been_told_does_not_keep_a_task_awaited(mongo: MongoStore) -> None:
    (failed, other) = push(mongo, {}, {}, status=2)
    (follower,) = push(mongo, {}, status=-4, after=[failed, other])
    for ended in (failed, other):
        tasks = [mongo.get_task(follower), mongo.get_task(ended)]
        change = transitions.follow_change(*tasks, now=mongo.now())  # type: ignore[arg-type]
        assert change is not None and mongo.change_tasks([change]) == set()
    assert told(mongo, failed) == told(mongo, other) == set()
    document = stored(mongo, failed)
    assert document["awaited"] is False and "telling" not in document
    assert mongo.due("n1") == []
    assert mongo.change_tasks([retry_of(mongo, failed)]) == set()
    assert stored(mongo, failed)["awaited"] is True
    assert "awaited" not in stored(mongo, follower)


def test_an_orphaned_task_that_is_cancelled_is_awaited_anew(mongo: MongoStore) -> None:
    """Its followers were told that it is Orphaned; those that do not mind how it ends may run now."""
    (orphaned,) = push(mongo, {}, status=-6, awaited=False)
    task = mongo.get_task(orphaned)
    assert task is not None
    cancel = transitions.cancel_change(task, BY, now=mongo.now())
    assert cancel is not None and mongo.change_tasks([cancel]) == set()
    assert ids_of(mongo.due("n1")) == [orphaned]


def test_only_what_was_refused_of_many_changes_is_called_refused(mongo: MongoStore) -> None:
    ids = push(mongo, *({} for _ in range(700)))
    for place in (3, 650):
        finish(mongo, ids[place])
    missing = ObjectId()
    changes = [
        TaskChange(task_id=one, statuses=frozenset({-2}), set={"status": -5, "mtime": NOW, "x": {"a": [1]}})
        for one in [*ids, missing]
    ]
    assert mongo.change_tasks(changes) == {ids[3], ids[650], missing}
    assert mongo.count_tasks(TaskFilter(statuses=frozenset({-5}))) == 698


def test_a_task_that_waits_for_the_time_and_for_another_comes_when_both_are_there(mongo: MongoStore) -> None:
    past = mongo.now() - timedelta(seconds=1)
    (both,) = push(mongo, {}, status=-4, not_before=past, after=[ObjectId()])
    (empty,) = push(mongo, {}, status=-4, not_before=past, after=[])
    assert not mongo.has_unfinished([]) and mongo.has_unfinished(["q"])
    assert mongo.promote_due() == 1
    assert [stored(mongo, one)["status"] for one in (both, empty)] == [Status.BLOCKED, Status.CREATED]


def test_documents_of_any_collection_are_found_by_extended_json(mongo: MongoStore, raw: Any) -> None:
    ids = raw["people"].insert_many([{"n": n, "at": NOW + timedelta(days=n), "x": {"y": "a"}} for n in range(5)])
    first, *_ = ids.inserted_ids
    for condition, found in (
        ({}, [0, 1, 2, 3, 4]),
        ({"_id": {"$oid": str(first)}}, [0]),
        ({"at": {"$gt": {"$date": "2026-04-28T00:00:00Z"}}}, [2, 3, 4]),
        ({"n": {"$numberLong": "3"}}, [3]),
        ({"x.y": {"$regex": "^A", "$options": "i"}, "$or": [{"n": 1}, {"n": 4}]}, [1, 4]),
    ):
        assert [one["n"] for one in mongo.documents_of("people", condition)] == found
    assert [one["n"] for one in mongo.documents_of("people", {}, 2)] == [0, 1]
    assert list(mongo.documents_of("people", {}, 0)) == list(mongo.documents_of("nothing", {})) == []


@pytest.mark.parametrize("condition", [{"$nothing": 1}, {"_id": {"$oid": 5}}, {"at": {"$date": "soon"}}], ids=str)
def test_a_condition_that_is_none_is_refused(mongo: MongoStore, raw: Any, condition: Any) -> None:
    raw["people"].insert_one({})
    with pytest.raises(StoreRefusedError):
        list(mongo.documents_of("people", condition))
    with pytest.raises(StoreRefusedError):
        list(mongo.documents_of("", {}))


def test_a_note_is_not_taken_for_the_layout(mongo: MongoStore, raw: Any) -> None:
    mongo.write_note("layout", {"version": 99, "_id": "x"})
    assert mongo.read_note("layout") == {"version": 99, "_id": "x"}
    assert raw["disbatch_host"].find_one({"_id": "layout"})["version"] == SCHEMA_VERSION
    mongo.write_note("layout", None)
    assert mongo.read_note("layout") is None


@pytest.mark.own_database
def test_a_database_of_an_older_program_is_taken_over(mongo_url: str, mongo: MongoStore, raw: Any) -> None:
    mongo.close()
    raw["disbatch_host"].update_one({"_id": "layout"}, {"$set": {"version": 2}})
    raw["tasks"].create_index([("not_before", 1)], partialFilterExpression={"not_before": {"$exists": True}})
    newer = MongoStore(mongo_url, SystemClock())
    newer.open()
    assert raw["disbatch_host"].find_one({"_id": "layout"})["version"] == SCHEMA_VERSION
    assert "not_before_1" not in raw["tasks"].index_information()
    newer.close()


def test_everything_works_on_a_standalone_server(own_mongod: Callable[..., Mongod]) -> None:
    with own_mongod(is_standalone=True) as server:
        store = MongoStore(server.database_url("alone"), SystemClock())
        store.open()
        task_id = keyed(store)
        assert keyed(store) == task_id
        want = Want("q", 5, maxtotal=1, rate=parse_rate("100/s"), newest_first=True)
        (task,) = store.claim("n1", [want], "t1")
        conclude(store, task, "n1")
        (follower,) = push(store, {}, status=-4, after=[task_id])
        assert ids_of(store.due("n1")) == [task_id]
        ended, waits = store.get_task(task_id), store.get_task(follower)
        assert ended is not None and waits is not None
        release = transitions.follow_change(waits, ended, now=store.now())
        assert release is not None and store.change_tasks([release]) == set()
        assert told(store, task_id) == set()
        assert store.change_tasks([retry_of(store, task_id)]) == set()
        store.hold("n1", {"q": 0})
        store.put_node({"_id": "n1", "session": "s", "heartbeat": {}}, replacing=None)
        assert store.request_of_node("n1", "drain", dict(BY))
        assert store.heartbeat("n1", "s", {"heartbeat": {}}) == {"drain": BY}
        store.close()
