"""Tasks that wait for others or for their time, on both stores."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from disbatch_host.documents import transitions
from disbatch_host.documents.changes import TaskChange, Want
from disbatch_host.documents.records import new_task
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.stores import (
    ENDED,
    FUTURE,
    NOW,
    PAST,
    change,
    claim_one,
    due_ids,
    end,
    find,
    push,
    rounds_until,
    stored,
    task_of,
    tell,
)


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


def test_a_change_may_name_whom_a_task_waits_for(store: Store) -> None:
    (task_id,) = push(store, {}, status=-4)
    a, b = push(store, {}, {})
    for after in ([a, b], [b]):
        named = TaskChange(task_id=task_id, statuses=frozenset({-4}), set={"after": after})
        assert store.change_tasks([named]) == set()
        assert [find(store, after=one) == [task_id] for one in (a, b)] == [a in after, True]
    assert store.delete_tasks([task_id]) == 1
    assert find(store, after=b) == []


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
