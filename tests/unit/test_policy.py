"""Decisions of a node, over what it knows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disbatch_host.decide import membership, placement
from disbatch_host.decide.membership import HeartbeatWatch, Holder
from disbatch_host.decide.placement import Load
from disbatch_host.documents.changes import Place
from disbatch_host.documents.records import NodeRecord, Queue, away_seconds_of
from disbatch_protocol.status import TRANSITIONS, Status, is_finished, kind, may_become, name, names, parse

CONFIRM: Any = {"confirm_seconds": 4.0, "confirm_heartbeats": 3}


def queue(queue_id: str, class_name: str = "A", **fields: Any) -> Queue:
    return Queue.from_document({"_id": queue_id, "class": class_name, **fields})


def node(
    age_seconds: float | None, *, node_id: str = "n2", version: str = "disbatch-host 1", **more: Any
) -> NodeRecord:
    document = {"version": version, **more}
    return NodeRecord(id=node_id, session="s", age_seconds=age_seconds, document=document)


queues = st.lists(
    st.builds(
        queue,
        st.uuids().map(str),
        st.sampled_from(["A", "B", "C"]),
        maxthreads=st.none() | st.integers(0, 12),
    ),
    max_size=8,
)


@given(queues, st.integers(1, 12), st.none() | st.integers(0, 20), st.data())
def test_allotments_keep_every_limit_and_leave_no_slot_unused(
    served: list[Queue], max_per_queue: int, max_total: int | None, data: st.DataObject
) -> None:
    running = {one.id: data.draw(st.integers(0, 5)) for one in served}
    of_class = {name: sum(running[one.id] for one in served if one.class_name == name) for name in "ABC"}
    concurrency = {"A": data.draw(st.none() | st.integers(1, 9)), "B": None}
    load = Load(
        max_per_queue=max_per_queue,
        max_total=max_total,
        running=running,
        running_of_class=of_class,
        concurrency_of_class=concurrency,
    )
    given_to = dict(placement.allot(served, load))
    assert all(count > 0 for count in given_to.values())
    open_slots = {one.id: max(0, placement.limit_of(one, load) - running[one.id]) for one in served}
    assert all(count <= open_slots[queue_id] for queue_id, count in given_to.items())
    if max_total is not None:
        assert sum(given_to.values()) <= max(0, max_total - sum(running.values()))
    left_of_class = {}
    for class_name, limit in concurrency.items():
        got = sum(given_to.get(one.id, 0) for one in served if one.class_name == class_name)
        if limit is not None:
            assert got <= max(0, limit - of_class[class_name])
            left_of_class[class_name] = limit - of_class[class_name] - got
    total_left = max_total is None or max_total - sum(running.values()) - sum(given_to.values()) > 0
    for one in served:
        has_room = given_to.get(one.id, 0) < open_slots[one.id] and left_of_class.get(one.class_name, 1) > 0
        assert not (has_room and total_left), "a slot was left unused"


def test_contended_slots_go_to_the_queues_that_have_the_fewest() -> None:
    load = Load(max_per_queue=10, max_total=7, running={"busy": 3})
    served = [queue("busy"), queue("a"), queue("b")]
    assert dict(placement.allot(served, load)) == {"a": 2, "b": 2}


def naive_allot(served: list[Queue], load: Load, turns: dict[str, int]) -> dict[str, int]:
    """A fair scheduler without any cleverness: one place after another goes, of all queues that may have it, to the one
    that has the fewest in hand, and of those to the one whose last turn is the longest ago."""
    turns, got = dict(turns), Counter[str]()
    while True:

        def may_have(one: Queue) -> bool:
            of_class = sum(
                load.running.get(other.id, 0) + got[other.id] for other in served if other.class_name == one.class_name
            )
            concurrency = load.concurrency_of_class.get(one.class_name)
            limits = [placement.limit_of(one, load), *([] if one.maxtotal is None else [one.maxtotal])]
            return (
                load.running.get(one.id, 0) + got[one.id] < min(limits)
                and (concurrency is None or of_class < concurrency)
                and (load.max_total is None or sum(load.running.values()) + got.total() < load.max_total)
            )

        able = [one for one in served if may_have(one)]
        if not able:
            return dict(got)
        first = min(able, key=lambda one: (load.running.get(one.id, 0) + got[one.id], turns.get(one.id, 0)))
        got[first.id] += 1
        turns[first.id] = max(turns.values(), default=0) + 1


many_queues = st.lists(
    st.tuples(st.sampled_from("AB"), st.none() | st.integers(0, 4), st.none() | st.integers(0, 4), st.integers(0, 3)),
    max_size=7,
)


@given(many_queues, st.none() | st.integers(0, 12), st.none() | st.integers(0, 6), st.data())
def test_places_are_given_as_a_fair_scheduler_gives_them(
    of_queues: list[tuple[str, int | None, int | None, int]],
    max_total: int | None,
    concurrency: int | None,
    data: st.DataObject,
) -> None:
    served = [
        queue(f"q{number}", name, maxthreads=most, maxtotal=in_all)
        for number, (name, most, in_all, _) in enumerate(of_queues)
    ]
    running = {f"q{number}": count for number, (_, _, _, count) in enumerate(of_queues)}
    load = Load(
        max_per_queue=3,
        max_total=max_total,
        running=running,
        running_of_class={name: sum(c for other, _, _, c in of_queues if other == name) for name in "AB"},
        concurrency_of_class={"A": concurrency, "B": None},
    )
    order = data.draw(st.permutations([one.id for one in served]))
    turns = {queue_id: number for number, queue_id in enumerate(order[: len(order) // 2], start=1)}
    assert dict(placement.allot(served, load, turns)) == naive_allot(served, load, turns)


@given(st.integers(2, 9), st.data())
def test_of_more_busy_queues_than_places_each_gets_its_share(count: int, data: st.DataObject) -> None:
    """Four of six queues with a hundred tasks each used to keep all four places until they were empty."""
    places = data.draw(st.integers(1, count - 1))
    served = [queue(f"q{number}", data.draw(st.sampled_from("AB"))) for number in range(count)]
    by_class = data.draw(st.booleans()) and len({one.class_name for one in served}) == 1
    limits: dict[str, Any] = {"max_total": None if by_class else places}
    of_class = {served[0].class_name: places} if by_class else {}
    running: list[str] = []
    turns: dict[str, int] = {}
    starts: Counter[str] = Counter()
    last_start = dict.fromkeys((one.id for one in served), 0)
    longest = 0
    while starts.total() < 60 * count:
        load = Load(
            max_per_queue=10,
            running=Counter(running),
            running_of_class=Counter(one.class_name for name in running for one in served if one.id == name),
            concurrency_of_class=of_class,
            **limits,
        )
        for queue_id, got in placement.allot(served, load, turns):
            turns[queue_id] = max(turns.values(), default=0) + 1
            for _ in range(got):
                starts[queue_id] += 1
                running.append(queue_id)
                longest = max(longest, starts.total() - last_start[queue_id])
                last_start[queue_id] = starts.total()
        assert len(running) == places
        for _ in range(data.draw(st.integers(1, places)) if starts.total() < 20 else 1):
            running.pop(0)  # the tasks take equally long
    assert all(0.8 * 60 <= starts[one.id] <= 1.2 * 60 for one in served), starts
    assert longest <= 2 * count, "a queue waited for more than two rounds of the others"


@given(st.lists(st.sampled_from("ab")), st.lists(st.sampled_from("ab")))
def test_a_load_without_runs_is_that_of_the_others(running: list[str], ended: list[str]) -> None:
    def load(queues: list[str]) -> Load:
        return Load(
            max_per_queue=100, max_total=1000, running=Counter(queues), running_of_class=Counter(map(str.upper, queues))
        )

    queues = [queue("a", "A"), queue("b", "B")]
    more = load(running).with_claimed([Place(one, one.upper()) for one in ended])
    assert placement.allot(queues, more) == placement.allot(queues, load(running + ended))
    less = load(running + ended).without([Place(one, one.upper()) for one in ended])
    assert placement.allot(queues, less) == placement.allot(queues, load(running))


def test_a_queue_is_served_where_pin_ignore_plugin_and_document_allow_it() -> None:
    all_queues = [
        queue("fine"),
        queue("pinned", nodes_pin=["n1"]),
        queue("elsewhere", nodes_pin=["n2"]),
        queue("ignored", nodes_ignore=["n1"]),
        queue("unknown", "Z"),
        queue("broken", maxthreads=-1),
    ]
    served = placement.served(all_queues, node_id="n1", classes=frozenset({"A"}))
    assert [one.id for one in served] == ["fine", "pinned"]


def test_an_id_is_free_when_its_process_here_is_gone_or_its_heartbeat_elsewhere_is_stale() -> None:
    def may(age_seconds: float | None, *, here: bool, alive: bool, **more: Any) -> bool:
        holder = Holder(record=node(age_seconds, **more), is_on_this_machine=here, is_process_alive=alive)
        return membership.may_take_id(holder, dead_after_seconds=30)

    assert may(0, here=True, alive=False)
    assert not may(1000, here=True, alive=True)
    assert not may(29, here=False, alive=False)
    assert may(31, here=False, alive=False)
    assert may(None, here=False, alive=False)
    assert not may(31, here=False, alive=False, settings={"dead_after_seconds": 60})


@pytest.mark.parametrize(
    ("here", "alive", "earlier_boot", "away_seconds", "may"),
    [
        (True, False, False, 600, True),  # back on its machine: at once
        (True, True, False, 600, False),  # its process has not ended yet
        (False, False, False, 600, False),  # it has runs on another machine
        (False, False, False, None, True),  # its time is over
        (False, False, True, 600, True),  # its machine was booted again: nothing runs there any more
    ],
)
def test_the_id_of_a_node_that_is_away_is_for_its_own_machine(
    here: bool, alive: bool, earlier_boot: bool, away_seconds: float | None, may: bool
) -> None:
    record = dataclasses.replace(node(100), away_seconds=away_seconds)
    holder = Holder(record=record, is_on_this_machine=here, is_process_alive=alive, is_of_earlier_boot=earlier_boot)
    assert membership.may_take_id(holder, dead_after_seconds=30) is may


def test_a_node_that_is_away_is_not_dead_before_its_time_is_over() -> None:
    away = dataclasses.replace(node(3600), away_seconds=0.1)
    watched = {"n2": 3600.0}
    assert not membership.dead_nodes([away], own_id="me", dead_after_seconds=30, watched_seconds=watched, **CONFIRM)
    back = dataclasses.replace(away, away_seconds=None)
    assert membership.dead_nodes([back], own_id="me", dead_after_seconds=30, watched_seconds=watched, **CONFIRM)


def test_the_end_of_its_time_is_watched_like_any_other_date() -> None:
    """A clock that has jumped ends the time of every node that is away."""
    watch = HeartbeatWatch()
    away = dataclasses.replace(node(100), away_seconds=10.0)
    back = dataclasses.replace(away, away_seconds=None)
    assert watch.look([away], at=0.0) == {"n2": 0.0}
    assert watch.look([away], at=50.0) == {"n2": 50.0}
    assert watch.look([back], at=60.0) == {"n2": 0.0}
    assert watch.look([back], at=63.0) == {"n2": 3.0}


@pytest.mark.parametrize(
    ("away", "left"),
    [
        ({"until": datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC)}, 5.0),
        ({"until": datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)}, None),
        ({"until": datetime(2026, 1, 1, 11, tzinfo=UTC)}, None),
        ({"until": datetime(2026, 1, 1, 13)}, None),  # of a person
        ({"until": "2026-01-01T13:00:00Z"}, None),
        ({"until": 1e300}, None),
        ({}, None), (None, None), (True, None), ([], None), ("away", None),
    ],
)  # fmt: skip
def test_how_long_a_node_is_away_is_read_of_any_document(away: Any, left: float | None) -> None:
    assert away_seconds_of({"away": away}, datetime(2026, 1, 1, 12, tzinfo=UTC)) == left
    assert away_seconds_of({}, datetime(2026, 1, 1, 12, tzinfo=UTC)) is None


def test_dead_are_only_nodes_of_this_program_with_an_old_heartbeat() -> None:
    nodes = [
        node(100, node_id="dead"),
        node(1, node_id="alive"),
        node(100, node_id="me"),
        node(100, node_id="perl01", version="Disbatch.pl 2"),
        node(100, node_id="patient", settings={"dead_after_seconds": 200}),
        node(10, node_id="hasty", settings={"dead_after_seconds": 5}),
    ]
    watched = {one.id: 5.0 for one in nodes}
    dead = membership.dead_nodes(nodes, own_id="me", dead_after_seconds=30, watched_seconds=watched, **CONFIRM)
    assert [one.id for one in dead] == ["dead", "hasty"]


@pytest.mark.parametrize(
    ("age_seconds", "watched_seconds", "heartbeat_seconds", "is_dead"),
    [
        (3600, 0, 1, False),  # a clock has jumped, or the store was away for all: its next heartbeat is due in a second
        (3600, 3.9, 1, False),
        (3600, 4, 1, True),
        (3600, 4, 20, False),  # renewed every 20 seconds only
        (3600, 60, 20, True),
        (0, 29, 1, False),  # of a clock that was put back: its date lies in the future
        (0, 31, 1, True),
    ],
)
def test_an_old_date_alone_makes_no_node_dead(
    age_seconds: float, watched_seconds: float, heartbeat_seconds: float, is_dead: bool
) -> None:
    one = node(age_seconds, node_id="n2", settings={"heartbeat_seconds": heartbeat_seconds})
    watched = {"n2": watched_seconds}
    dead = membership.dead_nodes([one], own_id="me", dead_after_seconds=30, watched_seconds=watched, **CONFIRM)
    assert (dead == [one]) is is_dead


queue_fields = st.sampled_from(["class", "maxthreads", "nodes_pin", "nodes_ignore", "description", "ctime"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.dictionaries(queue_fields, scalars | st.lists(st.text() | st.integers())))
def test_any_queue_document_can_be_read(document: dict[str, Any]) -> None:
    read = Queue.from_document({"_id": "q", **document})
    assert read.fault is not None or (read.class_name and (read.maxthreads is None or read.maxthreads >= 0))


def test_the_table_knows_every_status_and_nothing_leads_out_of_it() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert {new for follows in TRANSITIONS.values() for new in follows} <= set(Status)


def test_only_a_claimed_task_becomes_running_but_for_the_specs_first_way() -> None:
    assert {old for old in Status if may_become(old, Status.RUNNING)} == {Status.CLAIMED, Status.CREATED}
    assert not may_become(Status.CONCLUDED, Status.FAILED)
    assert not may_become(Status.ORPHANED, Status.CONCLUDED)
    assert may_become(7, -2) and not may_become(7, 1) and not may_become(-9, -2)


def test_every_word_and_number_names_statuses() -> None:
    for word in names():
        values, _ = parse(word)
        assert values
    assert parse("failed") == (frozenset({2, -3}), True)  # the same in every command: terminated tasks as well
    assert parse("2+") == (frozenset({2}), True)
    assert parse("7") == (frozenset({7}), False)
    assert [name(status) for status in (-6, 0, 1, 2, 7, -9)] == [
        "orphaned", "running", "concluded", "failed", "failed (7)", "status -9",
    ]  # fmt: skip
    assert kind(99) is Status.FAILED
    assert [is_finished(status) for status in (-9, -6, -4, -2, -1, 0, 1, 5)] == [True, True, *[False] * 4, True, True]
