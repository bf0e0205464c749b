"""Notes: small documents of the store, among them such as only one of several may make."""

from __future__ import annotations

import threading

from disbatch_host.clock import SystemClock
from disbatch_host.store.contract import Store
from disbatch_host.store.open import open_store
from helpers.stores import NOW


def test_a_new_note_is_written_only_where_there_is_none(store: Store, second_store: Store) -> None:
    assert store.write_note("one", {"by": 1}, is_new=True) is True
    assert second_store.write_note("one", {"by": 2}, is_new=True) is False
    assert store.read_note("one") == {"by": 1}
    assert second_store.write_note("one", {"by": 3}) is True
    assert store.write_note("one", None) is True
    assert store.write_note("one", None) is False
    assert second_store.write_note("one", {"by": 4}, is_new=True) is True


def test_a_note_is_replaced_only_while_it_is_what_the_writer_takes_it_for(store: Store, second_store: Store) -> None:
    mine = {"by": "me"}
    assert store.write_note("one", {"by": "me", "n": 1}, replacing=mine) is False, "there is none"
    assert store.write_note("one", None, replacing=mine) is False and store.read_note("one") is None
    store.write_note("one", {"by": "me", "n": 1})
    assert second_store.write_note("one", {"by": "me", "n": 2}, replacing=mine) is True
    second_store.write_note("one", {"by": "you"})
    for document in ({"by": "me", "n": 3}, None):
        assert store.write_note("one", document, replacing=mine) is False
        assert store.read_note("one") == {"by": "you"}
    assert store.write_note("one", None, replacing={"by": "you"}) is True and store.read_note("one") is None


def test_of_many_that_make_a_note_at_the_same_moment_one_does(store: Store, store_url: str) -> None:
    start = threading.Barrier(6)
    written: list[bool] = []

    def write(number: int) -> None:
        own = open_store(store_url, SystemClock())
        own.open()
        start.wait(30)
        written.append(own.write_note("race", {"by": number}, is_new=True))
        own.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(written) == [False] * 5 + [True]
    assert store.read_note("race") is not None


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


def test_names_of_notes_are_found_by_how_they_begin(store: Store, second_store: Store) -> None:
    names = ["plugin:A:1", "plugin:A:2", "plugin:A::B:1", "plugin:", "plugin", "pluginx", "plugin:\U0001f600", "q%_["]
    for name in names:
        store.write_note(name, {"n": 1})
    assert second_store.note_names("plugin:") == sorted(
        ["plugin:", *(one for one in names if one[:7] == "plugin:")][1:]
    )
    assert second_store.note_names("plugin:A:") == ["plugin:A:1", "plugin:A:2", "plugin:A::B:1"]
    assert second_store.note_names("plugin:", 2) == ["plugin:", "plugin:A:1"]
    assert second_store.note_names("q%") == ["q%_["] and second_store.note_names("none") == []
    assert set(names) <= set(second_store.note_names(""))
