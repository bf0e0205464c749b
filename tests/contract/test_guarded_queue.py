"""A change of a queue that is made only while it still says what the one who changes it has read."""

from __future__ import annotations

from typing import Any

import pytest

from disbatch_host.store.contract import Store
from helpers.stores import NOW, at_once


def document_of(store: Store, queue: Any = "q") -> dict[str, Any]:
    found = store.find_queue(str(queue))
    assert found is not None
    own = ("name", "plugin", "threads")  # which MongoDB has for other programs
    return {name: value for name, value in found.document.items() if name not in own}


FIELDS: dict[str, Any] = {
    "maxthreads": 10, "rate": "5/s", "nodes_pin": ["n1", "n2"], "paused": {"at": NOW, "by": "me"}, "odd": {"$x": 1.5},
    "is": True, "nothing": None,
}  # fmt: skip


def test_a_guarded_change_is_made_while_each_field_is_as_it_was_read(store: Store, second_store: Store) -> None:
    store.insert_queue({"_id": "q", "class": "A", **FIELDS})
    read = document_of(second_store)
    assert store.update_queue("q", {"maxthreads": 11}, ["rate"], only_if={**read, "keep": None}) is True
    assert document_of(store)["maxthreads"] == 11 and "rate" not in document_of(store)
    assert store.update_queue("q", {"maxthreads": 12}, only_if=read) is False, "it was changed since"
    assert document_of(store)["maxthreads"] == 11
    assert store.update_queue("q", {"maxthreads": 12}, only_if={"maxthreads": 11.0, "gone": None}) is True
    assert store.update_queue("gone", {"maxthreads": 1}, only_if={}) is False
    assert store.update_queue("gone", {"maxthreads": 1}, only_if={"maxthreads": None}) is False


@pytest.mark.parametrize("name", FIELDS)
def test_another_value_of_any_kind_or_none_stops_a_guarded_change(store: Store, name: str) -> None:
    store.insert_queue({"_id": "q", "class": "A", **FIELDS})
    before = document_of(store)
    others: list[Any] = [0, "x", [], ["n1"], ["n2", "n1"], {"by": "me"}, {"$x": 1}, False, 1, None, [10], "$class"]
    for other in others:
        if other == FIELDS[name] and type(other) is type(FIELDS[name]):
            continue
        assert store.update_queue("q", {"maxthreads": 99}, only_if={name: other}) is False, other
    assert document_of(store) == before
    assert store.update_queue("q", {"maxthreads": 99}, only_if={name: FIELDS[name]}) is True


def test_a_list_that_holds_the_value_is_another_value(store: Store) -> None:
    store.insert_queue({"_id": "q", "class": "A", "maxthreads": [5]})
    assert store.update_queue("q", {"maxthreads": 1}, only_if={"maxthreads": 5}) is False
    assert store.update_queue("q", {"maxthreads": 1}, only_if={"maxthreads": [5]}) is True


def test_of_several_who_change_what_they_have_read_at_the_same_moment_one_does(store: Store, store_url: str) -> None:
    store.insert_queue({"_id": "q", "class": "A", "maxthreads": 0})

    def change(to: int) -> Any:
        return lambda mine: mine.update_queue("q", {"maxthreads": to}, only_if={"maxthreads": 0})

    done = at_once(store_url, *(change(to) for to in range(1, 6)))
    assert sorted(done) == [False] * 4 + [True]
    assert document_of(store)["maxthreads"] == 1 + done.index(True)
