"""What ids and unique keys promise, on both stores."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from disbatch_host.documents.changes import TaskFilter, Want
from disbatch_host.documents.records import new_task
from disbatch_host.errors import DuplicateIdError
from disbatch_host.store.contract import Store
from disbatch_protocol.status import Status
from helpers.stores import (
    ENDED,
    NOW,
    UNFINISHED,
    at_once,
    end,
    find,
    push,
    rounds_until,
    stored,
    task_of,
)


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
