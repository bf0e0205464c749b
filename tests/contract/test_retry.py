"""What people change of tasks, and tasks that they have run again, on both stores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from disbatch_host.documents.changes import TaskChange
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.stores import (
    ENDED,
    FUTURE,
    NOW,
    PAST,
    UNFINISHED,
    at_once,
    due_ids,
    end,
    find,
    push,
    retry,
    status_change,
    stored,
    task_of,
    tell,
)


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


@pytest.mark.parametrize("status", ENDED)
def test_what_failed_is_kept_while_a_follower_may_wait_for_its_being_run_again(store: Store, status: int) -> None:
    (ended,) = push(store, {}, status=status)
    push(store, {}, status=-4, after=[ended])
    tell(store, ended)
    assert stored(store, ended)["awaited"] is False
    found = store.ended_before("q", store.now() + timedelta(days=1), 10)
    assert (ended in found) is (status == 1)


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


@pytest.mark.parametrize(("status", "or_failed", "is_done"), [(2, False, True), (7, False, False), (7, True, True)])
def test_a_guard_means_every_failure_where_it_says_so(
    store: Store, status: int, or_failed: bool, is_done: bool
) -> None:
    (task_id,) = push(store, {}, status=status)
    one = TaskChange(task_id=task_id, statuses=frozenset({2}), or_failed=or_failed, set={"status": -2})
    assert store.change_tasks([one]) == (set() if is_done else {task_id})
