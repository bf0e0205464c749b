"""Statuses under the words of people, and the numbers that hold where nobody says another one: each defined once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.decide import counts, readings
from disbatch_host.decide.readings import load_of
from disbatch_host.documents.records import (
    DEAD_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    MAX_PER_QUEUE,
    NodeRecord,
    Queue,
)
from disbatch_host.settings.values import Settings, resolve
from disbatch_protocol.status import ENDED, IN_HAND, UNFINISHED, WAITING, Status, is_failed, parse

NAMED = sorted(int(status) for status in Status)


def test_every_status_stands_under_one_word_and_terminated_ones_are_failed_too() -> None:
    words = {status: [word for word, count in counts.totals({status: 1}).items() if count] for status in [*NAMED, 7]}
    assert words == {
        -6: ["orphaned"], -5: ["cancelled"], -4: ["waiting"], -3: ["failed", "terminated"],
        -2: ["waiting"], -1: ["running"], 0: ["running"], 1: ["concluded"], 2: ["failed"], 7: ["failed"],
    }  # fmt: skip
    assert {word for some in words.values() for word in some} == set(counts.COLUMNS)


@given(st.dictionaries(st.integers(-6, 12), st.integers(0, 10**9)))
def test_no_task_is_counted_twice_or_left_out(by_status: dict[int, int]) -> None:
    total = counts.totals(by_status)
    assert list(total) == list(counts.COLUMNS)
    assert sum(total.values()) - total["terminated"] == sum(by_status.values())
    assert counts.ended(total) == sum(count for status, count in by_status.items() if status not in UNFINISHED)
    assert total["failed"] == sum(count for status, count in by_status.items() if is_failed(status))


def test_a_status_that_nobody_has_named_is_left_out() -> None:
    assert not any(counts.totals({-9: 5}).values())


def test_the_words_of_the_terminal_mean_what_is_counted_under_them() -> None:
    for word in ("waiting", "concluded", "failed", "terminated", "cancelled", "orphaned"):
        statuses, or_failed = parse(word)
        counted = {status for status in [*NAMED, 7] if counts.totals({status: 1})[word]}
        assert counted == statuses | ({7} if or_failed else set()), word
    assert (UNFINISHED, frozenset()) == (WAITING | IN_HAND, WAITING & IN_HAND)
    assert frozenset(Status) == UNFINISHED | ENDED | {Status.ORPHANED}


def node(age_seconds: float | None, **document: object) -> NodeRecord:
    return NodeRecord(id="n1", session="s", age_seconds=age_seconds, document=document)


def test_a_node_that_says_nothing_counts_as_one_that_was_told_nothing() -> None:
    settings: Settings = resolve({"config": None}, {"HOME": "/nowhere"})
    assert (settings.node.dead_after_seconds, settings.node.heartbeat_seconds, settings.node.max) == (
        DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS, MAX_PER_QUEUE
    )  # fmt: skip
    silent = node(DEAD_AFTER_SECONDS)
    assert (silent.dead_after_seconds(), silent.heartbeat_seconds()) == (DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS)
    assert load_of(silent, Queue.from_document({"_id": "q", "class": "A"})).max_per_queue == MAX_PER_QUEUE


def test_a_node_is_alive_until_its_heartbeat_is_older_than_it_says_itself() -> None:
    assert readings.is_alive(node(DEAD_AFTER_SECONDS)) and not readings.is_alive(node(DEAD_AFTER_SECONDS + 0.1))
    own = {"settings": {"dead_after_seconds": 5}}
    assert readings.is_alive(node(5.0, **own)) and not readings.is_alive(node(5.1, **own))
    assert not readings.is_alive(node(None))
