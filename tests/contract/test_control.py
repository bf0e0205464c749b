"""What people ask of tasks, queues and nodes, and the limits that hold over all nodes, on both stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from contract.test_store import NOW, change, claim_one, push, stored
from disbatch_host.clock import SystemClock
from disbatch_host.decide.placement import Load
from disbatch_host.documents import requests, transitions
from disbatch_host.documents.changes import OutputChunk, RunKey, TaskChange, TaskFilter, Want
from disbatch_host.documents.records import Task, new_task
from disbatch_host.errors import DuplicateIdError, StoreUnreachableError
from disbatch_host.node.claiming import ClaimLedger, ClaimRequest
from disbatch_host.node.pace import Pace
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store
from disbatch_protocol.quantities import Rate
from disbatch_protocol.status import Status
from helpers.steps import walk

DEADLINE_SECONDS = 60.0
PAST, FUTURE = datetime(2020, 1, 1, tzinfo=NOW.tzinfo), datetime(2100, 1, 1, tzinfo=NOW.tzinfo)
REQUEST = requests.request_of("me@here", "because", now=NOW)
UNFINISHED = [-4, -2, -1, 0]
ENDED = [-5, -3, 1, 2, 7]


def task_of(store: Store, task_id: Any) -> Task:
    task = store.get_task(task_id)
    assert task is not None
    return task


def status_change(task_id: Any, left: int, new: int, **fields: Any) -> TaskChange:
    return TaskChange(task_id=task_id, statuses=frozenset({left}), set={"status": new, **fields})


def end(store: Store, task_id: Any, status: int = int(Status.CONCLUDED)) -> None:
    walk(store, task_id, status)


def retry(store: Store, task_id: Any) -> TaskChange:
    wanted = transitions.retry_change(task_of(store, task_id), REQUEST, now=NOW)
    assert wanted is not None
    return wanted


def due_ids(store: Store, node: str = "n1") -> set[Any]:
    return {task.id for task in store.due(node)}


def find(store: Store, **which: Any) -> list[Any]:
    return [task.id for task in store.find_tasks(TaskFilter(**which))]


def at_once(store_url: str, *actions: Callable[[Store], Any]) -> list[Any]:
    """Each action in a thread with a store of its own, all begun together; what they gave."""
    results: dict[int, Any] = {}

    def act(number: int) -> None:
        mine = open_store(store_url, SystemClock())
        try:
            mine.open()
            barrier.wait()
            results[number] = actions[number](mine)
        except BaseException as error:
            barrier.abort()
            results[number] = error
        finally:
            mine.close()

    barrier = threading.Barrier(len(actions))
    threads = [threading.Thread(target=act, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return [results[number] for number in range(len(actions))]


def rounds_until(is_done: Callable[[], bool]) -> Iterator[int]:
    """Counts rounds, with no pause, until it is done."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    number = 0
    while not is_done():
        assert time.monotonic() < deadline, "not done in time"
        yield number
        number += 1


# --- ids and creation


def test_new_ids_rise_and_sort_with_those_that_creation_gives(store: Store) -> None:
    ids = [*store.new_ids(1000), *push(store, {}, {}), *store.new_ids(2), *push(store, {}), *store.new_ids(70_000)]
    assert len({str(one) for one in ids}) == len(ids) and ids == sorted(ids)
    assert store.parse_id(str(ids[0])) == ids[0] and len(str(ids[0])) == 24
    assert store.new_ids(0) == []


def test_ids_made_by_another_process_later_sort_after(store: Store, second_store: Store) -> None:
    for _ in range(3):
        for one, other in ((store, second_store), (second_store, store)):
            earlier = one.new_ids(20)
            began = store.now()
            for _ in rounds_until(lambda began=began: store.now() > began + timedelta(milliseconds=50)):
                pass
            assert max(earlier) < min(other.new_ids(20))


def test_tasks_with_ids_made_before_are_found_in_their_order(store: Store) -> None:
    ids = store.new_ids(5)
    assert store.insert_tasks([new_task("q", {}, now=NOW, _id=one) for one in ids]) == ids
    assert find(store) == ids
    assert [task.id for task in store.claim("n1", [Want("q", 9)], "t1")] == ids


def test_creating_changes_no_document(store: Store) -> None:
    document = new_task("q", {"a": [1]}, now=NOW, unique_key="k", after=store.new_ids(1))
    before = {**document}
    store.insert_tasks([document])
    assert document == before


def test_created_again_is_the_task_that_is_there(store: Store, second_store: Store) -> None:
    ids = store.new_ids(3)
    documents = [new_task("q", {"n": number}, now=NOW, _id=one) for number, one in enumerate(ids)]
    assert store.insert_tasks(documents[:2], again=True) == ids[:2]
    end(store, ids[0])
    assert second_store.insert_tasks(documents, again=True) == ids
    assert find(store) == ids
    assert [task_of(store, one).status for one in ids] == [1, -2, -2]
    with pytest.raises(DuplicateIdError):
        store.insert_tasks(documents)


def test_created_again_with_a_key_is_the_task_that_is_there_whoever_holds_the_key_now(store: Store) -> None:
    (first,) = store.new_ids(1)
    document = new_task("q", {}, now=NOW, _id=first, unique_key="k")
    assert store.insert_tasks([document], again=True) == [first]
    assert store.insert_tasks([document], again=True) == [first]
    end(store, first)
    (second,) = push(store, {}, unique_key="k")
    assert store.insert_tasks([document], again=True) == [first]
    assert find(store) == [first, second]


# --- unique keys


@pytest.mark.parametrize("status", UNFINISHED)
def test_of_a_key_that_an_unfinished_task_has_nothing_is_created(
    store: Store, second_store: Store, status: int
) -> None:
    (holder,) = push(store, {"n": 1}, unique_key="k", status=status)
    assert push(second_store, {"n": 2}, unique_key="k") == [holder]
    (wanted,) = second_store.new_ids(1)
    assert push(second_store, {"n": 3}, unique_key="k", _id=wanted) == [holder]
    assert find(store) == [holder]
    assert stored(store, holder)["unique_key"] == "k" and stored(store, holder)["parameters"] == {"n": 1}


@pytest.mark.parametrize("status", [*ENDED, -6])
def test_a_key_is_free_when_its_task_has_ended(store: Store, status: int) -> None:
    (ended,) = push(store, {}, unique_key="k", status=status)
    (task,) = push(store, {}, unique_key="k")
    assert task != ended and task_of(store, task).status == Status.CREATED


def test_keys_are_of_one_queue_and_tasks_without_one_are_not_held_to_it(store: Store) -> None:
    ids = [push(store, {}, queue=queue, **more)[0] for queue in "ab" for more in ({"unique_key": "k"}, {}, {})]
    assert len(set(ids)) == 6


def test_keys_hold_within_one_call_and_the_others_of_it_are_created(store: Store) -> None:
    keys = ["a", None, "b", "a", "b", "c", None]
    documents = [
        new_task("q", {"n": number}, now=NOW, **({"unique_key": key} if key else {})) for number, key in enumerate(keys)
    ]
    ids = store.insert_tasks(documents)
    assert (ids[3], ids[4]) == (ids[0], ids[2])
    assert find(store) == [ids[number] for number in (0, 1, 2, 5, 6)]
    assert [task_of(store, one).parameters["n"] for one in ids] == [0, 1, 2, 0, 2, 5, 6]


def test_of_those_who_create_the_same_key_at_once_one_does(store: Store, store_url: str) -> None:
    keys = [f"k{number}" for number in range(40)]

    def create(mine: Store) -> list[Any]:
        return [mine.insert_tasks([new_task("q", {}, now=NOW, unique_key=key)])[0] for key in keys]

    first, *others = at_once(store_url, *([create] * 4))
    assert others == [first] * 3
    assert set(find(store)) == set(first) and store.count_tasks(TaskFilter()) == len(keys)


def test_a_task_whose_key_is_held_is_not_made_unfinished(store: Store) -> None:
    (ended,) = push(store, {}, unique_key="k", status=2)
    (holder,) = push(store, {}, unique_key="k")
    before = stored(store, ended)
    again = status_change(ended, 2, -2)
    assert store.change_tasks([again]) == {ended}
    assert stored(store, ended) == before
    assert store.change_tasks([status_change(holder, -2, -4)]) == set()  # its own key does not hinder it
    end(store, holder)
    assert store.change_tasks([again]) == set()
    assert task_of(store, ended).status == Status.CREATED
    assert push(store, {}, unique_key="k") == [ended]


def test_of_two_with_one_key_that_are_run_again_one_is(store: Store, store_url: str) -> None:
    pairs = [[push(store, {}, unique_key=f"k{number}", status=2)[0] for _ in range(2)] for number in range(20)]
    both = [retry(store, one) for one in pairs[0]]
    assert len(store.change_tasks(both)) == 1

    def retry_number(which: int) -> Callable[[Store], set[Any]]:
        return lambda mine: set().union(*(mine.change_tasks([retry(mine, pair[which])]) for pair in pairs[1:]))

    refused = set().union(*at_once(store_url, retry_number(0), retry_number(1)))
    for pair in pairs[1:]:
        assert len(refused & {*pair}) == 1
        assert sorted(task_of(store, one).status for one in pair) == [-2, 2]


def test_creation_and_running_again_hold_the_same_keys(store: Store, store_url: str) -> None:
    ended = [push(store, {}, unique_key=f"k{number}", status=2)[0] for number in range(30)]

    def run_again(mine: Store) -> list[bool]:
        return [not mine.change_tasks([retry(mine, one)]) for one in ended]

    def create(mine: Store) -> list[bool]:
        return [push(mine, {}, unique_key=f"k{number}")[0] != one for number, one in enumerate(ended)]

    was_retried, was_created = at_once(store_url, run_again, create)
    for number, one in enumerate(ended):
        assert was_retried[number] != was_created[number]
        holders = find(store, unique_key=f"k{number}", statuses=frozenset(UNFINISHED))
        assert len(holders) == 1 and (holders[0] == one) == was_retried[number]


# --- guarded changes by people


def test_a_change_is_done_where_its_guard_holds_and_keeps_what_it_does_not_name(store: Store) -> None:
    (task_id,) = push(store, {"a": 1}, priority=3, note="x", not_before=FUTURE, status=-4)
    one = TaskChange(
        task_id=task_id, statuses=frozenset({-4, 2}), mtime=NOW,
        set={"status": -2, "mtime": PAST, "free": {"b": [1]}, "expires": FUTURE}, unset=("not_before", "note"),
    )  # fmt: skip
    before = stored(store, task_id)
    assert store.change_tasks([one]) == set()
    del before["not_before"], before["note"]
    assert stored(store, task_id) == {**before, "status": -2, "mtime": PAST, "free": {"b": [1]}, "expires": FUTURE}


def test_refused_is_what_is_gone_or_not_as_the_guard_wants_it_and_the_others_are_done(store: Store) -> None:
    of_other_status, changed_since, fine = push(store, {}, {}, {})
    (gone,) = store.new_ids(1)
    set_of = {"set": {"status": -5}}
    changes = [
        TaskChange(task_id=gone, statuses=frozenset({-2}), **set_of),
        TaskChange(task_id=of_other_status, statuses=frozenset({-4, -6}), **set_of),
        TaskChange(task_id=changed_since, statuses=frozenset({-2}), mtime=PAST, **set_of),
        TaskChange(task_id=fine, statuses=frozenset({-2}), mtime=NOW, **set_of),
    ]
    assert store.change_tasks(changes) == {gone, of_other_status, changed_since}
    assert [task_of(store, one).status for one in (of_other_status, changed_since, fine)] == [-2, -2, -5]
    assert store.change_tasks([]) == set()


@pytest.mark.parametrize(("status", "failed_too", "is_done"), [(2, False, True), (7, False, False), (7, True, True)])
def test_a_guard_means_every_failure_where_it_says_so(
    store: Store, status: int, failed_too: bool, is_done: bool
) -> None:
    (task_id,) = push(store, {}, status=status)
    one = TaskChange(task_id=task_id, statuses=frozenset({2}), failed_too=failed_too, set={"status": -2})
    assert store.change_tasks([one]) == (set() if is_done else {task_id})


def test_a_task_is_cancelled_by_a_change_or_claimed_but_not_both(store: Store, store_url: str) -> None:
    push(store, *({} for _ in range(60)))
    tasks = list(store.find_tasks(TaskFilter()))
    changes = [one for one in (transitions.cancel_change(task, REQUEST, now=NOW) for task in tasks) if one]

    def cancel(mine: Store) -> set[Any]:
        return {one.task_id for one in changes if not mine.change_tasks([one])}

    def claim(mine: Store) -> set[Any]:
        return {task.id for number in range(60) for task in mine.claim("n1", [Want("q", 1)], f"t{number}")}

    cancelled, claimed = at_once(store_url, cancel, claim)
    assert not cancelled & claimed and len(cancelled | claimed) == 60
    assert set(find(store, statuses=frozenset({-5}))) == cancelled


# --- tasks that wait for others


@pytest.mark.parametrize("is_follower_first", [False, True])
def test_what_is_waited_for_is_marked_also_in_the_same_call(store: Store, is_follower_first: bool) -> None:
    before, same, follower, other = store.new_ids(4)
    push(store, {}, _id=before)
    documents = [
        new_task("q", {}, now=NOW, _id=same),
        new_task("q", {}, now=NOW, _id=follower, status=-4, after=[before, same]),
        new_task("q", {}, now=NOW, _id=other),
    ]
    store.insert_tasks(documents[::-1] if is_follower_first else documents)
    assert [stored(store, one).get("awaited") for one in (before, same, follower, other)] == [True, True, None, None]
    assert stored(store, follower)["after"] == [before, same]
    assert find(store, after=before) == find(store, after=same) == [follower]
    assert find(store, after=follower) == find(store, after=other) == []


def test_waiting_for_what_is_not_there_does_no_harm(store: Store) -> None:
    (missing,) = store.new_ids(1)
    (follower,) = push(store, {}, status=-4, after=[missing, missing])
    assert find(store, after=missing) == [follower] and store.get_task(missing) is None


@pytest.mark.parametrize("status", [*ENDED, -6])
def test_an_awaited_task_is_due_when_it_has_ended_until_all_were_told(store: Store, status: int) -> None:
    task, key = claim_one(store)
    push(store, {}, status=-4, after=[task.id])
    store.commit([change(key, Status.CLAIMED, Status.RUNNING)])
    assert store.due("n1") == []
    store.commit([change(key, Status.RUNNING), change(key, Status.RUNNING, status=status, stdout="much", result=1)])
    for node in ("n1", "n2"):
        (ended,) = store.due(node)
        assert (ended.id, ended.status, ended.document["result"]) == (task.id, status, 1)
        assert "stdout" not in ended.document
    tell(store, task.id)
    assert store.due("n1") == [] and stored(store, task.id)["awaited"] is False


@pytest.mark.parametrize("status", [*ENDED, -6])
def test_the_mark_of_a_task_stays_while_somebody_waits_who_does_not_know_how_it_ended(
    store: Store, status: int
) -> None:
    """A follower that came while the others were told used to wait for ever."""
    (ended,) = push(store, {}, status=status)
    (told,) = push(store, {}, status=-4, after=[ended])
    (mindless,) = push(store, {}, status=-4, after=[ended], after_any=True)
    tell(store, ended)
    waits_on = [one for one in (told, mindless) if stored(store, one)["status"] == Status.BLOCKED]
    (late,) = push(store, {}, status=-4, after=[ended])
    assert store.change_tasks([transitions.followers_told_change(task_of(store, ended))]) == {ended}
    assert due_ids(store) == {ended}
    tell(store, ended)
    assert due_ids(store) == set() and (stored(store, late)["status"] == Status.BLOCKED) is (status != 1)
    assert waits_on == ([] if status == 1 else [told, mindless] if status == -6 else [told])


def test_ended_tasks_are_found_that_were_last_changed_before_a_moment(store: Store) -> None:
    old, moment = store.now() - timedelta(days=3), store.now() - timedelta(days=2)
    ids = [store.parse_id(f"{int(old.timestamp()):08x}{number:016x}") for number in range(9)]
    statuses = [1, 2, 7, 9, -3, -5, -6, -2, 1]
    documents = [
        {**new_task("q", {}, now=old), "_id": one, "status": status} for one, status in zip(ids, statuses, strict=True)
    ]
    documents[8]["mtime"] = store.now()  # created long ago, ended just now
    store.insert_tasks(documents)
    push(store, {}, status=1, ctime=store.now(), mtime=store.now())
    push(store, {}, queue="other", status=1, ctime=old, mtime=old)
    (awaited,) = push(store, {}, status=1, ctime=old, mtime=old)
    push(store, {}, status=-4, after=[awaited])
    found: set[Any] = set()
    while batch := store.ended_before("q", moment, 2):
        assert len(batch) <= 2
        found |= set(batch)
        assert store.delete_tasks(batch) == len(batch)
    assert found == set(ids[:6])


def test_what_has_ended_before_somebody_waits_for_it_is_due_at_once(store: Store) -> None:
    (ended,) = push(store, {}, status=1)
    assert store.due("n1") == []
    push(store, {}, status=-4, after=[ended])
    assert due_ids(store) == {ended}


def tell(store: Store, ended: Any) -> None:
    """What a node does when a task that others wait for has ended."""
    which = TaskFilter(after=ended, statuses=frozenset({int(Status.BLOCKED)}))
    task = task_of(store, ended)
    changes = [transitions.follow_change(follower, task, now=NOW) for follower in store.find_tasks(which)]
    assert store.change_tasks([one for one in changes if one is not None]) == set()
    assert store.change_tasks([transitions.followers_told_change(task)]) == set()


def test_a_task_is_run_after_the_last_that_it_waits_for(store: Store) -> None:
    a, b = push(store, {}, {}, queue="others")
    (follower,) = push(store, {}, status=-4, after=[a, b])
    end(store, a)
    tell(store, a)
    assert stored(store, follower)["after"] == [b]
    assert find(store, after=a) == [] and find(store, after=b) == [follower]
    assert store.promote_due() == 0 and store.claim("n1", [Want("q", 1)], "t1") == []
    end(store, b)
    tell(store, b)
    assert "after" not in stored(store, follower) and find(store, after=b) == []
    assert [task.id for task in store.claim("n1", [Want("q", 1)], "t2")] == [follower]


def test_what_waits_for_a_failure_is_told_anew_when_that_was_run_again(store: Store) -> None:
    (failed,) = push(store, {}, queue="others")
    (follower,) = push(store, {}, status=-4, after=[failed])
    end(store, failed, 2)
    tell(store, failed)
    assert find(store, error_code="after_failed") == [follower] and due_ids(store) == set()
    assert store.change_tasks([retry(store, failed)]) == set()
    assert stored(store, failed)["awaited"] is True
    end(store, failed)
    assert due_ids(store) == {failed}
    tell(store, failed)
    assert task_of(store, follower).status == Status.CREATED and "error" not in stored(store, follower)


@pytest.mark.parametrize("awaited", [None, False, True])
@pytest.mark.parametrize(("left", "new"), [(-2, -4), (2, -2), (-2, -5)])
def test_only_what_was_awaited_and_waits_again_is_awaited_anew(
    store: Store, awaited: bool | None, left: int, new: int
) -> None:
    (task_id,) = push(store, {}, status=left, **({} if awaited is None else {"awaited": awaited}))
    assert store.change_tasks([status_change(task_id, left, new)]) == set()
    expected = awaited if new == -5 or awaited is None else True
    assert stored(store, task_id).get("awaited") is expected


def test_a_change_may_name_whom_a_task_waits_for(store: Store) -> None:
    (task_id,) = push(store, {}, status=-4)
    a, b = push(store, {}, {})
    for after in ([a, b], [b]):
        named = TaskChange(task_id=task_id, statuses=frozenset({-4}), set={"after": after})
        assert store.change_tasks([named]) == set()
        assert [find(store, after=one) == [task_id] for one in (a, b)] == [a in after, True]
    assert store.delete_tasks([task_id]) == 1
    assert find(store, after=b) == []


# --- what is due


def test_what_is_cancelled_while_it_runs_is_due_for_its_own_node(store: Store) -> None:
    task, key = claim_one(store)
    store.commit([change(key, Status.CLAIMED, Status.RUNNING)])
    wanted = transitions.cancel_change(task_of(store, task.id), REQUEST, now=NOW)
    assert wanted is not None and store.change_tasks([wanted]) == set()
    (found,) = store.due("n1")
    assert (found.id, found.token, dict(found.cancel or {})) == (task.id, "t1", REQUEST)
    assert store.due("n2") == []
    store.commit([change(key, Status.RUNNING, Status.CANCELLED)])
    assert store.due("n1") == []


@pytest.mark.parametrize(("status", "is_due"), [(-2, True), (-4, True), (-6, True), (-5, False), (1, False)])
def test_what_waits_or_is_orphaned_with_a_request_to_cancel_is_due_for_any_node(
    store: Store, status: int, is_due: bool
) -> None:
    (task_id,) = push(store, {}, status=status, cancel=REQUEST)
    assert due_ids(store, "n1") == due_ids(store, "n2") == ({task_id} if is_due else set())


@pytest.mark.parametrize("status", [-6, *UNFINISHED, *ENDED])
def test_what_waits_is_due_when_it_has_expired(store: Store, status: int) -> None:
    (expired,) = push(store, {}, status=status, expires=PAST)
    push(store, {}, status=status, expires=FUTURE)
    assert due_ids(store) == ({expired} if status in (-2, -4) else set())
    for task in store.due("n1"):
        assert task.document["expires"] == PAST
        assert store.change_tasks([transitions.expire_change(task, now=NOW)]) == set()
    assert due_ids(store) == set()


def test_much_that_is_due_comes_in_pieces(store: Store) -> None:
    ids = push(store, *({} for _ in range(100)), expires=PAST)
    seen: set[Any] = set()
    for _ in rounds_until(lambda: seen == set(ids)):
        found = store.due("n1", limit=10)
        assert 0 < len(found) <= 30
        assert store.change_tasks([transitions.expire_change(task, now=NOW) for task in found]) == set()
        seen.update(task.id for task in found)
    assert store.due("n1", limit=10) == []


def test_what_waits_for_another_task_is_not_promoted_by_its_time(store: Store) -> None:
    (predecessor,) = push(store, {}, queue="others")
    (both,) = push(store, {}, status=-4, not_before=PAST, after=[predecessor])
    (only_time,) = push(store, {}, status=-4, not_before=PAST, after=[])
    assert store.promote_due() == 1
    assert (task_of(store, both).status, task_of(store, only_time).status) == (-4, -2)
    end(store, predecessor)
    tell(store, predecessor)
    assert store.promote_due() == 1 and task_of(store, both).status == Status.CREATED


def test_all_that_is_due_is_promoted_in_pieces(store: Store) -> None:
    push(store, *({} for _ in range(25)), status=-4, not_before=PAST)
    promoted = []
    for _ in rounds_until(lambda: bool(promoted) and promoted[-1] == 0):
        promoted.append(store.promote_due(limit=10))
        assert promoted[-1] <= 10
    assert sum(promoted) == 25


@pytest.mark.parametrize(
    ("fields", "is_unfinished"),
    [
        ({"status": -4}, False),
        ({"status": -4, "not_before": FUTURE}, True),
        ({"status": -4, "not_before": FUTURE, "after": []}, True),
        ({"status": -4, "not_before": FUTURE, "after": ["x"]}, False),
        ({"status": -4, "after": ["x"]}, False),
        ({"status": -2}, True),
        ({"status": -1}, True),
        ({"status": 0}, True),
        ({"status": -6}, False),
    ],
)
def test_unfinished_is_what_goes_on_without_another_tasks_end(
    store: Store, fields: dict[str, Any], is_unfinished: bool
) -> None:
    push(store, {}, **fields)
    assert store.has_unfinished(["other", "q"]) == is_unfinished
    assert not store.has_unfinished(["other"])


# --- limits over all nodes


def test_maxtotal_counts_what_all_nodes_have_in_hand(store: Store, second_store: Store) -> None:
    push(store, *({} for _ in range(9)))
    first = store.claim("n1", [Want("q", 2, maxtotal=3)], "t1")
    second = second_store.claim("n2", [Want("q", 5, maxtotal=3)], "t2")
    assert (len(first), len(second)) == (2, 1)
    assert store.claim("n1", [Want("q", 1, maxtotal=3, in_hand=2)], "t3") == []
    key = RunKey(first[0].id, "n1", "t1")
    store.commit([change(key, Status.CLAIMED, Status.RUNNING)])
    assert second_store.claim("n2", [Want("q", 1, maxtotal=3, in_hand=1)], "t4") == []
    store.commit([change(key, Status.RUNNING, Status.CONCLUDED)])
    assert len(store.claim("n1", [Want("q", 5, maxtotal=3, in_hand=1)], "t5")) == 1


def test_maxtotal_is_of_one_queue_and_may_be_none_at_all(store: Store) -> None:
    for queue in "abc":
        push(store, {}, {}, {}, queue=queue)
    wanted = [Want("a", 3, maxtotal=0), Want("b", 3, maxtotal=2), Want("c", 3)]
    assert [task.queue for task in store.claim("n1", wanted, "t1")] == ["b", "b", "c", "c", "c"]


def test_a_maxtotal_that_was_made_smaller_holds_from_the_next_claim_on(store: Store) -> None:
    push(store, *({} for _ in range(9)))
    tasks = store.claim("n1", [Want("q", 3, maxtotal=3)], "t1")
    for left in (2, 1, 0):
        assert store.claim("n1", [Want("q", 1, maxtotal=1, in_hand=left + 1)], f"t-{left}") == []
        store.commit([change(RunKey(tasks[left].id, "n1", "t1"), Status.CLAIMED, Status.FAILED)])
    assert len(store.claim("n1", [Want("q", 2, maxtotal=1)], "t2")) == 1


def test_maxtotal_is_never_exceeded_by_two_who_claim_at_once_and_all_is_done(store: Store, store_url: str) -> None:
    total, most = 60, 3
    push(store, *({} for _ in range(total)))
    lock = threading.Lock()
    in_hand, highest = 0, 0
    ended: list[RunKey] = []

    def work(node: str) -> Callable[[Store], None]:
        def run(mine: Store) -> None:
            nonlocal in_hand, highest
            held: list[RunKey] = []
            for number in rounds_until(lambda: len(ended) == total):
                token = f"{node}-{number}"
                got = mine.claim(node, [Want("q", 2, maxtotal=most, in_hand=len(held))], token)
                with lock:  # after the claim and before the end: never more than the store has in hand
                    in_hand += len(got)
                    highest = max(highest, in_hand)
                held += [RunKey(task.id, node, token) for task in got]
                # Some are held over a claim, some are not.
                leaving, held = (held, []) if number % 3 else (held[:1], held[1:])
                with lock:
                    in_hand -= len(leaving)
                for left, new in ((Status.CLAIMED, Status.RUNNING), (Status.RUNNING, Status.CONCLUDED)):
                    assert mine.commit([change(key, left, new) for key in leaving]) == set()
                ended.extend(leaving)
            mine.hold(node, {})

        return run

    at_once(store_url, work("n1"), work("n2"))
    assert store.count_by_status() == {"q": {1: total}}
    assert 1 <= highest <= most


def test_what_a_node_has_given_back_is_free_for_others_when_it_holds_less(store: Store, second_store: Store) -> None:
    push(store, *({} for _ in range(9)))
    tasks = store.claim("n1", [Want("q", 3, maxtotal=3)], "t1")
    store.commit([change(RunKey(task.id, "n1", "t1"), Status.CLAIMED, Status.FAILED) for task in tasks[:2]])
    store.hold("n1", {"q": 1})
    assert len(second_store.claim("n2", [Want("q", 9, maxtotal=3)], "t2")) == 2
    assert second_store.claim("n2", [Want("q", 9, maxtotal=3, in_hand=2)], "t3") == []


def test_what_a_dead_node_had_is_free_after_its_tasks_are_settled(store: Store, second_store: Store) -> None:
    push(store, *({} for _ in range(5)))
    tasks = store.claim("n1", [Want("q", 2, maxtotal=2)], "t1")
    assert second_store.claim("n2", [Want("q", 2, maxtotal=2)], "t2") == []
    lost = [transitions.lost_change(task, node="n1", now=NOW) for task in tasks]
    assert second_store.commit(lost) == set()
    second_store.hold("n1", {})
    assert len(second_store.claim("n2", [Want("q", 2, maxtotal=2)], "t3")) == 2


def test_holding_nothing_of_no_queue_does_no_harm(store: Store) -> None:
    store.hold("n1", {})
    store.hold("n1", {"q": 0, "other": 3})
    push(store, {})
    assert len(store.claim("n1", [Want("q", 1, maxtotal=1)], "t1")) == 1


def assert_rate(moments: list[datetime], rate: Rate) -> None:
    """In no period more than `count`. Dates are cut to milliseconds, so two may be one millisecond less apart."""
    moments = sorted(moments)
    for first, beyond in zip(moments, moments[rate.count :], strict=False):
        assert beyond - first > timedelta(seconds=rate.seconds) - timedelta(milliseconds=2), (first, beyond)


@pytest.mark.parametrize("rate", [Rate(5, 0.25), Rate(1, 0.05), Rate(40, 0.2)], ids=str)
def test_a_rate_is_never_exceeded_by_those_who_claim_at_once(store: Store, store_url: str, rate: Rate) -> None:
    total = min(3 * rate.count + 2, 60)
    push(store, *({} for _ in range(total)))
    moments: list[datetime] = []

    def work(node: str) -> Callable[[Store], None]:
        def run(mine: Store) -> None:
            for number in rounds_until(lambda: len(moments) == total):
                for task in mine.claim(node, [Want("q", 7, rate=rate)], f"{node}-{number}"):
                    moments.append(task.document["claim"]["at"])

        return run

    at_once(store_url, work("n1"), work("n2"))
    assert_rate(moments, rate)
    assert store.waiting_queues() == set()


def test_a_rate_is_of_one_queue_and_what_has_none_is_not_held_to_it(store: Store) -> None:
    for queue in "ab":
        push(store, *({} for _ in range(5)), queue=queue)
    once_a_day = Rate(1, 86400.0)
    claim = lambda token, *wanted: [task.queue for task in store.claim("n1", wanted, token)]  # noqa: E731
    assert claim("t1", Want("a", 5, rate=once_a_day), Want("b", 2)) == ["a", "b", "b"]
    assert claim("t2", Want("a", 5, rate=once_a_day), Want("b", 1)) == ["b"]
    assert claim("t3", Want("b", 1, rate=once_a_day)) == ["b"]
    assert claim("t4", Want("a", 5)) == ["a"] * 4


def test_both_limits_hold_together(store: Store) -> None:
    push(store, *({} for _ in range(5)))
    often = Rate(1000, 1.0)  # a hundred at once
    assert len(store.claim("n1", [Want("q", 5, maxtotal=2, rate=often)], "t1")) == 2
    assert store.claim("n1", [Want("q", 5, maxtotal=2, rate=often, in_hand=2)], "t2") == []
    assert len(store.claim("n1", [Want("q", 5, maxtotal=9, rate=Rate(1, 86400.0), in_hand=2)], "t3")) <= 1


# --- the order of claims


def test_the_newest_comes_first_where_that_is_wanted(store: Store) -> None:
    ids = push(store, *({} for _ in range(6)))
    got = lambda token, count, **more: [t.id for t in store.claim("n1", [Want("q", count, **more)], token)]  # noqa: E731
    assert got("t1", 2, newest_first=True) == [ids[5], ids[4]]
    assert got("t2", 1) == [ids[0]]
    (newer,) = push(store, {})
    assert got("t3", 9, newest_first=True) == [newer, ids[3], ids[2], ids[1]]
    assert got("t4", 1, newest_first=True) == []


def test_the_newest_comes_first_among_those_of_the_same_priority(store: Store) -> None:
    priorities = [0, 5, -3, 5, 0, -3, 7]
    ids = [push(store, {}, priority=priority)[0] for priority in priorities]
    push(store, {}, node="perl01", priority=9)
    push(store, {}, queue="other", priority=9)
    order = [ids[number] for number in (6, 3, 1, 4, 0, 5, 2)]
    assert [task.id for task in store.claim("n1", [Want("q", 4, newest_first=True)], "t1")] == order[:4]
    assert [task.id for task in store.claim("n1", [Want("q", 4, newest_first=True)], "t2")] == order[4:]


# --- finding, counting, deleting


def test_tasks_are_found_by_when_they_were_created_and_changed(store: Store) -> None:
    hours = [NOW + timedelta(hours=number) for number in range(4)]
    ids = store.insert_tasks([{**new_task("q", {}, now=NOW), "ctime": one, "mtime": one} for one in hours])
    assert find(store, created_since=hours[1]) == find(store, changed_since=hours[1]) == ids[1:]
    assert find(store, created_before=hours[1]) == find(store, changed_before=hours[1]) == ids[:1]
    assert find(store, created_since=hours[1], changed_before=hours[3], queue="q") == ids[1:3]
    assert store.count_tasks(TaskFilter(created_since=hours[2], changed_before=hours[3])) == 1


def test_tasks_are_found_by_key_error_and_parent(store: Store) -> None:
    push(store, {}, error="a text", other={"error": {"code": "timeout"}})
    (parent,) = push(store, {}, unique_key="k", error={"code": "timeout", "message": "x"}, status=7)
    (child,) = push(store, {}, unique_key="k", parent=str(parent))
    assert find(store, unique_key="k") == [parent, child] and find(store, unique_key="l") == []
    assert find(store, unique_key="k", queue="q", statuses=frozenset({7})) == [parent]
    assert find(store, error_code="timeout") == [parent] and find(store, error_code="exit_1") == []
    assert find(store, parent=str(parent)) == [child] and find(store, parent=str(child)) == []
    assert store.count_tasks(TaskFilter(error_code="timeout", statuses=frozenset({2}), failed_too=True)) == 1


@pytest.mark.parametrize("queue", ["q", None])
def test_in_any_order_all_that_fit_are_found_once(store: Store, queue: str | None) -> None:
    fitting: list[Any] = []
    for number in range(6):
        for status in (-5, 1, 2, 9):
            fitting += push(store, *({} for _ in range(60)), status=status, note=number)
        push(store, *({} for _ in range(30)), status=-2)
    push(store, {}, status=1, queue="other", ctime=PAST)
    which = TaskFilter(queue=queue, statuses=frozenset({-5, 1, 2}), failed_too=True, created_since=NOW)
    found = [task.id for task in store.find_tasks(which, in_any_order=True, with_output=False)]
    assert len(found) == len(fitting) and set(found) == set(fitting)
    some = [task.id for task in store.find_tasks(which, in_any_order=True, limit=700)]
    assert len(some) == len(set(some)) == 700 and set(some) <= set(fitting)


def test_the_oldest_that_waits_is_the_one_created_first_whatever_its_priority(store: Store) -> None:
    moments = [NOW + timedelta(seconds=number) for number in range(5)]
    for queue, number, priority, status in (
        ("a", 0, 0, -4), ("a", 1, 0, -2), ("a", 2, 9, -2), ("a", 3, -9, -2),
        ("b", 2, 4, -2), ("b", 3, 5, -2), ("b", 4, 5, -2),
        ("c", 0, 0, 1), ("d", 0, 0, -1),
    ):  # fmt: skip
        store.insert_tasks([
            {**new_task(queue, {}, now=NOW, priority=priority), "ctime": moments[number], "status": status}
        ])  # fmt: skip
    assert store.oldest_waiting() == {"a": moments[1], "b": moments[2]}


def test_only_those_that_still_have_one_of_the_statuses_are_deleted(store: Store) -> None:
    ids = [push(store, {}, status=status)[0] for status in (1, 2, 7, -2)]
    assert store.delete_tasks(ids, statuses=frozenset({1, 2})) == 2
    assert find(store) == ids[2:]
    assert store.delete_tasks(ids, statuses=frozenset({2}), failed_too=True) == 1
    assert store.delete_tasks(ids) == 1
    assert find(store) == []


def test_what_is_not_deleted_keeps_its_output(store: Store) -> None:
    task, key = claim_one(store)
    store.commit([], [OutputChunk(key=key, stream="stdout", number=0, data=b"x")])
    assert store.delete_tasks([task.id], statuses=frozenset({1})) == 0
    assert list(store.read_output(task.id, "t1", "stdout")) == [b"x"]


def test_what_others_wait_for_is_not_deleted(store: Store) -> None:
    (awaited,) = push(store, {}, status=1)
    (follower,) = push(store, {}, status=-4, after=[awaited])
    assert store.delete_tasks([awaited]) == store.delete_tasks([awaited], statuses=frozenset({1})) == 0
    tell(store, awaited)
    assert store.delete_tasks([awaited, follower]) == 2


# --- notes, and what is asked of nodes


def test_a_note_is_as_it_was_written_last_until_it_is_removed(store: Store, second_store: Store) -> None:
    assert store.read_note("chore") is None
    first = {"at": NOW, "by": "n1", "list": [1, {"$x": None}]}
    store.write_note("chore", first)
    store.write_note("other", {"n": 1})
    assert second_store.read_note("chore") == first
    second_store.write_note("chore", {"by": "n2"})
    assert store.read_note("chore") == {"by": "n2"}
    store.write_note("chore", None)
    store.write_note("chore", None)
    assert second_store.read_note("chore") is None and store.read_note("other") == {"n": 1}


def test_what_is_asked_of_a_node_comes_with_its_heartbeat_until_it_is_taken_back(
    store: Store, second_store: Store
) -> None:
    assert store.put_node({"_id": "n1", "session": "s1", "settings": {"max": 5}}, replacing=None)
    beat = lambda: store.heartbeat("n1", "s1", {"heartbeat": {"pid": 1}})  # noqa: E731
    assert beat() == {}
    assert second_store.request_of_node("n1", "drain", REQUEST)
    assert second_store.request_of_node("n1", "stop", {**REQUEST, "why": "now"})
    for _ in range(2):
        assert beat() == {"drain": REQUEST, "stop": {**REQUEST, "why": "now"}}
    node = second_store.get_node("n1")
    assert node is not None and node.document["requests"]["drain"] == REQUEST
    assert (node.session, node.document["settings"], node.document["heartbeat"]["pid"]) == ("s1", {"max": 5}, 1)
    assert second_store.request_of_node("n1", "stop", None) and second_store.request_of_node("n1", "stop", None)
    assert beat() == {"drain": REQUEST}
    assert second_store.request_of_node("n1", "drain", None)
    assert beat() == {}


def test_of_a_node_that_is_not_there_nothing_can_be_asked(store: Store) -> None:
    assert not store.request_of_node("n1", "drain", REQUEST)
    assert not store.request_of_node("n1", "drain", None)
    assert store.get_node("n1") is None
    assert store.heartbeat("n1", "s1", {"heartbeat": {}}) is None
    assert store.put_node({"_id": "n1", "session": "s1"}, replacing=None)
    assert store.request_of_node("n1", "drain", REQUEST)
    assert store.heartbeat("n1", "another session", {"heartbeat": {}}) is None


def test_a_second_commit_of_one_turn_comes_after_the_first_and_loses_nothing_of_it(store: Store) -> None:
    """On MongoDB the changes of the first one are left to the next write; another commit in between, as when a dead
    node's tasks are settled in the same turn, took their place, and runs that had ended stayed Running for ever."""
    first, first_key = claim_one(store)
    second, second_key = claim_one(store, token="t2")
    with store.together():
        refused = store.commit([change(first_key, Status.CLAIMED, status=int(Status.CREATED), node=-1)])
        also_refused = store.commit([change(second_key, Status.CLAIMED, Status.RUNNING)])
        assert store.commit([change(first_key, Status.CLAIMED, Status.RUNNING)]) == {first_key}
    assert refused == also_refused == set()
    assert stored(store, first.id)["status"] == Status.CREATED
    assert stored(store, second.id)["status"] == Status.RUNNING


def test_places_that_were_taken_before_there_was_a_limit_count_for_it(store: Store, second_store: Store) -> None:
    """On MongoDB a node used to tell only of what it had claimed while the limit was set, and others went beyond it."""
    store.insert_queue({"_id": "q", "class": "A", "maxthreads": 5})
    push(store, *({} for _ in range(9)))
    ledger, classes, idle = ClaimLedger("n1", Pace()), frozenset({"A"}), Load(max_per_queue=5, max_total=None)
    claimed = ledger.round(ClaimRequest(classes=classes, load=idle, refresh=True), store)
    ledger.confirm(claimed)
    assert len(claimed.tasks) == 5
    store.update_queue("q", {"maxtotal": 6, "maxthreads": 5})
    busy = Load(max_per_queue=5, max_total=None, running={"q": 5})
    assert not ledger.round(ClaimRequest(classes=classes, load=busy, refresh=True), store).tasks
    got = second_store.claim("n2", [Want("q", 5, maxtotal=6)], "t2")
    assert len(got) == 1
    for task in claimed.tasks:  # when they have ended, their places are free
        end_claim = change(RunKey(task.id, "n1", task.token), Status.CLAIMED, status=int(Status.CANCELLED))
        assert store.commit([end_claim]) == set()
    ledger.release_places(store, idle)
    assert len(second_store.claim("n2", [Want("q", 9, maxtotal=6, in_hand=1)], "t3")) == 3  # all that still wait


@pytest.mark.parametrize("status", ENDED)
def test_what_failed_is_kept_while_a_follower_may_wait_for_its_being_run_again(store: Store, status: int) -> None:
    (ended,) = push(store, {}, status=status)
    push(store, {}, status=-4, after=[ended])
    tell(store, ended)
    assert stored(store, ended)["awaited"] is False
    found = store.ended_before("q", store.now() + timedelta(days=1), 10)
    assert (ended in found) is (status == 1)


def test_after_a_claim_that_failed_a_queue_with_a_limit_is_claimed_from_as_soon_as_nothing_can_come_of_it_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a minute it was left alone on SQLite as well, where what was not committed is gone."""
    store.insert_queue({"_id": "q", "class": "A", "maxthreads": 5, "maxtotal": 5})
    ids = push(store, {}, {})
    ledger = ClaimLedger("n1", Pace())

    def look() -> list[Any]:
        load = Load(max_per_queue=5, max_total=None)
        request = ClaimRequest(classes=frozenset({"A"}), load=load, refresh=True)
        return [task.id for task in ledger.round(request, store).tasks]

    def fail(*_: Any) -> Any:
        raise StoreUnreachableError("away")

    with monkeypatch.context() as away, pytest.raises(StoreUnreachableError):
        away.setattr(store, "claim", fail)
        look()
    assert look() == [] and ledger.has_unanswered_claims
    looks = 1
    while ledger.return_orphaned_claims(store, known=frozenset()) == 0 and ledger.has_unanswered_claims:
        looks += 1
    assert (looks > 1) is store.may_act_late
    assert look() == ids
