"""What is cancelled, expires, is found, deleted or asked of a node, on both stores."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from disbatch_host.documents import transitions
from disbatch_host.documents.changes import OutputChunk, TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.stores import (
    ENDED,
    FUTURE,
    NOW,
    PAST,
    REQUEST,
    UNFINISHED,
    at_once,
    change,
    claim_one,
    due_ids,
    find,
    push,
    rounds_until,
    task_of,
    tell,
)


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
    assert store.count_tasks(TaskFilter(error_code="timeout", statuses=frozenset({2}), or_failed=True)) == 1


@pytest.mark.parametrize("queue", ["q", None])
def test_in_any_order_all_that_fit_are_found_once(store: Store, queue: str | None) -> None:
    fitting: list[Any] = []
    for number in range(6):
        for status in (-5, 1, 2, 9):
            fitting += push(store, *({} for _ in range(60)), status=status, note=number)
        push(store, *({} for _ in range(30)), status=-2)
    push(store, {}, status=1, queue="other", ctime=PAST)
    which = TaskFilter(queue=queue, statuses=frozenset({-5, 1, 2}), or_failed=True, created_since=NOW)
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
    assert store.delete_tasks(ids, statuses=frozenset({2}), or_failed=True) == 1
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
